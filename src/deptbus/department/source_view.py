"""A source's database as it was at one moment, read on connections of its own beside the publisher.

Nobody waits for it: SQLite's readers hold up no writer, and on PostgreSQL no lock is kept between
two reads. One session holds the snapshot and has read no table of the department's; each read
imports it into a short transaction of its own. So a department may empty or rewrite its table
meanwhile: a snapshot cannot see that (the rows are gone for it too), so it is looked for with every
read, and ends the view.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from deptbus.contract.department import Department
from deptbus.department import postgres_rows
from deptbus.department.capture import OutboxRow, RawKey
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import (
    PostgresDatabase,
    SqliteDatabase,
    postgres_translated,
)
from deptbus.department.layout import Layout
from deptbus.department.opening import open_second, open_system
from deptbus.department.postgres_schema import TableFacts, table_facts
from deptbus.errors import DatabaseUnavailable

_ABANDONED = "60s"  # a snapshot that nobody reads from any more keeps vacuum from its work
_IDENTITY = (
    "SELECT k.oid, k.relfilenode FROM pg_class k "
    "WHERE k.oid IN (SELECT to_regclass(t) FROM unnest($1::text[]) AS t) ORDER BY k.oid"
)
_IDENTITY_NOW = (
    "SELECT to_regclass(t)::oid, coalesce(pg_relation_filenode(to_regclass(t)), 0) "
    "FROM unnest($1::text[]) AS t ORDER BY 1"
)
Identity = list[tuple[int, int]]  # table and its file, of every table that is read


class SqliteView(SqliteCapture):
    """Reads only. `begin` once; everything read from then on is as it was at that moment."""

    async def begin(self) -> None:
        def work(c: sqlite3.Connection) -> None:
            c.execute("BEGIN")
            c.execute("SELECT count(*) FROM deptbus_layout").fetchone()  # the first read takes it

        await self._database.run(work)


class PostgresView(PostgresCapture):
    """Reads only. `begin` once; everything read from then on is as it was at that moment, but for
    a table that was rewritten since: then reading rows raises DatabaseUnavailable."""

    def __init__(self, database: PostgresDatabase, holder: PostgresDatabase) -> None:
        super().__init__(database, holder)
        self._snapshot = ""
        self._tables: dict[str, tuple[Layout, TableFacts, Identity]] = {}

    async def begin(self) -> None:
        c = self._light.connection
        with postgres_translated(self._place):
            await c.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._snapshot = await c.fetchval("SELECT pg_export_snapshot()")

    @asynccontextmanager
    async def _durable(self, *, transaction: bool = False) -> AsyncIterator[asyncpg.Connection]:
        c = self._database.connection
        async with self._durable_lock:
            with postgres_translated(self._place):
                await self._light.connection.execute("SELECT 1")  # it is not abandoned
                async with c.transaction(isolation="repeatable_read", readonly=True):
                    await c.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
                    yield c

    @asynccontextmanager
    async def _lightly(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._durable() as c:
            yield c

    async def rows_after(self, dataset: str, after: RawKey | None, limit: int) -> list[OutboxRow]:
        layout, facts, identity = await self._table(dataset)
        async with self._durable() as c:
            await postgres_rows.set_form(c)
            rows = await postgres_rows.rows_after(c, layout, facts, after, limit)
            await self._check(c, facts, identity)
        return rows

    async def rows_of(self, dataset: str, raws: Sequence[RawKey]) -> list[OutboxRow]:
        layout, facts, identity = await self._table(dataset)
        async with self._durable() as c:
            await postgres_rows.set_form(c)
            rows = await postgres_rows.rows_of(c, layout, facts, raws)
            await self._check(c, facts, identity)
        return rows

    async def _table(self, dataset: str) -> tuple[Layout, TableFacts, Identity]:
        known = self._tables.get(dataset)
        if known is None:
            layout = (await self.layouts())[dataset]
            async with self._durable() as c:
                facts = await table_facts(c, layout)
                # By the catalogue as the snapshot has it.
                rows = await c.fetch(_IDENTITY, list(facts.relations))
            known = self._tables[dataset] = layout, facts, [(r[0], r[1]) for r in rows]
        return known

    async def _check(self, c: asyncpg.Connection, facts: TableFacts, was: Identity) -> None:
        """After a read, whose lock on the tables still stands."""
        rows = await c.fetch(_IDENTITY_NOW, list(facts.relations))
        if [(r[0], r[1]) for r in rows] != was:
            raise DatabaseUnavailable(f"{self._place}: the table was emptied or rewritten")


SourceView = SqliteView | PostgresView


@asynccontextmanager
async def open_view(department: Department, system: str) -> AsyncIterator[SourceView]:
    """Connections alone; the moment is that of `begin`. Raises DatabaseUnavailable."""
    view = await _connected(department, system)
    try:
        yield view
    finally:
        await view.close()


async def _connected(department: Department, system: str) -> SourceView:
    database = await open_system(department, system)
    if isinstance(database, SqliteDatabase):
        return SqliteView(database)
    holder = await open_second(database, department, system)
    view = PostgresView(database, holder)
    try:
        with postgres_translated(database.place):
            await database.connection.execute(postgres_rows.SESSION)
            await holder.connection.execute(
                f"SET idle_in_transaction_session_timeout = '{_ABANDONED}'"
            )
    except BaseException:
        await view.close()
        raise
    return view
