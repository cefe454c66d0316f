"""Feeds Faust with whole partition batches: its aiokafka transport, with our consumer in its place.

Faust's own consumer hands over one record at a time (146 us each) and commits past records that
are in flight; this one hands a `Batch` to the streams as one message. What had to be done, each
learnt from a loss or a stall:

1. Records that were fetched and not handed over when the group rebalances are fetched again: the
   generation and the flow are compared after every fetch, and once the flow goes on positions go
   back to what is committed, or to the beginning where nothing is (aiokafka leaves those where
   they are). Not before: a rewind forgets the batches that the revocation still waits for.
2. On revocation the batches that run are waited for, for a limited time, and what they delivered is
   committed; then all is forgotten. Faust waits without limit and forgets before it commits.
3. A commit that fails is tried again with the next one; Faust counts it as done.
4. An error in the fetching task ends the process (it is started again): a service that crashed
   half-way hangs on SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from deptbus.connection import Connection
from deptbus.stream import unpack
from deptbus.stream.batches import BATCH_RECORDS, Batch, Progress
from deptbus.stream.brokers import (
    REQUEST_TIMEOUT_MS,
    SHORT_WAIT_MS,
    BusConsumer,
    look_for_topics,
    reach_into_client,
    wait_long,
)
from deptbus.stream.memory import Suspects
from deptbus.stream.origins import Origins

log = structlog.get_logger(__name__)

FEED_SECONDS = 1.0  # so often turns are looked at though nothing arrived and nothing was acked
FETCH_SECONDS = 0.1  # a partition that gets room is fetched again after at most so long
# Below the rebalance timeout. The whole group stands still meanwhile: what is stuck is given up.
REVOCATION_SECONDS = 10.0
STOP_GRACE_SECONDS = 1.5  # the same when the process stops, whose partitions others wait for
REBALANCE_TIMEOUT_MS = 45_000
# A worker that was killed holds its partitions for so long (brokers accept 6 s at least); the
# heartbeat has a thread of its own, so that a busy agent does not miss it.
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 1_500
FETCH_BYTES = 2 * 1024 * 1024  # of one partition: above max.message.bytes less our own batches


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Owns the aiokafka consumer, in a thread with a loop of its own."""

    logger = logging.getLogger("faust.transport")

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        assert isinstance(transport, BatchTransport)
        self._assignor = RoundRobinPartitionAssignor
        reach_into_client()
        return BusConsumer(
            group_id=self.app.conf.id,
            client_id=self.app.conf.broker_client_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=BATCH_RECORDS,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=SHORT_WAIT_MS,
            isolation_level="read_committed",  # what was aborted is no change
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            **transport.connection.aiokafka(),
        )

    @property
    def _origins(self) -> Origins:
        return cast(BatchTransport, self.consumer.transport).origins

    def wait_long(self, is_idle: bool) -> None:
        """See brokers.wait_long."""
        wait_long(self._ensure_consumer(), is_idle)

    async def rewind(self) -> dict[TP, OffsetAndMetadata]:
        """Set every position to the committed offset, or to the beginning where there is none, or
        where it counts records of another topic of the same name (see origins.py)."""
        return cast("dict[TP, OffsetAndMetadata]", await self.call_thread(self._rewind))

    async def _rewind(self) -> dict[TP, OffsetAndMetadata]:
        consumer = self._ensure_consumer()
        places = list(consumer.assignment())
        offsets: dict[TP, OffsetAndMetadata] = {}
        try:
            # `committed` would hide the metadata.
            found = await consumer._coordinator.fetch_committed_offsets(places)
            fresh = []
            for place in places:
                known = found.get(place)
                if known is None or not self._origins.is_ours(place.topic, known.metadata):
                    fresh.append(place)
                else:
                    consumer.seek(place, known.offset)
                    offsets[ensure_TP(place)] = known
            if fresh:
                await consumer.seek_to_beginning(*fresh)
        except IllegalStateError:
            pass  # assigned anew meanwhile: the new assignment starts at what is committed
        return offsets

    async def note(self, tp: TP, offset: int | None, word: str) -> bool:
        """Commit a word about a partition (see memory.py); `offset` None: where it is read now."""
        return cast(bool, await self.call_thread(self._note, tp, offset, word))

    async def _note(self, tp: TP, offset: int | None, word: str) -> bool:
        if offset is None:
            offset = await self._ensure_consumer().position(TopicPartition(*tp))
        return await self._commit_words({tp: OffsetAndMetadata(offset, word)})

    async def commit_words(self, offsets: Mapping[TP, OffsetAndMetadata]) -> bool:
        """Metadata are words of memory.py, each behind its topic's origin. False when nothing was
        committed: try again with the next one."""
        return cast(bool, await self.call_thread(self._commit_words, offsets))

    async def _commit_words(self, offsets: Mapping[TP, OffsetAndMetadata]) -> bool:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        words = {
            place: OffsetAndMetadata(known.offset, self._origins.text(tp.topic) + known.metadata)
            for tp, known in offsets.items()
            if (place := TopicPartition(*tp)) in assigned
        }
        if not words:
            return False
        try:
            await consumer.commit(words)
        except (CommitFailedError, IllegalStateError):
            return False  # rebalanced meanwhile: the next owner does these batches again
        except KafkaError as error:
            log.warning("commit_failed", error=type(error).__name__)
            return False
        return True

    async def look_for_topics(self) -> None:
        """Asks the broker for topics of the group that were not known when its partitions were
        shared out. Who leads a group gives what a broker that has only just started does not tell
        yet to nobody, and metadata come anew every five minutes: a lone worker stood idle so long
        after each restart. The group joins again by itself as soon as they are known."""
        await self.call_thread(look_for_topics, self._ensure_consumer())

    async def unread(self) -> dict[TP, int]:
        """How many offsets of each assigned partition were not fetched yet, as the broker says."""
        return cast("dict[TP, int]", await self.call_thread(self._unread))

    async def _unread(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        places = list(consumer.assignment())
        if not places:
            return {}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                ends = await consumer.end_offsets(places)
                positions = [await consumer.position(place) for place in places]  # as a rule known
        except (KafkaError, TimeoutError):
            return {}  # no answer, or assigned anew meanwhile: the next look will tell
        return {
            ensure_TP(place): max(0, ends[place] - position)
            for place, position in zip(places, positions, strict=True)
        }

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own stall detector counts messages one by one; ours is watchdog.py."""


class _WithRoom:
    """The partitions whose records may be taken now, asked one by one: making a set of a thousand
    at each fetch would cost more than the fetch."""

    def __init__(self, active: Collection[TP], progress: Progress) -> None:
        self._active = active
        self._progress = progress

    def __contains__(self, tp: TP) -> bool:
        return tp in self._active and self._progress.has_room(tp)


class BatchConsumer(driver.Consumer):
    """Hands batches to the streams, one of a partition at a time; commits what was delivered."""

    logger = logging.getLogger("faust.transport")
    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress = Progress()
        self._changed = asyncio.Event()  # records arrived, or a batch was let go of
        self._rewind_is_due = False
        self._committing = asyncio.Lock()
        self.suspects = Suspects()

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- fetching ---------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Service) -> None:  # type: ignore[override]
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                await self._fetch()
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop and not fetcher._stopped.is_set():
                raise
        except Exception as error:
            if not self.app.should_stop:
                transport = cast(BatchTransport, self.transport)
                await transport.on_fatal(error)
            raise

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
            return
        if self._rewind_is_due:
            self._rewind_is_due = False
            await self.perform_seek()
        generation = self.app.consumer_generation_id
        wanted = _WithRoom(self._active_partitions, self.progress)
        if not any(tp in wanted for tp in self._active_partitions):  # nearly always the first is
            await asyncio.sleep(FETCH_SECONDS / 10)
            return
        found = await self._getmany(
            active_partitions=cast("set[TP]", wanted), timeout=FETCH_SECONDS
        )
        self._thread.wait_long(not found)
        if not found or self.should_stop:
            return
        if generation != self.app.consumer_generation_id or not self.flow_active:
            self._rewind_is_due = True
            return
        for place, records in found.items():
            if records:
                self.progress.arrived(ensure_TP(place), records)
        self._changed.set()

    @Service.task
    async def _feed(self) -> None:
        """Hands batches over as partitions become free, without waiting for the next fetch."""
        while not self.should_stop:
            await self.wait(self._changed, timeout=FEED_SECONDS)  # type: ignore[arg-type]
            self._changed.clear()
            ready = self.progress.ready()
            first = {tp: self.progress.waiting(tp)[0].offset for tp in ready}
            for tp in self.suspects.turn(ready, first, len(self.progress.running)):
                if not self.flow_active:
                    break
                await self._hand_over(tp)

    async def _hand_over(self, tp: TP) -> None:
        transport = cast(BatchTransport, self.transport)
        generation = self.app.consumer_generation_id
        most = self.suspects.width(tp, self.progress.waiting(tp))
        batch = self.progress.take(tp, transport.streams_of(tp.topic), generation, most)
        if batch is not None:
            await self.callback(self._batch_message(tp, batch))

    def _batch_message(self, tp: TP, batch: Batch) -> ConsumerMessage:
        first = batch.records[0]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            first.offset,
            first.timestamp / 1000.0,
            first.timestamp_type,
            None,
            None,
            batch,  # type: ignore[arg-type]
            None,
            0,
            0,
            tp,
            generation_id=batch.generation,
        )

    async def perform_seek(self) -> None:
        self.progress.forget()
        found = await self._thread.rewind()
        self.progress.committed({tp: place.offset for tp, place in found.items()})
        condemned = self.suspects.learn({tp: place.metadata for tp, place in found.items()})
        for tp, (first, last) in condemned.items():
            log.error(
                "place_condemned", topic=tp.topic, partition=tp.partition, offset=first, last=last
            )
        unpack.condemned = {TopicPartition(*tp): place for tp, place in condemned.items()}

    async def look_for_topics(self) -> None:
        """See BatchConsumerThread.look_for_topics."""
        await self._thread.look_for_topics()

    async def unread(self) -> dict[TP, int]:
        """See BatchConsumerThread.unread."""
        return await self._thread.unread()

    # -- acks and commits -------------------------------------------------------------------------

    def ack(self, message: Any) -> bool:
        """Every stream acked the message (Faust counts them); see batches.py for what counts."""
        message.acked = True
        self._unacked_messages.discard(message)
        counts = self.progress.acked(message.value)
        self._changed.set()
        return counts

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        async with self._committing:  # an older commit must not land after a newer one
            offsets = self.progress.committable()
            words = {
                tp: OffsetAndMetadata(offset, self.suspects.word(tp, offset))
                for tp, offset in offsets.items()
            }
            if not words or not await self._thread.commit_words(words):
                return False
            self.progress.committed(offsets)
            return True

    async def note_death(self, died: unpack.OutOfMemory) -> bool:
        """Tell the next worker that memory ran out over these records; see memory.py."""
        tp = TP(died.topic, died.partition)
        async with self._committing:
            found = self.suspects.died(tp, died.first, died.last)
            return await self._thread.note(tp, self.progress.undone(tp), str(found))

    # -- rebalance and stop -----------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)  # stops the flow and calls wait_empty
        self.progress.forget()

    async def wait_empty(self) -> None:
        """Wait for the batches that run, for a limited time, then commit what was delivered."""
        is_last = self.app.should_stop
        deadline = monotonic() + (STOP_GRACE_SECONDS if is_last else REVOCATION_SECONDS)
        while left := [batch for batch in self.progress.running.values() if batch.is_running]:
            if monotonic() > deadline:
                log.warning("batches_left_behind", count=len(left))
                cast(BatchTransport, self.transport).abandon(left)
                break
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(STOP_GRACE_SECONDS if is_last else None):
                await self.force_commit()
        except TimeoutError:
            log.warning("commit_failed", error="TimeoutError")

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See BatchConsumerThread.verify_event_path."""


class BatchTransport(driver.Transport):
    """`origins`: set before the consumer starts; `streams_of(topic)`: how many streams read it;
    `on_fatal(error)`: ends the process; `abandon(batches)`: ends the work on them."""

    Consumer = BatchConsumer

    connection: Connection
    origins: Origins
    streams_of: Callable[[str], int]
    on_fatal: Callable[[BaseException], Awaitable[None]]
    abandon: Callable[[Collection[Batch]], None]
