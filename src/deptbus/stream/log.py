"""Reads Kafka topics as what they are: logs with a beginning and an end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.connection import Connection
from deptbus.errors import BusUnreachable
from deptbus.stream.brokers import (
    beginning_offsets,
    end_offsets,
    open_consumer,
    partitions_of,
    topic_partitions,
    translate,
)
from deptbus.stream.identity import topic_ids
from deptbus.stream.sender import Outgoing, Sender
from deptbus.stream.unpack import LogRecord, as_logged

__all__ = [
    "LogReader",
    "LogRecord",
    "Outgoing",
    "Sender",
    "beginning_offsets",
    "end_offsets",
    "read_to_end",
    "scan_to_end",
    "topic_partitions",
]

# A broker that gives nothing for so long while records are known to lie there counts as gone.
SILENCE_SECONDS = 20.0


class LogReader:
    """Reads one topic from given offsets on, and knows where it stands.

    `start`, then any number of `read_to_end` and `poll` (one at a time), then `stop`. Driver
    errors come out as BusUnreachable or BusRefused; the reader may be used again after either.
    `from_offsets`: partition -> first offset wanted (default: the beginning).
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        *,
        partitions: Iterable[int] | None = None,
        from_offsets: Mapping[int, int] | None = None,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._wanted = None if partitions is None else frozenset(partitions)
        self._from = dict(from_offsets or {})
        self._consumer: AIOKafkaConsumer | None = None
        self._places: list[TopicPartition] = []

    async def start(self) -> None:
        consumer = await open_consumer(self._connection, key_deserializer=as_logged)
        try:
            every = await partitions_of(consumer, self._topic)
            self._places = [p for p in every if self._wanted is None or p.partition in self._wanted]
            if self._places:
                consumer.assign(self._places)
                await self._seek(consumer)
        except BaseException as error:
            await consumer.stop()
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise translate(error, topic=self._topic) from error
            raise
        self._consumer = consumer

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def __aenter__(self) -> LogReader:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(place.partition for place in self._places)

    async def topic_id(self) -> str | None:
        """Of the topic as it is now; None when it cannot be seen. Raises BusUnreachable."""
        return (await topic_ids(self._open()._client, [self._topic])).get(self._topic)

    async def poll(self, timeout_seconds: float = 1.0) -> list[LogRecord]:
        """What came since the last call, waiting at most so long for the first of it."""
        consumer = self._open()
        try:
            found = await consumer.getmany(
                *self._places, timeout_ms=int(timeout_seconds * 1000), max_records=5000
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=self._topic) from error
        return _flat(found)

    async def read_to_end(self) -> list[LogRecord]:
        """All records from where the reader stands to the ends at this moment."""
        return [record async for batch in self.scan_to_end() for record in batch]

    async def scan_to_end(self) -> AsyncGenerator[list[LogRecord], None]:
        """`read_to_end` batch by batch; the last batch may hold records newer than those ends."""
        consumer = self._open()
        try:
            ends = await consumer.end_offsets(self._places) if self._places else {}
            left = [p for p, end in ends.items() if await consumer.position(p) < end]
            silent = 0.0
            while left:
                found = await consumer.getmany(*left, timeout_ms=1000, max_records=5000)
                silent = 0.0 if found else silent + 1.0
                if silent > SILENCE_SECONDS:
                    raise BusUnreachable(f"the bus gives no records of {self._topic}")
                if found:
                    yield _flat(found)
                left = [p for p in left if await consumer.position(p) < ends[p]]
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=self._topic) from error

    def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("LogReader is not started")
        return self._consumer

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """Never beyond the end (a rebuilt log is shorter: the client would silently start over)
        and never before the beginning."""
        starts = await consumer.beginning_offsets(self._places)
        ends = await consumer.end_offsets(self._places)
        for place in self._places:
            wanted = self._from.get(place.partition, 0)
            consumer.seek(place, min(max(wanted, starts[place]), ends[place]))


def _flat(found: Mapping[Any, Any]) -> list[LogRecord]:
    return [record for records in found.values() for record in records]


async def read_to_end(
    connection: Connection,
    topic: str,
    *,
    partitions: Iterable[int] | None = None,
    from_offsets: Mapping[int, int] | None = None,
) -> list[LogRecord]:
    """All records of a topic up to its ends at this moment, in order within each partition.

    Raises BusRefused (no such topic, no right), BusUnreachable.
    """
    async with LogReader(
        connection, topic, partitions=partitions, from_offsets=from_offsets
    ) as reader:
        return await reader.read_to_end()


async def scan_to_end(
    connection: Connection,
    topic: str,
    *,
    partitions: Iterable[int] | None = None,
    from_offsets: Mapping[int, int] | None = None,
) -> AsyncGenerator[list[LogRecord], None]:
    """`read_to_end` for topics too large to hold: yields lists of at most 5,000 records. To be
    closed (`aclosing`), or a consumer is left to the collector where it is left in its midst."""
    async with LogReader(
        connection, topic, partitions=partitions, from_offsets=from_offsets
    ) as reader:
        async for batch in reader.scan_to_end():
            yield batch
