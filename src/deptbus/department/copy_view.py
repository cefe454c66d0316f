"""A recipient's database as it was at one moment: its bookkeeping and its rows, for a proof.

Nobody waits for it. SQLite's readers hold up no writer. On PostgreSQL one session holds the
snapshot and reads the bookkeeping alone, through a cursor at the server; the department's tables
are read in short transactions of a second session that take the same snapshot, so that no lock of
theirs is kept between two reads. A table that was emptied or rewritten meanwhile ends the view:
its rows are gone for the snapshot too.
"""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg

from deptbus.contract.department import Department
from deptbus.department.bookkeeping import COLUMN_LIST, ENTRY_COLUMNS, POSTGRES_OF_ROWS
from deptbus.department.connect import (
    PostgresDatabase,
    SqliteDatabase,
    postgres_translated,
)
from deptbus.department.layout import quoted_table
from deptbus.department.ledger import Entry
from deptbus.department.opening import open_second, open_system
from deptbus.department.postgres_table import STAGED, read_columns
from deptbus.department.seen import (
    LINE_LIST,
    POSTGRES_OF_DATASET,
    SQLITE_OF_DATASET,
    Line,
    Values,
    postgres_select,
    postgres_select_rows,
    row_of,
    sqlite_select,
    sqlite_select_rows,
)
from deptbus.department.store_sqlite import read_columns as read_sqlite_columns
from deptbus.department.target import Column, MappedTarget
from deptbus.errors import DatabaseUnavailable

CHUNK_ROWS = 500  # read at a stretch; some milliseconds
_VARIABLES = 900
_HELD = ENTRY_COLUMNS.index("held")


class Applied(NamedTuple):
    """How far one partition of the inbox was applied, and from which policy on each dataset is."""

    next_offset: int
    floors: Mapping[str, int]


class CopyView(ABC):
    """`applied` may be asked before `begin`; after it everything is as it was at that moment.
    Raises DatabaseUnavailable, DatabaseBusy. `close` at the end."""

    @abstractmethod
    async def applied(self, topic: str) -> dict[int, Applied]:
        """By partition; empty when nothing was ever applied here."""

    @abstractmethod
    async def begin(self) -> None: ...

    @abstractmethod
    def lines(self, dataset: str) -> AsyncIterator[list[Line]]:
        """Those of upserts and parked ones, some at a time; close it when leaving early."""

    @abstractmethod
    async def lines_of(self, dataset: str, keys: Sequence[bytes]) -> list[Line]:
        """Of these keys, tombstones too."""

    @abstractmethod
    async def entries_of(self, dataset: str, keys: Sequence[bytes]) -> list[Entry]: ...

    @abstractmethod
    async def held_rows(self, dataset: str, rows: Sequence[bytes]) -> set[bytes]:
        """Which of these rows some line of the ledger holds."""

    @abstractmethod
    async def catalogue(self, table: str) -> dict[str, Column]: ...

    @abstractmethod
    async def rows_of(self, target: MappedTarget, rows: Collection[bytes]) -> dict[bytes, Values]:
        """The rows with these own keys (encoded), as the table has them."""

    @abstractmethod
    async def count_rows(self, target: MappedTarget) -> int: ...

    @abstractmethod
    def all_rows(self, target: MappedTarget) -> AsyncIterator[list[Values]]: ...

    @abstractmethod
    async def as_kept(self, target: MappedTarget, values: Values) -> Values:
        """What the table's columns make of these values."""

    @abstractmethod
    async def close(self) -> None: ...


@asynccontextmanager
async def open_copy_view(department: Department, system: str) -> AsyncIterator[CopyView]:
    """Connections of its own. Raises DatabaseUnavailable."""
    database = await open_system(department, system)
    if isinstance(database, SqliteDatabase):
        view: CopyView = SqliteCopyView(database)
    else:
        view = PostgresCopyView(database, await open_second(database, department, system))
    try:
        yield view
    finally:
        await view.close()


def _applied(rows: Sequence[Sequence[Any]]) -> dict[int, Applied]:
    return {part: Applied(offset, json.loads(floors)) for part, offset, floors in rows}


class SqliteCopyView(CopyView):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def applied(self, topic: str) -> dict[int, Applied]:
        def read(c: sqlite3.Connection) -> dict[int, Applied]:
            if not _has_books(c):
                return {}
            return _applied(
                c.execute(
                    "SELECT part, next_offset, floors FROM deptbus_offsets WHERE topic = ?",
                    (topic,),
                ).fetchall()
            )

        return await self._database.run(read)

    async def begin(self) -> None:
        def work(c: sqlite3.Connection) -> None:
            c.execute("BEGIN")
            c.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read takes it

        await self._database.run(work)

    async def lines(self, dataset: str) -> AsyncIterator[list[Line]]:
        cursor = await self._database.run(
            lambda c: c.execute(
                f"SELECT {LINE_LIST} FROM deptbus_ledger WHERE dataset = ? "
                "AND (op = 'upsert' OR parked IS NOT NULL)",
                (dataset,),
            )
        )
        while rows := await self._database.run(lambda _: cursor.fetchmany(CHUNK_ROWS)):
            yield [Line._make(row) for row in rows]

    async def lines_of(self, dataset: str, keys: Sequence[bytes]) -> list[Line]:
        return [Line._make(row) for row in await self._of_keys(LINE_LIST, dataset, keys)]

    async def entries_of(self, dataset: str, keys: Sequence[bytes]) -> list[Entry]:
        found = await self._of_keys(COLUMN_LIST, dataset, keys)
        return [Entry._make((*row[:_HELD], bool(row[_HELD]), *row[_HELD + 1 :])) for row in found]

    async def _of_keys(
        self, columns: str, dataset: str, keys: Sequence[bytes]
    ) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for some in _chunks(keys):
            sql = (
                f"SELECT {columns} FROM deptbus_ledger WHERE {SQLITE_OF_DATASET} "
                f"AND key IN ({_marks(some)})"
            )
            found += await self._fetch(sql, (dataset, *some))
        return found

    async def held_rows(self, dataset: str, rows: Sequence[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for some in _chunks(rows):
            sql = (
                "SELECT row_key FROM deptbus_ledger WHERE dataset = ? AND row_key IN "
                f"({_marks(some)}) AND held"
            )
            found |= {row for (row,) in await self._fetch(sql, (dataset, *some))}
        return found

    async def catalogue(self, table: str) -> dict[str, Column]:
        return await self._database.run(lambda c: read_sqlite_columns(c, table))

    async def rows_of(self, target: MappedTarget, rows: Collection[bytes]) -> dict[bytes, Values]:
        found: dict[bytes, Values] = {}
        for some in _chunks(list(rows), len(target.key_positions)):
            for values in await self._fetch(*sqlite_select_rows(target, some)):
                found[row_of(target, values)] = values
        return found

    async def count_rows(self, target: MappedTarget) -> int:
        sql = f"SELECT count(*) FROM {quoted_table(target.table)}"
        ((count,),) = await self._fetch(sql, ())
        return int(count)

    async def all_rows(self, target: MappedTarget) -> AsyncIterator[list[Values]]:
        cursor = await self._database.run(lambda c: c.execute(sqlite_select(target)))
        while rows := await self._database.run(lambda _: cursor.fetchmany(CHUNK_ROWS)):
            yield rows

    async def as_kept(self, target: MappedTarget, values: Values) -> Values:
        """Values are made for the columns' affinities, so that they read back as they were
        written."""
        return values

    async def close(self) -> None:
        await self._database.close()

    async def _fetch(self, sql: str, words: Sequence[Any]) -> list[tuple[Any, ...]]:
        return await self._database.run(lambda c: c.execute(sql, words).fetchall())


class PostgresCopyView(CopyView):
    def __init__(self, holder: PostgresDatabase, reader: PostgresDatabase) -> None:
        self._holder, self._reader = holder, reader
        self._snapshot = ""
        self._files: dict[str, tuple[Any, Any]] = {}  # table -> as the snapshot has it

    async def applied(self, topic: str) -> dict[int, Applied]:
        with postgres_translated(self._holder.place):
            c = self._holder.connection
            if await c.fetchval("SELECT to_regclass('deptbus.offsets')") is None:
                return {}
            return _applied(
                await c.fetch(
                    "SELECT part, next_offset, floors FROM deptbus.offsets WHERE topic = $1", topic
                )
            )

    async def begin(self) -> None:
        with postgres_translated(self._holder.place):
            c = self._holder.connection
            await c.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._snapshot = await c.fetchval("SELECT pg_export_snapshot()")

    async def lines(self, dataset: str) -> AsyncIterator[list[Line]]:
        with postgres_translated(self._holder.place):
            cursor = await self._holder.connection.cursor(
                f"SELECT {LINE_LIST} FROM deptbus.ledger WHERE dataset = $1 "
                "AND (op = 'upsert' OR parked IS NOT NULL)",
                dataset,
            )
        while True:
            with postgres_translated(self._holder.place):
                rows = await cursor.fetch(CHUNK_ROWS)
            if not rows:
                return
            yield [Line._make(row) for row in rows]

    async def lines_of(self, dataset: str, keys: Sequence[bytes]) -> list[Line]:
        return [Line._make(row) for row in await self._of_keys(LINE_LIST, dataset, keys)]

    async def entries_of(self, dataset: str, keys: Sequence[bytes]) -> list[Entry]:
        return [Entry._make(row) for row in await self._of_keys(COLUMN_LIST, dataset, keys)]

    async def _of_keys(
        self, columns: str, dataset: str, keys: Sequence[bytes]
    ) -> list[asyncpg.Record]:
        return await self._ask(
            f"SELECT {columns} FROM deptbus.ledger WHERE {POSTGRES_OF_DATASET} "
            "AND key = ANY($2::bytea[])",
            dataset,
            list(keys),
        )

    async def held_rows(self, dataset: str, rows: Sequence[bytes]) -> set[bytes]:
        found = await self._ask(
            f"SELECT row_key FROM deptbus.ledger WHERE {POSTGRES_OF_ROWS} AND held",
            dataset,
            list(rows),
        )
        return {row[0] for row in found}

    async def _ask(self, sql: str, *words: Any) -> list[asyncpg.Record]:
        with postgres_translated(self._holder.place):
            return await self._holder.connection.fetch(sql, *words)

    async def catalogue(self, table: str) -> dict[str, Column]:
        with postgres_translated(self._reader.place):
            return await read_columns(self._reader.connection, table)

    async def rows_of(self, target: MappedTarget, rows: Collection[bytes]) -> dict[bytes, Values]:
        if not rows:
            return {}
        sql, words = postgres_select_rows(target, rows)
        async with self._reading(target) as c:
            found = await c.fetch(sql, *words)
        return {row_of(target, values): values for values in map(tuple, found)}

    async def count_rows(self, target: MappedTarget) -> int:
        async with self._reading(target) as c:
            return int(await c.fetchval(f"SELECT count(*) FROM {quoted_table(target.table)}"))

    async def all_rows(self, target: MappedTarget) -> AsyncIterator[list[Values]]:
        """By physical places, a stretch of pages at a time: each is a read of its own. What has no
        pages itself (a partitioned table, a view) is read in one."""
        async with self._reading(target) as c:
            pages = await c.fetchval(
                "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::int",
                quoted_table(target.table),
            )
            if not pages:
                async for row in c.cursor(postgres_select(target), prefetch=CHUNK_ROWS):
                    yield [tuple(row)]
        sql = f"{postgres_select(target)} WHERE t.ctid >= $1::text::tid AND t.ctid < $2::text::tid"
        for page in range(0, pages, _PAGES):
            async with self._reading(target) as c:
                found = await c.fetch(sql, f"({page},0)", f"({page + _PAGES},0)")
            if found:
                yield [tuple(row) for row in found]

    async def as_kept(self, target: MappedTarget, values: Values) -> Values:
        """By the columns' own types, with their lengths and scales: nothing is read of the table
        but its description."""
        async with self._reading(target) as c:
            types = dict(
                map(
                    tuple,
                    await c.fetch(
                        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                        "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                        quoted_table(target.table),
                    ),
                )
            )
            casts = ", ".join(
                f"${n}::{STAGED[c_.kind]}::{types[c_.name]}::{STAGED[c_.kind]}"
                for n, c_ in enumerate(target.columns, 1)
            )
            return tuple(await c.fetchrow(f"SELECT {casts}", *values))

    @asynccontextmanager
    async def _reading(self, target: MappedTarget) -> AsyncIterator[asyncpg.Connection]:
        """One short read of the department's table, in the snapshot."""
        table = quoted_table(target.table)
        c = self._reader.connection
        with postgres_translated(self._reader.place):
            async with c.transaction(isolation="repeatable_read", readonly=True):
                await c.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
                if table not in self._files:
                    self._files[table] = tuple(await c.fetchrow(_FILE_THEN, table) or (None, None))
                yield c
                now = tuple(await c.fetchrow(_FILE_NOW, table))
        if now != self._files[table]:
            raise DatabaseUnavailable(
                f"{self._reader.place}: table {target.table} was emptied or rewritten meanwhile"
            )

    async def close(self) -> None:
        await self._reader.close()
        await self._holder.close()


_PAGES = 50
_FILE_THEN = "SELECT oid, relfilenode FROM pg_class WHERE oid = to_regclass($1)"  # by the snapshot
_FILE_NOW = "SELECT to_regclass($1)::oid, pg_relation_filenode(to_regclass($1))"


def _has_books(c: sqlite3.Connection) -> bool:
    return bool(
        c.execute("SELECT count(*) FROM sqlite_master WHERE name = 'deptbus_offsets'").fetchone()[0]
    )


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[bytes], width: int = 1) -> list[Sequence[bytes]]:
    size = _VARIABLES // width
    return [values[at : at + size] for at in range(0, len(values), size)]
