"""Watches the bus while the demonstration runs, and counts what really went through it.

Reads the canonical topics, all inboxes and the quarantine from their beginning, in a thread of its
own. A record that came twice (a worker that was killed sends again) counts once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer

from deptbus import names
from deptbus.change import Change, Direction, Received
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.demo.canaries import MARK
from deptbus.errors import WireRefused
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs

POLL_MS = 100
RECENT = 8


@dataclass
class Seen:
    """Distinct records so far; `recent` are the newest deliveries, in words."""

    published: int = 0
    delivered: int = 0
    withdrawn: int = 0
    withheld_fields: int = 0
    quarantined: int = 0
    canary_topic: str | None = None  # a topic in which a never-shared value was seen
    by_direction: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(Direction, 0)))
    by_unit: Counter[str] = field(default_factory=Counter)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))


class Witness:
    """`start`, then look at `seen` at any time, then `finish` when nothing moves any more."""

    def __init__(self, connection: Connection, contract: Contract) -> None:
        self.seen = Seen()
        self._connection = connection
        self._contract = contract
        self._codecs = Codecs(contract)
        self._marks: set[tuple[object, ...]] = set()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout_seconds: float = 60.0) -> Seen:
        """Reads to the ends as they are now, and returns the whole count."""
        self._stop.set()
        self._thread.join(timeout_seconds)
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            raise TimeoutError("the witness did not come to the end of the topics")
        return self.seen

    def _run(self) -> None:
        try:
            asyncio.run(self._read())
        except BaseException as failure:  # noqa: BLE001 - told by `finish`
            self._failure = failure

    async def _read(self) -> None:
        topics = [names.QUARANTINE]
        topics += [names.data_topic(d) for d in self._contract.datasets]
        topics += [names.in_topic(u.unit) for u in self._contract.units]
        schemas = SchemaFollower(self._connection, self._codecs)
        await schemas.start()
        consumer = AIOKafkaConsumer(
            *topics,
            **self._connection.aiokafka(),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=POLL_MS,
        )
        await consumer.start()
        try:
            last_round = False
            while True:
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=5000)
                for place, records in found.items():
                    for record in records:
                        await self._take(place.topic, record.key, record.value, schemas)
                if not found and last_round:
                    return
                if self._stop.is_set() and await _at_end(consumer):
                    last_round = True
        finally:
            await consumer.stop()
            await schemas.stop()

    async def _take(
        self, topic: str, key: bytes | None, value: bytes, schemas: SchemaFollower
    ) -> None:
        if MARK in value or MARK in (key or b""):
            self.seen.canary_topic = topic
        if topic == names.QUARANTINE:
            self._count_quarantine(key)
        elif topic.startswith("data."):
            self._count_change(self._codecs.decode_out(key, value))
        else:
            try:
                received = self._codecs.decode_inbox(key, value)
            except WireRefused:
                await schemas.ensure(int.from_bytes(value[1:5], "big"))
                received = self._codecs.decode_inbox(key, value)
            if isinstance(received, Received):
                self._count_delivery(names.unit_of_topic(topic), received)

    def _new(self, *mark: object) -> bool:
        if mark in self._marks:
            return False
        self._marks.add(mark)
        return True

    def _count_quarantine(self, key: bytes | None) -> None:
        self.seen.quarantined += self._new("quarantine", key)

    def _count_change(self, change: object) -> None:
        if isinstance(change, Change):
            self.seen.published += self._new(change.dataset, change.key, change.version)

    def _count_delivery(self, unit: str, received: Received) -> None:
        mark = (received.dataset, received.key, received.version, received.policy, received.op)
        if not self._new(unit, *mark):
            return
        seen = self.seen
        seen.delivered += 1
        seen.by_direction[received.direction] += 1
        seen.by_unit[unit] += 1
        if received.op == "withdraw":
            seen.withdrawn += 1
        if received.op == "upsert":
            every = self._contract.field_names(received.dataset, received.schema_version)
            seen.withheld_fields += len(every) - len(received.fields)
        seen.recent.append(
            f"{received.dataset} {received.op} → {unit} ({received.direction}, {received.rule})"
        )


async def _at_end(consumer: AIOKafkaConsumer) -> bool:
    places = consumer.assignment()
    ends = await consumer.end_offsets(list(places))
    return bool(places) and all([await consumer.position(p) >= ends[p] for p in places])
