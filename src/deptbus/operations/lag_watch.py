"""Who of the bus is behind: puts observer, signs of life and contract together into one report.

Which systems of a unit receive is nowhere agreed: those that said so by a sign of life or have
committed. Where a unit has none, its first system should have begun, unless it only publishes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Hold, Unit
from deptbus.contract.opening import opening_of
from deptbus.errors import ContractUnreadable
from deptbus.operations.lag import Place
from deptbus.operations.margin import FOR_EVER, Keeping, margin_seconds
from deptbus.operations.observer import Observer, Picture, reader_by_members
from deptbus.operations.offset_requests import Cluster, Group
from deptbus.operations.signs import Life
from deptbus.operations.stages import (
    BUS,
    OFFICE,
    Part,
    Stage,
    StageReport,
    outbox_seen,
    parked_of,
    stage_report,
    unit_report,
)
from deptbus.operations.verdicts import USUAL, Limits, Reader, Track, follow
from deptbus.operations.watch_signs import SignsWatch, System
from deptbus.stream.policies import read_policies

CONTRACT_SECONDS = 60.0  # so often it is looked whether another contract is in force
KEEPING_SECONDS = 600.0
OPENING_GRACE_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class LagReport:
    """`units`: the stage that speaks for each unit, the bus itself first; `stages`: all of them."""

    at: float
    picture: Picture
    units: tuple[StageReport, ...]
    stages: tuple[StageReport, ...]
    has_contract: bool
    holds: tuple[Hold, ...] = ()  # deliveries that the data office keeps back
    policy: int | None = None  # the number in force
    contract: Contract | None = None

    def places_of(self, unit: str) -> list[Place]:
        """What this unit's own two topics are read by."""
        mine = {names.out_topic(unit), names.in_topic(unit)}
        return [place for place in self.picture.tracks if place.topic in mine]


class LagWatch:
    """`start`, then `look` any number of times; `stop`. Works on any cluster: without a contract on
    it there are groups and no units. Raises BusUnreachable, BusRefused."""

    def __init__(
        self,
        connection: Connection,
        limits: Limits = USUAL,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._limits, self._now = connection, limits, now
        self._observer = Observer(connection, limits, now)
        self._signs = SignsWatch(connection)
        self._contract: Contract | None = None
        self._holds: tuple[Hold, ...] = ()
        self._policy: int | None = None
        self._contract_read_at = float("-inf")
        self._readers: dict[str, Reader] = {}  # of our own groups
        self._outboxes: dict[System, Track] = {}
        self._keepings: dict[str, tuple[Keeping | None, float]] = {}

    async def start(self) -> None:
        await self._observer.start()

    async def stop(self) -> None:
        await self._signs.stop()
        await self._observer.stop()

    async def __aenter__(self) -> LagWatch:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def look(self) -> LagReport:
        now = self._now()
        cluster = await self._observer.cluster()
        await self._follow_contract(cluster, now)
        systems = [(u.unit, system) for u in self._units() for system in u.systems]
        await self._signs.read(systems, cluster, now)
        self._readers = {
            names.adapter_group(*system): self._signs.recipient(system, now).reader
            for system in systems
        }
        if self._contract is not None:
            self._readers[names.WORKER_GROUP] = self._signs.worker.reader

        def reader_of(group: str, known: Group | None) -> Reader:
            return self._readers.get(group) or reader_by_members(known)

        picture = await self._observer.poll(cluster, self._expected(), reader_of)
        await self._read_keepings(picture)
        stages = tuple(self._stages(picture))
        by_unit: dict[str, list[StageReport]] = defaultdict(list)
        for report in stages:
            by_unit[report.unit].append(report)
        units = tuple(unit_report(reports) for reports in by_unit.values())
        has_contract = self._contract is not None
        return LagReport(
            picture.at,
            picture,
            units,
            stages,
            has_contract,
            self._holds,
            self._policy,
            self._contract,
        )

    # --- what should be there -------------------------------------------------------------

    def _units(self) -> tuple[Unit, ...]:
        return self._contract.units if self._contract is not None else ()

    async def _follow_contract(self, cluster: Cluster, now: float) -> None:
        if names.CONTRACT not in cluster.topics:
            self._contract, self._holds, self._policy = None, (), None
        elif now - self._contract_read_at > CONTRACT_SECONDS:
            try:
                policy = (await read_policies(self._connection)).current()
                self._contract, self._holds = policy.contract, policy.holds
                self._policy = policy.number
            except ContractUnreadable:
                self._contract, self._holds, self._policy = None, (), None
            self._contract_read_at = now

    def _expected(self) -> dict[str, list[str]]:
        contract = self._contract
        if contract is None:
            return {}
        publishing = [u.unit for u in contract.units if contract.published_by(u.unit)]
        worker = [*map(names.out_topic, publishing), *map(names.data_topic, contract.datasets)]
        expected = {names.WORKER_GROUP: worker}
        for unit in contract.units:
            for system in unit.systems:
                group = names.adapter_group(unit.unit, system)
                expected[group] = [names.in_topic(unit.unit)]
        return expected

    # --- what is said of it ---------------------------------------------------------------

    def _stages(self, picture: Picture) -> Iterable[StageReport]:
        if self._contract is None:
            return
        by_topic: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for place in picture.tracks:
            by_topic[place.group, place.topic].append(place)

        def parts(group: str, topics: Iterable[str]) -> list[Part]:
            return [self._part(place, picture) for t in topics for place in by_topic[group, t]]

        worker = self._signs.worker
        routed = parts(names.WORKER_GROUP, map(names.data_topic, self._contract.datasets))
        silent = worker.silent_since
        yield stage_report(BUS, Stage.ROUTING, OFFICE, routed, silent_since=silent, now=picture.at)
        for unit in self._contract.units:
            if self._contract.published_by(unit.unit):
                yield from self._outbox_stages(unit, picture.at)
                taken_in = parts(names.WORKER_GROUP, [names.out_topic(unit.unit)])
                yield stage_report(unit.unit, Stage.INTAKE, OFFICE, taken_in, now=picture.at)
            for system in self._receiving(unit, picture):
                life = self._signs.recipient(system, picture.at)
                beat = self._signs.of(system).recipient
                applied = parts(names.adapter_group(*system), [names.in_topic(unit.unit)])
                yield stage_report(
                    unit.unit,
                    Stage.APPLY,
                    unit.owner,
                    applied,
                    silent_since=life.silent_since,
                    has_lived=life.last is not None or self._receives(system, picture),
                    closed_until=self._closed_until(unit, life, picture.at),
                    parked=beat.parked if beat is not None else None,
                    parked_for=parked_of(beat),
                    now=picture.at,
                )

    def _outbox_stages(self, unit: Unit, now: float) -> Iterable[StageReport]:
        for name in unit.systems:
            system = unit.unit, name
            beat = self._signs.of(system).source
            life = self._signs.source(system, now)
            if beat is None:
                continue  # it does not publish, or never began
            seen = outbox_seen(beat, life.reader)
            track = follow(self._outboxes.get(system), seen, life.reader, now, self._limits)
            self._outboxes[system] = track
            yield stage_report(
                unit.unit,
                Stage.OUTBOX,
                unit.owner,
                # How soon its cap is reached depends on what is written there.
                [Part(track, FOR_EVER if track.lag.waits is False else None)],
                silent_since=life.silent_since,
                closed_until=self._closed_until(unit, life, now),
                missed=beat.resync_needed,
                parked=beat.parked,
                now=now,
            )

    def _closed_until(self, unit: Unit, life: Life, now: float) -> float | None:
        """When a unit that has switched off works again. Who opens does not start at once."""
        if self._contract is None or life.reader is not Reader.GONE:
            return None
        opening = opening_of(unit, self._contract)
        if not opening.is_open(now):
            return opening.opens_next(now)
        has_just_opened = not opening.is_open(now - OPENING_GRACE_SECONDS)
        return now + OPENING_GRACE_SECONDS if has_just_opened else None

    def _receiving(self, unit: Unit, picture: Picture) -> list[System]:
        systems = [(unit.unit, name) for name in unit.systems]
        found = [s for s in systems if self._receives(s, picture)]
        if found or any(self._signs.of(s).source is not None for s in systems):
            return found
        return systems[:1]

    def _receives(self, system: System, picture: Picture) -> bool:
        if self._signs.of(system).recipient is not None:
            return True
        place = Place(names.adapter_group(*system), names.in_topic(system[0]), 0)
        track = picture.tracks.get(place)
        return track is not None and track.seen is not None and track.seen.committed is not None

    # --- how long it is safe to wait ------------------------------------------------------

    def _part(self, place: Place, picture: Picture) -> Part:
        track = picture.tracks[place]
        if not self._is_at_risk(place, track):
            return Part(track)
        keeping, _ = self._keepings.get(place.topic, (None, 0.0))
        return Part(track, margin_seconds(track.lag, keeping))

    def _is_at_risk(self, place: Place, track: Track) -> bool:
        """What is unread grows old, and so will what comes to a reader that is gone."""
        return track.lag.waits is not False or self._readers.get(place.group) is Reader.GONE

    async def _read_keepings(self, picture: Picture) -> None:
        wanted = {
            place.topic
            for place, track in picture.tracks.items()
            if self._is_at_risk(place, track)
            and place.topic in picture.cluster.topics
            and picture.at - self._keepings.get(place.topic, (None, float("-inf")))[1]
            > KEEPING_SECONDS
        }
        if wanted:
            told = await self._observer.keepings(wanted, picture.cluster)
            for topic in wanted:
                self._keepings[topic] = told.get(topic), picture.at
