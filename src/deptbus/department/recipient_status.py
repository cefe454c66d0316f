"""The recipient's side of `deptbus department status`, and `rejoin`."""

from __future__ import annotations

import sqlite3
import time

from deptbus.contract.department import Department
from deptbus.department import fence
from deptbus.department.connect import SqliteDatabase, postgres_translated
from deptbus.department.opening import open_system
from deptbus.department.store import DatasetStatus
from deptbus.department.store_postgres import postgres_status
from deptbus.department.store_sqlite import sqlite_status
from deptbus.names import in_topic


async def recipient_status(department: Department, system: str) -> list[DatasetStatus]:
    """One line per received dataset; empty where the adapter has never run.

    Raises DatabaseUnavailable. Unknown is not zero: what lies unread in the inbox is not here.
    """
    datasets = tuple(department.systems[system].receives)
    now_us = time.time_ns() // 1000
    database = await open_system(department, system)
    try:
        if isinstance(database, SqliteDatabase):
            table = "SELECT 1 FROM sqlite_master WHERE name = 'deptbus_ledger'"
            return await database.run(
                lambda c: sqlite_status(c, datasets, now_us) if c.execute(table).fetchone() else []
            )
        with postgres_translated(database.place):
            connection = database.connection
            if await connection.fetchval("SELECT to_regclass('deptbus.ledger')") is None:
                return []
            return await postgres_status(connection, datasets, now_us)
    finally:
        await database.close()


async def rejoin(department: Department, system: str) -> None:
    """Forget how far the inbox was applied: the bus was rebuilt, and its inbox begins anew. What
    the ledger knows of each record stays, so nothing older than it is written.

    Takes the system over first: an adapter that still runs ends. Raises DatabaseUnavailable.
    """
    database = await open_system(department, system)
    topic = in_topic(department.unit)
    try:
        await fence.ensure_adapter_table(database)
        await fence.take_over(database, 0, unit=department.unit, system=system)
        if isinstance(database, SqliteDatabase):
            await database.transaction(lambda c: _forget_sqlite(c, topic))
        else:
            async with database.transaction() as connection:
                if await connection.fetchval("SELECT to_regclass('deptbus.offsets')") is not None:
                    await connection.execute("DELETE FROM deptbus.offsets WHERE topic = $1", topic)
    finally:
        await database.close()


def _forget_sqlite(connection: sqlite3.Connection, topic: str) -> None:
    table = "SELECT 1 FROM sqlite_master WHERE name = 'deptbus_offsets'"
    if connection.execute(table).fetchone():
        connection.execute("DELETE FROM deptbus_offsets WHERE topic = ?", (topic,))
