"""One live adapter per system: who may write to this database now, decided by a random token.

The table `adapter` has one row: incarnation, token, cluster. (Publication numbers lie elsewhere: a
publisher that counts must not wait for an applier's transaction, which holds this row.) An adapter
that starts takes over; from then on each of its transactions checks the token first, and that of
an older one that wakes fails with `Fenced`. A token, not a counter: a counter comes back with a
backup.

This module also says, to the capture triggers, which datasets' received rows are being written, so
that they do not enter the outbox of the dataset that they were received as.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from deptbus.change import Incarnation
from deptbus.department.connect import (
    Database,
    PostgresDatabase,
    SqliteDatabase,
    application_name,
    application_prefix,
    postgres_translated,
)
from deptbus.errors import DatabaseBusy, Fenced

SQLITE_TABLES = (
    """CREATE TABLE IF NOT EXISTS deptbus_adapter (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  incarnation INTEGER NOT NULL,
  token BLOB NOT NULL,
  cluster_id TEXT
)""",
    "INSERT OR IGNORE INTO deptbus_adapter VALUES (1, 0, x'', NULL)",
    # Datasets whose received rows the present transaction writes; empty in every committed state.
    "CREATE TABLE IF NOT EXISTS deptbus_applying (dataset TEXT PRIMARY KEY) WITHOUT ROWID",
)

POSTGRES_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS deptbus",
    """CREATE TABLE IF NOT EXISTS deptbus.adapter (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  incarnation bigint NOT NULL,
  token bytea NOT NULL,
  cluster_id text
)""",
    "INSERT INTO deptbus.adapter VALUES (true, 0, '', NULL) ON CONFLICT DO NOTHING",
)


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """What this database knows of its adapters."""

    incarnation: Incarnation
    cluster_id: str | None


_COLUMNS = "incarnation, token, cluster_id"


async def ensure_adapter_table(database: Database) -> None:
    """Creates the fence's tables where they are absent; `department install` and a first run do."""
    if isinstance(database, SqliteDatabase):
        await database.transaction(lambda c: [c.execute(s) for s in SQLITE_TABLES])
        return
    async with database.transaction() as connection:
        if await connection.fetchval("SELECT to_regclass('deptbus.adapter')") is None:
            for statement in POSTGRES_TABLES:
                await connection.execute(statement)


async def read_adapter(database: Database) -> AdapterRow:
    if isinstance(database, SqliteDatabase):
        row = await database.run(
            lambda c: c.execute(f"SELECT {_COLUMNS} FROM deptbus_adapter").fetchone()
        )
    else:
        with postgres_translated(database.place):
            row = await database.connection.fetchrow(f"SELECT {_COLUMNS} FROM deptbus.adapter")
    number, token, cluster_id = row
    return AdapterRow(Incarnation(number, bytes(token)), cluster_id)


async def check(database: Database, token: bytes) -> None:
    """Raises Fenced when somebody else has taken over; says nothing of the next moment."""
    if (await read_adapter(database)).incarnation.token != token:
        raise Fenced(FENCED, mend=FENCED_MEND)


async def has_adapter_table(database: Database) -> bool:
    """False in a database that no adapter ever worked on."""
    if isinstance(database, SqliteDatabase):
        table = "SELECT 1 FROM sqlite_master WHERE name = 'deptbus_adapter'"
        return await database.run(lambda c: c.execute(table).fetchone() is not None)
    with postgres_translated(database.place):
        found = await database.connection.fetchval("SELECT to_regclass('deptbus.adapter')")
    return found is not None


async def is_restored(database: Database, mine: Incarnation) -> bool:
    """Whether another database stands where ours was (a backup was put back, a file replaced): one
    that bears a lesser incarnation than `mine`. A younger adapter bears a greater one."""
    if not await has_adapter_table(database):
        return True
    return (await read_adapter(database)).incarnation.number < mine.number


async def take_over(
    database: Database, bus_number: int, *, unit: str, system: str, deadline_s: float = 10
) -> Incarnation:
    """Becomes the one live adapter of this system, in one transaction.

    The new number is above the database's and `bus_number`, the highest that the bus knows. On
    PostgreSQL an older adapter that was stopped inside a transaction, and so holds the row, has its
    connections ended. Raises DatabaseBusy when the row stays locked until the deadline.
    """
    if isinstance(database, SqliteDatabase):
        return await database.transaction(lambda c: _take_over_sqlite(c, bus_number))
    until = time.monotonic() + deadline_s
    while True:
        try:
            return await _take_over_postgres(database, bus_number)
        except DatabaseBusy:
            if time.monotonic() > until:
                raise
            await _end_older_connections(database, unit, system)
            await asyncio.sleep(0.05)


def _take_over_sqlite(connection: sqlite3.Connection, bus_number: int) -> Incarnation:
    (number,) = connection.execute("SELECT incarnation FROM deptbus_adapter").fetchone()
    taken = Incarnation(max(number, bus_number) + 1, secrets.token_bytes(8))
    connection.execute(
        "UPDATE deptbus_adapter SET incarnation = ?, token = ?", (taken.number, taken.token)
    )
    return taken


async def _take_over_postgres(database: PostgresDatabase, bus_number: int) -> Incarnation:
    token = secrets.token_bytes(8)
    async with database.transaction() as connection:
        number = await connection.fetchval(
            "UPDATE deptbus.adapter SET incarnation = greatest(incarnation, $1) + 1, token = $2 "
            "RETURNING incarnation",
            bus_number,
            token,
        )
    return Incarnation(number, token)


async def _end_older_connections(database: PostgresDatabase, unit: str, system: str) -> None:
    with postgres_translated(database.place):
        await database.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND usename = current_user "
            "AND starts_with(application_name, $1) AND application_name <> $2",
            application_prefix(unit, system),
            application_name(unit, system),
        )


FENCED = "a younger adapter of this system has taken over"
FENCED_MEND = "Run one adapter per system; this one stops"


def check_sqlite(connection: sqlite3.Connection, token: bytes) -> None:
    """First statement of a transaction (BEGIN IMMEDIATE already holds the write lock)."""
    if connection.execute("SELECT token FROM deptbus_adapter").fetchone() != (token,):
        raise Fenced(FENCED, mend=FENCED_MEND)


async def check_postgres(connection: asyncpg.Connection, token: bytes) -> None:
    """First statement of a transaction: locks the row in share mode until its end, so that nobody
    takes over between this check and the commit, while our own transactions do not wait for each
    other."""
    if (
        await connection.fetchval(
            "SELECT true FROM deptbus.adapter WHERE token = $1 FOR SHARE", token
        )
        is None
    ):
        raise Fenced(FENCED, mend=FENCED_MEND)


def lock_postgres(token: bytes) -> str:
    """The same check as SQL without arguments, to be sent along with other statements: it finds one
    row, locked until the transaction's end, or none. `check_postgres` then says why."""
    return f"SELECT true FROM deptbus.adapter WHERE token = '\\x{token.hex()}' FOR SHARE"


def begin_applying_sqlite(connection: sqlite3.Connection, datasets: Iterable[str]) -> None:
    """Rows written from here to `end_applying_sqlite` are received rows of these datasets."""
    connection.executemany(
        "INSERT OR IGNORE INTO deptbus_applying VALUES (?)", [(d,) for d in datasets]
    )


def end_applying_sqlite(connection: sqlite3.Connection) -> None:
    """To be called before COMMIT: the mark must never be part of a committed state."""
    connection.execute("DELETE FROM deptbus_applying")


async def begin_applying_postgres(connection: asyncpg.Connection, datasets: Iterable[str]) -> None:
    """Rows written from here to the end of the transaction (or the next call, which replaces the
    set) are received rows of these datasets."""
    await connection.execute("SELECT set_config($1, $2, true)", *applying_postgres(datasets))


def applying_postgres(datasets: Iterable[str]) -> tuple[str, str]:
    """Name and value of the setting by which capture knows."""
    return "deptbus.applying", f",{','.join(datasets)},"
