"""A recipient's database as it was at one moment: its bookkeeping and its rows, for a proof.

Nobody waits for it. SQLite's readers hold up no writer. On PostgreSQL one session holds the
snapshot and reads the bookkeeping alone, through a cursor at the server; the department's tables
are read in short transactions of a second session that take the same snapshot, so that no lock of
theirs is kept between two reads. A table that was emptied or rewritten meanwhile ends the view:
its rows are gone for the snapshot too.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import asyncpg

from deptbus.contract.department import Department
from deptbus.department.bookkeeping import COLUMN_LIST, ENTRY_COLUMNS, POSTGRES_OF_ROWS
from deptbus.department.connect import (
    PostgresDatabase,
    SqliteDatabase,
    postgres_translated,
)
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import Entry
from deptbus.department.opening import open_second, open_system
from deptbus.department.postgres_encoded import COLLATIONS, IS_UTF8, decoded_key, encoded_row
from deptbus.department.postgres_table import has_unique_key, read_columns
from deptbus.department.rebuild_port import OPEN_REBUILD
from deptbus.department.rebuild_postgres import table_of as postgres_second_table
from deptbus.department.rebuild_sqlite import table_of as sqlite_second_table
from deptbus.department.seen import (
    BRIEF_COLUMNS,
    LINE_LIST,
    POSTGRES_OF_DATASET,
    SQLITE_OF_DATASET,
    Brief,
    Line,
    Values,
    postgres_select,
    postgres_select_rows,
    postgres_select_rows_at,
    row_digests,
    row_of,
    sqlite_select,
    sqlite_select_rows,
)
from deptbus.department.store_sqlite import read_columns as read_sqlite_columns
from deptbus.department.target import Column, MappedTarget
from deptbus.department.values import STAGED
from deptbus.errors import DatabaseBusy, DatabaseUnavailable
from deptbus.wire.digest import DIGEST_BYTES

T = TypeVar("T")

CHUNK_ROWS = 1_000  # read at a stretch; some milliseconds
_VARIABLES = 900
_HELD = ENTRY_COLUMNS.index("held")


Bare = Sequence[Any]  # of a `Brief`, in its order
ROW, HELD = Brief._fields.index("row"), Brief._fields.index("held")
_BRIEF_LIST = ", ".join(BRIEF_COLUMNS)


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
    async def has_books(self) -> bool:
        """Whether an adapter ever applied anything here."""

    @abstractmethod
    async def begin(self) -> None: ...

    @abstractmethod
    def lines(self, dataset: str) -> AsyncGenerator[Sequence[Bare], None]:
        """Those of upserts and parked ones, some at a time; close it when leaving early."""

    async def digested(
        self, dataset: str, target: MappedTarget
    ) -> AsyncGenerator[tuple[Sequence[Bare], list[bytes | None]], None]:
        """As `lines`; beside each the digest of the row that it holds (`values_digest`), or None
        where there is none. A digest that is not the one expected says: look at the row."""
        async with aclosing(self.lines(dataset)) as chunks:
            async for lines in chunks:
                keys = list({line[ROW]: None for line in lines if line[HELD] and line[ROW]})
                found = await when_free(lambda: self.rows_at(target, keys))  # noqa: B023
                there = {key: values for key, values in zip(keys, found, strict=True) if values}
                digests = dict(zip(there, row_digests(list(there.values())), strict=True))
                yield lines, [digests.get(line[ROW]) if line[HELD] else None for line in lines]

    @abstractmethod
    async def lines_of(self, dataset: str, keys: Sequence[bytes]) -> list[Line]:
        """Of these keys, tombstones too."""

    @abstractmethod
    async def entries_of(self, dataset: str, keys: Sequence[bytes]) -> list[Entry]: ...

    @abstractmethod
    async def held_rows(self, dataset: str, rows: Sequence[bytes]) -> set[bytes]:
        """Which of these rows some line of the ledger holds."""

    @abstractmethod
    async def second_table(self, dataset: str) -> str | None:
        """Where a rebuild of the dataset that is open keeps its rows; None: there is none."""

    @abstractmethod
    async def had_rows(self, dataset: str) -> bool:
        """Whether the dataset's table had rows before the bus (see `adoption`)."""

    @abstractmethod
    async def catalogue(self, table: str) -> dict[str, Column]: ...

    @abstractmethod
    async def rows_of(self, target: MappedTarget, rows: Collection[bytes]) -> dict[bytes, Values]:
        """The rows with these own keys (encoded), as the table has them."""

    @abstractmethod
    async def rows_at(
        self, target: MappedTarget, rows: Sequence[bytes], *, again: bool = False
    ) -> list[Values | None]:
        """As `rows_of`, in the order of `rows`; None for a row that is not there. `again`: they are
        counted among those that were found already."""

    @abstractmethod
    def rest(self, target: MappedTarget) -> AsyncGenerator[list[Values], None]:
        """Rows of the table, all among them that neither `rows_at` nor `digested` has found; some
        at a time."""

    @abstractmethod
    async def as_kept(self, target: MappedTarget, rows: Sequence[Values]) -> list[Values]:
        """What the table's columns make of the values of these rows."""

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
        self._found = 0  # rows, by `rows_at`

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

    async def has_books(self) -> bool:
        return await self._database.run(_has_books)

    async def begin(self) -> None:
        def work(c: sqlite3.Connection) -> None:
            c.execute("BEGIN")
            c.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read takes it

        await self._database.run(work)

    async def lines(self, dataset: str) -> AsyncGenerator[Sequence[Bare], None]:
        cursor = await self._database.run(
            lambda c: c.execute(
                f"SELECT {_BRIEF_LIST} FROM deptbus_ledger WHERE dataset = ? "
                "AND (op = 'upsert' OR parked IS NOT NULL)",
                (dataset,),
            )
        )
        while rows := await self._database.run(lambda _: cursor.fetchmany(CHUNK_ROWS)):
            yield rows

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

    async def second_table(self, dataset: str) -> str | None:
        if not await self._fetch("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_rebuilds'", ()):
            return None
        sql = f"SELECT 1 FROM deptbus_rebuilds WHERE dataset = ? AND {OPEN_REBUILD}"
        return sqlite_second_table(dataset) if await self._fetch(sql, (dataset,)) else None

    async def had_rows(self, dataset: str) -> bool:
        if not await self._fetch("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_existing'", ()):
            return False
        sql = "SELECT 1 FROM deptbus_existing WHERE dataset = ? AND had_rows"
        return bool(await self._fetch(sql, (dataset,)))

    async def catalogue(self, table: str) -> dict[str, Column]:
        return await self._database.run(lambda c: read_sqlite_columns(c, table))

    async def rows_of(self, target: MappedTarget, rows: Collection[bytes]) -> dict[bytes, Values]:
        found: dict[bytes, Values] = {}
        for some in _chunks(list(rows), len(target.key_positions)):
            for values in await self._fetch(*sqlite_select_rows(target, some)):
                found[row_of(target, values)] = values
        return found

    async def rows_at(
        self, target: MappedTarget, rows: Sequence[bytes], *, again: bool = False
    ) -> list[Values | None]:
        found = await self.rows_of(target, rows)
        self._found += 0 if again else len(found)
        return [found.get(row) for row in rows]

    async def rest(self, target: MappedTarget) -> AsyncGenerator[list[Values], None]:
        ((count,),) = await self._fetch(f"SELECT count(*) FROM {quoted_table(target.table)}", ())
        if count <= self._found:
            return
        cursor = await self._database.run(lambda c: c.execute(sqlite_select(target)))
        while rows := await self._database.run(lambda _: cursor.fetchmany(CHUNK_ROWS)):
            yield rows

    async def as_kept(self, target: MappedTarget, rows: Sequence[Values]) -> list[Values]:
        """Values are made for the columns' affinities, so that they read back as they were
        written."""
        return list(rows)

    async def close(self) -> None:
        await self._database.close()

    async def _fetch(self, sql: str, words: Sequence[Any]) -> list[tuple[Any, ...]]:
        return await self._database.run(lambda c: c.execute(sql, words).fetchall())


class PostgresCopyView(CopyView):
    def __init__(self, holder: PostgresDatabase, reader: PostgresDatabase) -> None:
        self._holder, self._reader = holder, reader
        # One statement at a time on each: lines are read ahead while others are asked about.
        self._holding, self._one_read = asyncio.Lock(), asyncio.Lock()
        self._snapshot = ""
        # Rows that were found: how many, and page -> one bit for each place in it.
        self._found, self._pages = 0, dict[int, int]()
        self._is_plain: bool | None = None
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

    async def has_books(self) -> bool:
        return await self._ask("SELECT 1 WHERE to_regclass('deptbus.ledger') IS NOT NULL") != []

    async def begin(self) -> None:
        with postgres_translated(self._holder.place):
            c = self._holder.connection
            for connection in (c, self._reader.connection):
                await connection.execute("SET jit = off")  # no statement here is worth compiling
            await c.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._snapshot = await c.fetchval("SELECT pg_export_snapshot()")

    async def lines(self, dataset: str) -> AsyncGenerator[Sequence[Bare], None]:
        with postgres_translated(self._holder.place):
            async with self._holding:
                cursor = await self._holder.connection.cursor(
                    f"SELECT {_BRIEF_LIST} FROM deptbus.ledger WHERE dataset = $1 "
                    "AND (op = 'upsert' OR parked IS NOT NULL)",
                    dataset,
                )
        while True:
            with postgres_translated(self._holder.place):
                async with self._holding:
                    rows = await cursor.fetch(CHUNK_ROWS)
            if not rows:
                return
            yield rows

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
            async with self._holding:
                return await self._holder.connection.fetch(sql, *words)

    async def second_table(self, dataset: str) -> str | None:
        if not await self._ask("SELECT 1 WHERE to_regclass('deptbus.rebuilds') IS NOT NULL"):
            return None
        sql = f"SELECT 1 FROM deptbus.rebuilds WHERE dataset = $1 AND {OPEN_REBUILD}"
        return postgres_second_table(dataset) if await self._ask(sql, dataset) else None

    async def had_rows(self, dataset: str) -> bool:
        if not await self._ask("SELECT 1 WHERE to_regclass('deptbus.existing') IS NOT NULL"):
            return False
        sql = "SELECT 1 FROM deptbus.existing WHERE dataset = $1 AND had_rows"
        return bool(await self._ask(sql, dataset))

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

    async def rows_at(
        self, target: MappedTarget, rows: Sequence[bytes], *, again: bool = False
    ) -> list[Values | None]:
        found: list[Values | None] = [None] * len(rows)
        if not rows:
            return found
        async with self._reading(target) as c:
            sql, words = postgres_select_rows_at(target, rows, place=await self._place(c, target))
            records = await c.fetch(sql, *words)
        pages = self._pages
        for record in records:
            *_, (page, item), number = record
            found[number - 1] = record[:-2]
            pages[page] = pages.get(page, 0) | 1 << item
        self._found += 0 if again else len(records)
        return found

    async def digested(
        self, dataset: str, target: MappedTarget
    ) -> AsyncGenerator[tuple[Sequence[Bare], list[bytes | None]], None]:
        """In one statement, a stretch of the ledger's pages at a time. What the server tells of a
        row is the encoding under its digest."""
        select = await self._select_encoded(target)
        if select is None:
            async with aclosing(super().digested(dataset, target)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        # The lock of this look keeps the ledger's rows where they are until the end.
        ((pages,),) = await self._ask(
            f"SELECT {_PAGES_OF} FROM (SELECT FROM deptbus.ledger LIMIT 1) AS locked", _LEDGER
        ) or [(0,)]
        first, stretch = 0, _LEAST_PAGES
        while first < pages:
            records = await self._in_pages(target, select, first, stretch, dataset)
            first += stretch
            wanted = stretch * CHUNK_ROWS // max(len(records), 1)
            stretch = min(max(wanted, _LEAST_PAGES), 2 * stretch, _MOST_PAGES)
            yield records, self._digests(records)

    async def _select_encoded(self, target: MappedTarget) -> str | None:
        """Lines with their rows, encoded; None where a row cannot be told so, or where two might
        have one own key."""
        table = quoted_table(target.table)
        async with self._reading(target) as c:
            place = await self._place(c, target)
            collations = dict(map(tuple, await c.fetch(COLLATIONS, table)))
            is_told = (
                place == "t.ctid" and await c.fetchval(IS_UTF8) and await has_unique_key(c, target)
            )
        key = decoded_key(target.key_columns, "l.row_key", collations) if is_told else None
        if key is None:
            return None
        match = " AND ".join(
            f"t.{quoted(c.name)} = {own}" for c, own in zip(target.key_columns, key, strict=True)
        )
        names = ", ".join(f"l.{name}" for name in BRIEF_COLUMNS)
        # A limit, or without statistics of the ledger all of the table is read for each stretch.
        row = (
            f"SELECT t.ctid, {encoded_row(target.columns)} AS encoded "
            f"FROM {table} t WHERE l.held AND {match} LIMIT 1"
        )
        return (
            f"SELECT {names}, r.ctid, r.encoded FROM deptbus.ledger l "
            f"LEFT JOIN LATERAL ({row}) r ON true "
            "WHERE l.ctid >= $1::text::tid AND l.ctid < $2::text::tid AND l.dataset = $3 "
            "AND (l.op = 'upsert' OR l.parked IS NOT NULL)"
        )

    def _digests(self, records: Sequence[Bare]) -> list[bytes | None]:
        """Of what `_select_encoded` found; notes where it lies. Runs once a row."""
        digests: list[bytes | None] = []
        pages, found, begin = self._pages, 0, blake2b(digest_size=DIGEST_BYTES).copy
        for record in records:
            place = record[_PLACE]
            if place is None:
                digests.append(None)
                continue
            page, item = place
            pages[page] = pages.get(page, 0) | 1 << item
            made = begin()
            made.update(record[_ENCODED])
            digests.append(made.digest())
            found += 1
        self._found += found
        return digests

    async def _place(self, c: asyncpg.Connection, target: MappedTarget) -> str:
        """Where a row of the table lies, as SQL; the same for all where that says nothing."""
        if self._is_plain is None:
            self._is_plain = await c.fetchval(_IS_PLAIN, quoted_table(target.table))
        return "t.ctid" if self._is_plain else "'(0,0)'::tid"

    async def rest(self, target: MappedTarget) -> AsyncGenerator[list[Values], None]:
        """By physical places, a stretch of pages at a time: each is a read of its own, and only
        stretches are read that have more rows than were found. What has no pages itself (a
        partitioned table, a view) is read in one."""
        table = quoted_table(target.table)
        async with self._reading(target) as c:
            is_plain = await self._place(c, target) == "t.ctid"
            if not is_plain:
                if await c.fetchval(f"SELECT count(*) FROM {table}") > self._found:
                    async for row in c.cursor(postgres_select(target), prefetch=CHUNK_ROWS):
                        yield [tuple(row)]
                return
            pages = await c.fetchval(f"SELECT {_PAGES_OF}", table)
        counted = f"SELECT count(*) FROM {table} t {_IN_PAGES}"
        read = f"{postgres_select(target, ', t.ctid')} {_IN_PAGES}"
        for first in range(0, pages, _COUNTED_PAGES):
            ((count,),) = await self._in_pages(target, counted, first, _COUNTED_PAGES)
            stretch = range(first, first + _COUNTED_PAGES)
            if count > sum(self._pages.get(page, 0).bit_count() for page in stretch):
                for page in stretch[::_PAGES]:
                    records = await self._in_pages(target, read, page, _PAGES)
                    yield [r[:-1] for r in records if not self._is_found(*r[-1])]

    async def _in_pages(
        self, target: MappedTarget, sql: str, first: int, pages: int, *words: Any
    ) -> list[asyncpg.Record]:
        async def read() -> list[asyncpg.Record]:
            async with self._reading(target) as c:
                return await c.fetch(sql, f"({first},0)", f"({first + pages},0)", *words)

        return await when_free(read)

    def _is_found(self, page: int, item: int) -> bool:
        return bool(self._pages.get(page, 0) >> item & 1)

    async def as_kept(self, target: MappedTarget, rows: Sequence[Values]) -> list[Values]:
        """By the columns' own types, with their lengths and scales: nothing is read of the table
        but its description."""
        if not rows:
            return []
        async with self._reading(target) as c:
            types = dict(map(tuple, await c.fetch(_TYPES, quoted_table(target.table))))
            forms = [(STAGED[c_.kind], types[c_.name]) for c_ in target.columns]
            arrays = ", ".join(f"${n}::{staged}[]" for n, (staged, _) in enumerate(forms, 1))
            names = ", ".join(f"v{n}" for n in range(len(forms)))
            casts = ", ".join(f"s.v{n}::{own}::{staged}" for n, (staged, own) in enumerate(forms))
            sql = (
                f"SELECT {casts} FROM unnest({arrays}) WITH ORDINALITY AS s({names}, place) "
                "ORDER BY s.place"
            )
            found = await c.fetch(sql, *map(list, zip(*rows, strict=True)))
        return [tuple(row) for row in found]

    @asynccontextmanager
    async def _reading(self, target: MappedTarget) -> AsyncIterator[asyncpg.Connection]:
        """One short read of the department's table, in the snapshot."""
        table = quoted_table(target.table)
        c = self._reader.connection
        async with self._one_read:
            with postgres_translated(self._reader.place):
                async with c.transaction(isolation="repeatable_read", readonly=True):
                    await c.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
                    if table not in self._files:
                        found = await c.fetchrow(_FILE_THEN, table)
                        self._files[table] = tuple(found or (None, None))
                    yield c
                    now = tuple(await c.fetchrow(_FILE_NOW, table))
        if now != self._files[table]:
            raise DatabaseUnavailable(
                f"{self._reader.place}: table {target.table} was emptied or rewritten meanwhile"
            )

    async def close(self) -> None:
        await self._reader.close()
        await self._holder.close()


async def when_free(read: Callable[[], Awaitable[T]]) -> T:
    """`read`, again while somebody else has the table to himself, for a while."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return await read()
        except DatabaseBusy:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


_BUSY_SECONDS = 10.0
_PAGES, _COUNTED_PAGES = 50, 500
_IN_PAGES = "WHERE t.ctid >= $1::text::tid AND t.ctid < $2::text::tid"
_IS_PLAIN = (
    "SELECT relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) "
    "FROM pg_class c WHERE c.oid = to_regclass($1)"
)
_PAGES_OF = "pg_relation_size(to_regclass($1)) / current_setting('block_size')::int"
_LEDGER = "deptbus.ledger"
_LEAST_PAGES, _MOST_PAGES = 32, 512  # of the ledger, read at a stretch
_PLACE = len(BRIEF_COLUMNS)  # of the row, in what `_select_encoded` gives; then its encoding
_ENCODED = _PLACE + 1
_TYPES = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
)
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
