"""May this version of a record schema follow that one?

The new version has to read everything that was written under the old one, with the same meaning:
Avro's rules for a reader and a writer (1.11, Schema Resolution), less what they pass although it
changes values. Avro ignores logical types (milliseconds would be read as microseconds, 12.50 as
1.250), turns whole numbers into floating ones that cannot hold them, reads any bytes as text, and
puts an enum's default for a symbol that is gone.
"""

from __future__ import annotations

from typing import Any

from deptbus.contract.schema_lint import avro_type, full_name

# Promotions of Avro that keep every value.
_PROMOTIONS = {("int", "long"), ("int", "double"), ("float", "double")}


def compatible(old: Any, new: Any) -> list[str]:
    """Why data written under `old` cannot be read under `new`; empty when it can.

    Both schemas have passed `schema_lint.lint`: every name is defined before it is used, and none
    contains itself.
    """
    return _Comparison(_definitions(old), _definitions(new)).differences(old, new, "")


class _Comparison:
    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self._old, self._new = old, new

    def differences(self, old: Any, new: Any, place: str) -> list[str]:
        old, new = _defined(old, self._old), _defined(new, self._new)
        if isinstance(old, list):
            return [
                difference for branch in old for difference in self.differences(branch, new, place)
            ]
        if isinstance(new, list):
            return self._any_branch(old, new, place)
        before, after = avro_type(old), avro_type(new)
        if before == after == "record":
            return [*_names(old, new, place), *self._fields(old, new, place)]
        if before == after == "enum":
            return [*_names(old, new, place), *_symbols(old, new, place)]
        if before == after == "array":
            return self.differences(old["items"], new["items"], f"{place}[]")
        if before == after == "map":
            return self.differences(old["values"], new["values"], f"{place}{{}}")
        if before == after == "fixed" and old["size"] != new["size"]:
            return [f"{place or 'the schema'}: its size in bytes changed"]
        if before != after and (before, after) not in _PROMOTIONS:
            return [f"{place or 'the schema'}: {before} cannot become {after}"]
        names = _names(old, new, place) if before == "fixed" else []
        return [*names, *_logical(old, new, place)]

    def _any_branch(self, old: Any, branches: list[Any], place: str) -> list[str]:
        closest: list[str] | None = None
        for branch in branches:
            found = self.differences(old, branch, place)
            if not found:
                return []
            if avro_type(_defined(branch, self._new)) == avro_type(old):
                closest = found  # tells more than "no branch fits"
        return closest or [f"{place or 'the schema'}: {avro_type(old)} is not one of its types now"]

    def _fields(self, old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
        written = {field["name"]: field for field in old["fields"]}
        found: list[str] = []
        for field in new["fields"]:
            name = field["name"]
            here = f"{place}.{name}" if place else name
            if name in written:
                found += self.differences(written[name]["type"], field["type"], here)
            elif "default" not in field:
                found.append(f"{here}: a new field needs a default for the records that lack it")
        return found


def _names(old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
    # Resolution compares names without their namespace.
    before, after = (str(s["name"]).rpartition(".")[2] for s in (old, new))
    return [] if before == after else [f"{place or 'the schema'}: {before} was renamed {after}"]


def _symbols(old: dict[str, Any], new: dict[str, Any], place: str) -> list[str]:
    gone = [symbol for symbol in old["symbols"] if symbol not in new["symbols"]]
    return [f"{place or 'the schema'}: symbol {symbol} is gone" for symbol in gone]


def _logical(old: Any, new: Any, place: str) -> list[str]:
    before, after = (_meaning(s) for s in (old, new))
    if before[0] != after[0]:
        return [
            f"{place or 'the schema'}: {before[0] or 'no logical type'} "
            f"cannot become {after[0] or 'none'}"
        ]
    if before[2] != after[2]:
        return [f"{place}: the scale of the decimal changed"]
    if before[1] > after[1]:
        return [f"{place}: the decimal became narrower"]
    return []


def _meaning(schema: Any) -> tuple[str, int, int]:
    """(logical type, precision, scale); the last two are 0 where there is no decimal."""
    if not isinstance(schema, dict) or "logicalType" not in schema:
        return "", 0, 0
    logical = str(schema["logicalType"])
    if logical != "decimal":
        return logical, 0, 0
    return logical, int(schema["precision"]), int(schema.get("scale", 0))


def _defined(schema: Any, definitions: dict[str, Any]) -> Any:
    return definitions.get(schema, schema) if isinstance(schema, str) else schema


def _definitions(schema: Any, namespace: str = "") -> dict[str, Any]:
    """Named types by full name, and by the bare name that is used within their namespace."""
    found: dict[str, Any] = {}
    if isinstance(schema, list):
        for branch in schema:
            found |= _definitions(branch, namespace)
    elif isinstance(schema, dict):
        kind = schema["type"]
        inner = namespace
        if kind in ("record", "enum", "fixed"):
            full, inner = full_name(schema, namespace)
            found[full] = found[full.rpartition(".")[2]] = schema
        for part in ("items", "values"):
            if part in schema and kind in ("array", "map"):
                found |= _definitions(schema[part], inner)
        if kind == "record":
            for field in schema["fields"]:
                found |= _definitions(field["type"], inner)
    return found
