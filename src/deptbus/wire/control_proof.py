"""Control records of proofs and repairs: what is asked of an adapter, what it answers, and what it
is told to mend. `wire.control` makes bytes of them.

A question goes into every partition of the unit's inbox; it may be asked again under the same
name. The answer lies in `control.<unit>`: parts first, then one ProofAnswer that counts them. A
system has one answer at a time for each leg of a dataset, whose slots the next one takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deptbus.wire.guard import KEY_BYTES

Leg = Literal["source", "copy"]


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """Asks an adapter what its database has, from one snapshot."""

    request: str
    leg: Leg
    wanted: Literal["sums", "items", "rows", "done"]  # done: the answer was read, and may go
    dataset: str
    deep: bool  # the real rows too, not only what the bookkeeping says of them
    # Of the inbox, by partition: the snapshot comes after all below was applied. Empty: at once.
    ends: tuple[int, ...]
    bits: int  # of the leaves
    cells: int  # of the sketch; 0: none
    salt: bytes  # of the sketch
    leaves: tuple[int, ...]  # of which the items are wanted
    keys: tuple[bytes, ...]  # of the rows that are wanted
    most: int  # of each state so many rows are named at most; all are counted
    expires_at_us: int  # nobody waits for an answer after that


@dataclass(frozen=True, slots=True)
class ProofAnswer:
    """The end of an answer, or a sign that it is being made."""

    request: str
    unit: str
    system: str
    leg: Leg
    dataset: str
    state: Literal["working", "done", "refused", "not_here"]  # not_here: no such mapping
    reason: str  # of a refusal
    parts: int
    rows: int  # in sums and items
    # Copy: how far the inbox was applied in the snapshot, and below which policy deliveries of the
    # dataset were refused, both by partition.
    applied: tuple[int, ...]
    floors: tuple[int, ...]
    # How many rows are in which state beside being counted in the sums; the two go together.
    states: tuple[str, ...]
    counts: tuple[int, ...]
    snapshot_at_us: int
    at_us: int


@dataclass(frozen=True, slots=True)
class ProofPart:
    """Leaves, a sketch, the sorted root or some items, in the bytes of `deptbus.proof`."""

    request: str
    unit: str
    system: str
    leg: Leg
    dataset: str
    part: int
    kind: Literal["leaves", "sketch", "root", "items", "cleared"]
    content: bytes


@dataclass(frozen=True, slots=True)
class ProofRows:
    """Some rows, each with its state; never a value of theirs. All tuples go together."""

    request: str
    unit: str
    system: str
    leg: Leg
    dataset: str
    part: int
    keys: tuple[bytes, ...]  # on the bus; of a row that no record stands for, a digest of its own
    states: tuple[str, ...]
    versions: tuple[int, ...]  # 0: none
    digests: tuple[bytes, ...]  # as in the row's item; empty: none
    seen: tuple[bytes, ...]  # over all that the row and its bookkeeping were when looked at
    fields: tuple[str, ...]  # of the projection that it holds, comma separated
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairOrder:
    """Comes before the deliveries of a repair: which rows it may touch, if they are still as they
    were seen. All tuples go together."""

    job: str
    dataset: str
    keys: tuple[bytes, ...]
    seen: tuple[bytes, ...]
    # deliver: a delivery of this job for the key follows; forget: row and bookkeeping go; remove:
    # a row without bookkeeping goes.
    actions: tuple[str, ...]
    overwrite: bool  # rows that were edited locally too; their values are first kept in a file
    ordered_at_us: int


@dataclass(frozen=True, slots=True)
class ResendOrder:
    """Asks a source to publish the present state of some keys, of which the bus has another: also
    that a row is gone. The two tuples go together."""

    request: str
    dataset: str
    keys: tuple[bytes, ...]
    # Every place that the bus names of the key, comma separated, the present one last: whoever got
    # it there must hear of it. Empty: the bus has nothing of the key.
    places: tuple[str, ...]
    ordered_at_us: int


_TEXTS = {"type": "array", "items": "string"}
_NUMBERS = {"type": "array", "items": "long"}
_BYTES = {"type": "array", "items": "bytes"}
_TIME = {"type": "long", "logicalType": "timestamp-micros"}
_LEG = {"type": "enum", "name": "Leg", "symbols": ["source", "copy"]}
_HEAD: dict[str, Any] = {
    "request": "string",
    "unit": "string",
    "system": "string",
    "leg": _LEG,
    "dataset": "string",
}

# As `wire.control` keeps them: kind -> (class, Avro fields in the order of the class).
RECORDS: dict[str, tuple[type, dict[str, Any]]] = {
    "proof_request": (
        ProofRequest,
        {
            "request": "string",
            "leg": _LEG,
            "wanted": "string",  # no enum: an older reader has to know a question that came after
            "dataset": "string",
            "deep": "boolean",
            "ends": _NUMBERS,
            "bits": "int",
            "cells": "int",
            "salt": "bytes",
            "leaves": _NUMBERS,
            "keys": _BYTES,
            "most": "long",
            "expires_at_us": _TIME,
        },
    ),
    "proof_answer": (
        ProofAnswer,
        {
            **_HEAD,
            "state": {
                "type": "enum",
                "name": "ProofState",
                "symbols": ["working", "done", "refused", "not_here"],
            },
            "reason": "string",
            "parts": "long",
            "rows": "long",
            "applied": _NUMBERS,
            "floors": _NUMBERS,
            "states": _TEXTS,
            "counts": _NUMBERS,
            "snapshot_at_us": _TIME,
            "at_us": _TIME,
        },
    ),
    "proof_part": (
        ProofPart,
        {
            **_HEAD,
            "part": "long",
            "kind": {
                "type": "enum",
                "name": "PartKind",
                "symbols": ["leaves", "sketch", "root", "items", "cleared"],
            },
            "content": "bytes",
        },
    ),
    "proof_rows": (
        ProofRows,
        {
            **_HEAD,
            "part": "long",
            "keys": _BYTES,
            "states": _TEXTS,
            "versions": _NUMBERS,
            "digests": _BYTES,
            "seen": _BYTES,
            "fields": _TEXTS,
            "reasons": _TEXTS,
        },
    ),
    "repair_order": (
        RepairOrder,
        {
            "job": "string",
            "dataset": "string",
            "keys": _BYTES,
            "seen": _BYTES,
            "actions": _TEXTS,
            "overwrite": "boolean",
            "ordered_at_us": _TIME,
        },
    ),
    "resend_order": (
        ResendOrder,
        {
            "request": "string",
            "dataset": "string",
            "keys": {"type": "array", "items": {"type": "fixed", "name": "Key", "size": KEY_BYTES}},
            "places": _TEXTS,
            "ordered_at_us": _TIME,
        },
    ),
}


def slot(record: ProofAnswer | ProofPart | ProofRows) -> str:
    """The Kafka key of a part of an answer, or of its end."""
    name = f"{record.system}/proof/{record.leg}/{record.dataset}"
    return name if isinstance(record, ProofAnswer) else f"{name}/{record.part}"
