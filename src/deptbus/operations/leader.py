"""One of all running processes of a kind leads: the one to which Kafka gives their one topic.

The topic has one partition, so of all members of the group one at most has it. For operations
processes (`bus.jobs`) this only saves work: a leader that was stopped and wakes does no harm,
because all that it writes is idempotent by (version, policy), a policy number is accepted once, and
progress only ever makes a job be done again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from deptbus import names
from deptbus.connection import Connection
from deptbus.stream.brokers import REQUEST_TIMEOUT_MS, BusConsumer, explained

log = structlog.get_logger(__name__)

GROUP = "deptbus.operations"
SESSION_MS = 6000  # the broker's least; a killed leader is replaced after that time


class Leadership(ConsumerRebalanceListener):
    """`async with Leadership(connection) as lead:` then `lead.gained` and `lead.lost` say when."""

    def __init__(self, connection: Connection, group: str = GROUP, topic: str = names.JOBS) -> None:
        self._connection, self._group, self._topic = connection, group, topic
        self._consumer: AIOKafkaConsumer | None = None
        self._polling: asyncio.Task[None] | None = None
        self.gained = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()

    async def start(self) -> None:
        """Raises BusUnreachable, BusRefused."""
        consumer = BusConsumer(
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 4,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            **self._connection.aiokafka(),
        )
        consumer.subscribe([self._topic], listener=self)
        try:
            await consumer.start()
        except BaseException as error:
            await consumer.stop()
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise await explained(error, self._connection, topic=self._topic) from error
            raise
        self._consumer = consumer
        self._polling = asyncio.create_task(self._poll(consumer))

    async def stop(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
        if self._consumer is not None:
            await self._consumer.stop()
        self._resign()

    async def __aenter__(self) -> Leadership:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def on_partitions_revoked(self, revoked: object) -> None:
        self._resign()

    async def on_partitions_assigned(self, assigned: object) -> None:
        if assigned:
            self.lost.clear()
            self.gained.set()
            log.info("leadership_gained")

    def _resign(self) -> None:
        if self.gained.is_set():
            log.info("leadership_lost")
        self.gained.clear()
        self.lost.set()

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        """A member that does not read is put out of its group; what is read is of no interest."""
        while True:
            try:
                await consumer.getmany(timeout_ms=500)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("leadership_doubted", error=type(error).__name__)
                await asyncio.sleep(1)
