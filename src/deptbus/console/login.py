"""Coming in and going out: local accounts, one-time tickets, sign-out; language and theme."""

from __future__ import annotations

import asyncio
import math

import structlog
from starlette.requests import Request
from starlette.responses import Response

from deptbus.console.accounts import is_password
from deptbus.console.roles import Person
from deptbus.console.sessions import visitor
from deptbus.console.tickets import take_ticket
from deptbus.console.visit import THEMES, Visit, local_path
from deptbus.console.words import LANGUAGES

log = structlog.get_logger(__name__)

# Hashing is dear on purpose: more at once would keep pages from those who are in.
_HASHING = asyncio.Semaphore(2)


async def show_login(visit: Visit) -> Response:
    if visit.person is not None:
        return visit.redirect(local_path(visit.query.get("next", "/")))
    return _form(visit, "login.html", next=local_path(visit.query.get("next", "/")))


async def show_enter(visit: Visit) -> Response:
    """Where the ticket's link leads: a script puts what stands behind `#` into the form."""
    return _form(visit, "enter.html")


def _form(visit: Visit, template: str, status: int = 200, **context: object) -> Response:
    if not visit.cookie:
        visit.new_cookie = visitor()
    return visit.render(template, status, openid=visit.console.openid, **context)


async def log_in(visit: Visit) -> Response:
    name, password = visit.form.one("name"), visit.form.get("password", [""])[0]
    following = local_path(visit.form.one("next"))
    console, address = visit.console, address_of(visit.request)
    wait = max(console.by_account.wait_seconds(name), console.by_address.wait_seconds(address))
    if wait:
        log.warning("sign_in_held_up", address=address)
        response = _form(visit, "login.html", 429, next=following, wait=math.ceil(wait))
        response.headers["Retry-After"] = str(math.ceil(wait))
        return response
    # Counted before it is tried: many tries at once do not all get through.
    console.by_account.failed(name)
    console.by_address.failed(address)
    account = console.accounts.get(name)
    async with _HASHING:
        stored = None if account is None else account.hash
        is_right = await asyncio.to_thread(is_password, stored, password)
    if account is None or not is_right:
        # A name that is no account's may be a password that was typed into the wrong box.
        log.warning("sign_in_refused", address=address, account=name if account else None)
        return _form(visit, "login.html", 401, next=following, failed=True)
    console.by_account.forget(name)
    console.by_address.forgive(address)
    return come_in(visit, account.person, following, account.hash)


async def enter(visit: Visit) -> Response:
    address = address_of(visit.request)
    patience = visit.console.by_address
    wait = patience.wait_seconds(address)
    if wait:
        return _form(visit, "enter.html", 429, wait=math.ceil(wait))
    person = take_ticket(visit.console.settings.tickets, visit.form.one("ticket"))
    if person is None:
        patience.failed(address)
        log.warning("ticket_refused", address=address)
        return _form(visit, "enter.html", 401, failed=True)
    return come_in(visit, person, "/")


def come_in(
    visit: Visit, person: Person, following: str, account_hash: str | None = None
) -> Response:
    """A new session under a new cookie; what the browser had before is worth nothing now."""
    sessions = visit.console.sessions
    sessions.end(visit.cookie)
    visit.new_cookie = sessions.begin(person, account_hash)
    log.info("signed_in", name=person.name, address=address_of(visit.request))
    return visit.redirect(following)


async def log_out(visit: Visit) -> Response:
    visit.console.sessions.end(visit.cookie)
    visit.new_cookie = ""
    if visit.person is not None:
        log.info("signed_out", name=visit.person.name)
    return visit.redirect("/login", left=1)


async def set_look(visit: Visit) -> Response:
    """Language and theme: a cookie of their own, so that they outlive the session."""
    language, theme = visit.form.one("language"), visit.form.one("theme")
    if language not in LANGUAGES:
        language = visit.words.language
    if theme not in THEMES:
        theme = visit.theme
    response = visit.redirect(visit.form.one("next"))
    response.set_cookie(
        visit.console.look_cookie_name,
        f"{language}.{theme}",
        max_age=365 * 86_400,
        path="/",
        secure=visit.console.settings.is_secure,
        httponly=True,
        samesite="lax",
    )
    return response


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""
