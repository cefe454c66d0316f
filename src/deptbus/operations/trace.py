"""One record's way over the bus: versions, deliveries, and where it waits now. Pure.

Built from what was read of `out`, `data` and `in` in the key's own partition. Fields are named, and
their values never are. Where something waits, the first rule that holds for the newest version:

1. It lies in `out` behind what intake has committed: `intake`; its source unit is named. Where the
   workers never committed they have taken nothing.
2. It lies in `data` behind what the agents have committed: `routing`.
3. A recipient that should have it by the policy in force, and has no delivery of it: `held` when
   the policy holds it back, else `missing` (a job is due, or retention took the delivery).
4. A delivery lies in an inbox behind what its adapter has committed: `inbox`; the unit is named.

A refused version waits for a person: `quarantine`, unless a newer version was accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from deptbus.change import Change, DeliveryOp, Received
from deptbus.contract.model import Policy
from deptbus.operations.quarantine import Case
from deptbus.routing import Router


@dataclass(frozen=True, slots=True)
class Seen:
    """A record of the key at one place. `is_read`: whether the stage behind it has committed past
    it; None when one of its readers never committed anything there."""

    topic: str
    partition: int
    offset: int
    written_at_ms: int
    is_read: bool | None


@dataclass(slots=True)
class Version:
    change: Change
    out: Seen | None = None  # None: gone by retention
    data: Seen | None = None  # None: not accepted, or superseded and compacted away
    refused: str | None = None  # the reason of its note


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery in an inbox."""

    unit: str
    received: Received
    seen: Seen


@dataclass(frozen=True, slots=True)
class Wait:
    stage: str
    unit: str  # whose turn it is; empty: the data office's
    version: int
    why: str = ""


@dataclass(slots=True)
class Trace:
    dataset: str
    key: bytes
    versions: list[Version] = field(default_factory=list)  # ascending by source unit and version
    arrivals: list[Arrival] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)  # topics; what is not here may be there


def versions_of(
    out: Iterable[tuple[Change, Seen]],
    data: Iterable[tuple[Change, Seen]],
    cases: Iterable[Case],
) -> list[Version]:
    """Every version that is left anywhere, with the places where it lies."""
    found: dict[tuple[str, int], Version] = {}
    for change, seen in out:
        one = found.setdefault((change.source_unit, change.version), Version(change))
        one.out = seen
    for change, seen in data:
        one = found.setdefault((change.source_unit, change.version), Version(change))
        one.data = seen
    refused = {case.place: case.note.reason for case in cases}
    for one in found.values():
        if one.out is not None:
            one.refused = refused.get((one.out.topic, one.out.partition, one.out.offset))
    return [found[which] for which in sorted(found)]


def recipients_of(changes: Iterable[Change], routers: Sequence[Router], now: datetime) -> set[str]:
    """Units to which one of these policies ever sent, or sends, a delivery of these changes."""
    return {d.unit for c in changes for router in routers for d in router.route(c, now)}


def waits_of(
    versions: Sequence[Version],
    arrivals: Sequence[Arrival],
    free: Router,
    policy: Policy,
    now: datetime,
) -> list[Wait]:
    """Where the newest version of each source unit waits. `policy`: the one in force; `free`: its
    router, as if nothing were held."""
    newest = {v.change.source_unit: v for v in versions if v.refused is None}
    found = []
    for version in versions:
        change = version.change
        accepted = newest.get(change.source_unit)
        if version.refused and (accepted is None or accepted.change.version < change.version):
            found.append(Wait("quarantine", change.source_unit, change.version, version.refused))
    for version in newest.values():
        found += _waits_of_one(version, arrivals, free, policy, now)
    return found


def _waits_of_one(
    version: Version,
    arrivals: Sequence[Arrival],
    free: Router,
    policy: Policy,
    now: datetime,
) -> list[Wait]:
    change = version.change
    if version.data is None and version.out is not None and not version.out.is_read:
        return [Wait("intake", change.source_unit, change.version)]
    if version.data is not None and not version.data.is_read:
        return [Wait("routing", "", change.version)]
    last = _last_by_unit(arrivals, change.source_unit)
    found = []
    for delivery in free.route(change, now):
        arrival = last.pop(delivery.unit, None)
        if arrival is not None and arrival.received.version >= change.version:
            if arrival.seen.is_read is False:
                found.append(Wait("inbox", delivery.unit, change.version))
        elif (hold := policy.hold_of(delivery.unit, change.dataset)) is not None:
            found.append(Wait("held", delivery.unit, change.version, hold.reason))
        elif delivery.op is not DeliveryOp.WITHDRAW:
            found.append(Wait("missing", delivery.unit, change.version))
    for unit, arrival in last.items():
        if arrival.seen.is_read is False:
            found.append(Wait("inbox", unit, arrival.received.version))
    return sorted(found, key=lambda wait: (wait.unit, wait.stage))


def _last_by_unit(arrivals: Sequence[Arrival], source_unit: str) -> dict[str, Arrival]:
    """Of each unit the newest delivery of the record, as an adapter orders them."""
    found: dict[str, Arrival] = {}
    for one in arrivals:
        if one.received.source_unit != source_unit:
            continue
        known = found.get(one.unit)
        if known is None or _order(one.received) >= _order(known.received):
            found[one.unit] = one
    return found


def _order(received: Received) -> tuple[int, int]:
    return received.version, received.policy
