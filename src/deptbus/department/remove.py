"""Takes everything of deptbus out of a department's database: `deptbus department uninstall`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import asyncpg

from deptbus.department.connect import Database, PostgresDatabase, SqliteDatabase
from deptbus.department.layout import quoted
from deptbus.department.postgres_install import OUR_TRIGGERS, pause_statements
from deptbus.department.postgres_rights import revoke_statements
from deptbus.errors import DatabaseBusy

_TRIED_SECONDS = 30.0
_AGAIN_SECONDS = 0.2


async def remove_all(database: Database) -> None:
    """Own tables, what they hold, and received rows stay; triggers and every table of ours go.

    At any time: an adapter that runs finds its tables gone, and says so. At once nothing of ours
    acts any more; what is left then needs a moment in which no transaction uses the table. Raises
    DatabaseBusy when there is none for half a minute: nothing of it does anything by then.
    """
    if isinstance(database, SqliteDatabase):
        await _when_free(lambda: database.transaction(_remove_sqlite))
        return
    async with database.transaction() as connection:
        for statement in await pause_statements(connection):
            await connection.execute(statement)
    with_triggers = await database.connection.fetch(OUR_TRIGGERS)
    for table in dict.fromkeys(row["on_table"] for row in with_triggers):
        # One table at a time, so that a lock on one is not held while the next is waited for.
        names = [row["tgname"] for row in with_triggers if row["on_table"] == table]
        await _when_free(partial(_drop_triggers, database, table, names))
    await _when_free(partial(_drop_schema, database))


async def _when_free(work: Callable[[], Awaitable[None]]) -> None:
    until = time.monotonic() + _TRIED_SECONDS
    while True:
        try:
            return await work()
        except DatabaseBusy as busy:
            if time.monotonic() > until:
                raise DatabaseBusy(
                    f"{busy.what}: capture does nothing any more, but what is left of it could not "
                    "be removed, because the tables are in use all the time",
                    mend="Run it again when no long transaction is open",
                ) from None
            await asyncio.sleep(_AGAIN_SECONDS)


async def _drop_triggers(database: PostgresDatabase, table: str, names: list[str]) -> None:
    async with database.transaction() as connection:
        for name in names:
            await connection.execute(f"DROP TRIGGER IF EXISTS {quoted(name)} ON {table}")


async def _drop_schema(database: PostgresDatabase) -> None:
    async with database.transaction() as connection:
        for statement in await revoke_statements(connection):
            with suppress(asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError):
                # A table that is gone, or an account, took its rights along.
                async with connection.transaction():
                    await connection.execute(statement)
        # Nothing of the department's is in our schema, and nothing of it refers to it any more.
        await connection.execute("DROP SCHEMA IF EXISTS deptbus CASCADE")


def _remove_sqlite(connection: sqlite3.Connection) -> None:
    for kind in ("trigger", "view", "table"):
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = ? AND name GLOB 'deptbus_*'", (kind,)
        ).fetchall()
        for (name,) in names:
            connection.execute(f"DROP {kind.upper()} IF EXISTS {quoted(name)}")
