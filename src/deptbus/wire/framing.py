"""Confluent framing (a zero byte, four bytes of schema id, Avro binary) and content-derived ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from struct import Struct
from typing import Any

from deptbus.errors import WireRefused
from deptbus.wire.guard import (
    MAX_RECORD_BYTES,
    NO_VALUE,
    NOT_FRAMED,
    REASONS,
    TOO_LARGE,
    RefusedBatch,
)

HEADER_BYTES = 5
_HEADER = Struct(">BI")


def canonical_json(schema: Mapping[str, Any]) -> str:
    """The one text of a schema: keys sorted, no spaces, everything kept.

    Unlike Avro's "parsing canonical form" this keeps logical types, docs, defaults and attributes:
    two schemas that read bytes alike and mean them differently are two schemas.
    """
    return json.dumps(
        schema, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def id_of_text(text: bytes) -> int:
    """31 bits (Confluent ids are signed) of SHA-256 over a schema's canonical JSON in UTF-8."""
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") & 0x7FFFFFFF


def schema_id(schema: Mapping[str, Any]) -> int:
    """The id of a schema: every writer gets the same one without asking anybody."""
    return id_of_text(canonical_json(schema).encode())


def header(number: int) -> bytes:
    return _HEADER.pack(0, number)


def frame(number: int, body: bytes) -> bytes:
    return _HEADER.pack(0, number) + body


def unframe(value: bytes | None) -> tuple[int, bytes]:
    """(schema id, Avro bytes). Raises WireRefused: `no_value`, `too_large`, `not_framed`, and of a
    batch that could not be unpacked its reason."""
    if value is None:
        raise WireRefused(NO_VALUE, "the record has no value")
    if len(value) > MAX_RECORD_BYTES:
        raise WireRefused(TOO_LARGE, "the record is larger than the cap")
    if len(value) < HEADER_BYTES:
        if isinstance(value, RefusedBatch):
            raise WireRefused(value.reason, REASONS[value.reason])
        raise WireRefused(NOT_FRAMED, "the record is shorter than its frame")
    magic, number = _HEADER.unpack_from(value)
    if magic != 0 or number > 0x7FFFFFFF:
        raise WireRefused(NOT_FRAMED, "the record is not framed with a schema id")
    return number, value[HEADER_BYTES:]
