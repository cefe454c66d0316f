"""Own values become the schema's values in one way, or are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from deptbus.department.own_values import Unfit, converter
from deptbus.department.places import Places, Where
from deptbus.wire.types import resolve

_LONG = {"type": "long", "logicalType": "timestamp-micros"}
_LOCAL = {"type": "long", "logicalType": "local-timestamp-millis"}
_DATE = {"type": "int", "logicalType": "date"}
_TIME = {"type": "int", "logicalType": "time-millis"}
_MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
_NOON = datetime(2026, 1, 2, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schema", "own", "value"),
    [
        ("string", "x ", "x "),
        ("string", 7, "7"),
        ("string", 330106199001010008.0, Unfit),  # digits are lost already
        ("string", 7.0, "7"),
        ("string", 1.5, "1.5"),
        ("string", b"x", Unfit),
        ("string", None, Unfit),
        ("int", " 7 ", 7),
        ("int", "7.0", 7),
        ("int", 7.0, 7),
        ("int", 7.5, Unfit),
        ("int", "7,000", Unfit),
        ("int", "７", Unfit),
        ("int", "", Unfit),
        (["null", "int"], "", None),
        (["null", "int"], None, None),
        (["null", "string"], "", ""),
        ("double", "1.5", 1.5),
        ("double", "x", Unfit),
        ("double", "1_0", Unfit),  # Python's spelling, nobody's number
        ("int", "1_0", Unfit),
        ("boolean", 1, True),
        ("boolean", "f", False),
        ("boolean", "是", True),
        ("boolean", "maybe", Unfit),
        ("bytes", "\\x00ff", b"\x00\xff"),
        ("bytes", "text", Unfit),
        (_DATE, "2026-01-02", date(2026, 1, 2)),
        (_DATE, "2026/1/2", date(2026, 1, 2)),
        (_DATE, "20260102", date(2026, 1, 2)),
        (_DATE, 20260102, date(2026, 1, 2)),
        (_DATE, "2026-01-02 00:00:00", date(2026, 1, 2)),
        (_DATE, "2026-01-02 08:00:00", Unfit),
        (_DATE, "2026-02-30", Unfit),
        (_DATE, "02/01/2026", Unfit),
        (_LONG, "2026-01-02 12:00:00", _NOON),
        (_LONG, "2026-01-02 04:00:00+00", _NOON),
        (_LONG, "2026/01/02 12:00", _NOON),
        (_LONG, 1767326400, Unfit),
        (_LOCAL, "2026-01-02 12:00:00", datetime(2026, 1, 2, 12)),  # noqa: DTZ001 - local
        (_LOCAL, "2026-01-02 04:00:00+00", datetime(2026, 1, 2, 12)),  # noqa: DTZ001 - local
        (_LOCAL, "9999-12-31 23:59:59+00", Unfit),
        (_TIME, "12:30", time(12, 30)),
        (_TIME, "25:00", Unfit),
        (_TIME, "10:00:00.123456000", time(10, 0, 0, 123456)),
        (_TIME, "10:00:00,1234569", Unfit),
        (_LONG, "2026-01-02 12:00:00.1234567+08:00", Unfit),  # would be cut
        (_LONG, "2026-01-02 12:00:00.123456", _NOON.replace(microsecond=123456)),
        (_LONG, "2026-01-02 12:00:00.5000000", _NOON.replace(microsecond=500000)),
        (_MONEY, "12.50", Decimal("12.50")),
        (_MONEY, 12.1, Decimal("12.1")),
        (_MONEY, "12,50", Unfit),
        (_MONEY, "1_0.5", Unfit),
        ({"type": "array", "items": "string"}, '["a"]', ["a"]),
        ({"type": "array", "items": "string"}, "a,b", Unfit),
    ],
)
def test_conversion(schema: Any, own: Any, value: Any) -> None:
    convert = converter(resolve(schema))
    if value is Unfit:
        with pytest.raises(Unfit):
            convert(own)
    else:
        found = convert(own)
        assert found == value
        if isinstance(found, datetime) and found.tzinfo is not None:
            assert found.utcoffset() in (timedelta(0), timedelta(hours=8))


LISTED = dict.fromkeys(["33", "3301", "330106", "330106109", "330106109051", "330106002"], "x")


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("330106", Where.WITHIN),
        ("330106109051", Where.WITHIN),
        ("330106002", Where.WITHIN),
        ("330106002001", Where.WITHIN),  # nothing below 330106002 is listed
        ("330106109052", Where.NOWHERE),  # its neighbours are listed, it is not
        ("330106999", Where.NOWHERE),
        ("330105", Where.OUTSIDE),
        ("3301", Where.OUTSIDE),
        ("310101", Where.OUTSIDE),
        ("99", Where.NOWHERE),
        ("33010", Where.NOWHERE),
        ("330106109051 ", Where.NOWHERE),
        ("３３", Where.NOWHERE),
        ("", Where.NOWHERE),
        (None, Where.NOWHERE),
    ],
)
def test_places(place: Any, where: Where) -> None:
    assert Places("330106", LISTED).where(place) is where
