"""Who is logged in: sessions in this process's memory, and the token that every form bears.

A session ends when it is signed out, `LONGEST_SECONDS` after it began, or `IDLE_SECONDS` after its
last request: a page that is open asks by itself, so a screen on the wall stays, and a browser that
was closed does not. The cookie bears a random name; here only its digest is kept. A restart ends
all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from deptbus.console.accounts import Accounts
from deptbus.console.roles import Person

LONGEST_SECONDS = 12 * 3600.0  # a shift
IDLE_SECONDS = 30 * 60.0
_MOST = 10_000  # the oldest go


@dataclass(slots=True)
class Session:
    person: Person
    began_at: float
    seen_at: float
    account_hash: str | None  # of a local account, as it was when its owner logged in


class Sessions:
    """`now`: seconds of a clock that never goes back."""

    def __init__(self, accounts: Accounts, now: Callable[[], float] = time.monotonic) -> None:
        self._accounts, self._now = accounts, now
        self._sessions: dict[str, Session] = {}
        self._csrf_key = secrets.token_bytes(32)

    def begin(self, person: Person, account_hash: str | None = None) -> str:
        """Returns the cookie's value: a new one each time, so that nobody can prepare it."""
        self._drop_ended()
        name = secrets.token_urlsafe(32)
        now = self._now()
        self._sessions[_digest(name)] = Session(person, now, now, account_hash)
        return name

    def person(self, cookie: str) -> Person | None:
        """Whose session this is; None: nobody's, or it has ended. Counts as a sign of life."""
        digest = _digest(cookie)
        session = self._sessions.get(digest)
        if session is None:
            return None
        if self._has_ended(session):
            del self._sessions[digest]
            return None
        session.seen_at = self._now()
        return session.person

    def end(self, cookie: str) -> None:
        self._sessions.pop(_digest(cookie), None)

    def csrf(self, cookie: str) -> str:
        """The token of forms that are drawn for this cookie, logged in or not."""
        return hmac.new(self._csrf_key, cookie.encode(), hashlib.sha256).hexdigest()

    def is_csrf(self, cookie: str, token: str) -> bool:
        return bool(cookie) and hmac.compare_digest(self.csrf(cookie).encode(), token.encode())

    def _has_ended(self, session: Session) -> bool:
        now = self._now()
        if now - session.began_at > LONGEST_SECONDS or now - session.seen_at > IDLE_SECONDS:
            return True
        if session.account_hash is None:
            return False
        account = self._accounts.get(session.person.name)
        return (
            account is None
            or account.person != session.person
            or account.hash != session.account_hash
        )

    def _drop_ended(self) -> None:
        ended = [name for name, session in self._sessions.items() if self._has_ended(session)]
        for name in ended:
            del self._sessions[name]
        while len(self._sessions) >= _MOST:
            self._sessions.pop(next(iter(self._sessions)))


def visitor() -> str:
    """A cookie for somebody who is not logged in: it ties the log-in form to one browser."""
    return secrets.token_urlsafe(32)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
