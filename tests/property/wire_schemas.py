"""Random Avro record schemas of the supported subset, and random values of them.

Unions hold branches that no value can mistake for one another (whole numbers, text, bytes, lists,
mappings), because the reference implementation picks a branch by looking at the value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

INTS = st.one_of(st.integers(-200, 200), st.integers(-(2**31), 2**31 - 1))
LONGS = st.one_of(st.integers(-200, 200), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.one_of(
    st.text(max_size=5),
    st.text(
        "张三丰0aÿ\U0001f600", min_size=15, max_size=30
    ),  # about the 64 bytes of one length byte
)
BLOBS = st.binary(max_size=8)


@dataclass
class Sample:
    """A schema and the strategy of its values."""

    schema: Any
    values: st.SearchStrategy[Any]


@dataclass
class _Names:
    """Fresh names for named types."""

    used: int = field(default=0)

    def fresh(self) -> str:
        self.used += 1
        return f"T{self.used}"


_SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": INTS,
    "long": LONGS,
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "string": TEXTS,
    "bytes": BLOBS,
}


@st.composite
def _named(draw: st.DrawFn, names: _Names, kind: str) -> Sample:
    if kind == "enum":
        count = draw(st.sampled_from([1, 2, 3, 64, 65, 130]))
        symbols = [f"S{i}" for i in range(count)]
        schema = {"type": "enum", "name": names.fresh(), "symbols": symbols}
        return Sample(schema, st.sampled_from(symbols))
    size = draw(st.sampled_from([1, 2, 8, 16]))
    schema = {"type": "fixed", "name": names.fresh(), "size": size}
    return Sample(schema, st.binary(min_size=size, max_size=size))


@st.composite
def _collection(draw: st.DrawFn, names: _Names, kind: str, depth: int) -> Sample:
    if kind == "array":
        items = draw(_types(names, depth - 1).filter(lambda s: _has_bytes(s.schema)))
        return Sample({"type": "array", "items": items.schema}, st.lists(items.values, max_size=4))
    values = draw(_types(names, depth - 1))
    keys = st.text(max_size=3)
    return Sample(
        {"type": "map", "values": values.schema},
        st.dictionaries(keys, values.values, max_size=3),
    )


def _has_bytes(schema: Any) -> bool:
    if schema == "null":
        return False
    if isinstance(schema, dict) and schema["type"] == "record":
        return any(_has_bytes(f["type"]) for f in schema["fields"])
    return True


@st.composite
def _union(draw: st.DrawFn, names: _Names, depth: int) -> Sample:
    classes = draw(
        st.lists(
            st.sampled_from(["null", "number", "text", "blob", "list", "mapping"]),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    if "blob" in classes and "list" in classes:
        classes.remove("list")  # fastavro writes empty bytes as an empty list
    if depth == 0:
        classes = [c for c in classes if c not in ("list", "mapping")] or ["null"]
    branches = []
    for kind in classes:
        if kind == "number":
            name = draw(st.sampled_from(["int", "long"]))
            branches.append(Sample(name, _SIMPLE[name]))
        elif kind == "text":
            branches.append(
                draw(st.one_of(st.just(Sample("string", TEXTS)), _named(names, "enum")))
            )
        elif kind == "blob":
            branches.append(
                draw(st.one_of(st.just(Sample("bytes", BLOBS)), _named(names, "fixed")))
            )
        elif kind == "list":
            branches.append(draw(_collection(names, "array", depth)))
        elif kind == "mapping":
            branches.append(draw(_collection(names, "map", depth)))
        else:
            branches.append(Sample("null", st.none()))
    return Sample([b.schema for b in branches], st.one_of([b.values for b in branches]))


@st.composite
def _optional(draw: st.DrawFn, names: _Names, depth: int) -> Sample:
    """What registers are full of: null and one type, in either order."""
    inner = draw(
        st.one_of(
            st.sampled_from([n for n in _SIMPLE if n != "null"]).map(
                lambda n: Sample(n, _SIMPLE[n])
            ),
            _named(names, "enum"),
            _named(names, "fixed"),
        )
    )
    schema = draw(st.permutations(["null", inner.schema]))
    return Sample(schema, st.one_of(st.none(), inner.values))


@st.composite
def _types(draw: st.DrawFn, names: _Names, depth: int) -> Sample:
    kinds = [*_SIMPLE, "string", "enum", "fixed", "optional", "optional", "union"]
    if depth > 0:
        kinds += ["array", "map", "record"]
    kind = draw(st.sampled_from(kinds))
    if kind in _SIMPLE:
        return Sample(kind, _SIMPLE[kind])
    if kind in ("enum", "fixed"):
        return draw(_named(names, kind))
    if kind == "optional":
        return draw(_optional(names, depth))
    if kind == "union":
        return draw(_union(names, depth))
    if kind == "record":
        return draw(_record(names, depth - 1))
    return draw(_collection(names, kind, depth))


@st.composite
def _record(draw: st.DrawFn, names: _Names, depth: int, least: int = 0) -> Sample:
    name = names.fresh()
    parts = draw(st.lists(_types(names, depth), min_size=least, max_size=6))
    schema = {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{i}", "type": p.schema} for i, p in enumerate(parts)],
    }
    return Sample(schema, st.fixed_dictionaries({f"f{i}": p.values for i, p in enumerate(parts)}))


@st.composite
def record_and_value(draw: st.DrawFn, depth: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record schema and one value of it."""
    sample = draw(_record(_Names(), depth, least=1))
    return sample.schema, draw(sample.values)
