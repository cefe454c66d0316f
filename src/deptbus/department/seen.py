"""What a row of a copy was when somebody looked: its line in the bookkeeping and its real columns.

`seen_of` binds all of it in 16 bytes. Who proves a copy tells it, who orders a repair names it, and
the repair is left out when it has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from deptbus.department.layout import quoted, quoted_table
from deptbus.department.target import MappedTarget
from deptbus.department.values import STAGED
from deptbus.wire.digest import decode_values, encode_values, values_digest, values_digests

Values = tuple[Any, ...]  # of a row's mapped columns, in the mapping's order

BRIEF_COLUMNS = (
    "source_unit", "key", "version", "op", "row_key", "held", "delivered", "written", "parked",
)  # fmt: skip
LINE_LIST = ", ".join((*BRIEF_COLUMNS, "policy", "fields"))

# Who published of the dataset in question (the first parameter), as one condition: a key alone is
# no beginning of the ledger's index, and all of it would be read for each.
_UNITS = (
    "WITH RECURSIVE units(unit) AS (SELECT min(source_unit) FROM {ledger} WHERE dataset = {first} "
    "UNION ALL SELECT (SELECT min(source_unit) FROM {ledger} WHERE dataset = {first} "
    "AND source_unit > units.unit) FROM units WHERE units.unit IS NOT NULL) "
    "SELECT unit FROM units WHERE unit IS NOT NULL"
)
SQLITE_OF_DATASET = (
    f"dataset = ?1 AND source_unit IN ({_UNITS.format(ledger='deptbus_ledger', first='?1')})"
)
POSTGRES_OF_DATASET = (
    "dataset = $1 AND source_unit = "
    f"ANY(ARRAY({_UNITS.format(ledger='deptbus.ledger', first='$1')}))"
)


class Brief(NamedTuple):
    """What a proof needs of every line of the ledger (see `ledger.Entry`)."""

    source_unit: str
    key: bytes
    version: int
    op: str
    row: bytes | None
    held: bool
    delivered: bytes | None
    written: bytes | None
    parked: str | None


class Line(NamedTuple):
    """What it needs of those that are told one by one; begins as `Brief`."""

    source_unit: str
    key: bytes
    version: int
    op: str
    row: bytes | None
    held: bool
    delivered: bytes | None
    written: bytes | None
    parked: str | None
    policy: int
    fields: str


def seen_of(line: Line | None, values: Values | None) -> bytes:
    """`values`: of the row that the line holds, None when it is not there."""
    of_line: tuple[Any, ...] = () if line is None else (
        line.source_unit, line.version, line.policy, line.op, line.row, bool(line.held),
        line.delivered, line.written, line.parked,
    )  # fmt: skip
    return values_digest((encode_values(of_line), None if values is None else row_digest(values)))


def row_digest(values: Values) -> bytes:
    """As `values_digest`; of text that is no UTF-8 too, which nobody delivers."""
    try:
        return values_digest(values)
    except UnicodeEncodeError:
        return values_digest(
            v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in values
        )


def row_digests(rows: Sequence[Values]) -> list[bytes]:
    """`row_digest` of each of some rows of one table."""
    try:
        return values_digests(rows)
    except UnicodeEncodeError:
        return [row_digest(row) for row in rows]


def row_of(target: MappedTarget, values: Values) -> bytes:
    """The own key of a row, as the ledger names it."""
    return encode_values(tuple(values[at] for at in target.key_positions))


# -- statements that read rows by their own keys --------------------------------------------------


def sqlite_select(target: MappedTarget) -> str:
    names = ", ".join(quoted(c.name) for c in target.columns)
    return f"SELECT {names} FROM {quoted_table(target.table)}"


def sqlite_select_rows(target: MappedTarget, rows: Sequence[bytes]) -> tuple[str, Values]:
    """Statement and words for a few hundred rows."""
    names = [quoted(target.columns[at].name) for at in target.key_positions]
    words = tuple(value for row in rows for value in decode_values(row))
    if len(names) == 1:
        where = f"{names[0]} IN ({', '.join('?' * len(rows))})"
    else:
        place = f"({', '.join('?' * len(names))})"
        where = f"({', '.join(names)}) IN (VALUES {', '.join([place] * len(rows))})"
    return f"{sqlite_select(target)} WHERE {where}", words


def postgres_select(target: MappedTarget, further: str = "") -> str:
    """Values as they are handed over when written."""
    names = ", ".join(f"t.{quoted(c.name)}::{STAGED[c.kind]}" for c in target.columns)
    return f"SELECT {names}{further} FROM {quoted_table(target.table)} t"


def postgres_select_rows(
    target: MappedTarget, rows: Collection[bytes]
) -> tuple[str, list[tuple[Any, ...]]]:
    """Statement and words; `rows` is not empty."""
    joined, words = postgres_join_rows(target, rows)
    return f"{postgres_select(target)} {joined}", words


def postgres_select_rows_at(
    target: MappedTarget, rows: Sequence[bytes], *, place: str
) -> tuple[str, list[tuple[Any, ...]]]:
    """As `postgres_select_rows`; behind the columns come `place` and which of `rows` it is, counted
    from 1."""
    joined, words = postgres_join_rows(target, rows)
    return f"{postgres_select(target, f', {place}, s.number')} {joined}", words


def postgres_join_rows(
    target: MappedTarget, rows: Collection[bytes]
) -> tuple[str, list[tuple[Any, ...]]]:
    """What joins a table `t` that has the own key with these rows, as `s`; and its words."""
    columns = [target.columns[at] for at in target.key_positions]
    arrays = ", ".join(f"${n}::{STAGED[c.kind]}[]" for n, c in enumerate(columns, 1))
    names = ", ".join(f"v{n}" for n in range(len(columns)))
    match = " AND ".join(
        f"t.{quoted(c.name)} = s.v{n}::{c.declared}" for n, c in enumerate(columns)
    )
    words = list(zip(*(decode_values(row) for row in rows), strict=True))
    return f"JOIN unnest({arrays}) WITH ORDINALITY AS s({names}, number) ON {match}", words
