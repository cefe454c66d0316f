"""How a stream process is measured: topics filled beforehand, what it did, and what that took."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from benchmarks import county
from benchmarks.bench import Bench, Bus, Child, CouldNot
from benchmarks.cpu import Meter
from benchmarks.figures import median
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import LogReader, LogRecord, Outgoing, Sender
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Incarnated, encode_control, key_of
from deptbus.wire.partitioner import partition_of

RUN_SECONDS = 300.0
_FILL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of processes that are warm."""

    records: int
    cpu_seconds: float  # of the processes that are measured
    wall_seconds: float
    broker_cpu_seconds: float

    @property
    def per_cpu_second(self) -> float:
        return self.records / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.records / self.wall_seconds

    @property
    def cores(self) -> float:
        """How many cores the processes and the broker kept busy."""
        return (self.cpu_seconds + self.broker_cpu_seconds) / self.wall_seconds


@dataclass(frozen=True, slots=True)
class Load:
    """So many records to warm up with, and so many that each round measures."""

    warm: int
    measured: int

    @property
    def total(self) -> int:
        return self.warm + self.measured


class Filler:
    """Writes the same changes of residents, again and again, as quickly as the broker takes them.

    The versions of a second round are those of the first: neither intake nor routing looks back.
    """

    def __init__(self, bus: Bus, count: int) -> None:
        codecs, parts = Codecs(bus.contract), bus.contract.partitions
        self._records = [
            (partition_of(change.key, parts), change.key, codecs.encode_change(change))
            for change in county.changes(codecs, count)
        ]
        words = {
            "log_level": 0,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 512 * 1024,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
        }
        self._producer = Producer({**bus.connection.librdkafka(), **words})

    async def fill(self, topic: str, first: int, end: int) -> None:
        """Writes records `first` to `end`; returns when all of them are acked."""
        await asyncio.to_thread(self._fill, topic, first, end)

    def _fill(self, topic: str, first: int, end: int) -> None:
        produce = self._producer.produce
        for partition, key, value in self._records[first:end]:
            produce(topic, value, key, partition)
        if self._producer.flush(_FILL_SECONDS):
            raise CouldNot(f"{topic} could not be filled within {_FILL_SECONDS:.0f} s")


async def announce(bus: Bus) -> None:
    """What a source's adapter says before it publishes: without it intake refuses its changes."""
    unit, incarnation = county.SOURCE, county.INCARNATION
    async with Sender(bus.connection) as sender:
        announced = [
            Outgoing(
                out_topic(unit),
                number,
                None,
                encode_control(Announcement(unit, "main", incarnation, number, 1)),
            )
            for number in range(bus.contract.partitions)
        ]
        offsets = tuple(await sender.send(announced))
        known = Incarnated(unit, "main", incarnation, offsets, "benchmark")
        await sender.send([Outgoing(control_topic(unit), 0, key_of(known), encode_control(known))])


def make_topic(bus: Bus, name: str) -> str:
    """A topic for what a rival writes, divided as ours are."""
    admin = AdminClient(bus.connection.librdkafka() | {"log_level": 0})
    for future in admin.create_topics([NewTopic(name, bus.contract.partitions, 1)]).values():
        future.result(30)
    return name


class Output:
    """How many records some topics hold, all their partitions together."""

    def __init__(self, bus: Bus, *topics: str) -> None:
        self._admin = AdminClient(bus.connection.librdkafka() | {"log_level": 0})
        self._asked = {
            TopicPartition(topic, number): OffsetSpec.latest()
            for topic in topics
            for number in range(bus.contract.partitions)
        }

    def count(self) -> int:
        found = self._admin.list_offsets(self._asked, request_timeout=30)
        return sum(future.result(30).offset for future in found.values())


@dataclass(frozen=True, slots=True)
class Lane:
    """A way from one topic to others, and how to start the processes that serve it."""

    source: str
    targets: Sequence[str]
    start: Callable[[], Child]
    bus: Bus
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Way:
    """A lane, what it gets, and who fills its source: `filler` has at least that many records."""

    lane: Lane
    filler: Filler
    load: Load


async def take_turns(bench: Bench, ways: Sequence[Way]) -> list[list[Run]]:
    """The runs of each way, which are paired: in each round every way has one.

    All processes are started and warmed up once. A round is short, and the next one goes the other
    way round: what a busy machine does for some seconds falls on all of them alike.
    """
    standing = [_Standing(way) for way in ways]
    try:
        for each in standing:
            await each.warm_up()
        runs: list[list[Run]] = [[] for _ in ways]
        for number in range(bench.rounds):
            round_ = list(zip(standing, runs, strict=True))
            for each, found in reversed(round_) if number % 2 else round_:
                found.append(await each.run())
    finally:
        for each in standing:
            each.stop()
    for each, found in zip(standing, runs, strict=True):
        bench.say(each.told(found))
    return runs


class _Standing:
    """The processes of a way, from their start on."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._children = [way.lane.start() for _ in range(way.lane.processes)]
        self._output = Output(way.lane.bus, *way.lane.targets)

    def stop(self) -> None:
        for child in self._children:
            child.stop()

    def told(self, runs: Sequence[Run]) -> str:
        return (
            f"{self._children[0].name} x {len(self._children)}: "
            f"{1e6 / median([r.per_cpu_second for r in runs]):.2f} us CPU a record, "
            f"{median([r.per_second for r in runs]):,.0f} records/s, "
            f"{median([r.cores for r in runs]):.2f} cores busy with the broker"
        )

    async def warm_up(self) -> None:
        for child in self._children:
            await child.ready()
        lane, load = self._way.lane, self._way.load
        start = await asyncio.to_thread(self._output.count)
        await self._way.filler.fill(lane.source, 0, load.warm)
        await self._until(start + load.warm * len(lane.targets))

    async def run(self) -> Run:
        """The processes are stopped (SIGSTOP) while what is measured is written, so that the whole
        of it lies there when they go on. A record counts when all that it leads to is in the
        output."""
        lane, load = self._way.lane, self._way.load
        start = await asyncio.to_thread(self._output.count)
        for child in self._children:
            child.send(signal.SIGSTOP)
        try:
            await self._way.filler.fill(lane.source, load.warm, load.total)
        finally:
            meter = Meter(*(c.pid for c in self._children))
            of_broker = Meter(lane.bus.broker.pid or 0)
            began = time.monotonic()
            for child in self._children:
                child.send(signal.SIGCONT)
        await self._until(start + load.measured * len(lane.targets))
        took = time.monotonic() - began
        return Run(load.measured, meter.seconds(), took, of_broker.seconds())

    async def _until(self, wanted: int) -> None:
        """Returns when the output holds so many records."""
        deadline = time.monotonic() + RUN_SECONDS
        while await asyncio.to_thread(self._output.count) < wanted:
            for child in self._children:
                if not child.is_running:
                    raise CouldNot(f"{child.name} ended by itself: {child.last_words()}")
            if time.monotonic() > deadline:
                name = self._children[0].name
                raise CouldNot(f"{name} did not do its work in {RUN_SECONDS:.0f} s")
            await asyncio.sleep(0.01)


def worker_lane(
    bench: Bench, bus: Bus, source: str, targets: Sequence[str], processes: int = 1
) -> Lane:
    """Real workers."""
    return Lane(source, targets, lambda: bench.worker(bus), bus, processes)


def rival_lane(bench: Bench, bus: Bus, name: str, *words: str) -> Lane:
    """A program of `rivals`, with a source and a target of its own."""
    label = "-".join([name, *words])
    source, target = make_topic(bus, f"{label}.from"), make_topic(bus, f"{label}.to")

    def start() -> Child:
        return bench.script(bus, f"rivals.{name}", *words, source, target, label, name=label)

    return Lane(source, [target], start, bus)


async def check_same(bus: Bus, ours: Lane, rival: Lane) -> None:
    """The first records that a rival wrote are, byte for byte, those of the worker: else there is
    nothing to compare."""
    wanted, found = [
        [(r.key, r.value) for r in await _first(bus, lane.targets[0])] for lane in (ours, rival)
    ]
    if not found or found != wanted[: len(found)]:
        raise CouldNot(f"{rival.source} and the worker do not write the same bytes")


async def _first(bus: Bus, topic: str) -> list[LogRecord]:
    """Up to 200 records of partition 0."""
    async with LogReader(bus.connection, topic, partitions=[0]) as reader:
        return (await reader.poll(10.0))[:200]
