"""Raw fastavro with every advantage: no guard, no policy, schemas parsed once and without logical
types, branches of unions named so that it need not guess, who receives what decided beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import fastavro

from benchmarks import county
from deptbus.wire.codecs import Codecs
from deptbus.wire.framing import header

_FRAME = 5


def parsed(text: str) -> Any:
    def without_logical_types(node: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in node.items() if name != "logicalType"}

    return fastavro.parse_schema(json.loads(text, object_hook=without_logical_types))


def reader(codecs: Codecs) -> Callable[[bytes], dict[str, Any]]:
    """Framed change -> its values."""
    texts = codecs.schemas()
    number = next(n for n, text in texts.items() if '"ResidentChange"' in text)
    schema = parsed(texts[number])
    read = fastavro.schemaless_reader

    def change(value: bytes) -> dict[str, Any]:
        return read(BytesIO(value[_FRAME:]), schema)  # type: ignore[return-value]

    return change


def router(codecs: Codecs, fields: Sequence[str] = county.MOST) -> Callable[[bytes], bytes]:
    """Framed change -> the very bytes that the worker delivers to housing of the same district."""
    read = reader(codecs)
    number, text = codecs.delivery_schema_for(county.DATASET, 1, fields)
    schema, head = parsed(text), header(number)
    dropped = [name for name in county.NAMES if name not in fields]
    branch = next(f["type"][1]["name"] for f in schema["fields"] if f["name"] == "record")
    write = fastavro.schemaless_writer

    def deliver(value: bytes) -> bytes:
        change = read(value)
        record = change["record"]
        for name in dropped:
            del record[name]
        out = BytesIO()
        out.write(head)
        write(
            out,
            schema,
            {
                "op": "upsert",
                "source_unit": change["source_unit"],
                "version": change["version"],
                "source_time": change["source_time"],
                "policy": 1,
                "direction": "horizontal",
                "rule": "to-housing",
                "grants": [],
                "cause": change["cause"],
                "job": change["job"],
                "record": (branch, record),
            },
        )
        return out.getvalue()

    return deliver
