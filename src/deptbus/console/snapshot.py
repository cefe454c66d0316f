"""What all pages are drawn from: one frozen picture of the bus, and whoever waits for the next one.

However many browsers are open, the bus is looked at by one watcher; they share what it saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from deptbus.console.roles import Person
from deptbus.contract.model import Policy
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.parked import ParkedRecord
from deptbus.operations.picture import Applied, DatasetSheet, Flow, SavedEntries, UnitSheet
from deptbus.operations.proofs import Proved
from deptbus.operations.proposals import ProposalStanding
from deptbus.operations.quarantine import Case
from deptbus.operations.replay_apply import Standing
from deptbus.wire.control import Act, AlarmSeen, AlarmTold, ParkedRetried

_OfUnit = TypeVar("_OfUnit", FreshnessRow, Case, ParkedRecord, ParkedRetried)

FLOWS_SECONDS = 60.0  # how long a flow stays on the map


@dataclass(frozen=True, slots=True)
class Snapshot:
    """None and empty: not looked at yet. `trouble`: why the last look failed; empty: it did not.
    Times are seconds since 1970."""

    number: int = 0  # grows with each change
    at: float | None = None  # of the last look that reached the bus
    trouble: str = ""
    policy: Policy | None = None
    lag: LagReport | None = None
    freshness: tuple[FreshnessRow, ...] | None = None
    cases: tuple[Case, ...] | None = None
    cases_are_whole: bool = True
    parked: tuple[ParkedRecord, ...] = ()  # rows at recipients that their adapters list
    retried: tuple[ParkedRetried, ...] = ()  # what came of the last retry of each
    proofs: Proved | None = None
    orders: tuple[Standing, ...] | None = None  # replays and repairs, the latest first
    proposals: tuple[ProposalStanding, ...] | None = None  # the latest first
    acts: tuple[Act, ...] | None = None
    # Those that are open, the worst first, and who has seen them.
    alarms: tuple[tuple[AlarmTold, AlarmSeen | None], ...] | None = None
    units: Mapping[str, UnitSheet] = field(default_factory=dict)
    datasets: Mapping[str, DatasetSheet] = field(default_factory=dict)
    flows: tuple[Flow, ...] = ()  # of the last minute
    applied: Mapping[str, Applied] = field(default_factory=dict)
    saved: SavedEntries | None = None


def seen_by(snapshot: Snapshot, person: Person) -> Snapshot:
    """The part of the picture that this person may see: a clerk's own unit, and what concerns it.
    Pages are drawn from this and from nothing else."""
    unit = person.own_unit_only
    if not unit:
        return snapshot
    sheet = snapshot.units.get(unit)
    mine: set[str] = set()
    if sheet is not None:
        mine = {p.dataset for p in sheet.publishes} | {r.dataset for r in sheet.receives}
    return replace(
        snapshot,
        lag=None if snapshot.lag is None else _lag_of(snapshot.lag, unit),
        freshness=_of(snapshot.freshness, unit),
        cases=_of(snapshot.cases, unit),
        parked=_of(snapshot.parked, unit) or (),
        retried=_of(snapshot.retried, unit) or (),
        proofs=None if snapshot.proofs is None else _proofs_of(snapshot.proofs, unit),
        orders=tuple(o for o in snapshot.orders or () if o.order.unit == unit),
        proposals=tuple(p for p in snapshot.proposals or () if p.proposal.unit == unit),
        acts=(),
        alarms=tuple(pair for pair in snapshot.alarms or () if unit in pair[0].subject.split("/")),
        units={} if sheet is None else {unit: sheet},
        datasets={
            name: replace(
                dataset,
                recipients=tuple(r for r in dataset.recipients if _concerns(r.unit, dataset, unit)),
            )
            for name, dataset in snapshot.datasets.items()
            if name in mine
        },
        flows=tuple(f for f in snapshot.flows if unit in (f.source, f.recipient)),
        applied={name: one for name, one in snapshot.applied.items() if name == unit},
        saved=None
        if snapshot.saved is None
        else replace(snapshot.saved, rows=tuple(r for r in snapshot.saved.rows if r.unit == unit)),
    )


def _concerns(recipient: str, dataset: DatasetSheet, unit: str) -> bool:
    """A source knows to whom its data go; a recipient knows of itself."""
    return unit in dataset.sources or recipient == unit


def _proofs_of(proofs: Proved, unit: str) -> Proved:
    mine = {subject: o for subject, o in proofs.outcomes.items() if subject.unit == unit}
    return replace(proofs, outcomes=mine)


def _lag_of(report: LagReport, unit: str) -> LagReport:
    places = set(report.places_of(unit))
    tracks = {place: t for place, t in report.picture.tracks.items() if place in places}
    return replace(
        report,
        units=tuple(u for u in report.units if u.unit == unit),
        stages=tuple(s for s in report.stages if s.unit == unit),
        picture=replace(report.picture, tracks=tracks, groups={}),
        holds=tuple(h for h in report.holds if h.unit == unit),
    )


def _of(items: tuple[_OfUnit, ...] | None, unit: str) -> tuple[_OfUnit, ...] | None:
    return None if items is None else tuple(item for item in items if item.unit == unit)


class Board:
    """Holds the snapshot of now; `put` by the watcher alone, read by all. Of one event loop."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._changed = asyncio.Condition()
        self._closed = False

    async def put(self, **changes: object) -> None:
        """The next snapshot, with these parts of it renewed."""
        number = self.snapshot.number + 1
        self.snapshot = replace(self.snapshot, number=number, **changes)  # type: ignore[arg-type]
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """Ends every `follow`."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def follow(self, longest_seconds: float) -> AsyncIterator[Snapshot]:
        """The present snapshot, then each one that is newer by the time that the reader asks; the
        same again when nothing came for so long."""
        known = -1
        while not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_seconds), self._changed:
                    while not self._closed and self.snapshot.number <= known:
                        await self._changed.wait()
            if self._closed:
                return
            known = self.snapshot.number
            yield self.snapshot
