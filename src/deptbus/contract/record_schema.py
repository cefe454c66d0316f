"""What the schema of a dataset must keep: one flat record, each field one column of a table.

A department's table has columns, not trees, so a field is a primitive, an enum, or one of the
logical types that databases have, and may be null. Unknown attributes are refused, because Avro's
readers ignore a misspelt one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deptbus.contract.schema_lint import Finding, avro_type, lint
from deptbus.contract.yaml_tree import Place

_FIELD = re.compile(r"[a-z][a-z0-9_]{0,62}")  # 63 bytes is the longest name of PostgreSQL

_COLUMN_PRIMITIVES = ("string", "int", "long", "float", "double", "boolean", "bytes")
_COLUMN_LOGICAL = ("date", "timestamp-millis", "timestamp-micros", "decimal")
_COLUMN_WORDS = {
    "record": ("type", "name", "namespace", "doc", "fields"),
    "field": ("name", "type", "doc", "default"),
    "enum": ("type", "name", "namespace", "doc", "symbols"),
    "other": ("type", "logicalType", "precision", "scale", "doc"),
}


def record_name(dataset: str) -> str:
    """`housing_unit` -> `HousingUnit`: the name of its record schema, and of what is made of it."""
    return "".join(part[:1].upper() + part[1:] for part in dataset.split("_"))


def lint_record(schema: Any, dataset: str) -> list[Finding]:
    """Why a schema is not one for records of this dataset: unsafe, or not flat."""
    return lint(schema) or list(_record_findings(schema, dataset))


def column_type(field_type: Any) -> Any:
    """The type of a record's field without its null branch."""
    if isinstance(field_type, list):
        return next((branch for branch in field_type if branch != "null"), "null")
    return field_type


def is_nullable(field_type: Any) -> bool:
    return isinstance(field_type, list) and "null" in field_type


def _record_findings(schema: Any, dataset: str) -> Iterator[Finding]:
    """What a dataset's schema must keep beyond safety: one record, and each field one column."""
    if not isinstance(schema, dict) or schema["type"] != "record":
        yield Finding((), "not a record", 'Write {"type": "record", "name": ..., "fields": [...]}')
        return
    wanted = record_name(dataset)
    if schema["name"] != wanted:
        yield Finding(
            ("name",), f"the record of {dataset} must be called {wanted}", f'Write "{wanted}"'
        )
    if not schema["fields"]:
        yield Finding(("fields",), "a record without fields", "Name its fields")
    yield from _unknown_words(schema, "record", ())
    for i, field in enumerate(schema["fields"]):
        here: Place = ("fields", i)
        if not _FIELD.fullmatch(field["name"]):
            yield Finding(
                (*here, "name"),
                f"field {field['name']!r} is not in lower case, or longer than 63 characters",
                "Use small letters, digits and _",
            )
        yield from _unknown_words(field, "field", here)
        yield from _column_findings(field["type"], (*here, "type"))


def _column_findings(kind: Any, place: Place) -> Iterator[Finding]:
    if isinstance(kind, list):
        if len(kind) != 2 or kind[0] != "null":
            yield Finding(place, "a union that is not null or one type", 'Write ["null", "string"]')
            return
        kind, place = kind[1], (*place, 1)
    name = avro_type(kind)
    if name == "enum" and isinstance(kind, dict):
        yield from _unknown_words(kind, "enum", place)
    elif name not in _COLUMN_PRIMITIVES:
        yield Finding(
            place,
            f"a field of type {name} is not one column",
            f"Use one of {', '.join(_COLUMN_PRIMITIVES)}, an enum defined here, or [null, one]",
        )
    elif isinstance(kind, dict):
        yield from _unknown_words(kind, "other", place)
        if kind.get("logicalType", "date") not in _COLUMN_LOGICAL:
            yield Finding(
                (*place, "logicalType"),
                "a logical type that is no column here",
                f"Use one of {', '.join(_COLUMN_LOGICAL)}",
            )


def _unknown_words(schema: dict[str, Any], kind: str, place: Place) -> Iterator[Finding]:
    """A misspelt attribute is ignored by every reader of Avro, so it is refused here."""
    for word in schema:
        if word not in _COLUMN_WORDS[kind]:
            yield Finding(
                (*place, word),
                f"attribute {word!r} is not one of a record schema here",
                f"Use {', '.join(_COLUMN_WORDS[kind])}",
            )
