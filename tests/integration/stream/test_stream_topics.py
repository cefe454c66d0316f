"""A group whose leader shares out partitions while the broker does not tell of all topics yet."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka.admin import AdminClient, NewTopic
from fault_desks import until

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.stream.brokers import look_for_topics

pytestmark = pytest.mark.service


@pytest.fixture
async def idle(
    stream_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AIOKafkaConsumer]:
    """Alone in its group, and without a partition: as behind a restart of the broker."""
    topic = f"topics-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(stream_broker.connection.librdkafka())
    admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(30)
    bootstrap = stream_broker.connection.bootstrap
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=topic)
    await consumer.start()
    with monkeypatch.context() as patch:
        patch.setattr(consumer._client.cluster, "partitions_for_topic", lambda _: None)
        consumer.subscribe([topic])
        await until(lambda: consumer._coordinator._metadata_snapshot == {topic: 0}, "joined")
        await until(lambda: consumer._subscription.subscription.assignment, "assigned")
    yield consumer
    await consumer.stop()


async def test_gets_its_partitions_once_they_are_known(idle: AIOKafkaConsumer) -> None:
    assert not idle.assignment()
    await look_for_topics(idle)
    await until(lambda: len(idle.assignment()) == 4, "its partitions are assigned")


async def test_planted_bug_nobody_looks_for_them(idle: AIOKafkaConsumer) -> None:
    for _ in range(20):
        await asyncio.sleep(0.05)
        assert not idle.assignment()


async def test_who_knows_all_topics_asks_for_nothing(idle: AIOKafkaConsumer) -> None:
    await look_for_topics(idle)
    await until(lambda: len(idle.assignment()) == 4, "its partitions are assigned")
    before = idle._client.cluster._last_refresh_ms
    await look_for_topics(idle)
    assert idle._client.cluster._last_refresh_ms == before
