"""Foreign keys of one row of a SQLite table, looked up by its key.

SQLite tells at the commit that some deferred foreign key is broken, and not by which row. Its own
`foreign_key_check` reads whole tables, under the lock for which the department's program waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from deptbus.department.layout import comma, quoted


class Reference(NamedTuple):
    """A foreign key: `pairs` of a column of the child and the one of the parent that it names."""

    child: str
    parent: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def _orphaned(self) -> str:
        """Condition: the child `c` names a parent, and there is none."""
        named = " AND ".join(f"c.{quoted(own)} IS NOT NULL" for own, _ in self.pairs)
        same = " AND ".join(f"p.{quoted(to)} = c.{quoted(own)}" for own, to in self.pairs)
        return f"{named} AND NOT EXISTS (SELECT 1 FROM {quoted(self.parent)} AS p WHERE {same})"

    def is_broken_by(self, c: sqlite3.Connection, where: str, key: Sequence[Any]) -> bool:
        """By the child's row with this key."""
        row = f"SELECT 1 FROM {quoted(self.child)} AS c WHERE {where} AND {self._orphaned}"
        return c.execute(row, key).fetchone() is not None

    def named(self, c: sqlite3.Connection, where: str, key: Sequence[Any]) -> tuple[Any, ...]:
        """What children name the parent's row with this key by; empty: there is no such row."""
        columns = comma(quoted(to) for _, to in self.pairs)
        row = f"SELECT {columns} FROM {quoted(self.parent)} WHERE {where}"
        return c.execute(row, key).fetchone() or ()

    def has_left_children(self, c: sqlite3.Connection, name: Sequence[Any]) -> bool:
        """Whether children name a parent so that is there no more."""
        by = " AND ".join(f"c.{quoted(own)} = ?" for own, _ in self.pairs)
        row = f"SELECT 1 FROM {quoted(self.child)} AS c WHERE {by} AND {self._orphaned} LIMIT 1"
        return bool(name) and c.execute(row, name).fetchone() is not None


def references(c: sqlite3.Connection, table: str) -> tuple[list[Reference], list[Reference]]:
    """Those of the table, and those of all tables to it."""
    own, to_it = [], []
    for (child,) in c.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for one in _of(c, child):
            if child.lower() == table.lower():
                own.append(one)
            if one.parent.lower() == table.lower():
                to_it.append(one)
    return own, to_it


def _of(c: sqlite3.Connection, child: str) -> list[Reference]:
    parents: dict[int, str] = {}
    pairs: dict[int, list[tuple[str, str | None]]] = {}
    for number, parent, own, to in c.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq',
        (child,),
    ).fetchall():
        parents[number] = parent
        pairs.setdefault(number, []).append((own, to))
    found = []
    for number, some in pairs.items():
        keys = c.execute(
            "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (parents[number],)
        ).fetchall()
        # Where no column is named it is the primary key.
        whole = [
            (own, to if to is not None else keys[at][0])
            for at, (own, to) in enumerate(some)
            if to is not None or at < len(keys)
        ]
        if len(whole) == len(some):
            found.append(Reference(child, parents[number], tuple(whole)))
    return found
