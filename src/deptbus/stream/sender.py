"""Writes records to Kafka: whole batches, in order per partition, done only when acked.

Rules (each is a trap of the client that was met):

1. One batch in flight per partition; what waits meanwhile makes up the next batch.
2. An idempotent producer is poisoned for ever by a failed batch, and waits without end while
   there are too few replicas: after any failure and after an own deadline it is thrown away, a
   new one is opened, and what was not acked is sent again in order. The outcome of the first
   attempt is unknown; versions make a record that arrives twice harmless.
3. A refusal (rights, unknown topic, too large) is told at once: sending again does not mend it.
4. A topic that refused has a producer of its own until it takes something, and is tried less and
   less often: were it the shared one that is thrown away each time, one inbox without rights would
   break off what is on its way to all the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NamedTuple
from weakref import WeakSet

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, DeptbusError
from deptbus.stream.brokers import open_producer, partition_count, translate
from deptbus.stream.identity import topic_ids
from deptbus.stream.own_writes import OwnWrites
from deptbus.wire.partitioner import partition_of
from deptbus.wire.passage import Pair

log = structlog.get_logger(__name__)

# Small batches cost throughput (16 KiB: 1.2 MB/s, 256 KiB: 31.8 MB/s); a batch must stay below
# max.message.bytes of every topic (1 MiB by default), also when it does not compress.
BATCH_BYTES = 512 * 1024
# A single larger record still makes a batch of its own.
MAX_REQUEST_BYTES = 2 * 1024 * 1024
# One produce request carries a batch of each partition; the broker refuses requests of 100 MB.
_BATCHES_IN_FLIGHT = 64
_ATTEMPT_SECONDS = 15.0
_BACKOFF_SECONDS = (0.1, 2.0)
_APART_SECONDS = (0.2, 5.0)  # between two attempts at a topic that refused
_DISCARD_SECONDS = 1.0


class Outgoing(NamedTuple):
    """One record to be written. `partition` None: the one that the key belongs to."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes


Place = tuple[str, int]


class _Parcel:
    """The records of one `send` for one partition, and what became of them."""

    __slots__ = ("deadline", "done", "next", "offsets", "records")

    def __init__(self, records: Sequence[Pair], deadline: float) -> None:
        self.records = records
        self.next = 0  # first record that is not yet acked
        self.offsets: list[range] = []
        self.deadline = deadline
        self.done: asyncio.Future[list[range]] = asyncio.get_running_loop().create_future()

    def fail(self, error: DeptbusError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def acked(self, base_offset: int, count: int) -> None:
        self.offsets.append(range(base_offset, base_offset + count))
        self.next += count
        if self.next == len(self.records) and not self.done.done():
            self.done.set_result(self.offsets)


class _Line:
    """A producer, opened when it is needed; `users`: attempts that are under way on it."""

    def __init__(self) -> None:
        self.producer: AIOKafkaProducer | None = None
        self.opening = asyncio.Lock()
        self.users = 0
        self.pause = 0.0  # 0: whoever comes may try at once
        self.rests_until = 0.0

    async def rest(self, deadline: float) -> None:
        """Waits for the next attempt's turn, no longer than until the deadline."""
        seconds = min(self.rests_until, deadline) - asyncio.get_running_loop().time()
        if seconds > 0:
            await asyncio.sleep(seconds)

    def refused(self) -> None:
        self.pause = min(max(_APART_SECONDS[0], self.pause * 2), _APART_SECONDS[1])
        self.rests_until = asyncio.get_running_loop().time() + self.pause


class Sender:
    """Owns one producer, and one for each topic that refuses. Call `start` once before and `stop`
    once after; any number of tasks may call `send` at the same time: records for one partition are
    stored in the order of the calls.
    """

    def __init__(self, connection: Connection, *, deadline_seconds: float = 30.0) -> None:
        self._connection = connection
        self._deadline_seconds = deadline_seconds
        self._shared = _Line()
        self._apart: dict[str, _Line] = {}  # topics that refused what was sent last
        self._slots = asyncio.Semaphore(_BATCHES_IN_FLIGHT)
        self._lanes: dict[Place, deque[_Parcel]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._discards: set[asyncio.Task[None]] = set()  # left to end: they take a second or two
        self._watched: dict[Place, WeakSet[OwnWrites]] = {}
        self._stopped = False

    async def start(self) -> None:
        """Raises BusUnreachable, BusRefused."""
        await self._open(self._shared)

    async def stop(self) -> None:
        """Ends at once: sends that wait fail with BusUnreachable. Await your sends first."""
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            for parcel in lane:
                parcel.fail(BusUnreachable("the sender was stopped"))
        self._lanes.clear()
        for line in (self._shared, *self._apart.values()):
            producer, line.producer = line.producer, None
            if producer is not None:
                await _discard(producer)
        await asyncio.gather(*self._discards, return_exceptions=True)

    async def __aenter__(self) -> Sender:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def partitions(self, topic: str) -> int:
        """Number of partitions of a topic. Raises BusRefused when there is no such topic for us."""
        return await partition_count((await self._open(self._shared)).client, topic)

    def watch(self, place: Place) -> OwnWrites:
        """What is written there through this sender, for as long as somebody holds it."""
        writes = OwnWrites()
        self._watched.setdefault(place, WeakSet()).add(writes)
        return writes

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """Topic -> its id, of those that are there for us now. Raises BusUnreachable."""
        return await topic_ids((await self._open(self._shared)).client, topics)

    async def send(
        self, records: Sequence[Outgoing], *, deadline_seconds: float | None = None
    ) -> list[int]:
        """Write `records`; returns their offsets when every one of them is acked by the bus.

        Raises BusRefused when the bus says no, BusUnreachable when it did not answer within the
        deadline: some of the records may then be stored, some not, some later. Send them again.
        """
        indexes: dict[Place, list[int]] = {}
        boxes: dict[Place, list[Pair]] = {}
        for index, (topic, partition, key, value) in enumerate(records):
            if partition is None:
                partition = await self._partition(topic, key)
            place = topic, partition
            if place not in boxes:
                indexes[place], boxes[place] = [], []
            indexes[place].append(index)
            boxes[place].append((key, value))
        stored = await self.send_boxes(boxes, deadline_seconds=deadline_seconds)
        offsets = [0] * len(records)
        for place, found in stored.items():
            for index, offset in zip(indexes[place], chain.from_iterable(found), strict=True):
                offsets[index] = offset
        return offsets

    async def send_boxes(
        self, boxes: Mapping[Place, Sequence[Pair]], *, deadline_seconds: float | None = None
    ) -> dict[Place, list[range]]:
        """`send` of records that lie in boxes already, one for each partition of a topic; their
        offsets in the same order. The boxes must not change any more."""
        if self._stopped:
            raise BusUnreachable("the sender was stopped")
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        parcels = {
            place: self._enqueue(place, pairs, deadline) for place, pairs in boxes.items() if pairs
        }
        if parcels:
            await _all_or_raise([parcel.done for parcel in parcels.values()])
        return {place: parcel.offsets for place, parcel in parcels.items()}

    async def _partition(self, topic: str, key: bytes | None) -> int:
        if key is None:
            raise ValueError("a record without a key needs a partition")
        return partition_of(key, await self.partitions(topic))

    def _enqueue(self, place: Place, records: Sequence[Pair], deadline: float) -> _Parcel:
        parcel = _Parcel(records, deadline)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = deque()
            self._keep(asyncio.create_task(self._drain(place, lane)))
        lane.append(parcel)
        return parcel

    async def _drain(self, place: Place, lane: deque[_Parcel]) -> None:
        """Send all that waits for one partition, batch by batch; ends when nothing waits."""
        try:
            await self._drain_batches(place, lane)
        except Exception as error:
            for parcel in lane:  # our own bug: whoever waits must see it, not wait for ever
                if not parcel.done.done():
                    parcel.done.set_exception(error)
            raise
        finally:
            if not self._stopped:
                del self._lanes[place]

    async def _drain_batches(self, place: Place, lane: deque[_Parcel]) -> None:
        pause = _BACKOFF_SECONDS[0]
        while lane:
            if lane[0].done.done():  # acked, failed, or its caller went away
                lane.popleft()
                continue
            failed = await self._attempt(place, lane)
            if failed is None:
                pause = _BACKOFF_SECONDS[0]
                continue
            now = asyncio.get_running_loop().time()
            if isinstance(failed, BusRefused) or now + pause >= lane[0].deadline:
                lane.popleft().fail(failed)
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_SECONDS[1])

    async def _attempt(self, place: Place, lane: deque[_Parcel]) -> DeptbusError | None:
        """One batch of what waits; None when it was acked, else what went wrong."""
        topic = place[0]
        line = self._apart.get(topic, self._shared)
        line.users += 1
        try:
            await line.rest(lane[0].deadline)
            if lane[0].done.done():
                return None  # whoever waited for it went away meanwhile
            failed = await self._send_batch(line, place, lane)
            if failed is None and self._apart.get(topic) is line:
                del self._apart[topic]  # it takes what is sent: back to the others
        finally:
            line.users -= 1
            if line is not self._shared and not line.users and self._apart.get(topic) is not line:
                self._throw_away(line)
        return failed

    async def _send_batch(
        self, line: _Line, place: Place, lane: deque[_Parcel]
    ) -> DeptbusError | None:
        topic, partition = place
        producer = None
        try:
            async with self._slots:
                producer = await self._open(line)
                if partition >= await partition_count(producer.client, topic):
                    return BusRefused(f"topic {topic} has no partition {partition}")
                batch = producer.create_batch()
                taken = _fill(batch, lane)
                if not taken:
                    return None  # all who waited went away before it was their turn
                loop = asyncio.get_running_loop()
                seconds = min(_ATTEMPT_SECONDS, max(0.1, lane[0].deadline - loop.time()))
                async with asyncio.timeout(seconds):
                    stored = await (await producer.send_batch(batch, topic, partition=partition))
                base = stored.offset
                if base < 0:  # stored by an earlier attempt whose offset the broker forgot
                    raise KafkaError("offset unknown")
        except DeptbusError as error:
            return error
        except (KafkaError, OSError, TimeoutError) as error:
            told = translate(error, topic=topic)
            if producer is not None and line.producer is producer:
                log.warning(
                    "producer_replaced",
                    topic=topic,
                    partition=partition,
                    error=type(error).__name__,
                )
                self._throw_away(line)
                if isinstance(told, BusRefused):
                    self._apart.setdefault(topic, _Line()).refused()
            return told
        for writes in self._watched.get(place, ()):
            writes.add(range(base, base + sum(count for _, count in taken)))
        for parcel, count in taken:
            parcel.acked(base, count)
            base += count
        return None

    async def _open(self, line: _Line) -> AIOKafkaProducer:
        async with line.opening:
            if line.producer is None:
                line.producer = await open_producer(
                    self._connection,
                    max_batch_size=BATCH_BYTES,
                    max_request_size=MAX_REQUEST_BYTES,
                )
            return line.producer

    def _throw_away(self, line: _Line) -> None:
        """Whatever is poisoned or no longer needed; the next attempt opens another one."""
        producer, line.producer = line.producer, None
        if producer is not None:
            task = asyncio.create_task(_discard(producer))
            self._discards.add(task)
            task.add_done_callback(self._discards.discard)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fill(batch: Any, lane: deque[_Parcel]) -> list[tuple[_Parcel, int]]:
    """Append what waits, oldest first, until the batch is full; who gave how many records."""
    taken = []
    append = batch.append
    for parcel in lane:
        if parcel.done.done():
            continue
        records = parcel.records
        index = parcel.next
        for key, value in islice(records, index, None):
            if append(timestamp=None, key=key, value=value) is None:
                break
            index += 1
        if index > parcel.next:
            taken.append((parcel, index - parcel.next))
        if index < len(records):
            break
    batch.close()
    return taken


async def _all_or_raise(futures: list[asyncio.Future[list[range]]]) -> None:
    """Wait for all; a refusal outranks an unanswered request. When the caller is cancelled, what
    is not yet on its way stays unsent."""
    try:
        await asyncio.wait(futures)
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((e for e in errors if isinstance(e, BusRefused)), errors[0])


async def _discard(producer: AIOKafkaProducer) -> None:
    """Stop a producer without delivering what it holds: its own stop() flushes first, which never
    ends while there are too few replicas. Reaches into the client, whose version is pinned."""
    task = producer._sender.sender_task
    if task is not None:
        task.cancel()  # it then awaits its requests, which end when their connections do
    await producer.client.close()
    metadata = producer.client._md_update_fut
    if metadata is not None and not metadata.done():
        metadata.set_result(False)  # other lanes wait for it, and nobody else would ever end that
    if task is not None and not (await asyncio.wait([task], timeout=_DISCARD_SECONDS))[0]:
        task.cancel()  # a request waits for metadata, which nobody fetches any more
        await asyncio.wait([task], timeout=_DISCARD_SECONDS)
    held = producer._message_accumulator
    held._pending_batches |= {batch for queue in held._batches.values() for batch in queue}
    for batch in held._pending_batches:
        # Retrieve what nobody awaits any more: asyncio would report it as never retrieved.
        batch.future.add_done_callback(_retrieve)
        batch._drain_waiter.add_done_callback(_retrieve)
    held.fail_all(ProducerClosed())
    with suppress(KafkaError, asyncio.CancelledError):
        await producer.stop()


def _retrieve(future: asyncio.Future[object]) -> None:
    if not future.cancelled():
        future.exception()
