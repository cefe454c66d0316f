"""A bus with a town on it, whose adapters and worker are played by their signs of life and commits;
the clock is the test's."""

from __future__ import annotations

import asyncio
import time

from aiokafka.client import AIOKafkaClient
from confluent_kafka import Producer
from office_bus import HOUSING, PARTITIONS, SOURCE, Bus

from deptbus import names
from deptbus.change import Incarnation
from deptbus.errors import BusUnreachable
from deptbus.stream.group import LagCommitter
from deptbus.stream.log import Outgoing
from deptbus.wire.control import AppliedBeat, Heartbeat, encode_control, key_of

ME = Incarnation(1, b"\1" * 8)
HOUR = 3600.0


class Town:
    """A bus on which everybody has read everything, until a test says otherwise."""

    def __init__(self, bus: Bus, client: AIOKafkaClient) -> None:
        self.bus, self._client = bus, client
        self._committers: dict[str, LagCommitter] = {}
        self._producer = Producer({"bootstrap.servers": bus.connection.bootstrap, "linger.ms": 0})
        self._ahead = 0.0
        self.alive = {SOURCE, HOUSING, "worker"}
        self.outbox = (0, 0.0)  # rows, age of the first
        self.version = 100
        self.resync_needed = False

    def now(self) -> float:
        return time.time() + self._ahead

    async def commit(self, group: str, topic: str, *offsets: int) -> None:
        committer = self._committers.setdefault(group, LagCommitter(self._client, group))
        deadline = time.monotonic() + 30
        while True:
            try:
                return await committer.commit(topic, dict(enumerate(offsets)))
            except BusUnreachable:  # the broker's first group of all: its topic is being made
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    async def deliver(self, unit: str, count: int) -> None:
        """So many into each partition of an inbox, now; what they hold nobody asks."""
        self._write(names.in_topic(unit), count)

    async def publish(self, count: int) -> None:
        self._write(names.out_topic(SOURCE), count)

    def _write(self, topic: str, count: int) -> None:
        for partition in range(PARTITIONS):
            for _ in range(count):
                at_ms = int(self.now() * 1000)
                self._producer.produce(topic, b"v", b"k" * 16, partition, timestamp=at_ms)
        assert self._producer.flush(20) == 0

    async def live(self, seconds: float) -> None:
        """Time goes by, and all who are alive say so."""
        self._ahead += seconds
        at_us = int(self.now() * 1e6)
        rows, age = self.outbox
        oldest = at_us - int(age * 1e6) if rows else None
        source = Heartbeat(
            *(SOURCE, "main", ME, 1, self.version, 1, (0,) * PARTITIONS, "f"),
            *(self.resync_needed, 0, at_us, rows, oldest),
        )
        recipient = AppliedBeat(HOUSING, "main", ME, None, at_us)
        beats = [beat for beat in (source, recipient) if beat.unit in self.alive]
        await self.bus.sender.send(
            [Outgoing(names.control_topic(b.unit), 0, key_of(b), encode_control(b)) for b in beats]
        )
        if "worker" in self.alive:
            await self.bus.report("agent", 1)
