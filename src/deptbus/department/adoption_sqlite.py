"""Rows that were here before the bus, in an SQLite file: found, adopted, and spared when their
record goes. Rules: `adoption`, `kept_rows`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from deptbus.department.adoption import (
    DROPPED_WRITE,
    PARKED_REMOVAL,
    Existing,
    Found,
    RowsMoved,
    found_of,
)
from deptbus.department.bookkeeping import COLUMN_LIST, ENTRY_COLUMNS
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
from deptbus.department.target import Column, MappedTarget
from deptbus.errors import RowRefused
from deptbus.wire.digest import decode_values

_HELD = ENTRY_COLUMNS.index("held")
_KEEP = f"INSERT INTO deptbus_kept ({KEPT_LIST}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_EMPTIED = "INSERT OR REPLACE INTO deptbus_emptied VALUES (?, ?, ?, ?, ?)"
_FILLED = (
    "DELETE FROM deptbus_emptied WHERE dataset = ? AND (source_unit = ? AND key = ? OR row_key = ?)"
)


class SqliteRows:
    """The statements of one target."""

    def __init__(self, target: MappedTarget, place: Sequence[str]) -> None:
        """`place`: the columns by which a row is found again (`row_name`)."""
        self._target, self._place = target, [quoted(name) for name in place]
        self._table = quoted_table(target.table)
        self._names = [quoted(c.name) for c in target.columns]
        self._marks = [quoted(c.name) for c, _ in target.marks]
        listed = ", ".join([*self._place, *self._names, *self._marks])
        self._select = f"SELECT {listed} FROM {self._table}"
        self._at_place = " AND ".join(f"{name} = ?" for name in self._place)
        self._identity = ", ".join(quoted(c.name) for c in target.identity)
        self._by_key = " AND ".join(f"{self._names[at]} = ?" for at in target.key_positions)
        self.left: list[tuple[Any, ...]] = []  # mapped values of rows since their records went

    # -- looking ---------------------------------------------------------------------------------

    def look_for(
        self,
        connection: sqlite3.Connection,
        positions: Sequence[int],
        words: Sequence[tuple[Any, ...]],
    ) -> dict[tuple[Any, ...], list[Found]]:
        where = " AND ".join(f"{self._names[at]} = ?" for at in positions)
        sql = f"{self._select} WHERE {where}"
        return {
            some: [self._found(row) for row in connection.execute(sql, some)]
            for some in dict.fromkeys(words)
        }

    def look_for_emptied(
        self, connection: sqlite3.Connection, wanted: Mapping[RecordId, bytes]
    ) -> dict[RecordId, Found]:
        """See `Store.look_for_emptied`."""
        found = {}
        for rid, row in wanted.items():
            lines = connection.execute(
                "SELECT row_key, place FROM deptbus_emptied WHERE dataset = ?1 "
                "AND (row_key = ?4 OR source_unit = ?2 AND key = ?3) ORDER BY row_key = ?4",
                (*rid, row),
            )
            for line in lines.fetchall():
                emptied = self._emptied(connection, *line)
                if emptied is not None:
                    found[rid] = emptied  # the one with the own key, where there is one
        return found

    def _emptied(self, connection: sqlite3.Connection, row: bytes, place: str) -> Found | None:
        identity = own_of(place) if place else {}
        if None not in (key := decode_values(row)):
            where, words = self._by_key, key
        elif identity.keys() == {c.name for c in self._target.identity} and identity:
            where = " AND ".join(f"{quoted(name)} = ?" for name in identity)
            words = tuple(identity.values())
        else:
            return None
        rows = connection.execute(f"{self._select} WHERE {where}", words).fetchall()
        emptied = [one for one in map(self._found, rows) if self._is_emptied(one)]
        return emptied[0]._replace(is_emptied=True) if len(emptied) == len(rows) == 1 else None

    def _is_emptied(self, found: Found) -> bool:
        return is_emptied(self._target, found.values, found.marks)

    def read(self, connection: sqlite3.Connection, positions: Sequence[int]) -> sqlite3.Cursor:
        names = ", ".join(self._names[at] for at in positions)
        return connection.execute(f"SELECT {names} FROM {self._table}")

    def _found(self, row: Sequence[Any]) -> Found:
        first, behind = len(self._place), len(self._place) + len(self._names)
        values = tuple(row[first:behind])
        return found_of(self._target, tuple(row[:first]), values, tuple(row[behind:]))

    # -- writing, within the transaction ---------------------------------------------------------

    def adopt(self, connection: sqlite3.Connection, writes: Sequence[Write], now_us: int) -> None:
        """Has each row become the one that its write then fills. Raises RowsMoved."""
        for write in writes:
            was: Found = write.adopts
            row = connection.execute(f"{self._select} WHERE {self._at_place}", was.place).fetchone()
            if not was.still_is(None if row is None else self._found(row)):
                raise RowsMoved(self._target.table)
            kept = self._kept_of(connection, write)
            sets = {} if write.moves else self._unmarked(connection, write)
            if was.row != write.row.key:
                keys = [self._names[at] for at in self._target.key_positions]
                sets |= dict(zip(keys, decode_values(write.row.key), strict=True))
            if sets:
                self._set(connection, sets, was.place)
            if kept.own and not was.is_emptied:
                connection.execute(_KEEP, kept.words(now_us))
            if was.is_emptied:
                connection.execute(_FILLED, (*write.id, write.row.key))

    def _kept_of(self, connection: sqlite3.Connection, write: Write) -> KeptRow:
        target, values = self._target, write.adopts.values
        if not write.moves:
            own = before_adoption(target, values)
            return KeptRow(write.id, write.row.key, Origin.ADOPTION, own)
        line = _holder(connection, target.dataset, write.adopts.row) if target.keeps else None
        own = typed_into(target, line, values)
        return KeptRow(write.id, write.row.key, Origin.DELIVERY, own)

    def _unmarked(self, connection: sqlite3.Connection, write: Write) -> dict[str, Any]:
        """Columns of the mark that a removal set, of whichever record held the row then."""
        was: Found = write.adopts
        before = _last(connection, write.id, was.row, Origin.REMOVAL)
        return {
            quoted(column.name): before[column.name]
            for (column, _), now in zip(self._target.marks, was.marks, strict=True)
            if before is not None and column.name in before and now != before[column.name]
        }

    def keep_typed_over(
        self,
        connection: sqlite3.Connection,
        writes: Sequence[tuple[RecordId, bytes]],
        now_us: int,
    ) -> None:
        """Keeps what somebody typed into these rows since the bus wrote them, before it does again.
        `writes`: records and the rows (encoded) that they are about to fill or to empty in part;
        whoever holds a row until now, it was his."""
        target, gone = self._target, 0
        for row in dict.fromkeys(row for _, row in writes):
            line = _holder(connection, target.dataset, row)
            if line is None:
                continue
            real = connection.execute(
                f"{self._select} WHERE {self._by_key}", decode_values(row)
            ).fetchone()
            gone += real is None
            if real is not None and (own := typed_into(target, line, self._found(real).values)):
                kept = KeptRow(line.id, row, Origin.DELIVERY, own)
                connection.execute(_KEEP, kept.words(now_us))
        tell_gone(target, gone)

    def spared(
        self, connection: sqlite3.Connection, removes: Sequence[Action], now_us: int
    ) -> Sequence[Action]:
        """Marks the rows of these that are not to be deleted; returns the others. Raises RowRefused
        where a person has to remove one."""
        target = self._target
        if target.on_remove == "delete":
            return removes
        for action in removes:
            key = decode_values(action.row.key)
            row = connection.execute(f"{self._select} WHERE {self._by_key}", key).fetchone()
            if row is None:
                continue
            if target.on_remove == "park":
                raise RowRefused(PARKED_REMOVAL)
            self._mark(connection, action, self._found(row), now_us)
        return ()

    def _mark(
        self, connection: sqlite3.Connection, action: Action, now: Found, now_us: int
    ) -> None:
        target, rid = self._target, action.id
        before = _last(connection, rid, action.row.key, Origin.ADOPTION)
        line = _holder(connection, target.dataset, action.row.key)
        own = typed_into(target, line, now.values)
        own |= {c.name: v for (c, _), v in zip(target.marks, now.marks, strict=True)}
        values = left_behind(target, now.values, before)
        self.left.append(tuple(values))
        sets = dict(zip(self._names, values, strict=True))
        sets |= dict(zip(self._marks, (value for _, value in target.marks), strict=True))
        row = found_of(target, now.place, tuple(values), ()).row
        if before is None or None in decode_values(row):
            connection.execute(_EMPTIED, (*rid, row, self._identity_of(connection, now)))
        self._set(connection, sets, now.place)
        if own:
            kept = KeptRow(rid, row, Origin.REMOVAL, own)
            connection.execute(_KEEP, kept.words(now_us))

    def _set(
        self, connection: sqlite3.Connection, sets: Mapping[str, Any], place: tuple[Any, ...]
    ) -> None:
        changed, words = settings(sets)
        done = connection.execute(
            f"UPDATE {self._table} SET {changed} WHERE {self._at_place}", (*words, *place)
        ).rowcount
        if not done:
            raise RowRefused(DROPPED_WRITE)

    def _identity_of(self, connection: sqlite3.Connection, found: Found) -> str:
        if not self._identity:
            return ""
        row = connection.execute(
            f"SELECT {self._identity} FROM {self._table} WHERE {self._at_place}", found.place
        ).fetchone()
        return own_text(dict(zip((c.name for c in self._target.identity), row, strict=True)))


def settings(sets: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """What follows SET, for quoted columns, and its values. An own text that was no UTF-8 becomes
    the bytes again that it was (`SqliteDatabase` reads them as surrogates)."""
    marks, words = [], []
    for name, value in sets.items():
        mark = "?"
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                mark, value = "CAST(? AS TEXT)", value.encode("utf-8", "surrogateescape")
        marks.append(f"{name} = {mark}")
        words.append(value)
    return ", ".join(marks), words


def _last(connection: sqlite3.Connection, rid: RecordId, row: bytes, origin: Origin) -> Own | None:
    """What was kept last of this row, or else of this record's, where that was by `origin`."""
    found = None
    for where, words in _last_kept(rid, row):
        found = connection.execute(
            f"SELECT origin, own FROM deptbus_kept WHERE {where} "
            "AND origin IN ('adoption', 'removal') ORDER BY number DESC LIMIT 1",
            words,
        ).fetchone()
        if found is not None:
            break
    return own_of(found[1]) if found is not None and found[0] == origin else None


def _last_kept(rid: RecordId, row: bytes) -> list[tuple[str, tuple[Any, ...]]]:
    """Where to look, one after the other: by the row, which records come and go of, where it has an
    own key; then by the record, whose row may have had another key."""
    by_record = ("dataset = ? AND source_unit = ? AND key = ?", tuple(rid))
    if not row or None in decode_values(row):
        return [by_record]
    return [("dataset = ? AND row_key = ?", (rid.dataset, row)), by_record]


def _holder(connection: sqlite3.Connection, dataset: str, row: bytes) -> Entry | None:
    """The line that holds this row."""
    found = connection.execute(
        f"SELECT {COLUMN_LIST} FROM deptbus_ledger WHERE dataset = ? AND row_key = ? AND held",
        (dataset, row),
    ).fetchone()
    if found is None:
        return None
    return Entry._make((*found[:_HELD], bool(found[_HELD]), *found[_HELD + 1 :]))


# -- the catalogue ---------------------------------------------------------------------------------


def note_existing(
    connection: sqlite3.Connection, dataset: str, table: str, *, is_new: bool
) -> None:
    """Once for a dataset, before its table is made: whether it has rows. A dataset that was
    received before anybody noted this is asked nothing (`is_new` false), nor is one that goes into
    a view: its rows have no places."""
    there = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE",
        (table,),
    ).fetchone()[0]
    had_rows = bool(
        is_new
        and there
        and connection.execute(f"SELECT 1 FROM {quoted_table(table)} LIMIT 1").fetchone()
    )
    connection.execute(
        "INSERT OR IGNORE INTO deptbus_existing VALUES (?, ?, ?, ?)",
        (dataset, had_rows, had_rows, time.time_ns() // 1000),
    )


def row_name(
    connection: sqlite3.Connection, table: str, catalogue: Mapping[str, Column]
) -> list[str]:
    """The columns by which a row is told from all others: the row's number, where there is one."""
    taken = {name.lower() for name in catalogue}
    for name in ("rowid", "_rowid_", "oid"):
        if name in taken:
            continue
        try:
            connection.execute(f"SELECT {name} FROM {quoted_table(table)} LIMIT 0")
        except sqlite3.OperationalError:
            break  # WITHOUT ROWID, or a view
        return [name]
    return primary_key(connection, table) or list(catalogue)


def primary_key(connection: sqlite3.Connection, table: str) -> list[str]:
    """Empty where there is none, or it is no table."""
    found = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk", (table,)
    )
    return [name for (name,) in found]


def is_referred_to(connection: sqlite3.Connection, table: str, key: Sequence[str]) -> bool:
    """Whether a foreign key of some table points at one of these columns."""
    wanted = {name.lower() for name in key}
    primary = {name.lower() for name in primary_key(connection, table)}
    rows = connection.execute(
        'SELECT f."to" FROM sqlite_master m, pragma_foreign_key_list(m.name) f '
        "WHERE m.type = 'table' AND f.\"table\" = ? COLLATE NOCASE",
        (table,),
    ).fetchall()
    return any(
        (to.lower() in wanted) if to is not None else bool(primary & wanted) for (to,) in rows
    )


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    there = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    return bool(connection.execute(there, (name,)).fetchone()[0])


def existing_of(connection: sqlite3.Connection) -> dict[str, Existing]:
    rows = connection.execute("SELECT dataset, had_rows, waits FROM deptbus_existing")
    return {dataset: Existing(bool(had_rows), bool(waits)) for dataset, had_rows, waits in rows}


def sqlite_existing_status(
    connection: sqlite3.Connection, dataset: str
) -> tuple[bool, dict[str, int]]:
    """Whether its first load waits; how many rows are kept and not restored, by origin."""
    if not has_table(connection, "deptbus_kept"):
        return False, {}  # its adapter has not run since
    waits = connection.execute(
        "SELECT waits FROM deptbus_existing WHERE dataset = ?", (dataset,)
    ).fetchone()
    kept = connection.execute(
        "SELECT origin, count(*) FROM deptbus_kept WHERE dataset = ? AND restored_at_us IS NULL "
        "GROUP BY origin",
        (dataset,),
    ).fetchall()
    return bool(waits and waits[0]), dict(kept)
