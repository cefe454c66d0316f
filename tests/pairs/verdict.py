"""What SQL says of two tables, and what we say; the same of one encoder or another.

SQL's EXCEPT knows no duplicates, so rows are counted first: two tables are equal if neither has a
row, with the number of times that it is there, that the other has not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from deptbus.proof.item import Item
from deptbus.proof.leaves import Leaves
from deptbus.proof.sketch import Sketch, cells_for
from deptbus.wire.digest import values_digest

from .rows import Row, Table

Verdicts = list[bool]  # True: equal
Digest = Callable[[Iterable[Any]], bytes]

_SALT = bytes(range(16))
_KEY = bytes(16)
# Rows that are compared without a key of their own: all in one leaf, where sums have it hardest.


def ours(pairs: Sequence[tuple[Table, Table]], digest: Digest = values_digest) -> Verdicts:
    """By leaves, and by the sketch that must read the very difference; they may not disagree."""
    return [_our_verdict(one, other, digest) for one, other in pairs]


def _our_verdict(one: Table, other: Table, digest: Digest) -> bool:
    sides = []
    for table in (one, other):
        leaves, sketch = Leaves(1), Sketch(cells_for(0), _SALT)
        items = [Item(_KEY, 0, digest(row)) for row in table]
        leaves.add_all(items)
        sketch.add_all(items)
        sides.append((leaves, sketch))
    (leaves, sketch), (other_leaves, other_sketch) = sides
    by_leaves = not (leaves - other_leaves).bad()
    found = (sketch - other_sketch).decode()
    # None is no verdict: two items may share all their cells in so small a sketch.
    assert found is None or by_leaves == (not (found.only_a or found.only_b))
    return by_leaves


def row_verdicts(pairs: Sequence[tuple[Row, Row]], digest: Digest = values_digest) -> Verdicts:
    """Of single rows: by the digest alone."""
    return [digest(one) == digest(other) for one, other in pairs]


def sqlite_verdicts(pairs: Sequence[tuple[Table, Table]]) -> Verdicts:
    """SQLite's EXCEPT, both ways."""
    database = sqlite3.connect(":memory:")
    try:
        width = max((len(row) for pair in pairs for table in pair for row in table), default=1)
        names = ", ".join(f"c{place}" for place in range(width))
        for side in ("a", "b"):
            # Without types: SQLite's affinities would change what is put in.
            database.execute(f"CREATE TABLE {side} (pair, {names})")
        marks = ", ".join("?" * (width + 1))
        for side, which in (("a", 0), ("b", 1)):
            rows = (
                (number, *_kept_by_sqlite(row))
                for number, pair in enumerate(pairs)
                for row in pair[which]
            )
            database.executemany(f"INSERT INTO {side} VALUES ({marks})", rows)
        unequal = {number for (number,) in database.execute(both_ways(names))}
    finally:
        database.close()
    return [number not in unequal for number in range(len(pairs))]


def both_ways(names: str) -> str:
    """The numbers of the pairs of `a` and `b` that differ, in SQL."""
    counted = f"SELECT pair, {names}, count(*) AS times FROM {{}} GROUP BY pair, {names}"
    a, b = counted.format("a"), counted.format("b")
    return (
        f"SELECT pair FROM (SELECT * FROM ({a}) AS x EXCEPT SELECT * FROM ({b}) AS y) AS more "
        f"UNION SELECT pair FROM (SELECT * FROM ({b}) AS y EXCEPT SELECT * FROM ({a}) AS x) AS less"
    )


def _kept_by_sqlite(row: Row) -> list[Any]:
    return [_plain(value) for value in row]


def _plain(value: Any) -> Any:
    """Dates, times and decimals of one scale as text, each value in one form."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, date) else value
