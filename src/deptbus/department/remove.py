"""Takes everything of deptbus out of a department's database: `deptbus department uninstall`."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

import asyncpg

from deptbus.department.connect import Database, SqliteDatabase
from deptbus.department.layout import quoted
from deptbus.department.postgres_install import OUR_TRIGGERS
from deptbus.department.postgres_rights import revoke_statements


async def remove_all(database: Database) -> None:
    """Own tables, what they hold, and received rows stay; triggers and every table of ours go.

    At once and at any time: an adapter that runs finds its tables gone, and says so.
    """
    if isinstance(database, SqliteDatabase):
        await database.transaction(_remove_sqlite)
        return
    async with database.transaction() as connection:
        for statement in await revoke_statements(connection):
            with suppress(asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError):
                # A table that is gone, or an account, took its rights along.
                async with connection.transaction():
                    await connection.execute(statement)
        for row in await connection.fetch(OUR_TRIGGERS):
            await connection.execute(f"DROP TRIGGER {quoted(row['tgname'])} ON {row['on_table']}")
        # Nothing of the department's is in our schema, and nothing of it refers to it any more.
        await connection.execute("DROP SCHEMA IF EXISTS deptbus CASCADE")


def _remove_sqlite(connection: sqlite3.Connection) -> None:
    for kind in ("trigger", "view", "table"):
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = ? AND name GLOB 'deptbus_*'", (kind,)
        ).fetchall()
        for (name,) in names:
            connection.execute(f"DROP {kind.upper()} IF EXISTS {quoted(name)}")
