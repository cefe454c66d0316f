"""When each source unit last refreshed each dataset: read from its outbox, the newest first.

An outbox holds what one unit published, so a unit that is silent has little to be read. They are
read back in steps that grow, until each dataset was met, or the oldest promise is behind us, or the
log begins. A promise that is longer than the outbox's retention is looked for in the canonical
topic, which keeps a unit's last state of every record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.change import Cause, Change
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.contract.opening import opening_of
from deptbus.errors import BusUnreachable, WireRefused
from deptbus.names import data_topic, out_topic, unit_of_topic
from deptbus.operations.freshness import NEVER_CAME, Refresh
from deptbus.operations.offset_requests import EARLIEST, LATEST, Cluster
from deptbus.operations.offsets import Offsets, Spot, Told
from deptbus.stream.brokers import open_consumer, translate
from deptbus.stream.data import decode_data
from deptbus.stream.log import scan_to_end
from deptbus.wire.codecs import Codecs

log = structlog.get_logger(__name__)

FIRST_STEP, STEP_GROWTH = 64, 8
MOST_SCANNED = 500_000  # records of one canonical topic; beyond that nobody can tell
_REFRESHES = (Cause.LIVE, Cause.SNAPSHOT)
_SILENCE_MS = 5_000

Source = tuple[str, str]  # unit, dataset


@dataclass
class Found:
    """What reading back has met so far. Pure: `take` and `close` are told what was read."""

    wanted: dict[str, set[str]]  # unit -> its datasets
    due: Callable[[str, str, float], float]  # unit, dataset, last refresh -> when the next is due
    refreshes: dict[Source, float] = field(default_factory=dict)

    def take(self, unit: str, change: Change) -> None:
        if change.source_unit == unit and change.cause in _REFRESHES:
            source = unit, change.dataset
            at = change.source_time_us / 1e6
            self.refreshes[source] = max(at, self.refreshes.get(source, at))

    def settle(self, units: Iterable[str], oldest: Mapping[str, float], now: float) -> set[str]:
        """Which of these units have to be read further back. `oldest`: of each, since when all of
        its outbox was read."""
        further = set()
        for unit in units:
            missing = {d for d in self.wanted[unit] if (unit, d) not in self.refreshes}
            since = oldest.get(unit, now)
            if any(now <= self.due(unit, dataset, since) for dataset in missing):
                further.add(unit)
        return further

    def refresh(self, source: Source, since: float | None) -> Refresh:
        """`since`: from when on all was read; NEVER_CAME: everything; None: nobody could read."""
        if source in self.refreshes:
            return Refresh(self.refreshes[source])
        return Refresh(not_after=since)


async def last_refreshes(
    connection: Connection, contract: Contract, cluster: Cluster, now: float
) -> dict[Source, Refresh]:
    """Of every unit and every dataset that it may publish. Raises BusUnreachable, BusRefused."""
    codecs = Codecs(contract)
    wanted = {u.unit: set(contract.published_by(u.unit)) for u in contract.units}
    wanted = {unit: datasets for unit, datasets in wanted.items() if datasets}
    found = Found(wanted, _due_by(contract))
    consumer = await open_consumer(connection)
    try:
        since = await _read_back(consumer, codecs, found, cluster, now)
    except (KafkaError, OSError, TimeoutError) as error:
        raise translate(error) from error
    finally:
        await consumer.stop()
    told = {
        (unit, dataset): found.refresh((unit, dataset), since.get(unit))
        for unit, datasets in wanted.items()
        for dataset in datasets
    }
    unknown: dict[str, list[str]] = defaultdict(list)
    for (unit, dataset), refresh in told.items():
        bound = refresh.not_after
        if refresh.at is None and bound is not None and now <= found.due(unit, dataset, bound):
            unknown[dataset].append(unit)
    for dataset, units in unknown.items():
        told |= await _from_canonical(connection, codecs, dataset, units)
    return told


def _due_by(contract: Contract) -> Callable[[str, str, float], float]:
    openings = {unit.unit: opening_of(unit, contract) for unit in contract.units}

    def due(unit: str, dataset: str, last: float) -> float:
        if last == NEVER_CAME:
            return NEVER_CAME
        return openings[unit].due(last, contract.datasets[dataset].freshness_hours * 3600)

    return due


async def _read_back(
    consumer: AIOKafkaConsumer, codecs: Codecs, found: Found, cluster: Cluster, now: float
) -> dict[str, float]:
    """Unit -> from when on all of its outbox was read; NEVER_CAME where it was read whole and
    nothing was ever removed from it; a unit whose outbox cannot be read is left out."""
    spots = [
        (topic, partition)
        for topic in map(out_topic, found.wanted)
        if topic in cluster.topics
        for partition in range(len(cluster.topics[topic].leaders))
    ]
    asking = Offsets(consumer._client)
    starts = await asking.offsets(spots, cluster, EARLIEST)
    ends = await asking.offsets(spots, cluster, LATEST)
    edges = _edges(starts, ends)
    since: dict[str, float] = dict.fromkeys(edges, now)
    further, step = set(edges), FIRST_STEP
    while further:
        ranges: dict[TopicPartition, tuple[int, int]] = {}
        for unit in further:
            for spot, (start, low, _) in edges[unit].items():
                upper, lower = low, max(start, low - step)
                if lower < upper:
                    ranges[TopicPartition(*spot)] = lower, upper
                edges[unit][spot] = start, lower, upper
        times = await _read(consumer, codecs, found, ranges)
        for unit in further:
            since[unit] = _since(edges[unit], times, since[unit])
        begun = {unit for unit in further if all(s == low for s, low, _ in edges[unit].values())}
        further = found.settle(further - begun, since, now)
        step *= STEP_GROWTH
    return since


Edges = dict[str, dict[Spot, tuple[int, int, int]]]


def _edges(starts: Told, ends: Told) -> Edges:
    """Unit -> partition -> (start of the log, lowest offset read so far, the one before that); only
    units of which every partition can be read."""
    edges: Edges = defaultdict(dict)
    blind = set()
    for spot, end in ends.items():
        start, unit = starts[spot], unit_of_topic(spot[0])
        if isinstance(start, int) and isinstance(end, int):
            edges[unit][spot] = start, end, end
        else:
            blind.add(unit)
    return {unit: spots for unit, spots in edges.items() if unit not in blind}


def _since(
    edges: Mapping[Spot, tuple[int, int, int]], times: Mapping[Spot, float], before: float
) -> float:
    """From when on every partition was read, after one step back."""
    bounds = []
    for spot, (start, low, _) in edges.items():
        if low == start == 0:
            bounds.append(NEVER_CAME)
        else:
            bounds.append(times.get(spot, before))
    return max(bounds)


async def _read(
    consumer: AIOKafkaConsumer,
    codecs: Codecs,
    found: Found,
    ranges: Mapping[TopicPartition, tuple[int, int]],
) -> dict[Spot, float]:
    """Reads these ranges; partition -> the time that its first record bears."""
    times: dict[Spot, float] = {}
    if not ranges:
        return times
    consumer.assign(list(ranges))
    for place, (lower, _) in ranges.items():
        consumer.seek(place, lower)
    left = set(ranges)
    while left:
        batch = await consumer.getmany(*left, timeout_ms=_SILENCE_MS, max_records=5000)
        moved = False
        for place in list(left):
            for record in batch.get(place, ()):
                if record.offset < ranges[place][1]:
                    times.setdefault((place.topic, place.partition), record.timestamp / 1000)
                    _take(codecs, found, unit_of_topic(place.topic), record.key, record.value)
                    moved = True
            if await consumer.position(place) >= ranges[place][1]:
                left.discard(place)
                consumer.pause(place)
                moved = True
        if not moved:
            raise BusUnreachable("the bus gives no records of the outboxes")
    return times


def _take(codecs: Codecs, found: Found, unit: str, key: bytes | None, value: bytes | None) -> None:
    try:
        change = codecs.decode_out(key, value)
    except WireRefused:
        return  # intake notes it; a record that nobody accepts refreshes nothing
    if isinstance(change, Change):
        found.take(unit, change)


async def _from_canonical(
    connection: Connection, codecs: Codecs, dataset: str, units: Iterable[str]
) -> dict[Source, Refresh]:
    """By the canonical topic, in which a resend stands in the place of what it sent again: so its
    latest time is a bound."""
    latest: dict[str, float] = dict.fromkeys(units, NEVER_CAME)
    is_exact: dict[str, bool] = {}
    scanned = 0
    async with aclosing(scan_to_end(connection, data_topic(dataset))) as batches:
        async for records in batches:
            scanned += len(records)
            if scanned > MOST_SCANNED:
                return {(unit, dataset): Refresh() for unit in latest}
            for record in records:
                try:
                    change = decode_data(codecs, record.key, record.value)
                except WireRefused:
                    continue
                if isinstance(change, Change) and change.source_unit in latest:
                    at = change.source_time_us / 1e6
                    if at >= latest[change.source_unit]:
                        latest[change.source_unit] = at
                        is_exact[change.source_unit] = change.cause in _REFRESHES
    return {
        (unit, dataset): Refresh(at) if is_exact.get(unit) else Refresh(not_after=at)
        for unit, at in latest.items()
    }
