"""Reads the requests for a resend or a proof in the inbox of a system that only publishes.

Where a system receives too, its applier reads them, and SQL says how far. Here nothing is applied,
so how far it has read is committed to Kafka, behind what is durable at the source: a request that
is read twice is one resend more. What else lies there is for the unit's other systems.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, WireRefused
from deptbus.names import in_topic, requests_group
from deptbus.stream.brokers import open_consumer, partitions_of, translate, wait_long
from deptbus.stream.group import LagCommitter
from deptbus.stream.identity import topic_identity
from deptbus.wire.control import ProofRequest, ResendOrder, ResendRequest, decode_control

_BACKOFF_SECONDS = (0.2, 5.0)
_LOOK_SECONDS = 1.0  # between two questions for the topic's id

Resend = Callable[[ResendRequest | ResendOrder], Awaitable[None]]
Prove = Callable[[ProofRequest], None]


class RequestReader:
    """`run` until cancelled. `resend` returns when the request is durable at the source; what it
    raises ends the reader. A bus that is away is waited for, and said once."""

    def __init__(
        self,
        connection: Connection,
        unit: str,
        system: str,
        published: Collection[str],
        resend: Resend,
        prove: Prove = lambda request: None,
    ) -> None:
        self._connection = connection
        self._topic, self._group = in_topic(unit), requests_group(unit, system)
        self._published, self._resend, self._prove = published, resend, prove
        self._pause, self._told = _BACKOFF_SECONDS[0], ""
        self._topic_id = ""  # of the inbox that was read last
        self._log = structlog.get_logger(__name__).bind(unit=unit, system=system)

    async def run(self) -> None:
        while True:
            try:
                await self._read()
            except (BusUnreachable, BusRefused) as error:
                if error.what != self._told:
                    self._told = error.what
                    self._log.warning("inbox_unreadable", error=self._told)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _BACKOFF_SECONDS[1])

    async def _read(self) -> None:
        """Until the bus fails, or the inbox is another one."""
        consumer = await open_consumer(self._connection, group=self._group)
        try:
            _, topic_id = await topic_identity(consumer._client, self._topic)
            is_another = self._topic_id not in ("", topic_id)
            committer = LagCommitter(consumer._client, self._group)
            places = await self._begin(consumer, is_another=is_another)
            self._topic_id, looked_at = topic_id, time.monotonic()
            if is_another:  # what was committed counts records of the one before
                starts = {place.partition: await consumer.position(place) for place in places}
                await committer.commit(self._topic, starts)
            while True:
                found = await consumer.getmany(*places, timeout_ms=1000, max_records=2000)
                if time.monotonic() - looked_at > _LOOK_SECONDS:
                    looked_at = time.monotonic()
                    if (await topic_identity(consumer._client, self._topic))[1] != topic_id:
                        return
                wait_long(consumer, not found)
                for records in found.values():
                    for record in records:
                        await self._take(record)
                read = {p.partition: r[-1].offset + 1 for p, r in found.items() if r}
                if read:
                    await committer.commit(self._topic, read)
                self._pause, self._told = _BACKOFF_SECONDS[0], ""  # the next failure is news
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=self._topic) from error
        finally:
            await consumer.stop()

    async def _begin(self, consumer: AIOKafkaConsumer, *, is_another: bool) -> list[TopicPartition]:
        """Where it stopped; at the beginning when it never read, or the topic was made again."""
        places = await partitions_of(consumer, self._topic)
        starts = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        for place in places:
            known = 0 if is_another else await consumer.committed(place) or 0
            within = starts[place] <= known <= ends[place]
            consumer.seek(place, known if within else starts[place])
        return places

    async def _take(self, record: ConsumerRecord) -> None:
        try:
            request = decode_control(record.value)
        except WireRefused:
            return  # a delivery, or what the system that receives it says is unreadable
        if isinstance(request, ResendRequest | ResendOrder) and request.dataset in self._published:
            await self._resend(request)
        elif isinstance(request, ProofRequest):
            self._prove(request)
