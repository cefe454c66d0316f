"""Is this Avro schema safe to decode with, and read alike by everybody?

`lint` is for any schema that enters the bus: after it, decoding hostile bytes takes bounded time
and memory (no recursion, no arrays of items that cost no bytes, bounded depth and size), and no
reader may ignore a part of it. What the schema of a dataset must keep beyond that is
`contract.record_schema`; whether a version may follow another is `contract.schema_evolution`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeGuard

from deptbus.contract.yaml_tree import Place

MAX_DEPTH = 8
MAX_TYPES = 2000
MAX_NAME = 200
MAX_FIXED_BYTES = 65_536
MAX_DECIMAL_PRECISION = 38  # what PostgreSQL, MySQL and Java's readers all hold exactly

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_COMPLEX = ("record", "enum", "array", "map", "fixed")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Avro 1.11, Logical Types; those of another version would be ignored by some readers.
_LOGICAL = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "decimal": ("bytes", "fixed"),
    "uuid": ("string",),
    "duration": ("fixed",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong: where in the schema (steps of its JSON), what, and how to mend it."""

    place: Place
    what: str
    mend: str


def lint_schema(schema: Any) -> list[str]:
    """Why a schema of any kind is not safe; empty when it is. No value of it is repeated."""
    return [f"{finding.what} ({_spelled(finding.place)})" for finding in lint(schema)]


def lint(schema: Any) -> list[Finding]:
    walk = _Walk()
    walk.type(schema, (), "", 1)
    return walk.findings


def avro_type(field_type: Any) -> str:
    """The name of a (not nullable) type: `string`, `enum`, `int` ..."""
    return str(field_type["type"]) if isinstance(field_type, dict) else str(field_type)


def full_name(schema: dict[str, Any], namespace: str) -> tuple[str, str]:
    """(full name, namespace that holds within) of a named type, by Avro's rule for names."""
    name = str(schema.get("name", ""))
    if "." in name:
        return name, name.rpartition(".")[0]
    inner = str(schema.get("namespace") or namespace)
    return (f"{inner}.{name}" if inner else name), inner


def _spelled(place: Place) -> str:
    return "at " + "/".join(str(step) for step in place) if place else "at the top"


class _Walk:
    """One walk over a schema. `type` returns whether a value of it may take no bytes at all."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._types = 0
        self._open: set[str] = set()
        self._named: dict[str, dict[str, Any]] = {}
        self._empty: dict[str, bool] = {}

    def _find(self, place: Place, what: str, mend: str) -> bool:
        self.findings.append(Finding(place, what, mend))
        return False

    def type(self, schema: Any, place: Place, namespace: str, depth: int) -> bool:
        self._types += 1
        if depth > MAX_DEPTH:
            return self._find(place, f"nested deeper than {MAX_DEPTH} types", "Flatten it")
        if self._types > MAX_TYPES:
            if self._types == MAX_TYPES + 1:
                self._find(place, f"more than {MAX_TYPES} types", "Split the schema")
            return False
        if isinstance(schema, list):
            return self._union(schema, place, namespace, depth)
        if isinstance(schema, str):
            return self._reference(schema, place, namespace)
        if not isinstance(schema, dict):
            return self._find(place, "not a type", "Write a name, a list or an object")
        kind = schema.get("type")
        if kind in PRIMITIVES:
            self._logical(schema, place)
            return kind == "null"
        if kind == "array":
            if self.type(schema.get("items"), (*place, "items"), namespace, depth + 1):
                self._find(place, "an array whose items take no bytes", "Count them in an int")
            return False
        if kind == "map":
            self.type(schema.get("values"), (*place, "values"), namespace, depth + 1)
            return False
        if kind in ("record", "enum", "fixed"):
            return self._definition(schema, place, namespace, depth)
        return self._find(
            (*place, "type"),
            "not a type of Avro",
            f"Use one of {', '.join((*PRIMITIVES, *_COMPLEX))}",
        )

    def _reference(self, name: str, place: Place, namespace: str) -> bool:
        if name in PRIMITIVES:
            return name == "null"
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full in self._open:
            return self._find(place, "a type that contains itself", "Name the other record by key")
        if full not in self._named:
            return self._find(place, "a type that is not defined before", "Define it first")
        return self._empty[full]

    def _union(self, branches: list[Any], place: Place, namespace: str, depth: int) -> bool:
        if not branches:
            return self._find(place, "a union of nothing", 'Write ["null", "string"] or the like')
        seen: set[str] = set()
        for i, branch in enumerate(branches):
            here = (*place, i)
            if isinstance(branch, list):
                self._find(here, "a union within a union", "Write one list")
                continue
            before = len(self.findings)
            self.type(branch, here, namespace, depth + 1)
            if len(self.findings) > before:
                continue
            name = _branch_name(branch, namespace)
            if name in seen:
                self._find(here, "a union with two branches of one type", "Keep one of them")
            seen.add(name)
        return False

    def _definition(self, schema: dict[str, Any], place: Place, namespace: str, depth: int) -> bool:
        full, inner = full_name(schema, namespace)
        spelled = isinstance(schema.get("name"), str) and _is_text_or_absent(schema, "namespace")
        if not spelled or len(full) > MAX_NAME or not all(map(_NAME.fullmatch, full.split("."))):
            return self._find(
                (*place, "name"),
                f"a {schema['type']} without a valid name",
                "Name it with letters, digits and underscores",
            )
        if full in self._named or full in self._open:
            return self._find((*place, "name"), "a name defined twice", "Give it another name")
        self._named[full] = schema
        empty = False
        if schema["type"] == "record":
            self._open.add(full)
            empty = self._fields(schema, place, inner, depth)
            self._open.discard(full)
        elif schema["type"] == "enum":
            self._symbols(schema, place)
        else:
            size = schema.get("size")
            if not _is_int(size) or not 1 <= size <= MAX_FIXED_BYTES:
                self._find(place, "a fixed of no valid size", f"Use 1 to {MAX_FIXED_BYTES}")
            self._logical(schema, place)
        self._empty[full] = empty
        return empty

    def _fields(self, schema: dict[str, Any], place: Place, namespace: str, depth: int) -> bool:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            return self._find(place, "a record without a list of fields", 'Add "fields": [...]')
        empty = True
        seen: set[str] = set()
        for i, field in enumerate(fields):
            here = (*place, "fields", i)
            name = field.get("name") if isinstance(field, dict) else None
            if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME:
                self._find(
                    here, "a field without a valid name", "Name it with letters, digits and _"
                )
                empty = False
                continue
            if name in seen:
                self._find(here, "two fields of one name", "Rename one of them")
            seen.add(name)
            empty &= self.type(field.get("type"), (*here, "type"), namespace, depth + 1)
            if "default" in field and not self.findings:
                self._default(field, here, namespace)
        return empty

    def _default(self, field: dict[str, Any], place: Place, namespace: str) -> None:
        kind = field["type"]
        if isinstance(kind, list):  # Avro 1.11: the default of a union is of its first branch
            kind = kind[0]
        if not _fits(kind, field["default"], self._named, namespace, MAX_DEPTH):
            self._find(
                (*place, "default"),
                "a default that is not of the field's type",
                "A union's default is of its first branch: null for [null, ...]",
            )

    def _symbols(self, schema: dict[str, Any], place: Place) -> None:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            self._find(place, "an enum without symbols", 'Add "symbols": ["a", "b"]')
            return
        for i, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not _NAME.fullmatch(symbol) or len(symbol) > MAX_NAME:
                self._find(
                    (*place, "symbols", i),
                    "not a symbol of Avro",
                    "Use letters, digits and _; put other codes into `values` of department.yml",
                )
        if len({str(symbol) for symbol in symbols}) < len(symbols):
            self._find((*place, "symbols"), "a symbol that stands twice", "Keep one of the two")
        if "default" in schema and schema["default"] not in symbols:
            self._find((*place, "default"), "a default that is no symbol", "Use a symbol")

    def _logical(self, schema: dict[str, Any], place: Place) -> None:
        logical = schema.get("logicalType")
        if logical is None:
            return
        here = (*place, "logicalType")
        if not isinstance(logical, str) or schema["type"] not in _LOGICAL.get(logical, ()):
            self._find(
                here,
                f"a logical type that {schema['type']} does not have",
                f"Use one of {', '.join(_LOGICAL)} on its own type",
            )
        elif logical == "decimal":
            self._decimal(schema, place)
        elif logical == "duration" and schema.get("size") != 12:
            self._find(here, "a duration that is not 12 bytes", "Use fixed of size 12")

    def _decimal(self, schema: dict[str, Any], place: Place) -> None:
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not _is_int(precision) or not 1 <= precision <= MAX_DECIMAL_PRECISION:
            self._find(
                place, "a decimal without a valid precision", f"Use 1 to {MAX_DECIMAL_PRECISION}"
            )
        elif not _is_int(scale) or not 0 <= scale <= precision:
            self._find(place, "a decimal without a valid scale", "Use 0 to the precision")


def _branch_name(branch: Any, namespace: str) -> str:
    """What makes two branches of a union the same: the type, or the full name."""
    if isinstance(branch, dict):
        if branch["type"] in ("record", "enum", "fixed"):
            return full_name(branch, namespace)[0]
        return str(branch["type"])
    if branch in PRIMITIVES or "." in branch or not namespace:
        return str(branch)
    return f"{namespace}.{branch}"


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text_or_absent(schema: dict[str, Any], word: str) -> bool:
    return word not in schema or isinstance(schema[word], str)


def _fits(
    kind: Any, value: Any, named: dict[str, dict[str, Any]], namespace: str, depth: int
) -> bool:
    """Is this JSON value a default of this type (Avro 1.11, table of field default values)?"""
    if depth == 0:
        return False
    if isinstance(kind, list):
        return bool(kind) and _fits(kind[0], value, named, namespace, depth)
    if isinstance(kind, str) and kind not in PRIMITIVES:
        kind = named.get(kind if "." in kind or not namespace else f"{namespace}.{kind}", {})
    match avro_type(kind) if kind else "":
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "int":
            return _is_int(value) and -(2**31) <= value < 2**31
        case "long":
            return _is_int(value) and -(2**63) <= value < 2**63
        case "float" | "double":
            return _is_int(value) or isinstance(value, float)
        case "string":
            return isinstance(value, str)
        case "bytes":
            return isinstance(value, str) and all(ord(c) < 256 for c in value)
        case "fixed":
            return (
                isinstance(value, str)
                and all(ord(c) < 256 for c in value)
                and len(value) == kind.get("size")
            )
        case "enum":
            return value in kind.get("symbols", ())
        case "array":
            return isinstance(value, list) and all(
                _fits(kind["items"], item, named, namespace, depth - 1) for item in value
            )
        case "map":
            return isinstance(value, dict) and all(
                _fits(kind["values"], item, named, namespace, depth - 1) for item in value.values()
            )
        case "record":
            inner = full_name(kind, namespace)[1]
            return isinstance(value, dict) and all(
                _fits(f["type"], value[f["name"]], named, inner, depth - 1)
                if f["name"] in value
                else "default" in f
                for f in kind["fields"]
            )
    return False
