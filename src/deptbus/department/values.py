"""Pure: a value of the bus as a value for one column of the recipient, or a refusal.

First the Avro value is brought to one neutral Python value (`neutral_of`), then that to what the
column keeps (`converter`). What a column would change silently (digits after the point, leading
zeros, the time of day) is refused, so that a row reads back as it was written. Not so what
PostgreSQL rounds by its types themselves: floats of four bytes, times with a precision; proofs have
it round what they expect, and what it rounded is not taken for typed over (`kept_rows`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from enum import StrEnum
from typing import Any
from uuid import UUID

from deptbus.wire.types import Type

CHINA = timezone(timedelta(hours=8))
_EPOCH_DAY = date(1970, 1, 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall-clock time without a zone
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
# What SQLite takes for a number in a column of NUMERIC affinity (sqlite.org/datatype3.html, 3).
_NUMERAL = re.compile(
    r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*", re.ASCII | re.IGNORECASE
)
# More than six digits of a second, and not just zeros: Python would cut them off.
_CUT = re.compile(r"[.,][0-9]{6}0*[1-9]", re.ASCII)
_LONG = 1 << 63
# Of ten: what a text says in few characters (1E99999999) may not be written out by anybody.
_LARGEST_POWER = 1000
# Wide enough for a number of any schema or column: arithmetic that never rounds.
_WIDE = Context(prec=10_000, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])

Convert = Callable[[Any], Any]


class ColumnKind(StrEnum):
    """What a column keeps, whichever database it is in."""

    TEXT = "text"
    LOOSE_TEXT = "loose_text"  # SQLite's DATE, TIME and the like: what looks like a number is one
    INTEGER = "integer"
    REAL = "real"
    NUMERIC = "numeric"  # exact decimal
    LOOSE_NUMERIC = "loose_numeric"  # SQLite's NUMERIC: whole numbers and doubles
    BOOLEAN = "boolean"
    BINARY = "binary"
    DATE = "date"
    TIME = "time"
    TIMESTAMP = "timestamp"  # by China's clock, without a zone
    TIMESTAMPTZ = "timestamptz"
    OTHER = "other"  # text that the database casts itself (enum, uuid, json, ...)
    ANY = "any"  # SQLite column without a type: keeps whatever it is given


class Refusal(ValueError):
    """The value has no form in this column. The message never holds the value."""


def neutral_of(kind: Type) -> Convert:
    """Avro value, with or without its logical type applied by the codec, -> None, bool, int, float,
    str, bytes, Decimal, date, time or datetime; arrays, maps and records -> JSON text."""
    optional = kind.optional
    if optional is not None:
        inner = neutral_of(optional[2])
        return lambda value: None if value is None else inner(value)
    if kind.logical in _LOGICAL:
        return _LOGICAL[kind.logical]
    if kind.logical == "decimal":
        scale = kind.scale
        return lambda v: v if isinstance(v, Decimal) else _decimal(v, scale)
    if kind.kind in ("array", "map", "record", "union"):
        return _as_json
    return _same


def _same(value: Any) -> Any:
    return value


def _decimal(raw: bytes, scale: int) -> Decimal:
    return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-scale)


def _days(value: Any) -> Any:
    return value if isinstance(value, date) else _EPOCH_DAY + timedelta(days=value)


def _instant(unit_us: int, epoch: datetime) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, datetime):
            return value
        return epoch + timedelta(microseconds=value * unit_us)

    return convert


def _clock(unit_us: int) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, time):
            return value
        return (_NAIVE_EPOCH + timedelta(microseconds=value * unit_us)).time()

    return convert


_LOGICAL: dict[str | None, Convert] = {
    "date": _days,
    "time-millis": _clock(1000),
    "time-micros": _clock(1),
    "timestamp-millis": _instant(1000, _EPOCH),
    "timestamp-micros": _instant(1, _EPOCH),
    "local-timestamp-millis": _instant(1000, _NAIVE_EPOCH),
    "local-timestamp-micros": _instant(1, _NAIVE_EPOCH),
}


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value

    def plain(item: Any) -> Any:
        if isinstance(item, Decimal):
            return format(item, "f")
        if isinstance(item, bytes):
            return item.hex()
        return item.isoformat() if isinstance(item, date | time) else str(item)

    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=plain)


def same_in(kind: Type, column: ColumnKind) -> bool:
    """Whether every value of this Avro type is kept by such a column just as the codec gives it."""
    base = kind.optional[2] if kind.optional is not None else kind
    if base.logical is not None:
        return _SAME_LOGICAL.get(base.logical) is column
    return column in _SAME.get(base.kind, ())


_SAME = {
    "string": (ColumnKind.TEXT, ColumnKind.OTHER, ColumnKind.ANY),
    "enum": (ColumnKind.TEXT, ColumnKind.OTHER, ColumnKind.ANY),
    "int": (ColumnKind.INTEGER, ColumnKind.ANY),
    "long": (ColumnKind.INTEGER, ColumnKind.ANY),
    "boolean": (ColumnKind.BOOLEAN,),
    "bytes": (ColumnKind.BINARY, ColumnKind.ANY),
}
_SAME_LOGICAL = {"date": ColumnKind.DATE, "timestamp-micros": ColumnKind.TIMESTAMPTZ}


def as_text(value: Any) -> str:
    """The one text of a neutral value: ISO dates, UTC times with microseconds, plain decimals."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        aware = value if value.tzinfo is None else value.astimezone(UTC)
        return aware.isoformat(timespec="microseconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.hex() if isinstance(value, bytes) else repr(value)


def converter(kind: ColumnKind, scale: int | None = None) -> Convert:
    """Neutral value (not None) -> what is written to the column. The function raises Refusal.

    `scale`: digits after the point of a NUMERIC column that has a fixed number of them; of a
    second, of a TIME column that rounds to as many.
    """
    if kind is ColumnKind.TIME and scale is not None:
        half = timedelta(microseconds=10 ** (6 - scale) // 2)
        return lambda value: _of_this_day(_time(value), half)
    if kind is ColumnKind.NUMERIC and scale is not None:
        least = Decimal(1).scaleb(-scale)
        return lambda value: _scaled(_numeric(value), least)
    return _CONVERTERS[kind]


def _of_this_day(value: time, half: timedelta) -> time:
    """PostgreSQL would make 24:00:00 of it, which is another day, and no time of day to whoever
    reads the row."""
    if (datetime.combine(date.min, value) + half).date() != date.min:
        raise Refusal("a time that the column rounds to 24:00:00")
    return value


def _scaled(value: Decimal, least: Decimal) -> Decimal:
    found = value.quantize(least, context=_WIDE)
    if found != value:
        raise Refusal("more digits after the point than the column keeps")
    return found


def _text(value: Any) -> str:
    if type(value) is str:
        if "\x00" in value:
            raise Refusal("text with a zero byte")
        return value
    return as_text(value)


def _loose_text(value: Any) -> str | int:
    text = _text(value)
    if not _NUMERAL.fullmatch(text):
        return text
    number = int(text) if _INTEGER.fullmatch(text) and len(text) < 20 else None
    if number is None or not -_LONG <= number < _LONG or str(number) != text:
        raise Refusal("a text that the column keeps as another number")
    return number


def _integer(value: Any) -> int:
    number: int | None = None
    if isinstance(value, int):
        number = int(value)
    elif isinstance(value, str):
        number = int(value) if _INTEGER.fullmatch(value) and len(value) < 20 else None
    elif isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        number = int(value)
    if number is None or not -_LONG <= number < _LONG:
        raise Refusal("not a whole number of 64 bits")
    return number


def _numeric(value: Any) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool | int):
        return Decimal(int(value))
    if isinstance(value, float | str):
        text = repr(value) if isinstance(value, float) else value
        # Python alone takes 1_0, full-width digits and `nan` for numbers.
        if not _NUMERAL.fullmatch(text):
            raise Refusal("not a number")
        try:
            number = Decimal(text)
        except InvalidOperation:  # a power that nobody can write out
            raise Refusal("a number of more digits than any column keeps") from None
        if number.adjusted() > _LARGEST_POWER or -number.adjusted() > _LARGEST_POWER:
            raise Refusal("a number of more digits than any column keeps")
        return number
    raise Refusal("not a number")


def _finite(value: float) -> float:
    """What is no number would be null in SQLite, and equal to nothing when it is compared."""
    if not math.isfinite(value):
        raise Refusal("not a number")
    return value


def _real(value: Any) -> float:
    if isinstance(value, float):
        return _finite(value)
    exact = _numeric(value)
    found = float(exact)
    if not math.isfinite(found) or Decimal(repr(found)) != exact:
        raise Refusal("more digits than a double keeps")
    return found


def _loose_numeric(value: Any) -> int | float:
    exact = _numeric(value)
    if exact == exact.to_integral_value() and abs(exact) < _LONG:
        return int(exact)
    return _real(exact)


_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}


def _boolean(value: Any) -> bool:
    found = _TRUTHS.get(as_text(value).lower())
    if found is None:
        raise Refusal("neither true nor false")
    return found


def _binary(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise Refusal("not bytes")


def _date(value: Any) -> date:
    if isinstance(value, datetime):
        raise Refusal("a time of day would be lost")
    if isinstance(value, date):
        return value
    return _parsed(date.fromisoformat, value)


def _time(value: Any) -> time:
    return value if isinstance(value, time) else _parsed(time.fromisoformat, value)


def _timestamp(value: Any) -> datetime:
    found = _moment(value)
    if found.tzinfo is None:
        return found
    try:
        return found.astimezone(CHINA).replace(tzinfo=None)
    except OverflowError:
        raise Refusal("beyond year 9999 by China's clock") from None


def _timestamptz(value: Any) -> datetime:
    found = _moment(value)
    return found.replace(tzinfo=CHINA) if found.tzinfo is None else found


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - local midnight
    return _parsed(datetime.fromisoformat, value)


def would_be_cut(text: str) -> bool:
    """Whether this time says more than microseconds."""
    return _CUT.search(text) is not None


def _parsed(parse: Callable[[str], Any], value: Any) -> Any:
    if isinstance(value, str) and not would_be_cut(value):
        try:
            return parse(value)
        except ValueError:
            pass
    raise Refusal("not a date or time")


def _any(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return _finite(value)
    return value if isinstance(value, int | str | bytes) else as_text(value)


def _other(value: Any) -> str:
    return str(value) if isinstance(value, UUID) else _text(value)


_CONVERTERS: dict[ColumnKind, Convert] = {
    ColumnKind.TEXT: _text,
    ColumnKind.LOOSE_TEXT: _loose_text,
    ColumnKind.INTEGER: _integer,
    ColumnKind.REAL: _real,
    ColumnKind.NUMERIC: _numeric,
    ColumnKind.LOOSE_NUMERIC: _loose_numeric,
    ColumnKind.BOOLEAN: _boolean,
    ColumnKind.BINARY: _binary,
    ColumnKind.DATE: _date,
    ColumnKind.TIME: _time,
    ColumnKind.TIMESTAMP: _timestamp,
    ColumnKind.TIMESTAMPTZ: _timestamptz,
    ColumnKind.OTHER: _other,
    ColumnKind.ANY: _any,
}


def sqlite_kind(declared: str) -> ColumnKind:
    """What SQLite makes of a declared type: its affinity, and text in columns for dates as far
    as it lets it be."""
    name = declared.upper()
    if "INT" in name or "BOOL" in name:
        return ColumnKind.INTEGER
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return ColumnKind.TEXT
    if not name:
        return ColumnKind.ANY
    if "BLOB" in name:
        return ColumnKind.BINARY
    if any(word in name for word in ("REAL", "FLOA", "DOUB")):
        return ColumnKind.REAL
    if "DATE" in name or "TIME" in name:
        return ColumnKind.LOOSE_TEXT
    return ColumnKind.LOOSE_NUMERIC


POSTGRES_KINDS = {
    "text": ColumnKind.TEXT,
    "varchar": ColumnKind.TEXT,
    "bpchar": ColumnKind.TEXT,
    "int2": ColumnKind.INTEGER,
    "int4": ColumnKind.INTEGER,
    "int8": ColumnKind.INTEGER,
    "float4": ColumnKind.REAL,
    "float8": ColumnKind.REAL,
    "numeric": ColumnKind.NUMERIC,
    "bool": ColumnKind.BOOLEAN,
    "bytea": ColumnKind.BINARY,
    "date": ColumnKind.DATE,
    "time": ColumnKind.TIME,
    "timestamp": ColumnKind.TIMESTAMP,
    "timestamptz": ColumnKind.TIMESTAMPTZ,
}


# What a kind of value is handed over to PostgreSQL as; it casts it to the column's own type.
STAGED = {
    ColumnKind.TEXT: "text",
    ColumnKind.INTEGER: "bigint",
    ColumnKind.REAL: "double precision",
    ColumnKind.NUMERIC: "numeric",
    ColumnKind.BOOLEAN: "boolean",
    ColumnKind.BINARY: "bytea",
    ColumnKind.DATE: "date",
    ColumnKind.TIME: "time",
    ColumnKind.TIMESTAMP: "timestamp",
    ColumnKind.TIMESTAMPTZ: "timestamptz",
    ColumnKind.OTHER: "text",
}


def own_column_type(kind: Type, *, postgres: bool) -> str:
    """The type of a column in a table that deptbus makes for a field."""
    base = kind.optional[2] if kind.optional is not None else kind
    if base.logical == "decimal":
        # SQLite turns numerals in NUMERIC columns into doubles: exact to 15 digits only.
        exact = postgres or base.precision <= 15
        return f"NUMERIC({base.precision},{base.scale})" if exact else "TEXT"
    if base.logical in _OWN_LOGICAL:
        return _OWN_LOGICAL[base.logical] if postgres else "TEXT"
    own = _OWN_POSTGRES if postgres else _OWN_SQLITE
    return own.get(base.kind, "TEXT")


_OWN_LOGICAL = {
    "date": "DATE",
    "time-millis": "TIME",
    "time-micros": "TIME",
    "timestamp-millis": "TIMESTAMPTZ",
    "timestamp-micros": "TIMESTAMPTZ",
    "local-timestamp-millis": "TIMESTAMP",
    "local-timestamp-micros": "TIMESTAMP",
}
_OWN_POSTGRES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "DOUBLE PRECISION",
    "double": "DOUBLE PRECISION",
    "bytes": "BYTEA",
    "fixed": "BYTEA",
}
_OWN_SQLITE = {
    "boolean": "INTEGER",
    "int": "INTEGER",
    "long": "INTEGER",
    "float": "REAL",
    "double": "REAL",
    "bytes": "BLOB",
    "fixed": "BLOB",
}
