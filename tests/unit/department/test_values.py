"""Neutral values into columns: what is kept, what is refused, and never told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deptbus.department.values import (
    ColumnKind,
    Refusal,
    converter,
    neutral_of,
    own_column_type,
    same_in,
    sqlite_kind,
)
from deptbus.wire.types import resolve

K = ColumnKind
MOMENT = datetime(2026, 1, 1, 16, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (K.TEXT, "李", "李"),
        (K.TEXT, 7, "7"),
        (K.TEXT, True, "true"),
        (K.TEXT, Decimal("1.50"), "1.50"),
        (K.TEXT, MOMENT, "2026-01-01T16:30:00.000000+00:00"),
        (K.TEXT, date(2026, 1, 1), "2026-01-01"),
        (K.INTEGER, "42", 42),
        (K.INTEGER, Decimal("42.00"), 42),
        (K.INTEGER, True, 1),
        (K.REAL, Decimal("0.5"), 0.5),
        (K.NUMERIC, "1.50", Decimal("1.50")),
        (K.NUMERIC, 0.1, Decimal("0.1")),
        (K.LOOSE_NUMERIC, Decimal("12.00"), 12),
        (K.LOOSE_NUMERIC, Decimal("12.50"), 12.5),
        (K.BOOLEAN, "1", True),
        (K.DATE, "2026-01-31", date(2026, 1, 31)),
        (K.TIME, "08:30", time(8, 30)),
        (K.TIME, "08:30:00.1230000", time(8, 30, 0, 123000)),
        (K.TIMESTAMP, MOMENT, datetime(2026, 1, 2, 0, 30)),  # noqa: DTZ001 - China's clock
        (K.TIMESTAMPTZ, MOMENT, MOMENT),
        (K.BINARY, "x", b"x"),
        (K.ANY, True, 1),
        (K.ANY, date(2026, 1, 1), "2026-01-01"),
    ],
)
def test_what_a_column_keeps(kind: ColumnKind, value: Any, kept: Any) -> None:
    found = converter(kind)(value)
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (K.TEXT, "a\x00b"),
        (K.INTEGER, "007"),
        (K.INTEGER, "四"),
        (K.INTEGER, 1.5),
        (K.INTEGER, 1 << 63),
        (K.INTEGER, float("inf")),
        (K.REAL, Decimal("0.12345678901234567890")),
        (K.LOOSE_NUMERIC, Decimal("1234567890123456.78")),
        (K.NUMERIC, "NaN"),
        (K.NUMERIC, "ten"),
        (K.NUMERIC, "1_0.5"),
        (K.LOOSE_NUMERIC, "1_0"),
        (K.REAL, "1_0"),
        (K.TIME, "10:00:00.1234569"),
        (K.TIMESTAMP, "2026-01-02 10:00:00.1234569"),
        (K.TIMESTAMPTZ, "2026-01-02 10:00:00,1234569+08:00"),
        (K.NUMERIC, "1E99999999999999"),
        (K.NUMERIC, "1E-99999999999999"),
        (K.LOOSE_NUMERIC, "1E99999999999999"),
        (K.TIMESTAMP, datetime(9999, 12, 31, 23, tzinfo=UTC)),
        (K.BOOLEAN, "perhaps"),
        (K.DATE, MOMENT),
        (K.DATE, "31.1.2026"),
        (K.BINARY, 5),
    ],
)
def test_what_a_column_would_change_is_refused_without_the_value(
    kind: ColumnKind, value: Any
) -> None:
    with pytest.raises(Refusal) as refusal:
        converter(kind)(value)
    assert str(value) not in str(refusal.value)


def test_a_fixed_scale_is_kept_or_refused() -> None:
    convert = converter(K.NUMERIC, 2)
    assert str(convert(Decimal("1.5"))) == "1.50"
    with pytest.raises(Refusal):
        convert(Decimal("1.555"))


@pytest.mark.parametrize("whole", ["1" * 29, "1" * 200])
def test_a_number_of_more_digits_than_arithmetic_has_keeps_them_all(whole: str) -> None:
    """Python computes with 28 unless it is told otherwise."""
    convert = converter(K.NUMERIC, 2)
    for value in (Decimal(f"{whole}.5"), f"{whole}.5"):
        assert str(convert(value)) == f"{whole}.50"
    with pytest.raises(Refusal):
        convert(Decimal(f"{whole}.555"))


@pytest.mark.parametrize(
    ("schema", "raw", "neutral"),
    [
        ({"type": "int", "logicalType": "date"}, 1, date(1970, 1, 2)),
        ({"type": "long", "logicalType": "timestamp-millis"}, 0, datetime(1970, 1, 1, tzinfo=UTC)),
        ({"type": "int", "logicalType": "time-millis"}, 1000, time(0, 0, 1)),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2},
            b"\xff\x85",
            Decimal("-1.23"),
        ),
        (["null", "string"], None, None),
        ({"type": "array", "items": "string"}, ["甲", "乙"], '["甲", "乙"]'),
        ({"type": "map", "values": "int"}, {"b": 1, "a": 2}, '{"a": 2, "b": 1}'),
    ],
)
def test_neutral_values_come_with_or_without_logical_types(
    schema: Any, raw: Any, neutral: Any
) -> None:
    convert = neutral_of(resolve(schema))
    assert convert(raw) == neutral
    if not isinstance(raw, list | dict):
        assert convert(neutral) == neutral


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("VARCHAR(18)", K.TEXT),
        ("BIGINT", K.INTEGER),
        ("BOOLEAN", K.INTEGER),
        ("DATETIME", K.LOOSE_TEXT),
        ("DATE CHAR(8)", K.TEXT),
        ("TIME REAL", K.REAL),
        ("DOUBLE", K.REAL),
        ("DECIMAL(10,2)", K.LOOSE_NUMERIC),
        ("", K.ANY),
        ("BLOB", K.BINARY),
    ],
)
def test_sqlite_declared_types(declared: str, kind: ColumnKind) -> None:
    assert sqlite_kind(declared) is kind


NUMERALS = [
    "19900101", "1990-01-01", "0012", "12", "-0", "-7", "+7", " 7", "7\n", "1e3", "1E3", "5.", ".5",
    "12.50", "12.5", "0x10", "1_0", "nan", "inf", "9" * 18, "9223372036854775807",
    "9223372036854775808", "八", "٧", "7\u00a0", "7\x1f",
]  # fmt: skip


@given(st.sampled_from(NUMERALS) | st.text("0123456789+-.eE \t\n\v\f\r_x", max_size=22))
@pytest.mark.parametrize("declared", ["DATE", "TIME", "DATETIME", "TIMESTAMP(6)", "TEXT", "ANY"])
def test_a_text_reads_back_from_sqlite_as_it_was_written_or_is_refused(
    declared: str, text: str
) -> None:
    """It takes what looks like a number for one in a column whose type it does not know as text."""
    try:
        written = converter(sqlite_kind(declared))(text)
    except Refusal:
        return
    own = sqlite3.connect(":memory:")
    with closing(own):
        own.execute(f"CREATE TABLE t (x {declared})")
        own.execute("INSERT INTO t VALUES (?)", (written,))
        ((read,),) = own.execute("SELECT x FROM t").fetchall()
    assert (read, type(read)) == (written, type(written))
    if sqlite_kind(declared) in (K.TEXT, K.LOOSE_TEXT):
        assert str(read) == text


def test_days_and_times_are_kept_in_sqlites_columns_for_them() -> None:
    """The refusals above are of nothing that is written every day."""
    convert = converter(sqlite_kind("DATE"))
    assert [convert(x) for x in ("19900101", "1990-01-01", "01.02.1990", "", "08:30", 7)] == [
        19900101, "1990-01-01", "01.02.1990", "", "08:30", 7,
    ]  # fmt: skip


def test_money_beyond_a_double_is_text_in_sqlite() -> None:
    def money(precision: int) -> Any:
        return resolve(
            [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 2},
            ]
        )

    assert own_column_type(money(12), postgres=False) == "NUMERIC(12,2)"
    assert own_column_type(money(18), postgres=False) == "TEXT"
    assert own_column_type(money(18), postgres=True) == "NUMERIC(18,2)"


def test_what_goes_in_as_it_is_goes_in_as_it_is() -> None:
    """`same_in` skips the conversion: it may only say yes where that changes nothing."""
    samples = {
        "string": "x",
        "int": 1,
        "long": 1 << 40,
        "double": 0.5,
        "boolean": True,
        "bytes": b"x",
    }
    for name, value in samples.items():
        kind = resolve(name)
        for column in ColumnKind:
            if same_in(kind, column):
                found = converter(column)(neutral_of(kind)(value))
                assert (found, type(found)) == (value, type(value))
