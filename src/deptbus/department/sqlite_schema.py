"""What capture must know of a table in SQLite: its columns and its unique constraints."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from deptbus.department.layout import Layout


class Unique(NamedTuple):
    """One unique constraint: its columns, each with the collation that it compares by."""

    columns: tuple[str, ...]
    collations: tuple[str, ...]
    is_partial: bool


def unique_constraints(connection: sqlite3.Connection, table: str) -> list[Unique]:
    """Of every unique index and of an INTEGER PRIMARY KEY, which has none. Indexes on expressions
    are left out: nothing tells which rows they hold equal."""
    found: list[Unique] = []
    for _, name, is_unique, _, partial in connection.execute(
        "SELECT * FROM pragma_index_list(?)", (table,)
    ).fetchall():
        parts = connection.execute(
            "SELECT name, cid, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (name,)
        ).fetchall()
        if is_unique and all(cid >= 0 for _, cid, _ in parts):
            found.append(
                Unique(tuple(p[0] for p in parts), tuple(p[2] for p in parts), bool(partial))
            )
    primary = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,)
    ).fetchall()
    columns = tuple(name for (name,) in primary)
    if columns and all(u.columns != columns for u in found):
        found.append(Unique(columns, ("BINARY",) * len(columns), False))
    return found


def unique_columns(connection: sqlite3.Connection, table: str) -> list[tuple[str, ...]]:
    return [u.columns for u in unique_constraints(connection, table)]


def key_constraint(connection: sqlite3.Connection, layout: Layout) -> Unique | None:
    """A constraint that lets one row only bear a natural key: over some or all of its columns."""
    by_lower = {column.lower(): column for column in layout.keys}
    for unique in unique_constraints(connection, layout.table):
        if not unique.is_partial and all(c.lower() in by_lower for c in unique.columns):
            return unique
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


def examine_table(connection: sqlite3.Connection, layout: Layout) -> list[str]:
    """Why this layout cannot be captured here; empty when it can."""
    where = f"dataset {layout.dataset}"
    kind = connection.execute(
        "SELECT type FROM sqlite_master "
        "WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
        (layout.table,),
    ).fetchone()
    if kind is None:
        return [f"{where}: there is no table {layout.table}"]
    if kind[0] == "view":
        return [f"{where}: {layout.table} is a view; name the table that it reads"]
    have = {
        name.lower()
        for (name,) in connection.execute(
            "SELECT name FROM pragma_table_xinfo(?)", (layout.table,)
        ).fetchall()
    }
    absent = [
        f"{where}: table {layout.table} has no column {column}"
        for column in dict.fromkeys((*layout.keys, *layout.columns))
        if column.lower() not in have
    ]
    if absent:
        return absent
    if key_constraint(connection, layout) is None:
        keys = ", ".join(layout.keys)
        return [
            f"{where}: table {layout.table} has no unique index on ({keys}), so two rows could be "
            "one record"
        ]
    return []
