"""The one error tree: what happened, where, how to mend it, and the exit code it means.

Driver errors (Kafka, PostgreSQL, SQLite, the operating system) are translated into these once,
at the edge where they arise; everything above handles only this tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command (design, section 7)."""

    DONE = 0
    ANSWER_IS_NO = 1
    COULD_NOT = 2
    OUR_BUG = 70


class DeptbusError(Exception):
    """Base of every error that a person is told about in one line.

    `what` names the place and what is wrong; `mend` says what to do next. Neither ever holds a
    personal number or the content of a record.
    """

    exit_code: Exit = Exit.COULD_NOT

    def __init__(self, what: str, *, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}. {self.mend}" if self.mend else self.what


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file that a person wrote: file, line (from 1, 0 unknown), what, mend."""

    file: str
    line: int
    what: str
    mend: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}. {self.mend}"


class FileProblems(DeptbusError):
    """Files that people wrote (contract, department.yml) are wrong; all problems at once."""

    exit_code = Exit.ANSWER_IS_NO

    def __init__(self, problems: list[Problem]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} found")
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([*map(str, self.problems), self.what])


class BusUnreachable(DeptbusError):
    """No broker answers at the address: agents and adapters retry with back-off, commands tell."""


class BusRefused(DeptbusError):
    """The broker said no (credentials, rights, unknown topic): a person must mend it."""


# Each of two clients says it, whoever it is that asks.
CREDENTIALS = "the bus refuses these credentials"
CREDENTIALS_MEND = (
    "Check DEPTBUS_SASL_USERNAME, DEPTBUS_SASL_PASSWORD and DEPTBUS_SASL_MECHANISM, or the client "
    "file"
)


class ContractUnreadable(DeptbusError):
    """The contract in force cannot be read now: deliver nothing until it can (promise 5)."""


class NoNetwork(DeptbusError):
    """Something that is fetched once (Kafka's files) is not in the cache and cannot be fetched."""


class WireRefused(DeptbusError):
    """Bytes that are not a valid record of this bus. `reason` is a constant for quarantine."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class DatabaseUnavailable(DeptbusError):
    """The database itself refuses (down, disk, rights, schema): stop, say so once, retry later."""


class DatabaseBusy(DatabaseUnavailable):
    """Somebody holds a lock for longer than we may wait: rolled back, try again soon."""


class RowRefused(DeptbusError):
    """The database refuses one row (constraint, type): park it with this reason, go on."""


class Fenced(DeptbusError):
    """A younger adapter of the same system has taken over: stop at once, write nothing more."""


class SourceRefused(DeptbusError):
    """This adapter may not publish (wrong secret, restored backup, rebuilt cluster)."""
