"""Reads the signs of life from the bus: `control.<unit>` of every unit, and `bus.agents`.

The topics are compacted, but a thousand of them read from their beginnings take long: each is read
from a little before its end, and from its beginning only where a system of the unit is not met
there. Of what one read brings the last counts: that one sign followed another before we looked is
no news.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.connection import Connection
from deptbus.errors import BusUnreachable, DeptbusError, WireRefused
from deptbus.names import AGENTS, control_topic, unit_of_topic
from deptbus.operations.offset_requests import EARLIEST, LATEST, Cluster
from deptbus.operations.offsets import Offsets, Told
from deptbus.operations.signs import (
    UNREADABLE,
    AgentSigns,
    Life,
    Sign,
    SystemSigns,
    latest,
    life_of,
    next_sign,
)
from deptbus.stream.brokers import open_consumer, translate
from deptbus.wire.control import AgentReport, AppliedBeat, Heartbeat, check_key, decode_control

log = structlog.get_logger(__name__)

TAIL_RECORDS = 64
_SILENCE_MS = 5_000  # records are known to lie there: a bus that gives none for so long is away
System = tuple[str, str]  # unit, system


class SignsWatch:
    """`read` at each poll; `stop` at the end. Raises nothing for a bus that is away: then what it
    says is that nobody can tell."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._systems: dict[System, SystemSigns] = {}
        self._agents: dict[str, AgentSigns] = {}
        self._places: frozenset[TopicPartition] = frozenset()
        self._beats: dict[tuple[System, type], Heartbeat | AppliedBeat] = {}  # of this read
        self._reports: dict[str, AgentReport] = {}
        self._is_read = False
        self.worker = UNREADABLE

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def read(self, systems: Iterable[System], cluster: Cluster, now: float) -> None:
        """Up to the ends. `systems`: those that are expected."""
        try:
            await self._read(set(systems), cluster, now)
            self._is_read = True
        except DeptbusError as error:
            if self._is_read:
                log.warning("signs_unreadable", error=error.what)
            self._is_read = False
            await self.stop()
        lives = [agent.life(now) for agent in self._agents.values()]
        self.worker = latest(lives) if self._can_tell(AGENTS) else UNREADABLE

    def of(self, system: System) -> SystemSigns:
        return self._systems.get(system, SystemSigns())

    def source(self, system: System, now: float) -> Life:
        return self._life(system, self.of(system).source_sign, now)

    def recipient(self, system: System, now: float) -> Life:
        return self._life(system, self.of(system).recipient_sign, now)

    def _life(self, system: System, sign: Sign | None, now: float) -> Life:
        return life_of(sign, now) if self._can_tell(control_topic(system[0])) else UNREADABLE

    def _can_tell(self, topic: str) -> bool:
        """A topic that is not there, or that this client may not see, tells nothing of anybody."""
        return self._is_read and TopicPartition(topic, 0) in self._places

    async def _read(self, systems: set[System], cluster: Cluster, now: float) -> None:
        wanted = {control_topic(unit) for unit, _ in systems} | {AGENTS}
        places = frozenset(TopicPartition(t, 0) for t in wanted & cluster.topics.keys())
        if not places:
            self._places = places
            return
        if self._consumer is None:
            self._consumer = await open_consumer(self._connection)
            self._places = frozenset()
        consumer = self._consumer
        try:
            # Not by the consumer: it asks for the metadata of a thousand topics one by one.
            asking = Offsets(consumer._client)
            ends = _known(await asking.offsets(places, cluster, LATEST))
            if places != self._places:
                starts = _known(await asking.offsets(places, cluster, EARLIEST))
                self._begin(consumer, places, starts, ends)
            await self._drain(consumer, ends)
            if not self._is_read:
                await self._fill_gaps(consumer, systems, ends)
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error) from error
        self._settle(now)

    def _begin(
        self,
        consumer: AIOKafkaConsumer,
        places: frozenset[TopicPartition],
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        consumer.assign(list(places))
        for place in places:
            tail = 0 if place.topic == AGENTS else ends[place] - TAIL_RECORDS
            consumer.seek(place, max(starts[place], tail))
        self._places = places

    async def _drain(self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> None:
        left = {p for p in ends if await consumer.position(p) < ends[p]}
        while left:
            found = await consumer.getmany(*left, timeout_ms=_SILENCE_MS, max_records=5000)
            if not found:
                raise TimeoutError
            for place, records in found.items():
                for record in records:
                    self._take(place.topic, record.key, record.value)
            left = {p for p in left if await consumer.position(p) < ends[p]}

    async def _fill_gaps(
        self,
        consumer: AIOKafkaConsumer,
        systems: set[System],
        ends: Mapping[TopicPartition, int],
    ) -> None:
        """A system that died long ago gave its last sign far before the end."""
        met = {system for system, _ in self._beats}
        missing = {unit for unit, system in systems if (unit, system) not in met}
        again = [p for p in self._places if p.topic != AGENTS and unit_of_topic(p.topic) in missing]
        if again:
            await consumer.seek_to_beginning(*again)
            await self._drain(consumer, {place: ends[place] for place in again})

    def _take(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        try:
            record = decode_control(value)
            check_key(key, record)
        except WireRefused as error:
            log.warning("control_record_refused", topic=topic, reason=error.reason)
            return
        if isinstance(record, Heartbeat | AppliedBeat) and topic == control_topic(record.unit):
            self._beats[(record.unit, record.system), type(record)] = record
        elif isinstance(record, AgentReport) and topic == AGENTS:
            self._reports[record.agent] = record

    def _settle(self, now: float) -> None:
        for (system, _), beat in self._beats.items():
            self._systems[system] = self.of(system).took(beat, now)
        for agent, report in self._reports.items():
            before = self._agents.get(agent)
            sign = next_sign(before.sign if before else None, report.reported_at_us, now)
            self._agents[agent] = AgentSigns(report, sign)
        self._beats.clear()
        self._reports.clear()


def _known(told: Told) -> dict[TopicPartition, int]:
    """Raises BusUnreachable when one of them could not be told: then nobody knows who is silent."""
    for (topic, _), offset in told.items():
        if isinstance(offset, str):
            raise BusUnreachable(f"{topic} cannot be read ({offset})")
    return {TopicPartition(*spot): offset for spot, offset in told.items()}  # type: ignore[misc]
