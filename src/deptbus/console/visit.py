"""One request of one person: who it is, in which language, what was sent, and how to answer."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from deptbus.console.roles import Act, Person
from deptbus.console.snapshot import Snapshot, seen_by
from deptbus.console.words import LANGUAGES, Words

if TYPE_CHECKING:
    from deptbus.console.app import Console

THEMES = ("auto", "light", "dark")
_FIELDS = 5000


class Form(dict[str, list[str]]):
    """What a form sent: urlencoded, each name with all its values."""

    def one(self, name: str) -> str:
        return self.get(name, [""])[0].strip()


@dataclass(slots=True)
class Visit:
    console: Console
    request: Request
    cookie: str  # empty: none was sent
    person: Person | None
    words: Words
    theme: str
    form: Form = field(default_factory=Form)
    new_cookie: str | None = None  # to be set with the answer; empty: to be removed

    @property
    def who(self) -> Person:
        """Behind a door that lets nobody in who is not logged in."""
        assert self.person is not None
        return self.person

    @property
    def snapshot(self) -> Snapshot:
        """What this person may see of the bus."""
        return seen_by(self.console.board.snapshot, self.who)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    def may(self, act: Act, unit: str | None = None) -> bool:
        return self.person is not None and self.person.may(act, unit)

    def require(self, act: Act, unit: str | None = None) -> None:
        """Raises HTTPException 403. `unit`: whose matter it is."""
        if not self.may(act, unit):
            raise HTTPException(403, detail=f"role:{act.value}")

    def render(self, template: str, status: int = 200, **context: Any) -> Response:
        cookie = self.new_cookie or self.cookie
        page = self.console.pages.get_template(template)
        snapshot = Snapshot() if self.person is None else self.snapshot
        text = page.render(
            t=self.words,
            visit=self,
            person=self.person,
            may=self.may,
            Act=Act,
            csrf=self.console.sessions.csrf(cookie),
            snapshot=snapshot,
            theme=self.theme,
            path=self.request.url.path,
            static=self.console.static.address,
            now=self.console.now(),
            **context,
        )
        return self.with_cookie(HTMLResponse(text, status))

    def redirect(self, path: str, **query: str | int) -> Response:
        """To a page of ours, by GET."""
        where = local_path(path) + (f"?{urlencode(query)}" if query else "")
        return self.with_cookie(RedirectResponse(where, 303))

    def with_cookie(self, response: Response) -> Response:
        if self.new_cookie is not None:
            settings = self.console.settings
            name = self.console.cookie_name
            words: dict[str, Any] = {
                "path": "/",
                "secure": settings.is_secure,
                "httponly": True,
                "samesite": "lax",
            }
            if self.new_cookie:
                response.set_cookie(name, self.new_cookie, **words)
            else:
                response.delete_cookie(name, **words)
        return response


def local_path(text: str) -> str:
    """A path of this console, whatever was sent as where to go next: `//host` and `\\host` are
    other hosts to a browser."""
    parts = urlsplit(text)
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text
    if not is_local or parts.scheme or parts.netloc or not text.isprintable():
        return "/"
    return quote(parts.path, safe="/@.-_~") + (f"?{parts.query}" if parts.query else "")


Handler = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def door(console: Console, handler: Handler, act: Act | None) -> Endpoint:
    """The one way in. `act`: what the handler does, which the person must be allowed to; None: it
    is there for everybody. A POST needs the token of a form that was drawn for this browser."""

    async def endpoint(request: Request) -> Response:
        visit = visit_of(console, request)
        if request.method == "POST":
            await _take_form(visit)
        if act is not None:
            if visit.person is None:
                if request.method != "GET":
                    raise HTTPException(401)
                where = request.url.path
                if request.url.query:
                    where += f"?{request.url.query}"
                return visit.redirect("/login", **({} if where == "/" else {"next": where}))
            visit.require(act)
        return await handler(visit)

    return endpoint


def visit_of(console: Console, request: Request) -> Visit:
    cookie = request.cookies.get(console.cookie_name, "")
    language, _, theme = request.cookies.get(console.look_cookie_name, "").partition(".")
    if language not in LANGUAGES:
        accepted = request.headers.get("accept-language", "").strip().lower()
        language = "zh" if accepted.startswith("zh") else "en"
    return Visit(
        console,
        request,
        cookie,
        console.sessions.person(cookie) if cookie else None,
        Words(language),
        theme if theme in THEMES else "auto",
    )


async def _take_form(visit: Visit) -> None:
    """Raises HTTPException: not a form, or not one of ours."""
    request = visit.request
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = await request.body()
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict"
        )
    except ValueError:
        raise HTTPException(400) from None
    for name, value in pairs:
        visit.form.setdefault(name, []).append(value)
    if not is_ours(visit):
        raise HTTPException(403, detail="csrf")


def is_ours(visit: Visit) -> bool:
    """Whether a POST comes from a form that was drawn here, for this browser."""
    origin = visit.request.headers.get("origin")
    if origin is not None and not any(
        hmac.compare_digest(origin.lower().encode(), f"{scheme}://{host}".encode())
        for scheme in ("https", "http")
        for host in visit.console.settings.hosts
    ):
        return False
    return visit.console.sessions.is_csrf(visit.cookie, visit.form.one("csrf"))
