"""Which version may follow which: cases by name, the reference's judgement beside each.

`reference` is what avro's ReaderWriterCompatibilityChecker says. Where it passes and we refuse, the
reason stands in the case: these are the changes that alter values without a word.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from deptbus.contract.schema_evolution import compatible


def record(kind: Any, **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "f", "type": kind, **more}]}


def reference(old: Any, new: Any) -> bool:
    result = ReaderWriterCompatibilityChecker().get_compatibility(
        reader=parse(json.dumps(new)), writer=parse(json.dumps(old))
    )
    return result.compatibility is SchemaCompatibilityType.compatible


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return logical("bytes", "decimal", precision=precision, scale=scale)


def fixed(size: int, name: str = "X") -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size}


MAY = {
    "same": (record("string"), record("string")),
    "new field with a default": (
        record("string"),
        {
            **record("string"),
            "fields": [
                *record("string")["fields"],
                {"name": "g", "type": ["null", "int"], "default": None},
            ],
        },
    ),
    "field gone": (record("string"), {"type": "record", "name": "R", "fields": []}),
    "may be null now": (record("string"), record(["null", "string"])),
    "int to long": (record("int"), record("long")),
    "int to double": (record("int"), record("double")),
    "float to double": (record("float"), record("double")),
    "int to null or long": (record("int"), record(["null", "long"])),
    "new symbol": (record(enum("a")), record(enum("a", "b"))),
    "symbols in another order": (record(enum("a", "b")), record(enum("b", "a"))),
    "wider decimal": (record(decimal(8, 2)), record(decimal(10, 2))),
    "same logical": (record(logical("int", "date")), record(logical("int", "date"))),
    "one branch is enough": (record(["string"]), record("string")),
    "array of wider items": (
        record({"type": "array", "items": "int"}),
        record({"type": "array", "items": "long"}),
    ),
    "map": (record({"type": "map", "values": "int"}), record({"type": "map", "values": "long"})),
    "fixed": (record(fixed(4)), record(fixed(4))),
    "another namespace": (record("int"), {**record("int"), "namespace": "p"}),
    "named again": (
        record({"type": "array", "items": enum("a")}),
        record({"type": "array", "items": enum("a", "b")}),
    ),
}

MAY_NOT = {
    "new field without a default": (
        {"type": "record", "name": "R", "fields": []},
        record("string"),
        "f: a new field needs a default",
    ),
    "must not be null now": (record(["null", "string"]), record("string"), "f: null cannot become"),
    "string to int": (record("string"), record("int"), "f: string cannot become int"),
    "long to int": (record("long"), record("int"), "f: long cannot become int"),
    "double to float": (record("double"), record("float"), "f: double cannot become float"),
    "symbol gone": (record(enum("a", "b")), record(enum("a")), "f: symbol b is gone"),
    "enum renamed": (record(enum("a")), record(enum("a", name="F")), "f: E was renamed F"),
    "enum to string": (record(enum("a")), record("string"), "f: enum cannot become string"),
    "record renamed": (
        record("int"),
        {**record("int"), "name": "S"},
        "the schema: R was renamed S",
    ),
    "fixed size": (record(fixed(4)), record(fixed(5)), "f: its size"),
    "fixed renamed": (record(fixed(4)), record(fixed(4, "Y")), "f: X was renamed Y"),
    "branch gone": (
        record(["int", "string"]),
        record(["int"]),
        "f: string is not one of its types",
    ),
    "array to map": (
        record({"type": "array", "items": "int"}),
        record({"type": "map", "values": "int"}),
        "f: array cannot become map",
    ),
    "items": (
        record({"type": "array", "items": "string"}),
        record({"type": "array", "items": "int"}),
        "f[]: string cannot become int",
    ),
}

# The reference passes all of these, and each changes values.
SILENT = {
    "milliseconds read as microseconds": (
        record(logical("long", "timestamp-millis")),
        record(logical("long", "timestamp-micros")),
        "f: timestamp-millis cannot become timestamp-micros",
    ),
    "12.50 read as 1.250": (
        record(decimal(10, 2)),
        record(decimal(10, 3)),
        "f: the scale of the decimal changed",
    ),
    "decimal that no longer holds its values": (
        record(decimal(10, 2)),
        record(decimal(8, 2)),
        "f: the decimal became narrower",
    ),
    "a day read as a number": (
        record(logical("int", "date")),
        record("int"),
        "f: date cannot become none",
    ),
    "a number read as a day": (
        record("int"),
        record(logical("int", "date")),
        "f: no logical type cannot become date",
    ),
    "the same within a union": (
        record(["null", logical("long", "timestamp-millis")]),
        record(["null", logical("long", "timestamp-micros")]),
        "f: timestamp-millis cannot become timestamp-micros",
    ),
    "bytes read as text": (record("bytes"), record("string"), "f: bytes cannot become string"),
    "text read as bytes": (record("string"), record("bytes"), "f: string cannot become bytes"),
    "2**53 + 1 read as 2**53": (record("long"), record("double"), "f: long cannot become double"),
    "long as float": (record("long"), record("float"), "f: long cannot become float"),
    "int as float": (record("int"), record("float"), "f: int cannot become float"),
    "another symbol put for one that is gone": (
        record(enum("a", "b")),
        record(enum("a", default="a")),
        "f: symbol b is gone",
    ),
}


@pytest.mark.parametrize("name", MAY)
def test_what_may_follow(name: str) -> None:
    old, new = MAY[name]
    assert compatible(old, new) == []
    assert reference(old, new)


@pytest.mark.parametrize("name", MAY_NOT)
def test_what_may_not_follow(name: str) -> None:
    old, new, words = MAY_NOT[name]
    assert [told for told in compatible(old, new) if told.startswith(words)], compatible(old, new)
    assert not reference(old, new)


@pytest.mark.parametrize("name", SILENT)
def test_what_the_reference_passes_though_it_changes_values(name: str) -> None:
    old, new, words = SILENT[name]
    assert [told for told in compatible(old, new) if told.startswith(words)], compatible(old, new)
    assert reference(old, new)


def test_every_difference_is_told() -> None:
    old = {**record("int"), "fields": [{"name": n, "type": "int"} for n in "abc"]}
    new = {**old, "fields": [{"name": n, "type": "string"} for n in "abcd"]}
    assert compatible(old, new) == [
        "a: int cannot become string",
        "b: int cannot become string",
        "c: int cannot become string",
        "d: a new field needs a default for the records that lack it",
    ]
