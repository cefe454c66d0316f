"""SQL by which PostgreSQL tells a row's values as `wire.digest.encode_values` encodes them.

For digests of very many rows: no value becomes an object of Python. Of values that a table can hold
and no adapter could have written (infinity, years before Christ) it is the encoding of no row at
all, and of a decimal with many zeros behind the point another than Python's; never is it that of
other values. So equal bytes are equal values, and where they are not somebody looks at the values.

Sessions have dates in ISO form and clocks in UTC (`connect`); the server keeps UTF-8 (`IS_UTF8`),
or lengths would be those of another encoding. Sources: `concat`, `textsend`, `float8send`, the date
and time functions of PostgreSQL's manual, 9.4, 9.5 and 9.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

from deptbus.department.layout import quoted
from deptbus.department.target import Column
from deptbus.department.values import STAGED, ColumnKind
from deptbus.wire.digest import encode_value

IS_UTF8 = "SELECT current_setting('server_encoding') = 'UTF8'"
# Of the table $1: column, its collation.
COLLATIONS = (
    "SELECT a.attname, quote_ident(n.nspname) || '.' || quote_ident(c.collname) "
    "FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation "
    "JOIN pg_namespace n ON n.oid = c.collnamespace WHERE a.attrelid = to_regclass($1)"
)
_MOST_ARGUMENTS = 90  # of one call; the server takes a hundred

_SAMPLES: dict[ColumnKind, Any] = {
    ColumnKind.TEXT: "",
    ColumnKind.OTHER: "",
    ColumnKind.INTEGER: 0,
    ColumnKind.REAL: 0.0,
    ColumnKind.NUMERIC: Decimal(0),
    ColumnKind.BOOLEAN: False,
    ColumnKind.BINARY: b"",
    ColumnKind.DATE: date(1970, 1, 1),
    ColumnKind.TIME: time(0),
    ColumnKind.TIMESTAMP: datetime(1970, 1, 1),  # noqa: DTZ001 - a wall-clock time without a zone
    ColumnKind.TIMESTAMPTZ: datetime(1970, 1, 1, tzinfo=UTC),
}
_TAGS = {kind: encode_value(value)[0] for kind, value in _SAMPLES.items()}
_NULL = encode_value(None)[0]
# Kinds whose bodies are text that the server casts back.
_KEYS = (ColumnKind.TEXT, ColumnKind.OTHER, ColumnKind.INTEGER, ColumnKind.DATE)


class _Value(NamedTuple):
    """One value as SQL; its body is the text of an expression, or bytes."""

    tag: int
    null: str  # whether it is; nothing for a column that never is
    length: str
    body: str
    is_text: bool


def encoded_row(columns: Sequence[Column]) -> str:
    """Bytes of the values of row `t` in these columns."""
    values = [_value(column) for column in columns]
    parts = [_head(values), *_lengths([value.length for value in values])]
    for is_text, run in groupby(values, lambda value: value.is_text):
        bodies = [value.body for value in run]
        parts += _texts(bodies) if is_text else [f"coalesce({body}, '')" for body in bodies]
    return " || ".join(parts)


def decoded_key(
    columns: Sequence[Column], name: str, collations: Mapping[str, str]
) -> list[str] | None:
    """The values of an own key that the column `name` holds encoded; null where it was made for
    columns of other kinds. None: some column's values are not read back here.

    `collations`: of the columns (`COLLATIONS`). `convert_from` takes its own from the name of the
    encoding, and no index is of that one.
    """
    if any(column.kind not in _KEYS for column in columns):
        return None
    count = len(columns)
    head = count.to_bytes(2, "big") + bytes(_TAGS[column.kind] for column in columns)
    is_ours = f"substr({name}, 1, {len(head)}) = {_bytes(head)}"
    start = str(len(head) + 4 * count + 1)  # `substr` counts from 1
    found = []
    for at, column in enumerate(columns):
        places = range(len(head) + 4 * at, len(head) + 4 * at + 4)
        length = " + ".join(
            f"get_byte({name}, {place}) * {1 << shift}"
            for place, shift in zip(places, (24, 16, 8, 0), strict=True)
        )
        body = f"convert_from(substr({name}, {start}, {length}), 'UTF8')::{STAGED[column.kind]}"
        own = f"(CASE WHEN {is_ours} THEN {body} END)::{column.declared}"
        collation = collations.get(column.name)
        found.append(own if collation is None else f"{own} COLLATE {collation}")
        start += f" + {length}"
    return found


def _head(values: Sequence[_Value]) -> str:
    """How many, and their tags."""
    count = len(values).to_bytes(2, "big")
    whole = _bytes(count + bytes(value.tag for value in values))
    nulls = [value.null for value in values if value.null]
    if not nulls:
        return whole
    tags = [
        f"CASE WHEN {v.null} THEN '{chr(_NULL)}' ELSE '{chr(v.tag)}' END"
        if v.null
        else f"'{chr(v.tag)}'"
        for v in values
    ]
    with_null = " || ".join((_bytes(count), *_texts(tags)))
    return f"CASE WHEN {' OR '.join(nulls)} THEN {with_null} ELSE {whole} END"


def _lengths(lengths: Sequence[str]) -> list[str]:
    """Two at a time, as the halves of one number: half as many calls."""
    paired = [
        f"int8send({one}::bigint * 4294967296 + {other})"
        for one, other in zip(lengths[::2], lengths[1::2], strict=False)
    ]
    return paired + [f"int4send({last})" for last in lengths[2 * len(paired) :]]


def _texts(texts: Sequence[str]) -> list[str]:
    """Each as the bytes of some texts, one behind the other; a null is nothing."""
    some = [texts[at : at + _MOST_ARGUMENTS] for at in range(0, len(texts), _MOST_ARGUMENTS)]
    return [f"textsend(concat({', '.join(one)}))" for one in some]


def _value(column: Column) -> _Value:
    name, kind = f"t.{quoted(column.name)}", column.kind
    text = f"{name}::text"
    length, body, is_text = f"octet_length({text})", text, True
    if kind is ColumnKind.INTEGER:
        body = name
    elif kind is ColumnKind.BOOLEAN:
        length, body = _fixed(name, 1), f"{name}::int"
    elif kind is ColumnKind.REAL:
        length, body, is_text = _fixed(name, 8), f"float8send({name}::float8)", False
    elif kind is ColumnKind.BINARY:
        length, body, is_text = f"octet_length({name}::bytea)", f"{name}::bytea", False
    elif kind is ColumnKind.TIME:
        # Python writes all six digits of a fraction, or none.
        body = f"CASE WHEN strpos({text}, '.') > 0 THEN rpad({text}, 15, '0') ELSE {text} END"
        length = f"octet_length({body})"
    elif kind in (ColumnKind.TIMESTAMP, ColumnKind.TIMESTAMPTZ):
        length, body = _micros(name, STAGED[kind])
    if column.not_null:
        return _Value(_TAGS[kind], "", length, body, is_text)
    return _Value(_TAGS[kind], f"{name} IS NULL", f"coalesce({length}, 0)", body, is_text)


def _fixed(name: str, size: int) -> str:
    return f"CASE WHEN {name} IS NOT NULL THEN {size} END"


def _micros(name: str, staged: str) -> tuple[str, str]:
    """Length and text of a time as microseconds since 1970.

    From 2001 to 2033 they have sixteen digits, and a double is exact enough: its two roundings are
    below half a microsecond. All else by whole numbers, which costs five times as much.
    """
    zone = "+00" if staged == "timestamptz" else ""
    is_near = (
        f"{name} >= '2001-09-09 01:46:40{zone}'::{staged} "
        f"AND {name} < '2033-05-18 03:33:20{zone}'::{staged}"
    )
    near = f"(date_part('epoch', {name}) * 1000000)::bigint"
    seconds = f"date_part('epoch', date_trunc('second', {name}))::bigint"
    behind = f"date_part('microseconds', {name})::bigint % 1000000"
    whole = f"({seconds} * 1000000 + {behind})::text"
    is_pythons = (
        f"{name} >= '0001-01-01 00:00:00{zone}'::{staged} "
        f"AND {name} < '10000-01-01 00:00:00{zone}'::{staged}"
    )
    far = f"CASE WHEN {is_pythons} THEN {whole} ELSE {name}::text END"
    length = f"CASE WHEN {is_near} THEN 16 ELSE octet_length({far}) END"
    return length, f"CASE WHEN {is_near} THEN {near}::text ELSE {far} END"


def _bytes(data: bytes) -> str:
    return f"'\\x{data.hex()}'::bytea"
