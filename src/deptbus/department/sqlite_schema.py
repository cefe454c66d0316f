"""What capture must know of a table in SQLite: columns and indexes, and what a view reads."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from deptbus.department.layout import Layout, comma, quoted
from deptbus.department.sqlite_unique import (
    Unique,
    has_numbered_key,
    replacing,
    unique_constraints,
)

# Declared types that make nothing of a value (https://sqlite.org/datatype3.html, 3.1; ANY is one in
# strict tables only, and elsewhere it does no harm to take it for one).
_UNTYPED = re.compile(r"|any|(?!.*(int|char|clob|text)).*blob.*", re.IGNORECASE | re.DOTALL)
# Of triggers as SQLite keeps them; BEFORE is what is not said.
_NAMED = r"""CREATE TRIGGER\s+("([^"]|"")*"|'([^']|'')*'|`([^`]|``)*`|\[[^]]*\]|[^\s"'`\[]+)\s+"""
_OF_NO_EARLY_UPDATE = re.compile(_NAMED + r"(AFTER|(BEFORE\s+)?(INSERT|DELETE))\s", re.IGNORECASE)
_LATE = re.compile(_NAMED + r"AFTER\s", re.IGNORECASE)


class Traits(NamedTuple):
    """What triggers must know of a table: by what a row of it is replaced; in small letters, the
    columns that are generated, those that may be null, and those that keep each value as it came,
    1 beside 1.0; and whether a trigger of the department's own runs before updates, and so may move
    what the statement does not name."""

    unique: list[Unique]
    generated: frozenset[str]
    nullable: frozenset[str]
    untyped: frozenset[str]
    is_moved_before: bool


def traits_of(connection: sqlite3.Connection, table: str) -> Traits:
    rows = [
        (name.lower(), *rest)
        for name, *rest in connection.execute(
            'SELECT name, "notnull", pk, hidden, type FROM pragma_table_xinfo(?)', (table,)
        )
    ]
    is_number = has_numbered_key(connection, table)
    return Traits(
        replacing(connection, table),
        frozenset(name for name, _, _, hidden, _ in rows if hidden),
        # A row's number is never null.
        frozenset(name for name, must, pk, *_ in rows if not must and not (pk and is_number)),
        frozenset(name for name, *_, declared in rows if _UNTYPED.fullmatch(declared)),
        is_moved_before(connection, table),
    )


def is_moved_before(connection: sqlite3.Connection, table: str) -> bool:
    """A trigger that is not known to be AFTER, nor to be another statement's, is taken to be one
    that runs before updates."""
    return not all(map(_OF_NO_EARLY_UPDATE.match, _own_triggers(connection, table)))


def has_early_triggers(connection: sqlite3.Connection, table: str) -> bool:
    """Whether some trigger of the department's runs before what is written or removed, and so may
    drop it without a word (`RAISE(IGNORE)`)."""
    return not all(map(_LATE.match, _own_triggers(connection, table)))


def _own_triggers(connection: sqlite3.Connection, table: str) -> list[str]:
    """How the department's own triggers of a table were made."""
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE "
        "AND name NOT GLOB 'deptbus_*'",
        (table,),
    )
    return [made for (made,) in found]


def unique_columns(connection: sqlite3.Connection, table: str) -> list[tuple[str, ...]]:
    return [u.columns for u in unique_constraints(connection, table) if not u.where]


def key_constraint(connection: sqlite3.Connection, layout: Layout) -> Unique | None:
    """A constraint that lets one row only bear a natural key: over some or all of its columns."""
    by_lower = {column.lower(): column for column in layout.keys}
    for unique in unique_constraints(connection, layout.table):
        if not unique.where and all(c.lower() in by_lower for c in unique.columns):
            return unique
    return _any_index(connection, layout, by_lower) if layout.is_vouched else None


def _any_index(
    connection: sqlite3.Connection, layout: Layout, keys: dict[str, str]
) -> Unique | None:
    """One that is not unique and begins with the key's columns, by which rows are found."""
    for name, partial in connection.execute(
        "SELECT name, partial FROM pragma_index_list(?)", (layout.table,)
    ).fetchall():
        parts = connection.execute(
            "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key AND cid >= 0 ORDER BY seqno",
            (name,),
        ).fetchall()
        lead = [part for part in parts if part[0].lower() in keys]
        if not partial and lead and lead == parts[: len(lead)]:
            return Unique(tuple(p[0] for p in lead), tuple(p[1] for p in lead))
    return None


def key_collations(connection: sqlite3.Connection, layout: Layout) -> list[str]:
    """The collation of each key column in that constraint, so that its index gives the order."""
    unique = key_constraint(connection, layout)
    known = (
        {c.lower(): coll for c, coll in zip(unique.columns, unique.collations, strict=True)}
        if unique
        else {}
    )
    return [known.get(column.lower(), "BINARY") for column in layout.keys]


def declared_types(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Column, in small letters -> its declared type; empty when there is no such table."""
    rows = connection.execute("SELECT name, type FROM pragma_table_xinfo(?)", (table,))
    return {name.lower(): declared for name, declared in rows}


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """As they are written in the table; empty when there is no such table."""
    rows = connection.execute("SELECT name FROM pragma_table_xinfo(?)", (table,))
    return [name for (name,) in rows]


def shape(connection: sqlite3.Connection, layout: Layout) -> dict[str, str]:
    """Mapped column -> its declared type, as the table is now."""
    types = declared_types(connection, layout.table)
    return {c: types[c.lower()] for c in dict.fromkeys((*layout.keys, *layout.columns))}


def examine_table(connection: sqlite3.Connection, layout: Layout) -> list[str]:
    """Why this layout cannot be captured here; empty when it can."""
    where = f"dataset {layout.dataset}"
    unfit = _unfit(connection, layout.table, is_view=layout.is_view)
    if unfit is not None:
        return [f"{where}: {unfit}"]
    absent = _absent(connection, layout, layout.table, (*layout.keys, *layout.columns))
    if layout.is_view:
        return absent or _examine_parts(connection, layout)
    if absent or key_constraint(connection, layout) is not None:
        return absent
    keys = ", ".join(layout.keys)
    if layout.is_vouched:
        return [
            f"{where}: table {layout.table} has no index that begins with ({keys}), so each of its "
            "writes would read all of it; create one"
        ]
    return [
        f"{where}: table {layout.table} has no unique index on ({keys}), so two rows could be "
        "one record; create one, or say `unique: true` where the department vouches for it"
    ]


def _unfit(connection: sqlite3.Connection, table: str, *, is_view: bool) -> str | None:
    found = connection.execute(
        "SELECT type, sql FROM sqlite_master "
        "WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
        (table,),
    ).fetchone()
    if found is None:
        return f"there is no table {table}"
    kind, sql = found
    if kind == "view" and not is_view:
        return f"{table} is a view; name the tables that it reads in `tables:`"
    if kind == "table" and is_view:
        return f"{table} is no view, so it has no `tables:`"
    if (sql or "").lstrip().upper().startswith("CREATE VIRTUAL"):
        return f"{table} is a virtual table, on which there are no triggers"
    return None


def _absent(
    connection: sqlite3.Connection, layout: Layout, table: str, columns: Iterable[str]
) -> list[str]:
    have = declared_types(connection, table)
    return [
        f"dataset {layout.dataset}: table {table} has no column {column}"
        for column in dict.fromkeys(columns)
        if column.lower() not in have
    ]


def _examine_parts(connection: sqlite3.Connection, layout: Layout) -> list[str]:
    where, wrong = f"dataset {layout.dataset}", []
    for part in layout.parts:
        unfit = _unfit(connection, part.table, is_view=False)
        if unfit is not None:
            wrong.append(f"{where}: {unfit}")
            continue
        joined = [other for p in layout.parts if p.through == part.table for _, other in p.on]
        own = (*part.keys, *(column for column, _ in part.on), *joined)
        wrong += _absent(connection, layout, part.table, own)
    if wrong:
        return wrong
    named = {part.table.lower() for part in layout.parts}
    return [
        f"{where}: the view {layout.table} reads {table}, which is not among its `tables:`, so "
        "what is written there would not be seen"
        for table in sorted(_read_by(connection, layout.table))
        if table.lower() not in named
    ]


def _read_by(connection: sqlite3.Connection, view: str) -> set[str]:
    """The tables that a view reads, by way of other views too, as SQLite itself asks for them."""
    found: set[str] = set()

    def note(action: int, first: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and first is not None:
            found.add(first)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        connection.execute(f"EXPLAIN SELECT * FROM {quoted(view)}").fetchall()
    finally:
        connection.set_authorizer(None)
    kinds = {
        name.lower(): kind
        for name, kind in connection.execute(
            "SELECT name, type FROM sqlite_master WHERE name IS NOT NULL"
        )
    }
    return {name for name in found if kinds.get(name.lower()) == "table"}


def doubled_keys(connection: sqlite3.Connection, layout: Layout) -> int:
    """How many natural keys more than one row bears, counted to a thousand: to be asked at install
    where nothing but the mapping vouches for them."""
    keys = comma(f"{quoted(k)} COLLATE BINARY" for k in layout.keys)
    (count,) = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {quoted(layout.table)} GROUP BY {keys} "
        "HAVING count(*) > 1 LIMIT 1000)"
    ).fetchone()
    return int(count)
