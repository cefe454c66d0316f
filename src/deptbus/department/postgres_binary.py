"""Values in PostgreSQL's binary COPY format: each a length of four bytes, then what its type sends.

The types are those that rows are staged in (`postgres_table.STAGED`); the database casts them to
the columns' own. Source of the forms: the `*_send` functions in PostgreSQL's `backend/utils/adt`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from deptbus.department.values import ColumnKind

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

_NULL = b"\xff\xff\xff\xff"
_EPOCH_DAY = date(2000, 1, 1).toordinal()
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001 - a wall-clock time without a zone
_MICROSECOND = timedelta(microseconds=1)
_LONG = struct.Struct(">iq").pack


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _clock(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _LONG(8, seconds * 1_000_000 + value.microsecond)


def _numeric(value: Decimal) -> bytes:
    """Groups of four digits, the first one's weight (powers of 10,000), sign, digits behind the
    point that are shown."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("not a finite number")
    text = "".join(map(str, digits)) + "0" * max(0, exponent)
    behind = max(0, -exponent)
    text = text.zfill(behind)
    whole, rest = text[: len(text) - behind], text[len(text) - behind :]
    whole = whole.zfill(-len(whole) % 4 + len(whole))
    rest = rest.ljust(-len(rest) % 4 + len(rest), "0")
    groups = [int((whole + rest)[at : at + 4]) for at in range(0, len(whole + rest), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        del groups[0]
        weight -= 1
    while groups and groups[-1] == 0:
        del groups[-1]
    head = struct.pack(
        ">hhHH", len(groups), weight if groups else 0, 0x4000 if sign and groups else 0, behind
    )
    return _sized(head + struct.pack(f">{len(groups)}H", *groups))


_FORMS: dict[ColumnKind, Callable[[Any], bytes]] = {
    ColumnKind.TEXT: lambda v: _sized(v.encode()),
    ColumnKind.OTHER: lambda v: _sized(v.encode()),
    ColumnKind.INTEGER: lambda v: _LONG(8, v),
    ColumnKind.REAL: lambda v: struct.pack(">id", 8, v),
    ColumnKind.NUMERIC: _numeric,
    ColumnKind.BOOLEAN: lambda v: b"\0\0\0\1\1" if v else b"\0\0\0\1\0",
    ColumnKind.BINARY: _sized,
    ColumnKind.DATE: lambda v: struct.pack(">ii", 4, v.toordinal() - _EPOCH_DAY),
    ColumnKind.TIME: _clock,
    ColumnKind.TIMESTAMP: lambda v: _LONG(8, (v - _NAIVE_EPOCH) // _MICROSECOND),
    ColumnKind.TIMESTAMPTZ: lambda v: _LONG(8, (v - _EPOCH) // _MICROSECOND),
}


def copy_field(kind: ColumnKind) -> Callable[[Any], bytes]:
    """Value of a column of this kind (or None) -> one field of a binary COPY row."""
    form = _FORMS[kind]
    return lambda value: _NULL if value is None else form(value)
