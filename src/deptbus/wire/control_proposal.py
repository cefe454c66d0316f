"""The control records of what one person proposes and another confirms.

`wire.control` makes bytes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a person wants done to the copies or sources of one unit. Never changed."""

    proposal: str  # its name; of a replay that of its job
    act: Literal["replay", "repair"]
    unit: str
    datasets: tuple[str, ...]
    content: str  # JSON: of a replay the plan's file, of a repair what may be done
    operator: str
    bus_user: str
    by_console: bool  # where people log in by their own names under its bus user
    reason: str
    proposed_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class ProposalDecided:
    """What a person says of a proposal; the last one counts."""

    proposal: str
    word: Literal["confirmed", "declined"]
    operator: str
    bus_user: str
    by_console: bool
    reason: str
    decided_at_us: int


@dataclass(frozen=True, slots=True)
class ProposalCarried:
    """How far a proposal is; written by the operations process that leads."""

    proposal: str
    state: Literal["begun", "done", "refused"]
    told: str  # what came of it, or why it was refused
    updated_at_us: int


_TIME = {"type": "long", "logicalType": "timestamp-micros"}
_PERSON = {"operator": "string", "bus_user": "string", "by_console": "boolean", "reason": "string"}


def _symbols(name: str, *symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols)}


# As `wire.control` keeps them: kind -> (class, Avro fields in the order of the class).
RECORDS: dict[str, tuple[type, dict[str, Any]]] = {
    "proposal": (
        Proposal,
        {
            "proposal": "string",
            "act": _symbols("ProposedAct", "replay", "repair"),
            "unit": "string",
            "datasets": {"type": "array", "items": "string"},
            "content": "string",
            **_PERSON,
            "proposed_at_us": _TIME,
            "expires_at_us": _TIME,
        },
    ),
    "proposal_decided": (
        ProposalDecided,
        {
            "proposal": "string",
            "word": _symbols("Decision", "confirmed", "declined"),
            **_PERSON,
            "decided_at_us": _TIME,
        },
    ),
    "proposal_carried": (
        ProposalCarried,
        {
            "proposal": "string",
            "state": _symbols("Carried", "begun", "done", "refused"),
            "told": "string",
            "updated_at_us": _TIME,
        },
    ),
}
