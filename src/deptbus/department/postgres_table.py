"""One received table in PostgreSQL: made when absent, read from the catalogue, written by sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import asyncpg

from deptbus.contract.department import Receive
from deptbus.department.adoption import DROPPED_REMOVAL, DROPPED_WRITE
from deptbus.department.adoption_postgres import PostgresRows
from deptbus.department.decide import Action, Clear, Remove, Write
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import Entry
from deptbus.department.plain import Lot
from deptbus.department.postgres_plain import PlainStage, along, write_entries
from deptbus.department.target import Column, MappedTarget
from deptbus.department.values import POSTGRES_KINDS, STAGED, ColumnKind, own_column_type
from deptbus.errors import RowRefused
from deptbus.wire.digest import decode_values
from deptbus.wire.types import Type


async def read_columns(connection: asyncpg.Connection, table: str) -> dict[str, Column]:
    """The table's columns by name; empty when there is no such table."""
    rows = await connection.fetch(
        """
        SELECT a.attname, b.typname,
               CASE t.typname WHEN 'bpchar' THEN 'bpchar' WHEN 'bit' THEN 'varbit'
                 ELSE format_type(a.atttypid, NULL) END AS declared, a.attnotnull,
               a.atthasdef OR a.attidentity <> '' AS has_default,
               a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
               CASE WHEN b.typname = 'numeric' AND typmod.m >= 4
                 THEN (typmod.m - 4) & 2047
                 WHEN b.typname = 'time' AND typmod.m >= 0 THEN typmod.m END AS scale
        FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid
        JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END,
        LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS m) typmod
        WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
        """,
        quoted_table(table),
    )
    return {
        name: Column(
            name,
            POSTGRES_KINDS.get(base, ColumnKind.OTHER),
            declared,
            not_null=not_null,
            has_default=has_default,
            generated=generated,
            scale=scale,
        )
        for name, base, declared, not_null, has_default, generated, scale in rows
    }


async def make_table(
    connection: asyncpg.Connection, receive: Receive, key: Sequence[str], types: Mapping[str, Type]
) -> None:
    await connection.execute(table_sql(receive, key, types))


def table_sql(receive: Receive, key: Sequence[str], types: Mapping[str, Type]) -> str:
    """The statement that makes the table of a received dataset, where there is none."""
    parts = []
    for field, column in receive.columns.items():
        kind = types.get(field)
        coded = field in receive.values or kind is None
        own = "TEXT" if coded or kind is None else own_column_type(kind, postgres=True)
        parts.append(f"{quoted(column)} {own}")
    names = ", ".join(map(quoted, key))
    return f"CREATE TABLE {quoted_table(receive.table)} ({', '.join(parts)}, PRIMARY KEY ({names}))"


async def read_parents(
    connection: asyncpg.Connection, targets: Mapping[str, MappedTarget]
) -> dict[str, frozenset[str]]:
    """Dataset -> the datasets into whose tables its own table's foreign keys point."""
    oids = {
        dataset: await connection.fetchval(
            "SELECT to_regclass($1)::oid", quoted_table(target.table)
        )
        for dataset, target in targets.items()
    }
    rows = await connection.fetch(
        "SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY($1)",
        list(oids.values()),
    )
    return {
        child: frozenset(
            parent
            for parent, parent_oid in oids.items()
            if any((r[0], r[1]) == (child_oid, parent_oid) for r in rows)
        )
        for child, child_oid in oids.items()
    }


async def upsertable(
    connection: asyncpg.Connection, target: MappedTarget, columns: Mapping[str, Column]
) -> bool:
    """Whether INSERT ... ON CONFLICT does here just what update-else-insert would do: the key has a
    unique index, no column that must be filled is without a value, and nothing fires before an
    insert that then does not happen, nor is a number of the department's own drawn for it."""
    mapped = {c.name for c in (*target.columns, *(c for c, _ in target.insert_only))}
    if any(c.not_null and not c.has_default and c.name not in mapped for c in columns.values()):
        return False
    unique = await has_unique_key(connection, target)
    if not unique or await has_early_triggers(connection, target.table, _INSERT):
        return False
    return not await _draws(connection, quoted_table(target.table), sorted(mapped))


_INSERT, _DELETE = 4, 8  # bits of pg_trigger.tgtype, beside 1 for each row and 2 before


async def has_early_triggers(
    connection: asyncpg.Connection, table: str, events: int = _INSERT | _DELETE
) -> bool:
    """Whether some row trigger runs before a row is inserted or deleted, and so may drop that
    without a word (RETURN NULL). One that runs before updates is common, and sets a time."""
    return bool(
        await connection.fetchval(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass($1) "
            "AND NOT tgisinternal AND tgtype & 3 = 3 AND tgtype & $2::int <> 0",
            quoted_table(table),
            events,
        )
    )


async def _draws(connection: asyncpg.Connection, table: str, mapped: list[str]) -> bool:
    """Whether an insert changes something by the default of a column that no mapping names."""
    return bool(
        await connection.fetchval(
            """
            SELECT count(*) FROM pg_attribute a
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
              AND a.attname <> ALL($2) AND (
                a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ '\\mnextval\\('
                OR EXISTS (
                  SELECT FROM pg_depend p JOIN pg_proc f ON f.oid = p.refobjid
                  WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                    AND p.refclassid = 'pg_proc'::regclass AND f.provolatile = 'v'))
            """,
            table,
            mapped,
        )
    )


async def has_unique_key(connection: asyncpg.Connection, target: MappedTarget) -> bool:
    """Whether no two rows of the table can have the same own key at any moment."""
    found = await connection.fetchval(
        """
        SELECT count(*) FROM pg_index i
        WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = $3 AND (
            SELECT count(*) FROM pg_attribute a WHERE a.attrelid = i.indrelid
              AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1]) AND a.attname = ANY($2)) = $3
        """,
        quoted_table(target.table),
        [c.name for c in target.key_columns],
        len(target.key_columns),
    )
    return bool(found)


class PostgresTable:
    """The statements of one target; each takes a whole set of actions of one kind."""

    def __init__(
        self, target: MappedTarget, number: int, *, upsert: bool, has_early_triggers: bool = False
    ) -> None:
        self._target, self._has_early_triggers = target, has_early_triggers
        self.rows = PostgresRows(target)
        self.stage = PlainStage(
            number, [(f"v{at}", STAGED[c.kind]) for at, c in enumerate(target.columns)]
        )
        self._table = quoted_table(target.table)
        self._names = [quoted(c.name) for c in target.columns]
        write = self._upsert if upsert else self._update_else_insert
        every = range(len(target.columns))
        first = len(target.columns) + 1
        self._extra = tuple(value for _, value in target.insert_only)
        self._write = write(self._source(every), first)
        self._write_along = along(write_entries(first + len(self._extra)), self._write)
        self._write_stage = along(
            self.stage.write_books(len(self._extra) + 1), write(f"{self.stage.name} AS s", 1)
        )
        self._renew_stage = self._renew()
        self._delete = (
            f"DELETE FROM {self._table} t USING {self._keys_source()} WHERE {self._match()}"
        )
        absent = f"NOT EXISTS (SELECT FROM {self._table} t WHERE {self._match()})"
        self._absent = f"SELECT count(*) FROM {self._keys_source()} WHERE {absent}"
        self._absent_of_stage = f"SELECT count(*) FROM {self.stage.name} s WHERE {absent}"

    async def write(
        self,
        connection: asyncpg.Connection,
        rows: Sequence[tuple[Any, ...]],
        entries: Sequence[Entry] = (),
    ) -> None:
        """`entries`: lines of the ledger to be written along."""
        words = *zip(*rows, strict=True), *self._extra
        if entries:
            await connection.execute(self._write_along, *words, *zip(*entries, strict=True))
        else:
            await connection.execute(self._write, *words)
        if self._has_early_triggers:
            keys = [[row[at] for row in rows] for at in self._target.key_positions]
            if await connection.fetchval(self._absent, *keys):
                raise RowRefused(DROPPED_WRITE)

    async def run(
        self, connection: asyncpg.Connection, actions: Sequence[Action], now_us: int
    ) -> None:
        """Raises RowsMoved."""
        first = actions[0]
        if isinstance(first, Write):
            writes = [a for a in actions if isinstance(a, Write)]
            await self.rows.adopt(connection, [w for w in writes if w.adopts is not None], now_us)
            await self.write(connection, [w.values for w in writes])
        elif isinstance(first, Remove):
            gone = await self.rows.spared(connection, actions, now_us)
            if gone:
                keys = self._keys_of(gone)
                await connection.execute(self._delete, *keys)
                if self._has_early_triggers and (
                    await connection.fetchval(self._absent, *keys) < len(gone)
                ):
                    raise RowRefused(DROPPED_REMOVAL)
        else:
            clears = [a for a in actions if isinstance(a, Clear)]
            for columns, group in groupby(
                sorted(clears, key=lambda c: c.columns), key=lambda c: c.columns
            ):
                await self._clear(connection, columns, list(group))

    async def write_plain(self, connection: asyncpg.Connection, lot: Lot, now_us: int) -> None:
        """Rows and their ledger, which are staged already."""
        await connection.execute(
            self._write_stage, *self._extra, now_us, *zip(*lot.terms, strict=True)
        )
        if self._has_early_triggers and await connection.fetchval(self._absent_of_stage):
            raise RowRefused(DROPPED_WRITE)

    async def renew_plain(
        self, connection: asyncpg.Connection, lot: Lot, now_us: int
    ) -> tuple[int, int]:
        """As `write_plain`, of rows that are there and of ledger lines that hold them at an older
        version; returns how many of each there were."""
        books, rows = await connection.fetchrow(
            self._renew_stage, now_us, *zip(*lot.terms, strict=True)
        )
        return books, rows

    async def _clear(
        self, connection: asyncpg.Connection, columns: tuple[int, ...], actions: Sequence[Action]
    ) -> None:
        first = len(self._target.key_positions) + 1
        sets = ", ".join(
            f"{self._names[at]} = {self._cast(at, f'${first + n}::{self._staged(at)}')}"
            for n, at in enumerate(columns)
        )
        await connection.execute(
            f"UPDATE {self._table} t SET {sets} FROM {self._keys_source()} WHERE {self._match()}",
            *self._keys_of(actions),
            *(self._target.cleared(at) for at in columns),
        )

    def _keys_of(self, actions: Sequence[Action]) -> list[tuple[Any, ...]]:
        return list(zip(*(decode_values(a.row.key) for a in actions), strict=True))

    def _staged(self, at: int) -> str:
        return STAGED[self._target.columns[at].kind]

    def _cast(self, at: int, expression: str) -> str:
        """Assignment casts refuse what does not fit; only types without one are cast by name."""
        column = self._target.columns[at]
        return f"{expression}::{column.declared}" if column.kind is ColumnKind.OTHER else expression

    def _source(self, positions: Sequence[int]) -> str:
        arrays = ", ".join(f"${n}::{self._staged(at)}[]" for n, at in enumerate(positions, 1))
        return f"unnest({arrays}) AS s({', '.join(f'v{at}' for at in positions)})"

    def _keys_source(self) -> str:
        return self._source(self._target.key_positions)

    def _match(self) -> str:
        """Casting our side leaves the column's own index usable."""
        return " AND ".join(
            f"t.{self._names[at]} = s.v{at}::{self._target.columns[at].declared}"
            for at in self._target.key_positions
        )

    def _insert_list(self, first: int) -> tuple[str, str]:
        """(columns, expressions over the source `s`); insert-only columns come last, their values
        are the arguments from `first` on."""
        extra = self._target.insert_only
        count = len(self._names)
        names = [*self._names, *(quoted(c.name) for c, _ in extra)]
        expressions = [self._cast(at, f"s.v{at}") for at in range(count)]
        for n, (column, _) in enumerate(extra, first):
            staged = f"${n}::{STAGED[column.kind]}"
            other = column.kind is ColumnKind.OTHER
            expressions.append(f"{staged}::{column.declared}" if other else staged)
        return ", ".join(names), ", ".join(expressions)

    def _others(self) -> list[int]:
        return [at for at in range(len(self._names)) if at not in self._target.key_positions]

    def _upsert(self, source: str, first: int) -> str:
        names, expressions = self._insert_list(first)
        keys = ", ".join(self._names[at] for at in self._target.key_positions)
        sets = ", ".join(f"{self._names[at]} = excluded.{self._names[at]}" for at in self._others())
        return (
            f"INSERT INTO {self._table} ({names}) SELECT {expressions} "
            f"FROM {source} ON CONFLICT ({keys}) "
            + (f"DO UPDATE SET {sets}" if sets else "DO NOTHING")
        )

    def _renew(self) -> str:
        sets, stage, match = self._sets(), f"{self.stage.name} s", self._match()
        rows = (
            f"UPDATE {self._table} t SET {sets} FROM {stage} WHERE {match} RETURNING 1"
            if sets
            else f"SELECT 1 FROM {self._table} t JOIN {stage} ON {match}"
        )
        return (
            f"WITH books AS ({self.stage.renew_books(1)} RETURNING 1), rows AS ({rows}) "
            "SELECT (SELECT count(*) FROM books), (SELECT count(*) FROM rows)"
        )

    def _sets(self) -> str:
        """Of an update from the source `s`."""
        return ", ".join(
            f"{self._names[at]} = {self._cast(at, f's.v{at}')}" for at in self._others()
        )

    def _update_else_insert(self, source: str, first: int) -> str:
        names, expressions = self._insert_list(first)
        sets = self._sets()
        keys = ", ".join(f"s.v{at}" for at in self._target.key_positions)
        same = " AND ".join(f"d.v{at} = s.v{at}" for at in self._target.key_positions)
        found = (
            f"UPDATE {self._table} t SET {sets} FROM s WHERE {self._match()} RETURNING {keys}"
            if sets
            else f"SELECT {keys} FROM {self._table} t JOIN s ON {self._match()}"
        )
        return (
            f"WITH s AS MATERIALIZED (SELECT * FROM {source}), d AS ({found}) "
            f"INSERT INTO {self._table} ({names}) SELECT {expressions} FROM s "
            f"WHERE NOT EXISTS (SELECT 1 FROM d WHERE {same})"
        )
