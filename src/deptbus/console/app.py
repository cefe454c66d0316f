"""Puts the console together: pages, acts, sessions, and what else is served under its roof."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from deptbus.console import acts, events, find, login, mending, pages, show
from deptbus.console.accounts import Accounts
from deptbus.console.desk import Desk
from deptbus.console.guard import Guard
from deptbus.console.patience import FREE_TRIES_OF_ADDRESS, Patience
from deptbus.console.roles import Act
from deptbus.console.sessions import Sessions
from deptbus.console.settings import Settings
from deptbus.console.snapshot import Board
from deptbus.console.static import Static
from deptbus.console.visit import Handler, Visit, door, visit_of

if TYPE_CHECKING:
    from deptbus.console.openid import Provider

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Console:
    """What all requests share. `wake`: asks the watcher to look at once."""

    settings: Settings
    board: Board
    desk: Desk
    accounts: Accounts
    sessions: Sessions
    pages: Environment
    static: Static
    openid: Provider | None = None
    wake: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.time
    by_account: Patience = field(default_factory=Patience)
    by_address: Patience = field(default_factory=lambda: Patience(FREE_TRIES_OF_ADDRESS))
    followers: int = 0

    @property
    def cookie_name(self) -> str:
        """Cookies do not know ports: two consoles on one machine must not end each other's
        sessions."""
        if self.settings.is_secure:
            return "__Host-deptbus"
        return f"deptbus-{self.settings.port}"

    @property
    def look_cookie_name(self) -> str:
        return f"deptbus-look-{self.settings.port}"


def console_of(
    settings: Settings,
    board: Board,
    desk: Desk,
    wake: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.time,
) -> Console:
    """Raises DeptbusError when the accounts' file is damaged."""
    accounts = Accounts(settings.accounts)
    accounts.all()
    openid = None
    if settings.openid is not None:
        from deptbus.console.openid import Provider

        openid = Provider(settings.openid, f"{settings.base_url}/openid/return")
    return Console(
        settings,
        board,
        desk,
        accounts,
        Sessions(accounts),
        page_environment(),
        Static(),
        openid,
        wake,
        now,
    )


@cache
def page_environment() -> Environment:
    """Everything is escaped; a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("deptbus.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(show.GLOBALS)
    return made


def routes_of(console: Console) -> list[Route]:
    """Every page and act with what it needs: the whole of what can be asked for."""

    def get(path: str, handler: Handler, act: Act | None) -> Route:
        return Route(path, door(console, handler, act), methods=["GET"])

    def post(path: str, handler: Handler, act: Act | None) -> Route:
        return Route(path, door(console, handler, act), methods=["POST"])

    return [
        get("/login", login.show_login, None),
        post("/login", login.log_in, None),
        get("/enter", login.show_enter, None),
        post("/enter", login.enter, None),
        post("/logout", login.log_out, None),
        post("/look", login.set_look, None),
        post("/openid/begin", _openid_begin, None),
        get("/openid/return", _openid_return, None),
        get("/", pages.show_map, Act.VIEW),
        get("/units", pages.show_units, Act.VIEW),
        get("/units/{unit}", pages.show_unit, Act.VIEW),
        get("/datasets", pages.show_datasets, Act.VIEW),
        get("/datasets/{dataset}", pages.show_dataset, Act.VIEW),
        get("/lag", pages.show_lag, Act.VIEW),
        get("/saved", pages.show_saved, Act.VIEW),
        get("/holds", pages.show_holds, Act.VIEW),
        get("/proof", pages.show_proof, Act.VIEW),
        get("/proof/certificate", mending.download_certificate, Act.VIEW),
        get("/proof/differences", mending.show_differences, Act.VIEW),
        get("/jobs", mending.show_jobs, Act.VIEW),
        get("/quarantine", pages.show_quarantine, Act.SEE_QUARANTINE),
        get("/quarantine/{place:path}", pages.show_case, Act.SEE_QUARANTINE),
        # Whether one may find at all depends on the unit as well: asked for inside.
        get("/find", find.show_find, Act.VIEW),
        post("/find", find.find, Act.VIEW),
        get("/alarms", pages.show_alarms, Act.VIEW),
        get("/audit", pages.show_audit, Act.SEE_AUDIT),
        get("/events", events.follow, Act.VIEW),
        post("/quarantine/resend", acts.resend, Act.RESEND),
        post("/quarantine/dismiss", acts.dismiss, Act.DISMISS),
        post("/quarantine/retry", acts.retry, Act.RETRY),
        post("/alarms/acknowledge", acts.acknowledge, Act.ACKNOWLEDGE),
        post("/proof/repair", mending.propose_repair, Act.REPAIR),
        post("/jobs/plan", mending.plan, Act.REPLAY),
        post("/jobs/propose", mending.propose_replay, Act.REPLAY),
        post("/jobs/decide", mending.decide, Act.DECIDE),
        post("/jobs/steer", mending.steer, Act.STEER),
        post("/holds/hold", acts.hold, Act.HOLD),
        post("/holds/resume", acts.resume, Act.RESUME),
    ]


def make_app(
    console: Console, for_machines: Sequence[Route] = (), lifespan: Any = None
) -> Starlette:
    """`for_machines`: what is asked for without a log-in (metrics, schemas)."""

    async def static(request: Request) -> Response:
        return await console.static.serve(request)

    routes: list[BaseRoute] = [
        *routes_of(console),
        Route("/static/{digest}/{name}", static, methods=["GET"]),
        Route("/alive", _alive, methods=["GET"]),
        *for_machines,
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=console.settings)],
        exception_handlers={
            HTTPException: _told(console),
            Exception: _our_bug(console),
        },
    )


async def _alive(request: Request) -> Response:
    """For who looks after processes: says nothing of the bus."""
    return PlainTextResponse("alive\n")


async def _openid_begin(visit: Visit) -> Response:
    if visit.console.openid is None:
        raise HTTPException(404)
    return await visit.console.openid.begin(visit)


async def _openid_return(visit: Visit) -> Response:
    if visit.console.openid is None:
        raise HTTPException(404)
    return await visit.console.openid.come_back(visit)


_DETAILS = ("csrf", "nothing_chosen", "one_target", "one_choice")
_KNOWN = (400, 401, 403, 404, 405, 413, 415, 503)


def _told(console: Console) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def tell(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        visit = visit_of(console, request)
        if error.status_code == 403:
            log.warning(
                "refused",
                why=error.detail,
                name=visit.person.name if visit.person is not None else None,
            )
        code = error.status_code if error.status_code in _KNOWN else 400
        detail = error.detail if error.detail in _DETAILS else ""
        return visit.render("error.html", error.status_code, code=code, detail=detail)

    return tell


def _our_bug(console: Console) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def tell(request: Request, error: Exception) -> Response:
        """Only the kind of error is told: its message may quote what a record holds."""
        log.error("page_failed", error=type(error).__name__)
        return visit_of(console, request).render("error.html", 500, code=500, detail="")

    return tell
