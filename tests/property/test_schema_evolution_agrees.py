"""Differential: our judgement of two versions against avro's, over generated pairs of schemas.

Ours never passes what the reference refuses; and what ours refuses though the reference passes it
is one of the named silent changes.
"""

from __future__ import annotations

import json
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deptbus.contract.schema_evolution import compatible
from deptbus.contract.schema_lint import lint

PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
LOGICAL = [
    {"type": "int", "logicalType": "date"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3},
]
SILENT = (
    "timestamp-",
    "decimal",
    "date cannot",
    "is not one of its types now",  # a branch that changed its logical type
    "no logical type",
    "bytes cannot become string",
    "string cannot become bytes",
    "int cannot become float",
    "long cannot become float",
    "long cannot become double",
)


def enums(name: str) -> st.SearchStrategy[Any]:
    symbols = st.lists(st.sampled_from("abcd"), min_size=1, unique=True)
    return symbols.map(lambda s: {"type": "enum", "name": name, "symbols": s})


def columns(name: str) -> st.SearchStrategy[Any]:
    plain = st.one_of(st.sampled_from(PRIMITIVES[1:]), st.sampled_from(LOGICAL), enums(f"E{name}"))
    fixed = st.sampled_from([2, 3]).map(lambda n: {"type": "fixed", "name": f"X{name}", "size": n})
    array = st.sampled_from(PRIMITIVES[1:]).map(lambda p: {"type": "array", "items": p})
    union = st.lists(plain, min_size=1, max_size=2).map(lambda branches: ["null", *branches])
    return st.one_of(plain, fixed, array, union)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    fields = []
    for name in draw(st.lists(st.sampled_from("pqrs"), unique=True)):
        field: dict[str, Any] = {"name": name, "type": draw(columns(name))}
        if isinstance(field["type"], list) and draw(st.booleans()):
            field["default"] = None
        fields.append(field)
    return {"type": "record", "name": draw(st.sampled_from(["R", "R", "S"])), "fields": fields}


TWO = [{"name": "p", "type": ["null", "string"]}, {"name": "q", "type": "bytes"}]


@settings(max_examples=examples(400), deadline=None)
@given(old=records(), new=records())
@example(
    old={"type": "record", "name": "R", "fields": TWO},
    new={"type": "record", "name": "R", "fields": [*TWO[:1], {"name": "q", "type": "string"}]},
)
def test_ours_agrees_with_the_reference_but_for_silent_changes(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    if lint(old) or lint(new):  # a union with two branches of one type
        return
    result = ReaderWriterCompatibilityChecker().get_compatibility(
        reader=parse(json.dumps(new)), writer=parse(json.dumps(old))
    )
    passed = result.compatibility is SchemaCompatibilityType.compatible
    found = compatible(old, new)
    if not found:
        assert passed, (result.messages, old, new)
    elif passed:
        assert all(any(word in told for word in SILENT) for told in found), found
