"""One of three brokers dies: what it alone could tell is unknown, and never a number."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from three_brokers import Three

from deptbus.operations.lag import PartitionState, Place
from deptbus.operations.observer import Observer, Picture, reader_by_members
from deptbus.operations.verdicts import Verdict

pytestmark = pytest.mark.service

TOPIC, GROUP = "town", "reader"
STAYS, DIES = Place(GROUP, TOPIC, 0), Place(GROUP, TOPIC, 1)


@pytest.fixture
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    cluster = Three(tmp_path_factory.mktemp("three"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def prepare(three: Three) -> None:
    """A partition on the first broker and one on the second, alone; the group has read half."""
    words = three.client("topics").librdkafka()
    new = NewTopic(
        TOPIC,
        num_partitions=2,
        replica_assignment=[[1], [2]],
        config={"min.insync.replicas": "1"},
    )
    admin = AdminClient(words)  # kept: its end would be that of what it is asked for
    (future,) = admin.create_topics([new]).values()
    future.result(30)
    producer = Producer(words)
    for number in range(20):
        producer.produce(TOPIC, b"v", partition=number % 2)
    assert producer.flush(30) == 0
    consumer = Consumer(words | {"group.id": GROUP})
    half = [TopicPartition(TOPIC, partition, 5) for partition in (0, 1)]
    deadline = time.monotonic() + 60
    while True:
        try:
            consumer.commit(offsets=half, asynchronous=False)
            break
        except KafkaException:  # the cluster has just begun, and so has its coordinator
            assert time.monotonic() < deadline
            time.sleep(0.2)
    consumer.close()


async def test_what_a_dead_broker_led_is_unknown(three: Three) -> None:
    await asyncio.to_thread(prepare, three)
    observer = Observer(three.client("topics"))
    await observer.start()

    async def look() -> Picture:
        cluster = await observer.cluster()
        return await observer.poll(cluster, {GROUP: [TOPIC]}, lambda _, g: reader_by_members(g))

    try:
        before = await look()
        assert [before.tracks[place].lag.records for place in (STAYS, DIES)] == [5, 5]
        three.processes["kafka-2"].send_signal(signal.SIGKILL)
        three.processes["kafka-2"].wait(10)
        deadline = time.monotonic() + 60
        while True:
            picture = await look()
            dead, alive = picture.tracks[DIES], picture.tracks[STAYS]
            assert dead.lag.state is PartitionState.UNREACHABLE
            assert (dead.lag.records, dead.verdict) == (None, None)
            # Its coordinator may have died too, until another broker takes its place.
            assert alive.lag.records in (5, None)
            if dead.lag.reason == "no_leader" and alive.lag.records == 5:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert alive.verdict in (Verdict.OK, Verdict.BEHIND)
    finally:
        await observer.stop()
