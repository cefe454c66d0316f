"""Control records of rebuilds: what an adapter is to do with the copy that it makes beside the one
in use, and what became of it. `wire.control` makes bytes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RebuildOrder:
    """Tells a recipient to begin a second copy of a dataset, to put it in the place of the one in
    use, or to drop it."""

    job: str
    dataset: str
    action: Literal["begin", "swap", "drop"]
    # Of a swap: the second copy was proved when the inbox was applied up to here, by partition.
    ends: tuple[int, ...]
    ordered_at_us: int


@dataclass(frozen=True, slots=True)
class RebuildTold:
    """How a recipient's second copy of a dataset is; the last job's only."""

    unit: str
    system: str
    dataset: str
    job: str
    state: Literal["filling", "swapping", "swapped", "dropped", "refused", "not_here"]
    reason: str  # of a refusal
    # What the swap came to. The two go together.
    names: tuple[str, ...]
    counts: tuple[int, ...]
    at_us: int


_TIME = {"type": "long", "logicalType": "timestamp-micros"}

# As `wire.control` keeps them: kind -> (class, Avro fields in the order of the class).
RECORDS: dict[str, tuple[type, dict[str, Any]]] = {
    "rebuild_order": (
        RebuildOrder,
        {
            "job": "string",
            "dataset": "string",
            "action": "string",  # no enum: an older reader passes over what came after
            "ends": {"type": "array", "items": "long"},
            "ordered_at_us": _TIME,
        },
    ),
    "rebuild_told": (
        RebuildTold,
        {
            "unit": "string",
            "system": "string",
            "dataset": "string",
            "job": "string",
            "state": "string",
            "reason": "string",
            "names": {"type": "array", "items": "string"},
            "counts": {"type": "array", "items": "long"},
            "at_us": _TIME,
        },
    ),
}


def told_key(record: RebuildTold) -> str:
    """The Kafka key."""
    return f"{record.system}/rebuild/{record.dataset}"
