"""RecordCodec: what is taken as a value of which type, exactly, and what is said when it is not."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from wire_samples import FIELDS, PERSON, VALUES
from wire_work import lines_run

from deptbus.errors import WireRefused
from deptbus.wire.codec import RecordCodec


def codec_of(avro_type: Any, **field: Any) -> RecordCodec:
    fields = [{"name": "f", "type": avro_type, **field}]
    return RecordCodec({"type": "record", "name": "R", "fields": fields})


def logical(base: str, logical_type: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": logical_type, **more}


ENUM = {"type": "enum", "name": "E", "symbols": ["a", "b"]}
FIXED = {"type": "fixed", "name": "F", "size": 4}
MONEY = logical("bytes", "decimal", precision=6, scale=2)
FIXED_MONEY = logical("fixed", "decimal", name="M", size=4, precision=6, scale=2)
CHINA = timezone(timedelta(hours=8))
LOCAL = datetime(2025, 8, 1, 9, 30)  # noqa: DTZ001


class Code(StrEnum):
    A = "a"


# (type, value, bytes, value read back where it differs)
TAKEN: list[tuple[Any, Any, str, Any]] = [
    ("boolean", True, "01", ...),
    ("boolean", False, "00", ...),
    ("int", 0, "00", ...),
    ("int", -1, "01", ...),
    ("int", 63, "7e", ...),
    ("int", 64, "8001", ...),
    ("int", -64, "7f", ...),
    ("int", -65, "8101", ...),
    ("int", 8191, "fe7f", ...),
    ("int", 8192, "808001", ...),
    ("int", 2**31 - 1, "feffffff0f", ...),
    ("int", -(2**31), "ffffffff0f", ...),
    ("long", 1 << 20, "80808001", ...),
    ("long", 2**63 - 1, "feffffffffffffffff01", ...),
    ("long", -(2**63), "ffffffffffffffffff01", ...),
    ("float", 1.5, "0000c03f", ...),
    ("double", 1.5, "000000000000f83f", ...),
    ("double", 3, "0000000000000840", ...),
    ("double", float("inf"), "000000000000f07f", ...),
    ("string", "", "00", ...),
    ("string", "张", "06e5bca0", ...),
    ("string", "a" * 63, "7e" + "61" * 63, ...),
    ("string", "a" * 64, "8001" + "61" * 64, ...),
    ("string", Code.A, "0261", "a"),
    ("bytes", b"", "00", ...),
    ("bytes", b"\xff\x00", "04ff00", ...),
    (FIXED, b"\x00\xff\x00\xff", "00ff00ff", ...),
    (ENUM, "a", "00", ...),
    (ENUM, "b", "02", ...),
    (ENUM, Code.A, "00", "a"),
    (["null", "string"], None, "00", ...),
    (["null", "string"], "x", "020278", ...),
    (["string", "null"], None, "02", ...),
    (["string", "null"], "x", "000278", ...),
    (["string", "null"], "y" * 64, "008001" + "79" * 64, ...),
    (["null", "int"], 7, "020e", ...),
    (["null", ENUM], "b", "0202", ...),
    (logical("int", "date"), date(1970, 1, 1), "00", ...),
    (logical("int", "date"), date(1969, 12, 31), "01", ...),
    (logical("int", "date"), date(2025, 8, 1), "9abd02", ...),
    (logical("int", "date"), date.max, "c082e602", ...),
    (logical("int", "date"), date.min, "f3e457", ...),
    (
        logical("long", "timestamp-micros"),
        datetime(2025, 8, 1, 9, 30, tzinfo=CHINA),
        "80d8aaa4f6d09d06",
        datetime(2025, 8, 1, 1, 30, tzinfo=UTC),
    ),
    (
        logical("long", "timestamp-micros"),
        datetime.max.replace(tzinfo=UTC),
        "feff9ac79983a28407",
        ...,
    ),
    (
        logical("long", "timestamp-micros"),
        datetime.min.replace(tzinfo=UTC),
        "ffffddf2dfffdfdc01",
        ...,
    ),
    (
        logical("long", "timestamp-millis"),
        datetime(2025, 8, 1, 1, 30, 0, 123000, tzinfo=UTC),
        "f6c880b48c66",
        ...,
    ),
    (logical("long", "local-timestamp-micros"), LOCAL, "80d893eeccd29d06", ...),
    (logical("int", "time-millis"), time(23, 59, 59, 999000), "feefb252", ...),
    (logical("long", "time-micros"), time(0, 0, 0, 1), "02", ...),
    (MONEY, Decimal("0"), "0200", Decimal("0.00")),
    (MONEY, Decimal("1.27"), "027f", ...),
    (MONEY, Decimal("1.28"), "040080", ...),
    (MONEY, Decimal("-1.28"), "0280", ...),
    (MONEY, Decimal("-1.29"), "04ff7f", ...),
    (MONEY, Decimal("9999.99"), "060f423f", ...),
    (MONEY, Decimal("1E3"), "060186a0", Decimal("1000.00")),
    (MONEY, Decimal("1.2000"), "0278", Decimal("1.20")),
    (MONEY, 5, "0401f4", Decimal("5.00")),
    (FIXED_MONEY, Decimal("-0.01"), "ffffffff", ...),
    ({"type": "array", "items": "string"}, ["a", "b"], "040261026200", ...),
    ({"type": "array", "items": "long"}, [], "00", ...),
    ({"type": "map", "values": "int"}, {"a": 1}, "0202610200", ...),
    (["null", "int", "string"], "x", "040278", ...),
]


@pytest.mark.parametrize(("avro_type", "value", "expected", "back"), TAKEN)
def test_value_is_taken(avro_type: Any, value: Any, expected: str, back: Any) -> None:
    codec = codec_of(avro_type)
    (field,) = codec.encode({"f": value})
    assert field.hex() == expected
    assert codec.split(field) == (field,)
    read = codec.decode((field,))["f"]
    assert read == (value if back is ... else back)
    assert type(read) is type(value if back is ... else back) or isinstance(value, int | float)
    (again,) = codec.encode({"f": read})
    assert again == field


# Ahead of UTC and behind it.
EAST, WEST = timezone(timedelta(hours=8)), timezone(timedelta(hours=-8))

REFUSED: list[tuple[Any, Any]] = [
    ("boolean", 1),
    ("boolean", "yes"),
    ("int", True),
    ("int", 1.0),
    ("int", "1"),
    ("int", 2**31),
    ("int", -(2**31) - 1),
    ("long", 2**63),
    ("long", -(2**63) - 1),
    ("float", 1e39),
    ("double", "1.5"),
    ("double", True),
    ("double", 10**400),
    ("double", Decimal("1.5")),
    ("string", None),
    ("string", 5),
    ("string", b"bytes"),
    ("string", "\ud800"),
    ("bytes", "text"),
    ("bytes", bytearray(b"x")),
    (FIXED, b"123"),
    (FIXED, b"12345"),
    (ENUM, "c"),
    (ENUM, 0),
    (ENUM, None),
    (ENUM, ["a"]),
    (["null", "string"], 5),
    (["null", "string"], "\ud800"),
    (["null", "int"], "5"),
    (logical("int", "date"), "2025-08-01"),
    (logical("int", "date"), datetime(2025, 8, 1, tzinfo=UTC)),
    (logical("int", "date"), 20_000),
    (logical("long", "timestamp-micros"), LOCAL),
    (logical("long", "timestamp-micros"), date(2025, 8, 1)),
    (logical("long", "timestamp-micros"), 1),
    (logical("long", "timestamp-micros"), datetime(1, 1, 1, tzinfo=EAST)),
    (logical("long", "timestamp-millis"), datetime(9999, 12, 31, 23, tzinfo=WEST)),
    (logical("long", "timestamp-millis"), datetime(2025, 8, 1, 0, 0, 0, 1, tzinfo=UTC)),
    (logical("long", "local-timestamp-micros"), datetime(2025, 8, 1, tzinfo=UTC)),
    (logical("int", "time-millis"), time(0, 0, 0, 1)),
    (logical("long", "time-micros"), time(1, tzinfo=UTC)),
    (MONEY, Decimal("10000.00")),
    (MONEY, Decimal("-10000.00")),
    (MONEY, Decimal("0.001")),
    (MONEY, Decimal("NaN")),
    (MONEY, Decimal("Infinity")),
    (MONEY, Decimal("1E+999999")),
    (MONEY, Decimal("1E-999999")),
    (MONEY, Decimal("9" * 5000)),
    (MONEY, 10_000),
    (MONEY, 10**3000),
    (MONEY, 1.25),
    (MONEY, "1.25"),
    (FIXED_MONEY, Decimal("0.001")),
    ({"type": "array", "items": "int"}, ["a"]),
    ({"type": "array", "items": "int"}, [2**40]),
    ({"type": "array", "items": "string"}, None),
    ({"type": "map", "values": "int"}, {"a": "b"}),
    (["null", "int", "string"], 1.5),
    ([{"type": "array", "items": "int"}, "bytes"], b""),
    ({"type": "array", "items": logical("long", "timestamp-micros")}, [LOCAL]),
]


@pytest.mark.parametrize(("avro_type", "value"), REFUSED)
def test_value_is_refused_by_name_and_not_by_content(avro_type: Any, value: Any) -> None:
    with pytest.raises(WireRefused) as refused:
        codec_of(avro_type).encode({"f": value})
    error = refused.value
    assert error.reason == "bad_value"
    assert error.what.startswith("field f ")
    assert error.__cause__ is None
    assert error.__context__ is None
    words = str(error).split()
    assert not any(str(value) == word for word in words)


def test_nan_has_one_encoding() -> None:
    import struct

    odd = struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0]
    assert codec_of("double").encode({"f": odd})[0].hex() == "000000000000f87f"
    (field,) = codec_of("float").encode({"f": odd})
    assert field.hex() == "0000c07f"
    assert codec_of("float").split(field) == (field,)


def test_record_is_split_and_read_back() -> None:
    codec = RecordCodec(PERSON)
    fields = codec.encode(VALUES)
    assert codec.names == FIELDS
    assert codec.split(b"".join(fields)) == fields
    assert codec.decode(fields) == VALUES


def test_projection_is_in_the_order_of_the_schema() -> None:
    whole = dict(zip(FIELDS, RecordCodec(PERSON).encode(VALUES), strict=True))
    codec = RecordCodec(PERSON, ("phone", "name", "sex"))
    assert codec.names == ("name", "sex", "phone")
    fields = codec.encode(VALUES)
    assert fields == (whole["name"], whole["sex"], whole["phone"])
    assert codec.decode(fields) == {name: VALUES[name] for name in codec.names}


def test_projection_of_nothing() -> None:
    codec = RecordCodec(PERSON, ())
    assert codec.encode(VALUES) == ()
    assert codec.split(b"") == ()
    assert codec.decode(()) == {}
    with pytest.raises(WireRefused):
        codec.split(b"\0")


def test_projection_of_an_unknown_field() -> None:
    with pytest.raises(KeyError):
        RecordCodec(PERSON, ("salary",))


def test_absent_field_takes_the_default_and_only_that() -> None:
    codec = RecordCodec(PERSON)
    short = {name: value for name, value in VALUES.items() if name not in ("phone", "income")}
    assert codec.decode(codec.encode(short)) == {**VALUES, "phone": None, "income": None}
    with pytest.raises(WireRefused, match="field name is missing"):
        codec.encode({n: v for n, v in VALUES.items() if n != "name"})


@pytest.mark.parametrize(
    ("avro_type", "default", "value"),
    [
        ("string", "x", "x"),
        ("int", 5, 5),
        ("bytes", "\u00ff\u0000", b"\xff\x00"),
        (ENUM, "b", "b"),
        (["string", "null"], "x", "x"),
        (["null", "string"], None, None),
        ({"type": "array", "items": "int"}, [], []),
    ],
)
def test_defaults_are_read_as_the_specification_says(
    avro_type: Any, default: Any, value: Any
) -> None:
    codec = codec_of(avro_type, default=default)
    assert codec.decode(codec.encode({})) == {"f": value}


def test_default_of_a_logical_type_is_said_to_be_missing() -> None:
    codec = codec_of(logical("int", "date"), default=0)
    with pytest.raises(WireRefused, match="field f is missing"):
        codec.encode({})


def test_first_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(WireRefused, match="field birth_date is not a date"):
        RecordCodec(PERSON).encode({**VALUES, "birth_date": "1990", "insured": "yes"})


@pytest.mark.parametrize(
    "body",
    [
        b"\x02\xe5",  # torn, at the very end
        b"\x04\xe5",  # torn, and longer than the record
        b"\x04a",
        b"\x02ab",
        b"\x80\x01" + b"a" * 63,
        b"\x80\x01" + b"a" * 63 + b"\xe5",
        b"\x80\x00",
        b"\x81\x01" + b"a" * 64,
        b"",
    ],
)
def test_a_text_alone_is_guarded_to_its_end(body: bytes) -> None:
    with pytest.raises(WireRefused) as refused:
        codec_of("string").split(body)
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize(
    "items",
    [FIXED, "double", "string", ["null", FIXED], {"type": "array", "items": FIXED}],
    ids=["fixed", "double", "string", "optional", "nested"],
)
@pytest.mark.parametrize("count", ["808080808020", "feffffffffffffffff01", "fe01", "04"])
def test_a_count_is_bounded_by_the_bytes_that_are_there(items: Any, count: str) -> None:
    """Items of a fixed size are stepped over without a look: their count is all that ends it."""
    body = bytes.fromhex(count) + b"\x02" * 7
    for shape in ({"type": "array", "items": items}, {"type": "map", "values": items}):
        codec = codec_of(shape)
        assert lines_run(lambda codec=codec: codec.split(body), 200) > 0
        with pytest.raises(WireRefused) as refused:
            codec.split(body)
        assert refused.value.reason == "malformed"


def test_slices_of_another_shape_are_refused() -> None:
    codec = RecordCodec(PERSON)
    fields = codec.encode(VALUES)
    for wrong in (fields[:-1], (*fields, b"\0"), (b"",) * len(fields), (b"\xff",) * len(fields)):
        with pytest.raises(WireRefused) as refused:
            codec.decode(wrong)
        assert refused.value.reason == "malformed"
        assert refused.value.__context__ is None


def test_times_of_day_below_zero_are_refused_in_one_byte() -> None:
    for avro_type in (logical("int", "time-millis"), logical("long", "time-micros")):
        assert codec_of(avro_type).split(b"\x02") == (b"\x02",)
        with pytest.raises(WireRefused):
            codec_of(avro_type).split(b"\x01")


def test_map_with_one_key_twice_is_refused() -> None:
    codec = codec_of({"type": "map", "values": "null"})
    assert codec.split(b"\x04\x02a\x02b\x00")
    with pytest.raises(WireRefused):
        codec.split(b"\x04\x02a\x02a\x00")


def test_enum_of_more_symbols_than_a_byte_holds() -> None:
    many = {"type": "enum", "name": "E", "symbols": [f"s{i}" for i in range(200)]}
    codec = codec_of(many)
    for symbol in ("s0", "s63", "s64", "s199"):
        (field,) = codec.encode({"f": symbol})
        assert codec.split(field) == (field,)
        assert codec.decode((field,)) == {"f": symbol}
    for wrong in (b"\x01", b"\x90\x03", b"\x80\x00", b"\xff\x01"):
        with pytest.raises(WireRefused):
            codec.split(wrong)


def test_without_logical_types_numbers_stay_numbers() -> None:
    codec = RecordCodec(
        {"type": "record", "name": "R", "fields": [{"name": "f", "type": logical("int", "date")}]},
        logical=False,
    )
    assert codec.decode(codec.encode({"f": 20_000})) == {"f": 20_000}
