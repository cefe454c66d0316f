"""A value as a department's database holds it -> the value that the bus's schema wants.

Pure. Old databases hold numbers as text, dates in three ways and whole numbers as floats; what can
be read in one way only is converted, everything else is refused (the row is parked), never guessed.
SQLite gives values with their own types, PostgreSQL gives the text of each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from deptbus.department.values import would_be_cut
from deptbus.wire.types import Type

Convert = Callable[[Any], Any]

# A time stamp without a zone in a department's database is the clock on its wall (GB/T 7408).
CHINA = timezone(timedelta(hours=8))

_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(\.0+)?", re.ASCII)
_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2})|([0-9]{2})([0-9]{2}))"
    r"(?:[ T]00:00(?::00(?:\.0+)?)?)?",
    re.ASCII,
)
# `nan`, `inf`, 1_0 and full-width digits are numbers to Python, and to nobody who reads a form.
_NUMERAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_YES = frozenset({"1", "t", "true", "y", "yes", "是"})
_NO = frozenset({"0", "f", "false", "n", "no", "否"})


class Unfit(Exception):
    """A value cannot be read as its field's type. Carries nothing of the value."""


def text_of(value: Any) -> str:
    """The plain text of one own value, as a person would type it: a code, a part of a key."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= 2**53:
            raise Unfit  # digits are lost: an identity number that a spreadsheet took for a number
        return str(int(value))  # spreadsheets give whole numbers as floats
    if isinstance(value, int | float):
        return repr(value)
    raise Unfit


def converter(t: Type) -> Convert:
    """The conversion for one field's type; raises Unfit."""
    if t.optional is not None:
        inner = t.optional[2]
        convert = converter(inner)
        if inner.kind == "string":
            return lambda x: None if x is None else convert(x)
        # An empty cell of a number or date means that there is none.
        return lambda x: None if x is None or x == "" else convert(x)
    if t.logical is not None:
        return _LOGICAL.get(t.logical, _local_or_not(t.logical))
    return _PLAIN.get(t.kind, _structured)


def _whole(x: Any) -> int:
    if isinstance(x, int):
        return int(x)
    if isinstance(x, float) and x.is_integer():
        return int(x)
    found = _WHOLE.fullmatch(x.strip()) if isinstance(x, str) else None
    if found is None:
        raise Unfit
    return int(found[1])


def _number(x: Any) -> float:
    if isinstance(x, int | float):
        return _finite(float(x))
    return _finite(float(_plain(x))) if isinstance(x, str) else _refuse()


def _finite(number: float) -> float:
    """Also refuses a numeral that is too large for a double, which would be read as infinite."""
    if not math.isfinite(number):
        raise Unfit
    return number


def _refuse() -> Any:
    raise Unfit


def _plain(text: str) -> str:
    found = text.strip()
    return found if _NUMERAL.fullmatch(found) else _refuse()


def _uncut(text: str) -> str:
    return text.strip() if not would_be_cut(text) else _refuse()


def _truth(x: Any) -> bool:
    word = text_of(x).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise Unfit


def _octets(x: Any) -> bytes:
    if isinstance(x, bytes):
        return x
    if isinstance(x, str) and x.startswith("\\x"):  # PostgreSQL's text of bytea
        try:
            return bytes.fromhex(x[2:])
        except ValueError:
            pass
    raise Unfit


def _day(x: Any) -> date:
    found = _DATE.fullmatch(text_of(x).strip())
    if found is None:
        raise Unfit
    year, *rest = (int(g) for g in found.groups() if g is not None)
    try:
        return date(year, *rest)
    except ValueError:
        raise Unfit from None


def _moment(x: Any) -> datetime:
    if not isinstance(x, str) or len(x) < 10:
        raise Unfit  # a number would have to be guessed: seconds, days, since when
    try:
        return datetime.fromisoformat(_uncut(x).replace("/", "-"))
    except ValueError:
        raise Unfit from None


def _instant(x: Any) -> datetime:
    moment = _moment(x)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=CHINA)


def _local(x: Any) -> datetime:
    moment = _moment(x)
    if moment.tzinfo is None:
        return moment
    try:
        return moment.astimezone(CHINA).replace(tzinfo=None)
    except OverflowError:  # beyond year 9999 by that clock
        raise Unfit from None


def _time_of_day(x: Any) -> time:
    try:
        found = time.fromisoformat(_uncut(x)) if isinstance(x, str) else _refuse()
    except ValueError:
        raise Unfit from None
    if found.tzinfo is not None:
        raise Unfit
    return found


def _decimal(x: Any) -> Decimal:
    try:
        return Decimal(_plain(text_of(x)))
    except InvalidOperation:
        raise Unfit from None


def _structured(x: Any) -> Any:
    """Arrays, maps, records: kept as JSON text in the department's column."""
    if not isinstance(x, str):
        return x if isinstance(x, int | float) else _refuse()
    try:
        return json.loads(x, parse_constant=lambda _: _refuse(), parse_float=_number)
    except (ValueError, RecursionError):
        raise Unfit from None


def _local_or_not(logical: str) -> Convert:
    return _local if logical.startswith("local-") else _instant


_PLAIN: dict[str, Convert] = {
    "string": text_of,
    "enum": lambda x: text_of(x).strip(),
    "int": _whole,
    "long": _whole,
    "float": _number,
    "double": _number,
    "boolean": _truth,
    "bytes": _octets,
    "fixed": _octets,
}

_LOGICAL: dict[str, Convert] = {
    "date": _day,
    "time-millis": _time_of_day,
    "time-micros": _time_of_day,
    "decimal": _decimal,
}
