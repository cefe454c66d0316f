"""Local accounts: a file of names, roles and salted scrypt hashes (`deptbus console account`).

Format: {"accounts": {name: {"roles": [...], "unit": "", "hash": "scrypt$N$r$p$salt$hash"}}}, mode
0600, written whole or not at all. The file is read again when it changed: an account that was
removed or changed ends its sessions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deptbus.console.roles import Person, Role, person_of
from deptbus.errors import DeptbusError
from deptbus.operations.masking import RESIDENT_NUMBER

PASSWORD_LETTERS = 12
_PASSWORD_BYTES = 1024  # at most: what is hashed may not be a way to keep us busy
_NAME_LETTERS = 100
# OWASP's first choice for scrypt: 128 * N * r = 16 MiB and about 60 ms; p makes it 5 times that.
_N, _R, _P = 2**14, 8, 5
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Account:
    person: Person
    hash: str


def password_hash(password: str) -> str:
    """Of a new password. Raises DeptbusError where it is too short."""
    if len(password) < PASSWORD_LETTERS or len(password.encode()) > _PASSWORD_BYTES:
        raise DeptbusError(
            f"a password has at least {PASSWORD_LETTERS} letters",
            mend="Several words that you do not forget are better than one",
        )
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, _N, _R, _P)
    return "$".join(["scrypt", str(_N), str(_R), str(_P), _text(salt), _text(digest)])


_NOBODY = "$".join(["scrypt", str(_N), str(_R), str(_P), "AAAA", "A" * 43 + "="])


def is_password(stored: str | None, password: str) -> bool:
    """Takes as long for a name that there is not (`stored` None) as for one that there is."""
    if len(password.encode()) > _PASSWORD_BYTES:
        return False
    try:
        scheme, n, r, p, salt, digest = (stored or _NOBODY).split("$")
        found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
        wanted = base64.b64decode(digest)
    except ValueError:
        return False
    return hmac.compare_digest(found, wanted) and scheme == "scrypt" and stored is not None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * 1024 * 1024, dklen=_HASH_BYTES
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def checked_name(name: str) -> str:
    """An account's name stands in the audit for ever. Raises DeptbusError."""
    is_name = 0 < len(name) <= _NAME_LETTERS and name.isprintable() and name == name.strip()
    if not is_name or RESIDENT_NUMBER.search(name):
        raise DeptbusError("that is no account's name", mend="A word, not a resident number")
    return name


class Accounts:
    """The file's content, followed. `path` None: there are no local accounts."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._accounts: dict[str, Account] = {}

    def get(self, name: str) -> Account | None:
        self._follow()
        return self._accounts.get(name)

    def all(self) -> Mapping[str, Account]:
        self._follow()
        return self._accounts

    def _follow(self) -> None:
        """Raises DeptbusError when the file is damaged: nobody is let in by a half of it."""
        if self._path is None:
            return
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            self._seen, self._accounts = None, {}
            return
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen != self._seen:
            self._accounts = read_accounts(self._path)
            self._seen = seen


def read_accounts(path: Path) -> dict[str, Account]:
    """Raises DeptbusError: unreadable, damaged, or open to others."""
    try:
        if os.stat(path).st_mode & 0o077:
            raise DeptbusError(
                f"{path} may be read by others", mend=f"Take it from them: `chmod 600 {path}`"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: _account(name, raw) for name, raw in content["accounts"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeptbusError(
            f"the accounts' file {path} cannot be read ({type(error).__name__})",
            mend="Make it anew with `deptbus console account add`",
        ) from None


def _account(name: str, raw: dict[str, Any]) -> Account:
    roles = frozenset(Role(role) for role in raw["roles"])
    return Account(person_of(name, roles, str(raw.get("unit", ""))), str(raw["hash"]))


def write_accounts(path: Path, accounts: Mapping[str, Account]) -> None:
    """Whole or not at all, for the owner alone."""
    content = {
        "accounts": {
            name: {
                "roles": sorted(account.person.roles),
                "unit": account.person.unit,
                "hash": account.hash,
            }
            for name, account in sorted(accounts.items())
        }
    }
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DeptbusError(f"{path} cannot be written: {error.strerror}") from None
