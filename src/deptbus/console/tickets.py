"""One-time tickets: how whoever runs a bus on this machine comes in without an account.

A ticket is a file in a folder of the bus that only its owner may read: its name is the digest of
the ticket, so that the folder opens no door. It is taken by removing the file, which works once,
and is worth nothing after `LASTS_SECONDS`. It travels behind the `#` of an address, which browsers
send to nobody and no log has.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path

from deptbus.console.roles import Person, Role
from deptbus.errors import DeptbusError

LASTS_SECONDS = 15 * 60.0
# Who may write into the bus's folder may do all of this with the command line as well.
_ROLES = frozenset({Role.OPERATOR, Role.AUDITOR})


def make_ticket(folder: Path, name: str) -> str:
    """`name`: whom acts are recorded of. Raises DeptbusError when the folder cannot be written."""
    ticket = secrets.token_urlsafe(32)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        _drop_old(folder)
        handle = os.open(folder / _digest(ticket), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(name)
    except OSError as error:
        raise DeptbusError(f"{folder} cannot be written: {error.strerror}") from None
    return ticket


def take_ticket(folder: Path | None, ticket: str) -> Person | None:
    """Who comes in; None: no such ticket, or it was used, or is too old."""
    if folder is None or not ticket:
        return None
    path = folder / _digest(ticket)
    try:
        made_at = path.stat().st_mtime
        name = path.read_text(encoding="utf-8")
        path.unlink()  # of two who come at once, one fails here
    except OSError:
        return None
    return Person(name, _ROLES) if time.time() - made_at < LASTS_SECONDS else None


def _drop_old(folder: Path) -> None:
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime >= LASTS_SECONDS:
            path.unlink(missing_ok=True)


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
