"""The guard of `bus.schemas`: a schema's text is bounded, canonical, and is what its id says."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from deptbus.contract.schema_lint import lint_schema
from deptbus.errors import WireRefused
from deptbus.wire.framing import canonical_json, id_of_text
from deptbus.wire.guard import (
    BAD_SCHEMA,
    MAX_JSON_DEPTH,
    MAX_SCHEMA_BYTES,
    SCHEMA_MISMATCH,
    TOO_LARGE,
)
from deptbus.wire.schemas import embedded_record
from deptbus.wire.types import resolve


def parse_schema_text(number: int, text: bytes) -> dict[str, Any]:
    """The schema in `text`, checked against its id and linted.

    Raises WireRefused: `too_large`, `schema_mismatch` (the id is not the hash of the text),
    `bad_schema` (not canonical JSON, not Avro, or not safe).
    """
    if len(text) > MAX_SCHEMA_BYTES:
        raise WireRefused(TOO_LARGE, "the text of a schema is larger than the cap")
    if id_of_text(text) != number:
        raise WireRefused(SCHEMA_MISMATCH, "the id of a schema is not the hash of its text")
    if _deepest(text) > MAX_JSON_DEPTH:
        raise WireRefused(BAD_SCHEMA, "the text of a schema nests too deep")
    decoded, schema = _parsed(text)
    # Also refuses what JSON readers read unalike: repeated keys, escapes, numbers in odd forms.
    if not isinstance(schema, dict) or canonical_json(schema) != decoded:
        raise WireRefused(BAD_SCHEMA, "the text of a schema is not canonical JSON")
    resolve(schema)
    return schema


def lint_embedded(schema: dict[str, Any]) -> None:
    """Raises WireRefused (`bad_schema`) when the record within a change or delivery schema is not
    one that a contract may have."""
    if lint_schema(embedded_record(schema)):
        raise WireRefused(BAD_SCHEMA, "a schema holds a record that is not safe")


def _parsed(text: bytes) -> tuple[str, Any]:
    try:
        decoded = text.decode()
        return decoded, json.loads(decoded, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    # Raised outside the except block: the parser's own error holds the text.
    raise WireRefused(BAD_SCHEMA, "the text of a schema is not JSON")


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _deepest(text: bytes) -> int:
    """The greatest nesting of brackets; those within strings count too, which only errs on the safe
    side of a bound that no honest schema comes near."""
    depth = deepest = 0
    for byte in text:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
