"""The control record of what the last proof of a leg came to. `wire.control` makes bytes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deptbus.wire.control_proof import Leg


@dataclass(frozen=True, slots=True)
class ProofOutcome:
    """What was proved of one unit's table of one dataset: as its source, or as a copy. A proof that
    could not tell leaves none, so that the last one that could keeps its age."""

    unit: str
    dataset: str
    leg: Leg
    # different: also where all that differs is held at its source; absent: it keeps no such table
    verdict: Literal["equal", "different", "absent"]
    policy: int
    proved_at_us: int
    deep: bool
    rows: int  # on the bus
    # How many differences of which class; the two go together.
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    operator: str
    certificate: bytes  # the signed file; empty where there is no key to sign with
    # The first of them, each with its class and why; the three go together.
    keys: tuple[bytes, ...] = ()
    key_classes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


_TEXTS = {"type": "array", "items": "string"}

# Before it named keys: read for ever.
EARLIER: dict[str, Any] = {
    "unit": "string",
    "dataset": "string",
    "leg": {"type": "enum", "name": "Leg", "symbols": ["source", "copy"]},
    "verdict": {
        "type": "enum",
        "name": "ProofVerdict",
        "symbols": ["equal", "different", "absent"],
    },
    "policy": "long",
    "proved_at_us": {"type": "long", "logicalType": "timestamp-micros"},
    "deep": "boolean",
    "rows": "long",
    "classes": _TEXTS,
    "counts": {"type": "array", "items": "long"},
    "operator": "string",
    "certificate": "bytes",
}

# As `wire.control` keeps them: kind -> (class, Avro fields in the order of the class).
RECORDS: dict[str, tuple[type, dict[str, Any]]] = {
    "proof_outcome": (
        ProofOutcome,
        {
            **EARLIER,
            "keys": {"type": "array", "items": {"type": "fixed", "name": "Key", "size": 16}},
            "key_classes": _TEXTS,
            "reasons": _TEXTS,
        },
    ),
}


def outcome_key(record: ProofOutcome) -> str:
    return f"{record.unit}/{record.dataset}/{record.leg}"
