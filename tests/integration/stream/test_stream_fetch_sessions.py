"""Fetch sessions with a real broker: it is told little, and nothing is missed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deptbus.connection import Connection
from deptbus.stream.brokers import open_consumer, partitions_of
from deptbus.stream.log import Outgoing, Sender
from deptbus.stream.sessions import SessionFetch

pytestmark = pytest.mark.service

PARTITIONS = 60


@pytest.fixture
def topic(broker: Connection) -> str:
    name = f"sessions-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(broker.librdkafka())
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    return name


class Spy:
    """How many partitions the fetches of a consumer name."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.named: list[int] = []
        send = consumer._client.send

        async def counted(node_id: int, request: Any, **words: Any) -> Any:
            if isinstance(request, SessionFetch):
                self.named.append(len(request._asked.places))
            return await send(node_id, request, **words)

        consumer._client.send = counted


async def _read(consumer: AIOKafkaConsumer, count: int) -> Counter[int]:
    """So many records, by partition."""
    found: Counter[int] = Counter()
    async with asyncio.timeout(20):
        while found.total() < count:
            for tp, records in (await consumer.getmany(timeout_ms=1000)).items():
                found[tp.partition] += len(records)
    return found


async def test_rounds_of_a_few_partitions_are_read_and_name_few(
    broker: Connection, topic: str
) -> None:
    consumer = await open_consumer(broker)
    spy = Spy(consumer)
    try:
        async with Sender(broker) as sender:
            places = await partitions_of(consumer, topic)
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            for _ in range(30):
                wanted = Counter(random.choices(range(PARTITIONS), k=5))
                await sender.send([Outgoing(topic, n, None, b"v") for n in wanted.elements()])
                assert await _read(consumer, wanted.total()) == wanted
            # As if the broker had thrown the session away, and as if an answer had been lost.
            for spoil in ("_id", "_epoch"):
                (session,) = consumer._fetcher._sessions.values()
                setattr(session, spoil, getattr(session, spoil) + 1000)
                wanted = Counter(range(PARTITIONS))
                await sender.send([Outgoing(topic, n, None, b"v") for n in wanted.elements()])
                assert await _read(consumer, wanted.total()) == wanted
    finally:
        await consumer.stop()
    assert spy.named.count(PARTITIONS) >= 2, "a lost session is begun anew"
    assert sorted(spy.named)[len(spy.named) // 2] <= 10


async def test_where_one_seeks_to_is_read_again(broker: Connection, topic: str) -> None:
    consumer = await open_consumer(broker)
    try:
        async with Sender(broker) as sender:
            places = await partitions_of(consumer, topic)
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            await sender.send([Outgoing(topic, 7, None, b"v") for _ in range(10)])
            assert await _read(consumer, 10) == Counter({7: 10})
            consumer.seek(TopicPartition(topic, 7), 4)
            assert await _read(consumer, 6) == Counter({7: 6})
            await consumer.seek_to_beginning(TopicPartition(topic, 7))
            assert await _read(consumer, 10) == Counter({7: 10})
    finally:
        await consumer.stop()
