"""What the last proof of each source and copy came to: as `bus.proofs` keeps it, and its name.

What it is called (`proof_rows`, pure), the first rule that fits:

1. The unit has not joined, or keeps no such table (`absent`): there is nothing to prove.
2. The last proof named differences: `different`, however old it is. It named nothing but keys whose
   removal is held at their source: `held`; no copy is at fault, and they are not equal either.
3. The contract has an hour for proofs, and LATE_SECONDS have passed since the last one; or where
   there was none, since the contract has had the hour and the unit its right: `late`.
4. `equal`; or `unproved`, where there never was one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import WireRefused
from deptbus.operations.lag_report import when
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.rights import rule_digests
from deptbus.operations.stages import Stage
from deptbus.proof.certificate import HELD
from deptbus.stream.log import LogRecord, Outgoing, Sender, read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.control import ProofOutcome, check_key, decode_control, encode_control, key_of
from deptbus.wire.control_proof import Leg

log = structlog.get_logger(__name__)

LATE_SECONDS = 36 * 3600.0  # a night that failed, and the next one that is not over yet

Joined = Mapping[Leg, Collection[str]]


class Subject(NamedTuple):
    """What one unit holds of one dataset: as its source, or as a copy."""

    unit: str
    dataset: str
    leg: Leg


class ProofState(StrEnum):
    EQUAL = "equal"
    DIFFERENT = "different"
    HELD = "held"
    LATE = "late"
    UNPROVED = "unproved"


NEEDS_A_PERSON = (ProofState.DIFFERENT, ProofState.HELD, ProofState.LATE)


class ProofRow(NamedTuple):
    """`outcome` None: it was never proved."""

    subject: Subject
    state: ProofState
    outcome: ProofOutcome | None


@dataclass(frozen=True, slots=True)
class Proved:
    """What was read: every policy that can be read, and the last outcome of each subject."""

    history: Mapping[int, Policy]
    outcomes: Mapping[Subject, ProofOutcome]

    def rows(self, joined: Joined, now: float) -> list[ProofRow]:
        return proof_rows(self.history, self.outcomes, joined, now)


def joined(report: LagReport) -> Joined:
    """Units whose adapter ever began, as a source and as a recipient."""
    lived = [(stage.stage, stage.unit) for stage in report.stages if stage.has_lived]
    return {
        "source": {unit for stage, unit in lived if stage is Stage.OUTBOX},
        "copy": {unit for stage, unit in lived if stage is Stage.APPLY},
    }


def subjects_of(policy: Policy) -> list[Subject]:
    """Every dataset that a unit may publish, and every one that it has a right to."""
    contract, rights = policy.contract, rule_digests(policy)
    published = [Subject(u, d, "source") for u in rights for d in contract.published_by(u)]
    return published + [Subject(u, d, "copy") for u, datasets in rights.items() for d in datasets]


def proof_rows(
    history: Mapping[int, Policy],
    outcomes: Mapping[Subject, ProofOutcome],
    joined: Joined,
    now: float,
) -> list[ProofRow]:
    """The rules above, under the newest policy. `now` in seconds since 1970."""
    if not history:
        return []
    current = history[max(history)]
    rows = []
    for subject in subjects_of(current):
        outcome = outcomes.get(subject)
        is_absent = outcome is not None and outcome.verdict == "absent"
        if subject.unit in joined[subject.leg] and not is_absent:
            rows.append(ProofRow(subject, _state(subject, outcome, history, now), outcome))
    return rows


def _state(
    subject: Subject, outcome: ProofOutcome | None, history: Mapping[int, Policy], now: float
) -> ProofState:
    if outcome is not None and outcome.verdict == "different":
        return ProofState.DIFFERENT if differences_of(outcome) else ProofState.HELD
    since = outcome.proved_at_us / 1e6 if outcome is not None else None
    if history[max(history)].contract.proofs is not None:
        began = _expected_since(subject, history) if since is None else since
        if now - began > LATE_SECONDS:
            return ProofState.LATE
    return ProofState.UNPROVED if outcome is None else ProofState.EQUAL


def held_of(outcome: ProofOutcome) -> int:
    return _by_class(outcome).get(HELD, 0)


def differences_of(outcome: ProofOutcome) -> int:
    """But for what is held, as `deptbus reconcile` counts them."""
    return sum(outcome.counts) - held_of(outcome)


def _by_class(outcome: ProofOutcome) -> dict[str, int]:
    return dict(zip(outcome.classes, outcome.counts, strict=True))


def _expected_since(subject: Subject, history: Mapping[int, Policy]) -> float:
    """Since when, without a break, the contract has an hour for proofs and the unit this right."""
    since = 0.0
    for number in sorted(history, reverse=True):
        policy = history[number]
        if policy.contract.proofs is None or subject not in subjects_of(policy):
            break
        since = policy.activated_at.timestamp()
    return since


def proofs_document(rows: Iterable[ProofRow], now: float) -> list[dict[str, Any]]:
    """What was never proved has null for what nobody knows."""
    return [
        {
            **row.subject._asdict(),
            "state": row.state,
            **_told(row.outcome, now),
        }
        for row in rows
    ]


def _told(outcome: ProofOutcome | None, now: float) -> dict[str, Any]:
    if outcome is None:
        names_of = ("proved_at", "age_seconds", "rows", "differences", "held", "by_class")
        return dict.fromkeys(names_of)
    at = outcome.proved_at_us / 1e6
    return {
        "proved_at": when(at),
        "age_seconds": max(0, round(now - at)),
        "rows": outcome.rows,
        "differences": differences_of(outcome),
        "held": held_of(outcome),
        "by_class": _by_class(outcome),
    }


async def keep_outcome(sender: Sender, outcome: ProofOutcome) -> None:
    """Returns when the bus has it. Raises BusRefused, BusUnreachable."""
    await sender.send([Outgoing(names.PROOFS, 0, key_of(outcome), encode_control(outcome))])


async def read_proved(connection: Connection) -> Proved:
    """Raises BusUnreachable, and BusRefused on a bus that `deptbus topics apply` has not seen."""
    outcomes = outcomes_of(await read_to_end(connection, names.PROOFS))
    return Proved((await read_policies(connection)).policies, outcomes)


def outcomes_of(records: Iterable[LogRecord]) -> dict[Subject, ProofOutcome]:
    """The last of each subject; what is no outcome is told and left out."""
    found: dict[Subject, ProofOutcome] = {}
    for record in records:
        try:
            outcome = decode_control(record.value)
            check_key(record.key, outcome)
        except WireRefused as error:
            log.error("proof_record_refused", offset=record.offset, reason=error.reason)
            continue
        if isinstance(outcome, ProofOutcome):
            found[Subject(outcome.unit, outcome.dataset, outcome.leg)] = outcome
    return found
