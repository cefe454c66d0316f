"""Draws pairs of rows, and of small tables, that are equal or nearly: what digests err on."""

from __future__ import annotations

import random
import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

Row = tuple[Any, ...]
Table = list[Row]

# What PostgreSQL keeps for each place of a row; in SQLite see `verdict.py`.
COLUMNS = ("text", "text", "bigint", "boolean", "date", "numeric(12,2)", "timestamptz", "bytea")
_TEXTS = (
    "", "<null>", "NULL", "null", "None", "|", "#", "a|b", "a", "b|c", "c", "a#b", "b#c", "0", "1",
    "1.0", "1.00", "01", " ", "a ", "A", "\\N", "é", "e\u0301", "한", "\u1112\u1161\u11ab", "王",
    "Å", "\u212b", "plumless", "buckeroo", "'", '"', "a,b", "a\tb", "a\nb",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 10, 100, 2**31, -(2**63), 2**63 - 1)
_AMOUNTS = tuple(map(Decimal, ("0.00", "0.01", "1.00", "1.10", "-1.00", "9999999999.99")))
_RAW = (b"", b"\x00", b"a", b"a|b", b"\xff\xfe", b"\\x61")
_FIRST_DAY = date(1949, 10, 1)
_FIRST_TIME = datetime(1949, 10, 1, tzinfo=UTC)
_CHINA = timezone(timedelta(hours=8))
_NULLS = 0.2


def pair(chance: random.Random) -> tuple[Row, Row]:
    """Two rows; half of the pairs are equal, others differ in little."""
    one = row(chance)
    return one, row_like(chance, one)


def tables(chance: random.Random) -> tuple[Table, Table]:
    """Two small tables with rows that are there several times, and the same change in several."""
    kinds = [row(chance) for _ in range(chance.randint(1, 3))]
    one = [chance.choice(kinds) for _ in range(chance.randint(0, 6))]
    other = list(one)
    match chance.randrange(6):
        case 0:
            other = [row_like(chance, of) for of in one]
        case 1:  # the same change wherever it applies, often in an even number of rows
            old, new = chance.choice(kinds), chance.choice(kinds)
            other = [new if of == old else of for of in one]
        case 2 if one:
            other.append(chance.choice(one))
        case 3 if one:
            other.remove(chance.choice(one))
        case 4:
            other = [chance.choice(kinds) for _ in one]
    chance.shuffle(other)
    return one, other


def row(chance: random.Random) -> Row:
    draw = chance.random
    return tuple(None if draw() < _NULLS else _value(chance, kind) for kind in COLUMNS)


def row_like(chance: random.Random, one: Row) -> Row:
    if chance.random() < 0.5:
        return _said_otherwise(one)
    values = list(one)
    for _ in range(chance.choice((1, 1, 1, 2))):
        place = chance.randrange(len(values))
        values[place] = _neighbour(chance, COLUMNS[place], values[place])
    if chance.random() < 0.2:
        _shift(chance, values)
    return tuple(values)


def _value(chance: random.Random, kind: str) -> Any:
    match kind:
        case "text":
            words = chance.choices(_TEXTS, k=chance.choice((1, 1, 1, 2)))
            return "".join(words)
        case "bigint":
            return chance.choice(_NUMBERS) if chance.random() < 0.5 else chance.randrange(1 << 40)
        case "boolean":
            return chance.random() < 0.5
        case "date":
            return _FIRST_DAY + timedelta(days=chance.randrange(40_000))
        case "timestamptz":
            return _FIRST_TIME + timedelta(microseconds=chance.randrange(1 << 51))
        case "bytea":
            return chance.choice(_RAW)
    return chance.choice(_AMOUNTS)


def _neighbour(chance: random.Random, kind: str, value: Any) -> Any:
    """A value that is near: null beside what looks like it, one unit more, another Unicode form."""
    if value is None:
        likes_null = kind == "text" and chance.random() < 0.5
        return chance.choice(("<null>", "")) if likes_null else _value(chance, kind)
    if chance.random() < 0.2:
        return None
    match kind:
        case "text" if "plumless" in value and chance.random() < 0.5:
            return value.replace("plumless", "buckeroo")  # the same CRC-32
        case "text":
            changes = (
                unicodedata.normalize("NFD", value),
                unicodedata.normalize("NFC", value),
                value.swapcase(),
                value + " ",
                value.strip(),
                "",
            )
            return chance.choice(changes)
        case "bigint":
            return value ^ chance.choice((1, 1 << 32))
        case "boolean":
            return not value
        case "date":
            return value + timedelta(days=1)
        case "timestamptz":
            return value + timedelta(microseconds=chance.choice((1, 1000, 1_000_000)))
        case "bytea":
            return value + b"\x00"
    return value + Decimal("0.01") if value <= 0 else -value


def _shift(chance: random.Random, values: list[Any]) -> None:
    """Moves what a separator would part from the first text to the second, or swaps them."""
    first, second = values[0], values[1]
    if first is None or second is None or chance.random() < 0.3:
        values[0], values[1] = second, first
        return
    separator = chance.choice("|#,")
    values[0], _, moved = f"{first}{separator}{second}".partition(separator)
    values[1] = moved


def _said_otherwise(one: Row) -> Row:
    """The same row in new objects; its time by another clock."""
    return tuple(
        value.astimezone(_CHINA) if isinstance(value, datetime) else value for value in one
    )
