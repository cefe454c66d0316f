"""Rows that were here before the bus, in PostgreSQL: found, adopted, and spared when their record
goes. Rules: `adoption`, `kept_rows`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from deptbus.department.adoption import (
    PARKED_REMOVAL,
    Existing,
    Found,
    RowsMoved,
    found_of,
)
from deptbus.department.bookkeeping import COLUMN_LIST, POSTGRES_OF_ROWS
from deptbus.department.decide import Action, Write
from deptbus.department.kept_rows import (
    KEPT_LIST,
    KeptRow,
    Origin,
    Own,
    before_adoption,
    is_emptied,
    left_behind,
    own_of,
    own_text,
    tell_gone,
    typed_into,
)
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import Entry, RecordId
from deptbus.department.seen import row_of
from deptbus.department.target import Column, MappedTarget
from deptbus.department.values import STAGED, ColumnKind
from deptbus.errors import RowRefused
from deptbus.wire.digest import decode_values

_KEEP = f"INSERT INTO deptbus.kept ({KEPT_LIST}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
_EMPTIED = (
    "INSERT INTO deptbus.emptied VALUES ($1, $2, $3, $4, $5) ON CONFLICT (dataset, source_unit, "
    "key) DO UPDATE SET row_key = excluded.row_key, place = excluded.place"
)
_EMPTIED_OF = (
    "SELECT e.* FROM deptbus.emptied e JOIN unnest($2::text[], $3::bytea[]) AS w(source_unit, key) "
    "USING (source_unit, key) WHERE e.dataset = $1 "
    "UNION SELECT * FROM deptbus.emptied WHERE dataset = $1 AND row_key = ANY($4::bytea[])"
)
_FILLED = (
    "DELETE FROM deptbus.emptied WHERE dataset = $1 "
    "AND (source_unit = $2 AND key = $3 OR row_key = $4)"
)
_READ_AT_ONCE = 2000
# A table's number and the place in it: of partitions each has places of its own.
_PLACE = "t.tableoid::bigint, t.ctid"
# Whoever types a row that refers to one of these need not wait for it; what changes the own key, or
# removes the row, takes the stronger lock by itself.
_LOCK = "FOR NO KEY UPDATE OF t"


class PostgresRows:
    """The statements of one target."""

    def __init__(self, target: MappedTarget) -> None:
        self._target = target
        self._table = quoted_table(target.table)
        self._columns = (*target.columns, *(column for column, _ in target.marks))
        listed = ", ".join(f"t.{quoted(c.name)}::{STAGED[c.kind]}" for c in self._columns)
        self._listed = f"{_PLACE}, {listed}"
        self.left: list[tuple[Any, ...]] = []  # mapped values of rows since their records went

    # -- looking ---------------------------------------------------------------------------------

    async def look_for(
        self,
        connection: asyncpg.Connection,
        positions: Sequence[int],
        words: Sequence[tuple[Any, ...]],
    ) -> dict[tuple[Any, ...], list[Found]]:
        asked = list(dict.fromkeys(words))
        found: dict[tuple[Any, ...], list[Found]] = {some: [] for some in asked}
        if asked:
            sql = f"SELECT s.number, {self._listed} {self._by(positions)}"
            for number, *row in await connection.fetch(sql, *zip(*asked, strict=True)):
                found[asked[number - 1]].append(self._found(row))
        return found

    async def look_for_emptied(
        self, connection: asyncpg.Connection, wanted: Mapping[RecordId, bytes]
    ) -> dict[RecordId, Found]:
        """See `Store.look_for_emptied`."""
        target = self._target
        lines = await connection.fetch(
            _EMPTIED_OF,
            target.dataset,
            [rid.source_unit for rid in wanted],
            [rid.key for rid in wanted],
            list(wanted.values()),
        )
        if not lines:
            return {}
        by_key = {line["row_key"]: decode_values(line["row_key"]) for line in lines}
        by_key = {row: key for row, key in by_key.items() if None not in key}
        by_place = {
            line["place"]: tuple(place[c.name] for c in target.identity)
            for line in lines
            if line["row_key"] not in by_key
            and (place := own_of(line["place"]) if line["place"] else {})
            and place.keys() == {c.name for c in target.identity}
        }
        found: dict[Any, Found] = await self._emptied(connection, target.key_columns, by_key)
        found |= await self._emptied(connection, target.identity, by_place)
        of_row = {line["row_key"]: found.get(line["row_key"]) for line in lines}
        of_record = {
            RecordId(target.dataset, line["source_unit"], line["key"]): found.get(
                line["row_key"] if line["row_key"] in by_key else line["place"]
            )
            for line in lines
        }
        emptied = {rid: of_row.get(row) or of_record.get(rid) for rid, row in wanted.items()}
        return {rid: one for rid, one in emptied.items() if one is not None}

    async def _emptied(
        self,
        connection: asyncpg.Connection,
        columns: Sequence[Column],
        wanted: Mapping[Any, tuple[Any, ...]],
    ) -> dict[Any, Found]:
        """By what each is wanted by: the only row with these values, where it is empty still."""
        if not wanted:
            return {}
        names, rows = list(wanted), defaultdict[Any, list[Found]](list)
        sql = f"SELECT s.number, {self._listed} {self._joined(columns)}"
        for number, *row in await connection.fetch(sql, *zip(*wanted.values(), strict=True)):
            rows[names[number - 1]].append(self._found(row))
        return {
            name: some[0]._replace(is_emptied=True)
            for name, some in rows.items()
            if len(some) == 1 and self._is_emptied(some[0])
        }

    def _is_emptied(self, found: Found) -> bool:
        return is_emptied(self._target, found.values, found.marks)

    def _by(self, positions: Sequence[int]) -> str:
        return self._joined([self._target.columns[at] for at in positions])

    def _joined(self, columns: Sequence[Column]) -> str:
        """FROM and the join with values that the arguments name, numbered from 1."""
        arrays = ", ".join(f"${n}::{STAGED[c.kind]}[]" for n, c in enumerate(columns, 1))
        names = ", ".join(f"v{n}" for n in range(len(columns)))
        match = " AND ".join(
            f"t.{quoted(c.name)} = s.v{n}::{c.declared}" for n, c in enumerate(columns)
        )
        return (
            f"FROM {self._table} t JOIN unnest({arrays}) WITH ORDINALITY AS s({names}, number) "
            f"ON {match}"
        )

    async def read(
        self, connection: asyncpg.Connection, positions: Sequence[int]
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        columns = [self._target.columns[at] for at in positions]
        names = ", ".join(f"t.{quoted(c.name)}::{STAGED[c.kind]}" for c in columns)
        async with connection.transaction(readonly=True):
            await connection.execute("SET LOCAL enable_seqscan = on")
            cursor = await connection.cursor(f"SELECT {names} FROM {self._table} t")
            while rows := await cursor.fetch(_READ_AT_ONCE):
                yield [tuple(row) for row in rows]

    def _found(self, row: Sequence[Any]) -> Found:
        behind = 2 + len(self._target.columns)
        place, values, marks = tuple(row[:2]), tuple(row[2:behind]), tuple(row[behind:])
        return found_of(self._target, place, values, marks)

    # -- writing, within the transaction ---------------------------------------------------------

    async def adopt(
        self, connection: asyncpg.Connection, writes: Sequence[Write], now_us: int
    ) -> None:
        """Has each row become the one that its write then fills. Raises RowsMoved."""
        if not writes:
            return
        target = self._target
        rows = await connection.fetch(
            f"SELECT {self._listed} FROM {self._table} t WHERE t.ctid = ANY($1::tid[]) " + _LOCK,
            [write.adopts.place[1] for write in writes],
        )
        now = {found.place: found for found in map(self._found, rows)}
        if not all(w.adopts.still_is(now.get(w.adopts.place)) for w in writes):
            raise RowsMoved(target.table)
        rows_of = {w.id: w.adopts.row for w in writes}
        former = await self._last(connection, rows_of, Origin.REMOVAL)
        own = [w.adopts.row for w in writes if w.moves and target.keeps]
        lines = await self._holders(connection, own) if own else {}
        changes = []
        for write in writes:
            before = None if write.moves else former.get(write.id)
            sets = self._unmarked(before, write.adopts.marks)
            if write.adopts.row != write.row.key:
                keys = [target.columns[at] for at in target.key_positions]
                sets += zip(keys, decode_values(write.row.key), strict=True)
            changes.append((write.adopts, sets))
        await self._set(connection, changes)
        kept = [
            KeptRow(w.id, w.row.key, Origin.ADOPTION, before_adoption(target, w.adopts.values))
            if not w.moves
            else KeptRow(
                w.id,
                w.row.key,
                Origin.DELIVERY,
                typed_into(target, lines.get(w.adopts.row), w.adopts.values),
            )
            for w in writes
        ]
        await connection.executemany(
            _KEEP,
            [
                one.words(now_us)
                for one, write in zip(kept, writes, strict=True)
                if one.own and not write.adopts.is_emptied
            ],
        )
        filled = [(*w.id, w.row.key) for w in writes if w.adopts.is_emptied]
        await connection.executemany(_FILLED, filled)

    def _unmarked(self, before: Own | None, marks: Sequence[Any]) -> list[tuple[Column, Any]]:
        """Columns of the mark that a former removal of this record set."""
        return [
            (column, before[column.name])
            for (column, _), now in zip(self._target.marks, marks, strict=True)
            if before is not None and column.name in before and now != before[column.name]
        ]

    async def _set(
        self,
        connection: asyncpg.Connection,
        changes: Iterable[tuple[Found, Sequence[tuple[Column, Any]]]],
    ) -> None:
        """One way to the server and back for all rows of which the same columns are set."""
        alike: defaultdict[tuple[Column, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for found, sets in changes:
            columns = tuple(column for column, _ in sets)
            alike[columns].append((*found.place, *(value for _, value in sets)))
        alike.pop((), None)
        for columns, rows in alike.items():
            words = []
            for n, column in enumerate(columns, 3):
                cast = f"::{column.declared}" if column.kind is ColumnKind.OTHER else ""
                words.append(f"{quoted(column.name)} = ${n}::{STAGED[column.kind]}{cast}")
            await connection.executemany(
                f"UPDATE {self._table} t SET {', '.join(words)} "
                "WHERE t.tableoid = $1::bigint::oid AND t.ctid = $2::tid",
                rows,
            )

    async def keep_typed_over(
        self,
        connection: asyncpg.Connection,
        writes: Sequence[tuple[RecordId, bytes]],
        now_us: int,
    ) -> None:
        """Keeps what somebody typed into these rows since the bus wrote them, before it does again.
        `writes`: records and the rows (encoded) that they are about to fill or to empty in part;
        whoever holds a row until now, it was his. Locks the rows."""
        target = self._target
        lines = await self._holders(connection, [row for _, row in writes])
        if not lines:
            return
        rows = list(lines)
        keys = [tuple(decode_values(row)) for row in rows]
        sql = f"SELECT s.number, {self._listed} {self._by(target.key_positions)} {_LOCK}"
        kept = []
        found = await connection.fetch(sql, *zip(*keys, strict=True))
        tell_gone(target, len(rows) - len({number for number, *_ in found}))
        for number, *real in found:
            line = lines[rows[number - 1]]
            if own := typed_into(target, line, self._found(real).values):
                kept.append(KeptRow(line.id, rows[number - 1], Origin.DELIVERY, own))
        await connection.executemany(_KEEP, [one.words(now_us) for one in kept])

    async def spared(
        self, connection: asyncpg.Connection, removes: Sequence[Action], now_us: int
    ) -> Sequence[Action]:
        """Marks the rows of these that are not to be deleted; returns the others. Raises RowRefused
        where a person has to remove one."""
        target = self._target
        if target.on_remove == "delete":
            return removes
        keys = [tuple(decode_values(action.row.key)) for action in removes]
        named = [c.name for c in target.identity]
        identity = "".join(f", t.{quoted(c.name)}::{STAGED[c.kind]}" for c in target.identity)
        listed = f"s.number, {self._listed}{identity}"
        sql = f"SELECT {listed} {self._by(target.key_positions)} {_LOCK}"
        rows = await connection.fetch(sql, *zip(*keys, strict=True))
        if rows and target.on_remove == "park":
            raise RowRefused(PARKED_REMOVAL)
        ids = [action.id for action in removes]
        rows_of = {action.id: action.row.key for action in removes}
        before = await self._last(connection, rows_of, Origin.ADOPTION)
        lines = await self._holders(connection, [action.row.key for action in removes])
        changes, kept, emptied = [], [], []
        for number, *row in rows:
            end = len(row) - len(named)
            rid, now, place = ids[number - 1], self._found(row[:end]), row[end:]
            own = typed_into(target, lines.get(removes[number - 1].row.key), now.values)
            own |= {c.name: v for (c, _), v in zip(target.marks, now.marks, strict=True)}
            values = left_behind(target, now.values, before.get(rid))
            self.left.append(tuple(values))
            left = row_of(target, tuple(values))
            changes.append((now, [*zip(target.columns, values, strict=True), *target.marks]))
            if own:
                kept.append(KeptRow(rid, left, Origin.REMOVAL, own).words(now_us))
            if rid not in before or None in decode_values(left):
                told = own_text(dict(zip(named, place, strict=True))) if named else ""
                emptied.append((*rid, left, told))
        await self._set(connection, changes)
        await connection.executemany(_KEEP, kept)
        await connection.executemany(_EMPTIED, emptied)
        return ()

    async def _last(
        self, connection: asyncpg.Connection, rows: Mapping[RecordId, bytes], origin: Origin
    ) -> dict[RecordId, Own]:
        """What was kept last of these rows, or else of these records' rows, where that was by
        `origin`. Records come and go of a row; a row may have had another own key, or has none."""
        named = {row for row in rows.values() if row and None not in decode_values(row)}
        kept = await connection.fetch(
            "SELECT source_unit, key, row_key, origin, own FROM deptbus.kept WHERE dataset = $1 "
            "AND (row_key = ANY($2::bytea[]) OR key = ANY($3::bytea[])) "
            "AND origin IN ('adoption', 'removal') ORDER BY number",
            self._target.dataset,
            list(named),
            [rid.key for rid in rows],
        )
        of_row = {line["row_key"]: line for line in kept if line["row_key"] in named}
        of_record = {(line["source_unit"], line["key"]): line for line in kept}
        last = {rid: of_row.get(row) or of_record.get(rid[1:]) for rid, row in rows.items()}
        return {
            rid: own_of(line["own"])
            for rid, line in last.items()
            if line is not None and line["origin"] == origin.value
        }

    async def _holders(
        self, connection: asyncpg.Connection, rows: Sequence[bytes]
    ) -> dict[bytes, Entry]:
        """The lines that hold these rows."""
        found = await connection.fetch(
            f"SELECT {COLUMN_LIST} FROM deptbus.ledger WHERE {POSTGRES_OF_ROWS} AND held",
            self._target.dataset,
            rows,
        )
        return {row["row_key"]: Entry._make(row) for row in found}


# -- the catalogue ---------------------------------------------------------------------------------


async def note_existing(
    connection: asyncpg.Connection, dataset: str, table: str, *, is_new: bool
) -> None:
    """Once for a dataset, before its table is made: whether it has rows. A dataset that was
    received before anybody noted this is asked nothing (`is_new` false), nor is one that goes into
    a view: its rows have no places."""
    known = "SELECT true FROM deptbus.existing WHERE dataset = $1"
    if await connection.fetchval(known, dataset):
        return
    name = quoted_table(table)
    had_rows = bool(
        is_new
        and await connection.fetchval(
            "SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = to_regclass($1)", name
        )
        and await connection.fetchval(f"SELECT true FROM {name} LIMIT 1")
    )
    await connection.execute(
        "INSERT INTO deptbus.existing VALUES ($1, $2, $2, $3)",
        dataset,
        had_rows,
        time.time_ns() // 1000,
    )


async def read_existing(connection: asyncpg.Connection) -> dict[str, Existing]:
    rows = await connection.fetch("SELECT dataset, had_rows, waits FROM deptbus.existing")
    return {dataset: Existing(had_rows, waits) for dataset, had_rows, waits in rows}


async def primary_key(connection: asyncpg.Connection, table: str) -> list[str]:
    """Its columns; empty where there is none."""
    rows = await connection.fetch(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
        "AND a.attnum = ANY(i.indkey) WHERE i.indrelid = to_regclass($1) AND i.indisprimary",
        quoted_table(table),
    )
    return [name for (name,) in rows]


async def is_referred_to(connection: asyncpg.Connection, table: str, key: Sequence[str]) -> bool:
    """Whether a foreign key of some table points at one of these columns."""
    return await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_constraint c JOIN pg_attribute a "
        "ON a.attrelid = c.confrelid AND a.attnum = ANY(c.confkey) WHERE c.contype = 'f' "
        "AND c.confrelid = to_regclass($1) AND a.attname = ANY($2))",
        quoted_table(table),
        list(key),
    )


async def postgres_existing_status(
    connection: asyncpg.Connection, dataset: str
) -> tuple[bool, dict[str, int]]:
    """Whether its first load waits; how many rows are kept and not restored, by origin."""
    if await connection.fetchval("SELECT to_regclass('deptbus.kept')") is None:
        return False, {}  # its adapter has not run since
    waits = await connection.fetchval(
        "SELECT waits FROM deptbus.existing WHERE dataset = $1", dataset
    )
    kept = await connection.fetch(
        "SELECT origin, count(*) FROM deptbus.kept WHERE dataset = $1 AND restored_at_us IS NULL "
        "GROUP BY origin",
        dataset,
    )
    return bool(waits), dict(map(tuple, kept))
