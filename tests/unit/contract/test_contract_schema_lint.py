"""What a schema may not be, one by one, and what it may."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from deptbus.contract.record_schema import lint_record, record_name
from deptbus.contract.schema_lint import MAX_DEPTH, lint, lint_schema


def record(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields), **more}


def field(kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": "f", "type": kind, **more}


ENUM = {"type": "enum", "name": "E", "symbols": ["a", "b"]}
FIXED = {"type": "fixed", "name": "X", "size": 4}

SAFE: dict[str, Any] = {
    "primitive": "string",
    "object": {"type": "long"},
    "record": record(field("int")),
    "empty record": record(),
    "null union": record(field(["null", "string"], default=None)),
    "enum": record(field(ENUM, default="a")),
    "enum twice by name": record(field(ENUM), {"name": "g", "type": ["null", "E"]}),
    "namespace": record(field({**ENUM, "namespace": "p.q"}), {"name": "g", "type": "p.q.E"}),
    "array": record(field({"type": "array", "items": "string"}, default=[])),
    "array of unions": record(field({"type": "array", "items": ["null", "int"]})),
    "map of nulls": record(field({"type": "map", "values": "null"})),
    "decimal": record(field({"type": "bytes", "logicalType": "decimal", "precision": 9})),
    "fixed decimal": record(
        field({**FIXED, "logicalType": "decimal", "precision": 9, "scale": 2}, default="\x00abc")
    ),
    "duration": record(field({**FIXED, "size": 12, "logicalType": "duration"})),
    "uuid": record(field({"type": "string", "logicalType": "uuid"})),
    "two records in a union": record(
        field([record(name="A") | {"name": "A"}, record() | {"name": "B"}])
    ),
    "own attribute": record(field("int"), deptbus={"kind": "change"}),
    "record default": record(
        field(record({"name": "g", "type": "int"}) | {"name": "S"}, default={"g": 1})
    ),
    "double default": record(field("double", default=1)),
}

UNSAFE: dict[str, tuple[Any, str]] = {
    "number": (7, "not a type"),
    "nothing": (None, "not a type"),
    "no type": ({}, "not a type of Avro"),
    "unknown type": ("text", "not defined before"),
    "unknown complex": ({"type": "struct"}, "not a type of Avro"),
    "type in type": ({"type": {"type": "string"}}, "not a type of Avro"),
    "array of nulls": ({"type": "array", "items": "null"}, "take no bytes"),
    "array of empty records": ({"type": "array", "items": record()}, "take no bytes"),
    "array of records of nulls": ({"type": "array", "items": record(field("null"))}, "no bytes"),
    "array of named empty": (
        record(
            field(record() | {"name": "Z"}), {"name": "g", "type": {"type": "array", "items": "Z"}}
        ),
        "take no bytes",
    ),
    "recursion": (record(field(["null", "R"])), "contains itself"),
    "recursion by array": (record(field({"type": "array", "items": "R"})), "contains itself"),
    "recursion by full name": (
        record(field(["null", "p.R"]), namespace="p"),
        "contains itself",
    ),
    "used before": (record(field("E"), {"name": "g", "type": ENUM}), "not defined before"),
    "defined twice": (record(field(ENUM), {"name": "g", "type": ENUM}), "defined twice"),
    "empty union": (record(field([])), "a union of nothing"),
    "nested union": (record(field(["null", ["int"]])), "a union within a union"),
    "same branch": (record(field(["int", {"type": "int"}])), "two branches of one type"),
    "same named branch": (record(field([ENUM, "E"])), "two branches of one type"),
    "no name": ({"type": "enum", "symbols": ["a"]}, "without a valid name"),
    "null name": ({"type": "enum", "name": None, "symbols": ["a"]}, "without a valid name"),
    "bad namespace": (record(namespace=["a"]), "without a valid name"),
    "name with a dash": ({**ENUM, "name": "a-b"}, "without a valid name"),
    "very long name": ({**ENUM, "name": "a" * 500}, "without a valid name"),
    "no fields": ({"type": "record", "name": "R"}, "without a list of fields"),
    "field is no object": (record("f"), "without a valid name"),  # type: ignore[arg-type]
    "field twice": (record(field("int"), field("int")), "two fields of one name"),
    "no symbols": ({"type": "enum", "name": "E", "symbols": []}, "without symbols"),
    "symbols not a list": ({"type": "enum", "name": "E", "symbols": "ab"}, "without symbols"),
    "symbol not a name": ({"type": "enum", "name": "E", "symbols": ["男"]}, "not a symbol"),
    "symbol twice": ({"type": "enum", "name": "E", "symbols": ["a", "a"]}, "stands twice"),
    "symbol a list": ({"type": "enum", "name": "E", "symbols": [["a"]]}, "not a symbol"),
    "enum default": ({**ENUM, "default": "c"}, "a default that is no symbol"),
    "fixed of nothing": ({**FIXED, "size": 0}, "no valid size"),
    "fixed of true": ({**FIXED, "size": True}, "no valid size"),
    "fixed of a gigabyte": ({**FIXED, "size": 2**30}, "no valid size"),
    "logical on a wrong type": ({"type": "string", "logicalType": "date"}, "does not have"),
    "unknown logical": ({"type": "int", "logicalType": "month"}, "does not have"),
    "logical a list": ({"type": "int", "logicalType": ["date"]}, "does not have"),
    "decimal without precision": ({"type": "bytes", "logicalType": "decimal"}, "valid precision"),
    "decimal too wide": (
        {"type": "bytes", "logicalType": "decimal", "precision": 39},
        "valid precision",
    ),
    "decimal scale": (
        {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 4},
        "valid scale",
    ),
    "duration size": ({**FIXED, "logicalType": "duration"}, "not 12 bytes"),
    "default of second branch": (
        record(field(["string", "null"], default=None)),
        "not of the field",
    ),
    "int default too large": (record(field("int", default=2**31)), "not of the field"),
    "bool for int": (record(field("int", default=True)), "not of the field"),
    "text for bytes": (record(field("bytes", default="男")), "not of the field"),
    "fixed default": (record(field(FIXED, default="abc")), "not of the field"),
    "enum field default": (record(field(ENUM, default="z")), "not of the field"),
    "record default": (
        record(field(record(field("int")) | {"name": "S"}, default={})),
        "not of the",
    ),
}


@pytest.mark.parametrize("name", SAFE)
def test_a_safe_schema_passes(name: str) -> None:
    assert lint_schema(SAFE[name]) == []


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_schema_is_refused_with_its_reason(name: str) -> None:
    schema, words = UNSAFE[name]
    assert any(words in told for told in lint_schema(schema)), lint_schema(schema)


def test_depth_is_bounded() -> None:
    schema: Any = "int"
    for _ in range(MAX_DEPTH - 1):
        schema = {"type": "array", "items": schema}
    assert lint_schema(schema) == []
    assert "nested deeper" in lint_schema({"type": "array", "items": schema})[0]


def test_a_huge_schema_ends_soon() -> None:
    fields = [{"name": f"f{i}", "type": "int"} for i in range(100_000)]
    begun = time.monotonic()
    found = lint_schema(record(*fields))
    assert any("more than 2000 types" in told for told in found)
    assert len(found) < 5
    assert time.monotonic() - begun < 5


def test_a_finding_names_its_place() -> None:
    schema = record(field("int"), {"name": "g", "type": ["null", {"type": "enum", "name": "E"}]})
    assert [f.place for f in lint(schema)] == [("fields", 1, "type", 1)]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("resident", "Resident"), ("housing_unit", "HousingUnit"), ("a1_b", "A1B")],
)
def test_names_of_records(dataset: str, name: str) -> None:
    assert record_name(dataset) == name


FLAT = {"type": "record", "name": "Boat", "doc": "d", "fields": [{"name": "a", "type": "string"}]}

NOT_FLAT: dict[str, tuple[str, str]] = {
    "array": ('{"type": "array", "items": "int"}', "not one column"),
    "record": ('{"type": "record", "name": "I", "fields": []}', "not one column"),
    "map": ('{"type": "map", "values": "int"}', "not one column"),
    "null": ('"null"', "not one column"),
    "fixed": ('{"type": "fixed", "name": "X", "size": 2}', "not one column"),
    "union of two": ('["int", "string"]', "not null or one type"),
    "null last": ('["string", "null"]', "not null or one type"),
    "time of day": ('{"type": "int", "logicalType": "time-millis"}', "no column here"),
    "typo": ('{"type": "int", "logical": "date"}', "attribute 'logical'"),
    "alias": ('{"type": "enum", "name": "E", "symbols": ["a"], "aliases": ["F"]}', "'aliases'"),
}


@pytest.mark.parametrize("name", NOT_FLAT)
def test_a_record_has_columns_only(name: str) -> None:
    kind, words = NOT_FLAT[name]
    schema = {**FLAT, "fields": [{"name": "a", "type": json.loads(kind)}]}
    assert [f.what for f in lint_record(schema, "boat") if words in f.what]
    assert lint_record(FLAT, "boat") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Ship"}, "must be called Boat"),
        ({"fields": []}, "without fields"),
        ({"aliases": ["Ship"]}, "attribute 'aliases'"),
        ({"fields": [{"name": "a", "type": "int", "order": "ignore"}]}, "attribute 'order'"),
        ({"fields": [{"name": "Name", "type": "int"}]}, "not in lower case"),
        ({"fields": [{"name": "n" * 64, "type": "int"}]}, "longer than 63"),
    ],
)
def test_a_record_of_a_dataset(change: dict[str, Any], words: str) -> None:
    assert any(words in f.what for f in lint_record({**FLAT, **change}, "boat"))
