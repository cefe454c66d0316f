"""The reference implementation of Avro as the judge of bytes."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import avro.io
import avro.schema


def without_logical_types(schema: Any) -> Any:
    """The same bytes, as numbers and bytes: the reference does not always write back what it read
    of a logical type (a negative decimal gets a byte that it does not need)."""
    if isinstance(schema, list):
        return [without_logical_types(s) for s in schema]
    if isinstance(schema, dict):
        skipped = ("logicalType", "precision", "scale", "deptbus")
        return {k: without_logical_types(v) for k, v in schema.items() if k not in skipped}
    return schema


class Oracle:
    """Reads and writes values of one schema with the `avro` package."""

    def __init__(self, schema: Any) -> None:
        self._schema = avro.schema.parse(json.dumps(schema))
        self._reader = avro.io.DatumReader(self._schema)
        self._writer = avro.io.DatumWriter(self._schema)

    def write(self, value: Any) -> bytes:
        out = BytesIO()
        self._writer.write(value, avro.io.BinaryEncoder(out))
        return out.getvalue()

    def read(self, data: bytes) -> Any:
        """The value; ValueError when there is none, or when bytes are left over."""
        source = BytesIO(data)
        try:
            value = self._reader.read(avro.io.BinaryDecoder(source))
        except Exception as error:
            # Whatever it raises (it has a dozen ways), it refuses.
            raise ValueError("refused") from error
        if source.read(1):
            raise ValueError("left over")
        return value
