"""The publisher's signs of life, kept in the department's own database for `department status`.

One row says whether the bus takes what is published, why not, since when, and when the adapter was
last seen. It is a word to people and decides nothing, so it is written without waiting for the
disk, at most every `TELL_SECONDS` while nothing changes.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import asyncpg
import structlog

from deptbus.errors import (
    BusRefused,
    BusUnreachable,
    ContractUnreadable,
    DatabaseUnavailable,
    DeptbusError,
    SourceRefused,
)

log = structlog.get_logger(__name__)

STALL_SECONDS = 5.0  # a batch that is not acked for longer is not merely slow
TELL_SECONDS = 10.0
SILENT_SECONDS = 60.0  # an adapter that was not seen for longer does not run
# An adapter that could not take the system over may speak where no other has for so long.
_UNCLAIMED_SECONDS = 30.0
_LOOK_SECONDS = 1.0


class Publishing(StrEnum):
    """Whether the bus takes what this system publishes."""

    GOING_ON = "going_on"
    STALLED = "stalled"  # tried again by itself
    STOPPED = "stopped"  # a person must act


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last sign of life. Times are microseconds since 1970 by the adapter's clock."""

    state: Publishing
    reason: str | None = None  # what a person reads, with the mend; never content
    held: Mapping[str, str] = field(default_factory=dict)  # dataset -> why its rows stay
    since_us: int = 0  # when it came into this state
    seen_us: int = 0

    def is_going_on(self, now_us: int) -> bool:
        """True when an adapter seems to run, and the bus takes what it publishes."""
        silent_us = now_us - self.seen_us
        return self.state is Publishing.GOING_ON and silent_us < SILENT_SECONDS * 1e6


SQLITE_TABLE = """CREATE TABLE IF NOT EXISTS deptbus_pulse (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  state TEXT NOT NULL,
  reason TEXT,
  held TEXT NOT NULL,
  since_us INTEGER NOT NULL,
  seen_us INTEGER NOT NULL
)"""
POSTGRES_TABLE = """CREATE TABLE IF NOT EXISTS deptbus.pulse (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  state text NOT NULL,
  reason text,
  held text NOT NULL,
  since_us bigint NOT NULL,
  seen_us bigint NOT NULL
) WITH (fillfactor = 20)"""

_COLUMNS = "state, reason, held, since_us, seen_us"
_CHANGED = (
    "ON CONFLICT (only_row) DO UPDATE SET state = excluded.state, reason = excluded.reason, "
    "held = excluded.held, seen_us = excluded.seen_us, since_us = CASE "
    "WHEN p.state = excluded.state THEN p.since_us ELSE excluded.since_us END"
)


def write_sqlite(c: sqlite3.Connection, token: bytes | None, pulse: Pulse) -> None:
    """Within a transaction. Nothing is written when `token` is not the database's (or None) and
    another adapter has spoken lately."""
    (mine,) = c.execute("SELECT token IS ? FROM deptbus_adapter", (token,)).fetchone()
    c.execute(SQLITE_TABLE)  # a database that was installed before there was this table
    c.execute(
        f"INSERT INTO deptbus_pulse AS p SELECT 1, ?, ?, ?, ?, ? WHERE ? OR NOT EXISTS "
        f"(SELECT 1 FROM deptbus_pulse WHERE seen_us > ?) {_CHANGED}",
        (*_row(pulse), mine, _unclaimed(pulse)),
    )


def read_sqlite(c: sqlite3.Connection) -> Pulse | None:
    """None when no adapter has spoken yet."""
    if not c.execute("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_pulse'").fetchone():
        return None
    return _pulse(c.execute(f"SELECT {_COLUMNS} FROM deptbus_pulse").fetchone())


async def write_postgres(c: asyncpg.Connection, token: bytes | None, pulse: Pulse) -> None:
    """As `write_sqlite`. Locks nothing but its own row."""
    if await c.fetchval("SELECT to_regclass('deptbus.pulse')") is None:
        # Of two adapters one makes the table: IF NOT EXISTS does not see what is not committed yet.
        await c.execute(
            f"SELECT pg_advisory_xact_lock(hashtext('deptbus.pulse')); {POSTGRES_TABLE}"
        )
    await c.execute(
        "INSERT INTO deptbus.pulse AS p SELECT true, $1, $2, $3, $4, $5 "
        "WHERE EXISTS (SELECT 1 FROM deptbus.adapter WHERE token = $6) "
        f"OR NOT EXISTS (SELECT 1 FROM deptbus.pulse WHERE seen_us > $7) {_CHANGED}",
        *_row(pulse),
        token,
        _unclaimed(pulse),
    )


async def read_postgres(c: asyncpg.Connection) -> Pulse | None:
    """None when no adapter has spoken yet."""
    if await c.fetchval("SELECT to_regclass('deptbus.pulse')") is None:
        return None
    return _pulse(await c.fetchrow(f"SELECT {_COLUMNS} FROM deptbus.pulse"))


def _row(pulse: Pulse) -> tuple[str, str | None, str, int, int]:
    held = json.dumps(dict(pulse.held), ensure_ascii=False)
    return (pulse.state.value, pulse.reason, held, pulse.since_us, pulse.seen_us)


def _pulse(row: tuple[str, str | None, str, int, int] | None) -> Pulse | None:
    if row is None:
        return None
    state, reason, held, since_us, seen_us = row
    return Pulse(Publishing(state), reason, json.loads(held), since_us, seen_us)


def _unclaimed(pulse: Pulse) -> int:
    return pulse.seen_us - int(_UNCLAIMED_SECONDS * 1e6)


Write = Callable[[bytes | None, Pulse], Awaitable[None]]


class Signs:
    """What one publisher says of itself. `write` is `Capture.tell`; `token` is set once the system
    is taken over. `run` beside the publisher's loop; the rest at the moments that they name."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.token: bytes | None = None
        self.held: Mapping[str, str] = {}
        self._sent_at: float | None = None  # since when a batch is on its way
        self._error: str | None = None  # what the bus said to it last
        self._told: Pulse | None = None

    def sending(self) -> None:
        self._sent_at = time.monotonic()

    def refused(self, error: DeptbusError) -> None:
        self._error = str(error)

    def acked(self) -> None:
        self._sent_at = self._error = None

    async def run(self) -> None:
        """Tells every change within a second or so, for ever. A word to people must not stop what
        it speaks of: a database that does not take it now is logged once and tried again."""
        is_told = True
        while True:
            try:
                await self.tell()
                is_told = True
            except DatabaseUnavailable as error:
                if is_told:
                    log.warning("pulse_not_written", error=error.what)
                is_told = False
            await asyncio.sleep(_LOOK_SECONDS)

    async def tell(self) -> None:
        """Writes what is to be said, unless it was just said."""
        now_us = time.time_ns() // 1000
        waits = 0.0 if self._sent_at is None else time.monotonic() - self._sent_at
        if self._error is None and waits < STALL_SECONDS:
            await self._say(Pulse(Publishing.GOING_ON, None, self.held, now_us, now_us))
            return
        reason = self._error or "the bus does not acknowledge what is sent. Look at the brokers"
        since_us = now_us - int(waits * 1e6)
        await self._say(Pulse(Publishing.STALLED, reason, self.held, since_us, now_us))

    async def ended(self, error: DeptbusError) -> None:
        """What ended the publisher, where it may still say so: not when it was fenced (its
        successor speaks), and not when the database itself is what failed."""
        if isinstance(error, BusRefused | BusUnreachable | ContractUnreadable):
            state = Publishing.STALLED
        elif isinstance(error, SourceRefused):
            state = Publishing.STOPPED
        else:
            return
        now_us = time.time_ns() // 1000
        try:
            await self._say(Pulse(state, str(error), self.held, now_us, now_us))
        except DatabaseUnavailable:
            return  # `error` is raised all the same, and that is what the log says

    async def _say(self, pulse: Pulse) -> None:
        told = self._told
        if (
            told is not None
            and (told.state, told.reason, told.held) == (pulse.state, pulse.reason, pulse.held)
            and pulse.seen_us - told.seen_us < TELL_SECONDS * 1e6
        ):
            return
        await self._write(self.token, pulse)
        self._told = pulse
