"""Avro schemas as a tree of types with every name resolved: what the code generators read.

Resolving is itself a guard: a schema whose bytes could cost more than their own length (arrays of
nothing), nest without end, or carry code into generated source does not become a tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deptbus.errors import WireRefused
from deptbus.wire.guard import BAD_SCHEMA, MAX_SCHEMA_DEPTH, MAX_SCHEMA_TYPES

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

# A logical type means something only on its base type; elsewhere the specification ignores it.
_LOGICAL_BASES = {
    "date": {"int"},
    "time-millis": {"int"},
    "time-micros": {"long"},
    "timestamp-millis": {"long"},
    "timestamp-micros": {"long"},
    "local-timestamp-millis": {"long"},
    "local-timestamp-micros": {"long"},
    "decimal": {"bytes", "fixed"},
}

# The least bytes of one value: what bounds the count of an array by the bytes that are there.
_LEAST_BYTES = {"null": 0, "float": 4, "double": 8}

# One byte holds the index of a branch (and of most enums): no record of a register needs more.
_MAX_BRANCHES = 64
_MAX_FIXED_BYTES = 64 * 1024
_MAX_PRECISION = 1000


@dataclass(frozen=True, slots=True)
class Type:
    """One type. Only the attributes of its kind are filled."""

    kind: str  # a primitive, or fixed, enum, array, map, union, record
    logical: str | None = None
    size: int = 0  # fixed: bytes
    precision: int = 0  # decimal
    scale: int = 0  # decimal
    symbols: tuple[str, ...] = ()
    items: Type | None = None  # of an array, or the values of a map
    branches: tuple[Type, ...] = ()
    fields: tuple[FieldType, ...] = ()
    least_bytes: int = 1

    @property
    def optional(self) -> tuple[int, int, Type] | None:
        """(index of null, index of the other, the other) of a union of null and one type."""
        if len(self.branches) != 2 or all(b.kind != "null" for b in self.branches):
            return None
        null = 0 if self.branches[0].kind == "null" else 1
        return null, 1 - null, self.branches[1 - null]


@dataclass(frozen=True, slots=True)
class FieldType:
    name: str
    type: Type
    has_default: bool
    default: Any  # as JSON


def resolve(schema: Any, *, logical: bool = True) -> Type:
    """The tree of a schema; without `logical` types are what they are on the wire only.

    Raises WireRefused (`bad_schema`): unknown or malformed types, recursion, unions within unions,
    arrays of items without bytes, more depth or more types than the guard allows.
    """
    return _Resolver(logical).resolve(schema, "", 0)


def _refuse(why: str) -> WireRefused:
    return WireRefused(BAD_SCHEMA, f"a schema {why}")


class _Resolver:
    def __init__(self, logical: bool) -> None:
        self._logical = logical
        self._named: dict[str, Type | None] = {}  # None while it is being read: a recursion
        self._count = 0

    def resolve(self, schema: Any, namespace: str, depth: int) -> Type:
        self._count += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise _refuse("nests too deep")
        if self._count > MAX_SCHEMA_TYPES:
            raise _refuse("has too many types")
        if isinstance(schema, str):
            return self._by_name(schema, namespace)
        if isinstance(schema, list):
            return self._union(schema, namespace, depth)
        if not isinstance(schema, Mapping):
            raise _refuse("holds something that is no type")
        kind = schema.get("type")
        if isinstance(kind, dict | list):
            # {"type": {"type": ...}}: allowed by the specification, needed by nobody, read unalike.
            raise _refuse("nests a type without need")
        if kind in PRIMITIVES:
            return self._primitive(str(kind), schema)
        if kind in ("array", "map"):
            return self._collection(str(kind), schema, namespace, depth)
        if kind in ("record", "enum", "fixed"):
            return self._definition(str(kind), schema, namespace, depth)
        raise _refuse("names an unknown type")

    def _by_name(self, name: str, namespace: str) -> Type:
        if name in PRIMITIVES:
            return Type(name, least_bytes=_LEAST_BYTES.get(name, 1))
        full = full_name(name, namespace)
        if full not in self._named:
            raise _refuse("names an unknown type")
        known = self._named[full]
        if known is None:
            raise _refuse("is recursive")
        return known

    def _primitive(self, kind: str, schema: Mapping[str, Any]) -> Type:
        logical, precision, scale = self._logical_type(kind, schema, None)
        least = _LEAST_BYTES.get(kind, 1)
        return Type(kind, logical, precision=precision, scale=scale, least_bytes=least)

    def _logical_type(
        self, kind: str, schema: Mapping[str, Any], size: int | None
    ) -> tuple[str | None, int, int]:
        logical = schema.get("logicalType")
        if not self._logical or not isinstance(logical, str):
            return None, 0, 0
        if kind not in _LOGICAL_BASES.get(logical, ()):
            return None, 0, 0
        if logical != "decimal":
            return logical, 0, 0
        precision = _count(schema.get("precision"), 1, _MAX_PRECISION)
        scale = _count(schema.get("scale", 0), 0, precision)
        if size is not None and 10**precision > 1 << (8 * size - 1):
            raise _refuse("has a decimal that does not fit its bytes")
        return logical, precision, scale

    def _union(self, branches: list[Any], namespace: str, depth: int) -> Type:
        if not 1 <= len(branches) <= _MAX_BRANCHES:
            raise _refuse("has a union with too few or too many branches")
        resolved = tuple(self.resolve(b, namespace, depth + 1) for b in branches)
        if any(b.kind == "union" for b in resolved):
            raise _refuse("has a union within a union")
        plain = [b.kind for b in resolved if b.kind not in ("record", "enum", "fixed")]
        if len(set(plain)) != len(plain):
            raise _refuse("has a union with two branches of one type")
        return Type("union", branches=resolved)

    def _collection(self, kind: str, schema: Mapping[str, Any], namespace: str, depth: int) -> Type:
        part = "items" if kind == "array" else "values"
        if part not in schema:
            raise _refuse("has an array without items or a map without values")
        items = self.resolve(schema[part], namespace, depth + 1)
        # The values of a map may be nothing: each comes with a key, which has a byte at least.
        if kind == "array" and items.least_bytes == 0:
            raise _refuse("has an array of items without bytes")
        return Type(kind, items=items)

    def _definition(self, kind: str, schema: Mapping[str, Any], namespace: str, depth: int) -> Type:
        name, inner = definition_name(schema, namespace)
        if name in self._named:
            raise _refuse("defines one name twice")
        self._named[name] = None
        if kind == "enum":
            made = self._enum(schema)
        elif kind == "fixed":
            made = self._fixed(schema)
        else:
            made = self._record(schema, inner, depth)
        self._named[name] = made
        return made

    def _enum(self, schema: Mapping[str, Any]) -> Type:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise _refuse("has an enum without symbols")
        if not all(isinstance(s, str) and NAME.fullmatch(s) for s in symbols):
            raise _refuse("has an enum symbol that is not a name")
        if len(set(symbols)) != len(symbols):
            raise _refuse("has an enum with one symbol twice")
        return Type("enum", symbols=tuple(symbols))

    def _fixed(self, schema: Mapping[str, Any]) -> Type:
        size = _count(schema.get("size"), 1, _MAX_FIXED_BYTES)
        logical, precision, scale = self._logical_type("fixed", schema, size)
        return Type("fixed", logical, size=size, precision=precision, scale=scale, least_bytes=size)

    def _record(self, schema: Mapping[str, Any], namespace: str, depth: int) -> Type:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise _refuse("has a record without fields")
        made: list[FieldType] = []
        names: set[str] = set()
        for field in fields:
            if not isinstance(field, Mapping) or "type" not in field:
                raise _refuse("has a field without a type")
            name = field.get("name")
            if not isinstance(name, str) or not NAME.fullmatch(name) or name in names:
                raise _refuse("has a field without a name of its own")
            names.add(name)
            kind = self.resolve(field["type"], namespace, depth + 1)
            made.append(FieldType(name, kind, "default" in field, field.get("default")))
        least = sum(f.type.least_bytes for f in made)
        return Type("record", fields=tuple(made), least_bytes=least)


def full_name(name: str, namespace: str) -> str:
    """The full name of a reference that stands within `namespace`."""
    return name if "." in name or not namespace else f"{namespace}.{name}"


def definition_name(schema: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    """(full name, namespace of what is inside) of a named type defined within `namespace`."""
    name = schema.get("name")
    if not isinstance(name, str):
        raise _refuse("defines a type without a name")
    if "." in name:
        full = name
    else:
        own = schema.get("namespace", namespace)
        if not isinstance(own, str):
            raise _refuse("has a namespace that is not text")
        full = full_name(name, own)
    if not all(NAME.fullmatch(part) for part in full.split(".")):
        raise _refuse("defines a type whose name is not a name")
    return full, full.rpartition(".")[0]


def _count(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _refuse("has a size, precision or scale that is none")
    return value
