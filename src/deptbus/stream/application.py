"""The Faust app, configured: fed by our transport, nothing of Faust's that is not sound is on.

Off, each because it loses or invents something: exactly_once, tables, concurrency, the built-in web
server, autodiscovery (a module that fails to import is dropped silently), topic declaration, the
leader topic, Faust's own producer (an awaited send of its is not delivered) and its log set-up
(a level of WARN or above sets the root logger to DEBUG).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, cast

import structlog

from deptbus.lean import without

# Of an HTTP client, which we do not use, it wants a name for its own types: a sixth of our start.
with without("aiohttp", "aiohttp.client", ClientSession=object):
    import faust
    from faust.app.base import BootStrategy
    from faust.types import StreamT

from deptbus.connection import Connection, find_connection
from deptbus.contract.model import Contract
from deptbus.errors import BusRefused, Exit
from deptbus.garbage import spare_what_is_loaded
from deptbus.logs import set_up_logging
from deptbus.metrics.counts import Counts
from deptbus.names import AGENTS, QUARANTINE, SCHEMAS, WORKER_GROUP, in_topic
from deptbus.readiness import tell_ready
from deptbus.stream.batches import Batch
from deptbus.stream.brokers import check_group, topic_partitions
from deptbus.stream.desk import START_AGAIN, Desk, Stopping, canonical_topics, outboxes
from deptbus.stream.memory import limit_memory
from deptbus.stream.origins import Origins, read_origins, watch_topics
from deptbus.stream.policies import read_policies
from deptbus.stream.transport import BatchConsumer, BatchTransport
from deptbus.stream.unpack import OutOfMemory
from deptbus.stream.watchdog import LOOK_SECONDS, LoopWatch, Watch
from deptbus.stream.work import Gate
from deptbus.wire.guard import first_offset

log = structlog.get_logger(__name__)

STOP_SECONDS = 4.5  # from the signal to the end of the process, whatever it is doing
_ASSIGNED_SECONDS = 15.0  # a group that answers gives us our partitions sooner than that
_LEAVE_SECONDS = 60.0
# Shares of STOP_SECONDS: for batches that were cancelled, and for the last report and the senders.
_CANCEL_SECONDS = 0.5
_DESK_SECONDS = 1.0
_NOTE_SECONDS = 5.0

Work = Callable[[Batch], Awaitable[None]]


class _Boot(BootStrategy):
    enable_kafka_producer = False
    enable_web = False


class _Worker(faust.Worker):
    """`faust -A agents worker`, with our log."""

    def _setup_logging(self) -> None:
        set_up_logging(service=True)


class BatchSchema(faust.Schema):
    """Values are batches already; nothing is deserialised."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **_: Any) -> Batch:
        batch: Batch = message.value
        return batch


class BusApp(faust.App):
    """Agents take batches through `feed`. `desk` and `gate` are there from `on_start` on."""

    BootStrategy = _Boot
    logger = logging.getLogger("faust.app")
    desk: Desk
    gate: Gate

    def __init__(self, connection: Connection, contract: Contract) -> None:
        super().__init__(
            WORKER_GROUP,
            broker=[f"kafka://{address}" for address in connection.bootstrap.split(",")],
            autodiscover=False,
            origin="agents",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            broker_commit_interval=1.0,
            stream_wait_empty=True,
            worker_redirect_stdouts=False,
            Worker=_Worker,
        )
        self.connection = connection
        self.contract = contract
        self.counts = Counts()
        self._outbox_names = frozenset(outboxes(contract))
        self._readers: dict[str, int] = {}
        self.outboxes = self.topic(*outboxes(contract), schema=BatchSchema(), acks=True)
        self.canonical = self.topic(*canonical_topics(contract), schema=BatchSchema(), acks=True)
        self._batches: dict[asyncio.Task[None], Batch] = {}
        self._watching: list[asyncio.Task[None]] = []
        self.is_ready = asyncio.Event()

    # -- feeding ----------------------------------------------------------------------------------

    async def feed(self, stream: StreamT, work: Work) -> None:
        """The body of every agent: each batch is worked on in a task of its own, so that one that
        has to wait holds up no other partition (the transport gives one batch of each at a time),
        and is acked by us when `work` has returned, never by Faust, which acks what raised too."""
        async for event in cast(faust.Stream, stream).noack().events():
            event.value.begin()
            task = asyncio.create_task(self._work_on(event, work))
            self._batches[task] = event.value
            task.add_done_callback(self._batches.pop)

    async def _work_on(self, event: Any, work: Work) -> None:
        batch: Batch = event.value
        is_starved = False
        try:
            await work(batch)
        except (Stopping, asyncio.CancelledError):
            batch.finish(delivered=False)
        except MemoryError:
            is_starved = True
        except Exception as error:
            log.exception("agent_failed", topic=batch.topic, partition=batch.partition)
            await self.fail(error)
        else:
            batch.finish(delivered=True)
            event.ack()
        if is_starved:  # here, where the error no longer holds on to what took the memory
            batch.cache.clear()
            first, last = batch.records[0], batch.records[-1]
            first_at = first_offset(first.offset, first.value)
            await self.fail(OutOfMemory(batch.topic, batch.partition, first_at, last.offset))

    def abandon(self, batches: Collection[Batch]) -> None:
        """Stop the work on these: nobody waits for it any longer. What they have not sent stays
        unsent, and is done again by whoever takes over."""
        for task, batch in self._batches.items():
            if batch in batches:
                task.cancel()

    def streams_of(self, topic: str) -> int:
        """How many streams read a topic: so many must deliver a batch before it is acked."""
        count = self._readers.get(topic)
        if count is None:
            count = self._readers[topic] = sum(topic in channel.topics for channel in self.topics)
        return count

    # -- life -------------------------------------------------------------------------------------

    def _new_transport(self) -> BatchTransport:
        transport = BatchTransport(self.conf.broker_consumer, self)
        transport.connection = self.connection
        transport.streams_of = self.streams_of
        transport.on_fatal = self.fail
        transport.abandon = self.abandon
        return transport

    def _create_directories(self) -> None:
        """Agents hold no state: Faust's data folder is not made."""

    async def on_start(self) -> None:
        limit_memory()
        await super().on_start()
        await check_topics(self.connection, self.contract)
        origins = await read_origins(self.connection, self.contract)
        cast(BatchTransport, self.transport).origins = origins
        self.desk = Desk(self.connection, self.contract, self.counts)
        self.gate = Gate(self.desk)
        await self.desk.start()
        loop_watch = LoopWatch(lambda: leave(Exit.OUR_BUG, "event_loop_dead"))
        loop_watch.start()
        self._watching = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._await_assignment()),
            asyncio.create_task(self._leave_when_due()),
            asyncio.create_task(self._start_again_with_topics(origins)),
        ]

    async def on_started(self) -> None:
        await super().on_started()
        self.is_ready.set()
        spare_what_is_loaded()
        tell_ready()
        log.info("worker_ready", agent=self.desk.agent, policy=self.desk.bench().policy.number)

    async def on_stop(self) -> None:
        """Batches that run have a moment to end (BatchConsumer.wait_empty); none holds us up."""
        desk = getattr(self, "desk", None)
        if desk is not None:
            desk.stopping.set()  # batches that wait for the environment give up
        for task in self._watching:
            task.cancel()
        await super().on_stop()
        for task in list(self._batches):
            task.cancel()
        if self._batches:
            await asyncio.wait(self._batches, timeout=_CANCEL_SECONDS)
        if desk is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DESK_SECONDS):
                    await desk.stop()

    async def fail(self, error: BaseException) -> None:
        """Something that must not happen: leave at once without an ack; we are started again and
        the batches are done again. A supervisor of Faust's hung here for good."""
        if isinstance(error, OutOfMemory):
            await self._note_death(error)
        refused = isinstance(error, BusRefused)
        leave(Exit.COULD_NOT if refused else Exit.OUR_BUG, type(error).__name__)

    async def _note_death(self, died: OutOfMemory) -> None:
        """The next worker is to know; when the bus does not take it in time, the death does not
        count, and the place is tried once more than it might have been."""
        consumer = self.consumer
        assert isinstance(consumer, BatchConsumer)
        gc.collect()
        is_noted = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOTE_SECONDS):
                is_noted = await consumer.note_death(died)
        log.critical(
            "out_of_memory",
            topic=died.topic,
            partition=died.partition,
            offset=died.first,
            last_offset=died.last,
            is_noted=is_noted,
        )

    async def _leave_when_due(self) -> None:
        """Under `faust worker` nobody else waits for the desk's wish to end (see worker.py)."""
        code = await asyncio.shield(self.desk.ending)
        if getattr(self, "in_worker", False):
            asyncio.get_running_loop().create_task(stop_and_leave(self, code))

    async def _start_again_with_topics(self, origins: Origins) -> None:
        """All that we know of a topic (its announcements, positions, schemas that were written) is
        of the one that is gone: begin anew."""
        await watch_topics(self.connection, origins)
        self.desk.end(START_AGAIN)

    async def _watch(self) -> None:
        watch = Watch()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.rebalancing or not self.is_ready.is_set():
                continue
            consumer = self.consumer
            assert isinstance(consumer, BatchConsumer)
            await consumer.look_for_topics()
            progress = consumer.progress
            unread = {
                tp: count
                for tp, count in (await consumer.unread()).items()
                if progress.has_room(tp) and tp not in progress.running
            }
            found = watch.look(progress.running, unread)
            if found is not None:
                reason, tp = found
                log.error(reason, topic=tp.topic, partition=tp.partition)
                leave(Exit.OUR_BUG, reason)

    async def _await_assignment(self) -> None:
        """A group that one may not join is silence for ever: ask for the reason, and leave."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASSIGNED_SECONDS):
                await self.is_ready.wait()
                return
        try:
            await check_group(self.connection, self.conf.id)
        except BusRefused as error:
            log.error("group_refused", error=error.what, mend=error.mend)
            leave(Exit.COULD_NOT, "group_refused")
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self.is_ready.wait()
                return
        leave(Exit.COULD_NOT, "no_partitions_assigned")


def leave(code: int, reason: str) -> NoReturn:
    """End the process now. What is unacked is done again by whoever takes over."""
    log.critical("worker_left", exit_code=int(code), reason=reason)
    os._exit(code)


async def stop_and_leave(app: BusApp, code: int) -> None:
    """Stop cleanly if that ends in time, and leave either way."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await app.stop()
    leave(code, "asked_to")


async def check_topics(connection: Connection, contract: Contract) -> None:
    """Raises BusRefused when a topic that we read or write is missing or hidden from us, or has
    another number of partitions than the contract: keys would lie elsewhere."""
    wanted = [
        *outboxes(contract),
        *canonical_topics(contract),
        *(in_topic(unit.unit) for unit in contract.units),
    ]
    found = await topic_partitions(connection, [*wanted, QUARANTINE, SCHEMAS, AGENTS])
    for topic in wanted:
        if found[topic] != contract.partitions:
            raise BusRefused(
                f"topic {topic} has {found[topic]} partitions, not {contract.partitions}",
                mend="The number of partitions cannot be changed: move to a new bus",
            )


def app_from_environment() -> BusApp:
    """The app for the bus that the environment names, under the contract in force there.

    Raises DeptbusError: no bus named, unreachable, or no contract in force. Reads the bus in a
    thread of its own: modules are imported before there is an event loop, or within one.
    """
    connection = find_connection()
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(lambda: asyncio.run(read_policies(connection))).result()
    return BusApp(connection, history.current().contract)
