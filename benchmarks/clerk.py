"""The source department's own program: loads its register, changes it in bulk, or types steadily.

`python -m benchmarks.clerk URL load ROWS`
`python -m benchmarks.clerk URL bulk ROWS EDITION`: each row once, in transactions of 1,000.
`python -m benchmarks.clerk URL steady ROWS RATE SECONDS`: as bulk, again and again, at so many rows
a second, in ten transactions a second.
`python -m benchmarks.clerk URL type FIRST ROWS RATE SECONDS`: so many single-row commits a second,
on the rows from FIRST on, in turn.
`python -m benchmarks.clerk URL unseen ROWS`: as load, without capture seeing it.
`python -m benchmarks.clerk URL enter FIRST RATE SECONDS`: so many single-row commits a second, each
a new row, whose key sorts before those that are loaded.
In SQLite there are `load` and `bulk`.

Every change writes a text into `occupation` that no other change ever wrote, by which the copy's
commit is found. Says that it is ready when it begins (deptbus.readiness).
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any

import asyncpg

from benchmarks import county
from benchmarks.town import TABLE
from deptbus.readiness import tell_ready

ROWS_AT_ONCE = 1000
_BULKS_A_SECOND = 10
_CHANGE = f"UPDATE {TABLE} SET occupation = $1, updated_at = now() WHERE n >= $2 AND n < $3"


async def load(connection: asyncpg.Connection, rows: int) -> None:
    names = (*county.NAMES, "n")
    for first in range(0, rows, ROWS_AT_ONCE):
        made = [
            (*county.resident(n).values(), n) for n in range(first, min(rows, first + ROWS_AT_ONCE))
        ]
        await connection.copy_records_to_table(TABLE, columns=names, records=made)


async def unseen(connection: asyncpg.Connection, rows: int) -> None:
    await connection.execute("SET session_replication_role = replica")
    await load(connection, rows)


async def enter(connection: asyncpg.Connection, start: int, rate: int, seconds: int) -> None:
    names = (*county.NAMES, "n")
    marks = ", ".join(f"${i}" for i in range(1, len(names) + 1))
    statement = f"INSERT INTO {TABLE} ({', '.join(names)}) VALUES ({marks})"
    async for number in _beats(rate, seconds):
        n = start + number
        own = {"resident_id": f"11{n:016}", "occupation": typed(number)}
        await connection.execute(statement, *(county.resident(n) | own).values(), n)


async def bulk(connection: asyncpg.Connection, rows: int, edition: int) -> None:
    for first in range(0, rows, ROWS_AT_ONCE):
        last = min(rows, first + ROWS_AT_ONCE)
        await connection.execute(_CHANGE, f"edition {edition}", first, last)


async def steady(connection: asyncpg.Connection, rows: int, rate: int, seconds: int) -> None:
    size = rate // _BULKS_A_SECOND
    async for number in _beats(_BULKS_A_SECOND, seconds):
        first = number * size % (rows - size + 1)
        await connection.execute(_CHANGE, f"steady {number}", first, first + size)


async def type_rows(
    connection: asyncpg.Connection, start: int, rows: int, rate: int, seconds: int
) -> None:
    async for number in _beats(rate, seconds):
        n = start + number % rows
        await connection.execute(_CHANGE, typed(number), n, n + 1)


def typed(number: int) -> str:
    """What the `number`th single-row commit writes."""
    return f"typed {number}"


async def _beats(rate: int, seconds: int) -> AsyncIterator[int]:
    """0, 1, 2 ...: each at its time, counted from the first; one that comes late is not skipped."""
    began = time.monotonic()
    for number in range(rate * seconds):
        pause = began + number / rate - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        yield number


def load_sqlite(connection: sqlite3.Connection, rows: int) -> None:
    names = (*county.NAMES, "n")
    marks = ", ".join("?" for _ in names)
    for first in range(0, rows, ROWS_AT_ONCE):
        numbers = range(first, min(rows, first + ROWS_AT_ONCE))
        made = [(*map(_as_text, county.resident(n).values()), n) for n in numbers]
        connection.executemany(f"INSERT INTO {TABLE} ({', '.join(names)}) VALUES ({marks})", made)
        connection.commit()


def bulk_sqlite(connection: sqlite3.Connection, rows: int, edition: int) -> None:
    change = f"UPDATE {TABLE} SET occupation = ?, updated_at = ? WHERE n >= ? AND n < ?"
    for first in range(0, rows, ROWS_AT_ONCE):
        now = _as_text(datetime.now(UTC))
        last = min(rows, first + ROWS_AT_ONCE)
        connection.execute(change, (f"edition {edition}", now, first, last))
        connection.commit()


def _as_text(value: Any) -> Any:
    """Dates and times as SQLite keeps them: the texts that an adapter writes too."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value.isoformat() if isinstance(value, date) else value


_COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "load": load,
    "bulk": bulk,
    "steady": steady,
    "type": type_rows,
    "unseen": unseen,
    "enter": enter,
}
_SQLITE_COMMANDS: dict[str, Callable[..., None]] = {"load": load_sqlite, "bulk": bulk_sqlite}


def main_sqlite(url: str, command: str, *numbers: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as connection:
        tell_ready()
        _SQLITE_COMMANDS[command](connection, *map(int, numbers))


async def main(url: str, command: str, *numbers: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT 1")
        tell_ready()
        await _COMMANDS[command](connection, *map(int, numbers))
    finally:
        await connection.close()


if __name__ == "__main__":
    if sys.argv[1].startswith("sqlite:"):
        main_sqlite(*sys.argv[1:])
    else:
        asyncio.run(main(*sys.argv[1:]))
