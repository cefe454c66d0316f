"""Rebuilds in PostgreSQL; see `rebuild_port`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from deptbus import names
from deptbus.department import fence
from deptbus.department.bookkeeping import COLUMN_LIST, POSTGRES_OF_ROWS
from deptbus.department.connect import postgres_translated
from deptbus.department.decide import Action, Decision
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import Entry, RecordId
from deptbus.department.postgres_plain import WRITE_ENTRIES
from deptbus.department.postgres_table import read_columns
from deptbus.department.rebuild import COMPARED, Rebuild
from deptbus.department.rebuild_port import REBUILD_LIST, Shadows, rebuild_of, words_of
from deptbus.department.seen import Values
from deptbus.department.store import Work
from deptbus.department.target import MappedTarget
from deptbus.department.values import STAGED, ColumnKind
from deptbus.wire.digest import encode_values

if TYPE_CHECKING:
    from deptbus.department.store_postgres import PostgresStore

_AT_ONCE = 5000


def table_of(dataset: str) -> str:
    return f"deptbus.rebuilt_{dataset}"


class PostgresShadows(Shadows):
    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._within = False

    @property
    def _connection(self) -> asyncpg.Connection:
        return self._store.connection

    async def load(self) -> list[Rebuild]:
        with postgres_translated(self._store.place):
            rows = await self._connection.fetch(
                f"SELECT {REBUILD_LIST} FROM deptbus.rebuilds ORDER BY changed_at_us, job"
            )
        return [rebuild_of(row) for row in rows]

    async def note(self, rebuild: Rebuild) -> None:
        if self._within:
            await self._note(self._connection, rebuild)
        else:
            async with self._store.fenced() as connection:
                await self._note(connection, rebuild)

    async def _note(self, connection: asyncpg.Connection, rebuild: Rebuild) -> None:
        await connection.execute(
            f"INSERT INTO deptbus.rebuilds ({REBUILD_LIST}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            " ON CONFLICT (job) DO UPDATE SET state = excluded.state, reason = excluded.reason, "
            "ends = excluded.ends, counts = excluded.counts, is_tidy = excluded.is_tidy, "
            "changed_at_us = excluded.changed_at_us",
            *words_of(rebuild),
        )

    async def begin(self, rebuild: Rebuild) -> None:
        target = self._store.targets[rebuild.dataset]
        table = quoted_table(table_of(rebuild.dataset))
        columns = (*target.columns, *(column for column, _ in target.insert_only))
        listed = ", ".join(quoted(column.name) for column in columns)
        keys = ", ".join(quoted(column.name) for column in target.key_columns)
        async with self._store.fenced() as connection:
            # Of the columns the types with their lengths, and nothing else: what refuses a row is
            # the table in use, at the swap, and no row of a parent is bound by this copy.
            await connection.execute(
                f"CREATE TABLE {table} AS SELECT {listed} FROM {quoted_table(target.table)} "
                "WITH NO DATA"
            )
            await connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({keys})")
            await self._note(connection, rebuild)

    async def attach(self, dataset: str) -> bool:
        with postgres_translated(self._store.place):
            columns = await read_columns(self._connection, table_of(dataset))
            return await self._store.attach(dataset, table_of(dataset), columns)

    def detach(self, dataset: str) -> None:
        self._store.detach(dataset)

    async def tidy(self, rebuild: Rebuild) -> bool:
        """In one go: none of these locks is met by anybody else."""
        async with self._store.fenced() as connection:
            await connection.execute("DELETE FROM deptbus.ledger WHERE dataset = $1", rebuild.name)
            table = quoted_table(table_of(rebuild.dataset))
            await connection.execute(f"DROP TABLE IF EXISTS {table}")
            await self._note(connection, rebuild._replace(is_tidy=True))
        return True

    # -- the swap ----------------------------------------------------------------------------------

    async def differing(self, dataset: str) -> list[RecordId]:
        found: dict[RecordId, None] = {}
        async with self._store.fenced() as connection:
            # What the session has switched off for small look-ups is what this needs.
            await connection.execute("SET LOCAL enable_seqscan = on")
            second = names.rebuilt_copy(dataset)
            for sql in (_GONE, _OTHER_LINES):
                rows = await connection.fetch(sql, dataset, second)
                found |= dict.fromkeys(RecordId(dataset, *row) for row in rows)
            keys = await connection.fetch(_other_rows(self._store.targets[dataset]))
            encoded = [encode_values(tuple(key)) for key in keys]
            for at in range(0, len(encoded), _AT_ONCE):
                rows = await connection.fetch(
                    f"SELECT source_unit, key FROM deptbus.ledger WHERE {POSTGRES_OF_ROWS} "
                    "AND held",
                    second,
                    encoded[at : at + _AT_ONCE],
                )
                found |= dict.fromkeys(RecordId(dataset, *row) for row in rows)
        return list(found)

    @asynccontextmanager
    async def swapping(self) -> AsyncIterator[None]:
        async with self._store.fenced() as connection:
            # Keys that are checked at the end otherwise: their refusal must be met on the way.
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            self._within = True
            try:
                yield
            finally:
                self._within = False

    async def entries(self, name: str, ids: Collection[RecordId]) -> list[Entry]:
        rows = await self._connection.fetch(
            f"SELECT {COLUMN_LIST} FROM deptbus.ledger JOIN unnest($2::text[], $3::bytea[]) "
            "AS a(source_unit, key) USING (source_unit, key) WHERE dataset = $1",
            name,
            [rid.source_unit for rid in ids],
            [rid.key for rid in ids],
        )
        return [Entry._make(row) for row in rows]

    async def real(self, dataset: str, rows: Collection[bytes]) -> dict[bytes, Values]:
        return await self._store.real(dataset, rows, locks=True)

    async def carry_out(self, decision: Decision, now_us: int) -> None:
        groups = self._store.groups(decision)
        work = Work({}, {}, now_us, decision=decision)
        with postgres_translated(self._store.place):
            async with self._connection.transaction():
                if groups:
                    await fence.begin_applying_postgres(self._connection, [groups[0][1]])
                left = await self._store.write_rows(groups, decision.entries, work)
                if left:
                    await self._connection.execute(WRITE_ENTRIES, *zip(*left, strict=True))

    async def refused(self, decision: Decision) -> list[tuple[Action, str]]:
        return await self._store.find_refused(decision)


_LINE = ", ".join(f"{{0}}.{column}" for column in COMPARED)
# ($1: the dataset, $2: the second copy)
_OTHER_LINES = (
    "SELECT s.source_unit, s.key FROM deptbus.ledger s LEFT JOIN deptbus.ledger o "
    "ON o.dataset = $1 AND o.source_unit = s.source_unit AND o.key = s.key "
    f"WHERE s.dataset = $2 AND ROW({_LINE.format('o')}) IS DISTINCT FROM ROW({_LINE.format('s')})"
)
_GONE = (
    "SELECT o.source_unit, o.key FROM deptbus.ledger o LEFT JOIN deptbus.ledger s "
    "ON s.dataset = $2 AND s.source_unit = o.source_unit AND s.key = o.key "
    "WHERE o.dataset = $1 AND (o.op = 'upsert' OR o.parked IS NOT NULL) AND s.key IS NULL"
)


def _other_rows(target: MappedTarget) -> str:
    """The keys of the second copy's rows that the table in use has not, or has otherwise: byte by
    byte, whatever its collations call equal."""

    def value(table: str, at: int) -> str:
        column = target.columns[at]
        staged = f"{table}.{quoted(column.name)}::{STAGED[column.kind]}"
        is_text = column.kind in (ColumnKind.TEXT, ColumnKind.OTHER)
        return f'({staged} COLLATE "C")' if is_text else staged

    keys = target.key_positions
    listed = ", ".join(
        f"s.{quoted(target.columns[at].name)}::{STAGED[target.columns[at].kind]}" for at in keys
    )
    names_of_keys = [quoted(target.columns[at].name) for at in keys]
    match = " AND ".join(f"t.{name} = s.{name}" for name in names_of_keys)
    differs = " OR ".join(
        f"{value('t', at)} IS DISTINCT FROM {value('s', at)}" for at in range(len(target.columns))
    )
    return (
        f"SELECT {listed} FROM {quoted_table(table_of(target.dataset))} s "
        f"LEFT JOIN {quoted_table(target.table)} t ON {match} "
        f"WHERE t.{names_of_keys[0]} IS NULL OR {differs}"
    )
