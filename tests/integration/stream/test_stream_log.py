"""Sender and readers on a real broker: order, refusals, a broker that stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import RequestTimedOutError
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from fault_desks import until

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.stream import sender as sender_module
from deptbus.stream.brokers import open_consumer, open_producer, partition_count
from deptbus.stream.log import (
    LogReader,
    Outgoing,
    Sender,
    beginning_offsets,
    end_offsets,
    read_to_end,
    topic_partitions,
)
from deptbus.stream.sender import _discard
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service


@pytest.fixture
def topic(stream_broker: EmbeddedBroker) -> str:
    name = f"log-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(stream_broker.connection.librdkafka())
    admin.create_topics([NewTopic(name, 4, 1)])[name].result(30)
    return name


@pytest.fixture
def connection(stream_broker: EmbeddedBroker) -> Connection:
    return stream_broker.connection


@pytest.fixture
def still_broker(stream_broker: EmbeddedBroker) -> Iterator[int]:
    """The broker's process; it runs again after the test."""
    assert stream_broker.pid is not None
    yield stream_broker.pid
    os.kill(stream_broker.pid, signal.SIGCONT)


async def test_offsets_are_those_of_the_records_in_the_order_given(
    connection: Connection, topic: str
):
    records = [Outgoing(topic, None, os.urandom(16), b"%d" % number) for number in range(5000)] + [
        Outgoing(topic, 3, None, b"last")
    ]
    async with Sender(connection) as sender:
        offsets = await sender.send(records)
        assert await sender.send([]) == []
    found = {
        (r.partition, r.offset): (r.key, r.value) for r in await read_to_end(connection, topic)
    }
    assert len(found) == len(records)
    for record, offset in zip(records, offsets, strict=True):
        partition = 3 if record.key is None else partition_of(record.key, 4)
        assert found[partition, offset] == (record.key, record.value)


async def test_concurrent_sends_keep_their_order(connection: Connection, topic: str):
    async with Sender(connection) as sender:
        await asyncio.gather(
            *[
                sender.send([Outgoing(topic, 0, None, b"%d/%d" % (call, i)) for i in range(50)])
                for call in range(40)
            ]
        )
    values = [r.value for r in await read_to_end(connection, topic)]
    assert values == [b"%d/%d" % (call, i) for call in range(40) for i in range(50)]


async def test_who_goes_before_it_is_his_turn_leaves_nothing(connection: Connection, topic: str):
    """An empty batch is answered without an offset."""
    async with Sender(connection) as sender:
        turns = sender._slots._value
        for _ in range(turns):
            await sender._slots.acquire()
        gone = asyncio.create_task(sender.send([Outgoing(topic, 0, None, b"gone")]))
        await until(lambda: sender._slots._waiters)
        (draining,) = sender._tasks
        gone.cancel()
        await asyncio.wait([gone])
        for _ in range(turns):
            sender._slots.release()
        await draining
        await sender.send([Outgoing(topic, 0, None, b"after")])
    assert [r.value for r in await read_to_end(connection, topic)] == [b"after"]


async def test_refusals_are_told_and_poison_nothing(connection: Connection, topic: str):
    async with Sender(connection) as sender:
        with pytest.raises(BusRefused, match="topic no-such-topic is unknown"):
            await sender.send([Outgoing("no-such-topic", 0, None, b"x")])
        with pytest.raises(BusRefused, match="no partition 9"):
            await sender.send([Outgoing(topic, 9, None, b"x")])
        with pytest.raises(BusRefused, match="too large"):
            await sender.send([Outgoing(topic, 0, None, os.urandom(3_000_000))])
        waiting = sender.send([Outgoing(topic, 0, None, b"after")])
        assert len(await waiting) == 1
    assert [r.value for r in await read_to_end(connection, topic)] == [b"after"]


async def test_a_consumer_is_stopped_while_a_fetch_rests_after_a_failure(
    connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
):
    """The client passes that fetch's CancelledError on: adapters ended with code 0 when a broker
    had stood still for ten seconds, and nobody started them again."""
    consumer = await open_consumer(connection)
    failed = asyncio.Event()

    async def fail(*_: object, **__: object) -> None:
        failed.set()
        raise RequestTimedOutError

    monkeypatch.setattr(consumer._fetcher, "_retry_backoff", 60.0)
    monkeypatch.setattr(consumer._client, "send", fail)
    places = [TopicPartition(topic, n) for n in range(4)]
    consumer.assign(places)
    for place in places:
        consumer.seek(place, 0)  # so that the first request is a fetch
    async with asyncio.timeout(20):
        await failed.wait()
        await asyncio.sleep(0)  # the fetch goes to its rest
        assert consumer._fetcher._pending_tasks
        await consumer.stop()
    assert consumer._client._sync_task is None, "its connections are closed"


async def test_who_waits_for_metadata_of_a_producer_that_is_replaced_is_not_left_waiting(
    connection: Connection,
):
    """One refusal replaces the producer of all lanes; those that were just asking for their topic
    stood still for ever, and with them every partition that they belonged to."""
    producer = await open_producer(connection)
    asking = [
        asyncio.create_task(partition_count(producer.client, f"absent-{n}", patience=60))
        for n in range(3)
    ]
    await asyncio.sleep(0)
    assert producer.client._md_update_fut is not None
    await _discard(producer)
    async with asyncio.timeout(10):
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(error) for error in found] == [BusUnreachable] * 3


async def test_a_topic_that_refuses_holds_up_no_other(connection: Connection, topic: str):
    """Many sends to topics that the producer does not know yet, while one topic refuses."""
    small = f"small-{uuid.uuid4().hex[:8]}"
    others = [f"other-{uuid.uuid4().hex[:8]}" for _ in range(12)]
    admin = AdminClient(connection.librdkafka())
    made = [NewTopic(small, 4, 1, config={"max.message.bytes": "100"})]
    made += [NewTopic(name, 4, 1) for name in others]
    for future in admin.create_topics(made).values():
        future.result(30)
    refused = [Outgoing(small, n, None, os.urandom(500)) for n in range(4)]
    async with Sender(connection) as sender, asyncio.timeout(40):
        sends = [
            sender.send([Outgoing(name, n % 4, None, b"x")]) for n, name in enumerate(others * 4)
        ]
        sends += [sender.send([record]) for record in refused]
        found = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(error) for error in found[-4:]] == [BusRefused] * 4
    assert [f for f in found[:-4] if isinstance(f, BaseException)] == []


class Forgetful(dict[str, Any]):
    """Knows no topic that refused."""

    def setdefault(self, key: str, default: Any = None) -> Any:
        return default


async def _producers_used(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, apart: dict[str, Any]
) -> int:
    """How many producers the other topics go by while one refuses, until it takes what is sent."""
    monkeypatch.setattr(sender_module, "_APART_SECONDS", (0.02, 0.1))
    small, other = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("small", "other"))
    admin = AdminClient(connection.librdkafka())
    made = [NewTopic(small, 4, 1, config={"max.message.bytes": "100"}), NewTopic(other, 4, 1)]
    for future in admin.create_topics(made).values():
        future.result(30)
    record = Outgoing(small, 1, None, os.urandom(500))
    async with Sender(connection) as sender, asyncio.timeout(60):
        sender._apart = apart
        with pytest.raises(BusRefused):
            await sender.send([record])
        await sender.send([Outgoing(other, 0, None, b"first")])
        used = {id(sender._shared.producer): sender._shared.producer}
        for number in range(4):
            with pytest.raises(BusRefused):
                await sender.send([record])
            await sender.send([Outgoing(other, number, None, b"x")])
            used[id(sender._shared.producer)] = sender._shared.producer
        entry = ConfigEntry("max.message.bytes", "100000",
                            incremental_operation=AlterConfigOpType.SET)  # fmt: skip
        resource = ConfigResource(ResourceType.TOPIC, small, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(30)
        while True:  # the broker's own view of it follows in a moment
            try:
                await sender.send([record])
                break
            except BusRefused:
                continue
        assert sender._apart == {}
        assert await sender.send([record]) == [1]
        used[id(sender._shared.producer)] = sender._shared.producer
    return len(used)


async def test_a_topic_that_refuses_takes_the_producer_of_no_other(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    assert await _producers_used(connection, monkeypatch, {}) == 1


async def test_planted_one_producer_for_all_topics_is_caught(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    assert await _producers_used(connection, monkeypatch, Forgetful()) > 1


async def test_a_broker_that_stands_still(connection: Connection, topic: str, still_broker: int):
    """What was sent before it woke is there once or more, in order, and nothing is stuck."""
    async with Sender(connection) as sender:
        await sender.send([Outgoing(topic, p, None, b"before") for p in range(4)])
        os.kill(still_broker, signal.SIGSTOP)
        with pytest.raises(BusUnreachable):
            await sender.send([Outgoing(topic, 0, None, b"given up")], deadline_seconds=1.0)
        sending = asyncio.gather(
            *[
                sender.send(
                    [Outgoing(topic, p, None, b"%d" % i) for i in range(20)], deadline_seconds=60
                )
                for p in range(4)
            ]
        )
        await asyncio.wait((sending,), timeout=3.0)
        assert not sending.done()
        os.kill(still_broker, signal.SIGCONT)
        await asyncio.wait_for(sending, 60)
    for partition in range(4):
        records = await read_to_end(connection, topic, partitions=[partition])
        values = [r.value for r in records]
        assert values[-20:] == [b"%d" % i for i in range(20)]


async def test_stop_does_not_wait_for_a_broker_that_stands_still(
    connection: Connection, topic: str, still_broker: int
):
    sender = Sender(connection)
    await sender.start()
    os.kill(still_broker, signal.SIGSTOP)
    sending = asyncio.ensure_future(sender.send([Outgoing(topic, 0, None, b"x")]))
    await asyncio.wait((sending,), timeout=0.5)
    await asyncio.wait_for(sender.stop(), 10)
    with pytest.raises(BusUnreachable):
        await sending
    with pytest.raises(BusUnreachable):
        await sender.send([Outgoing(topic, 0, None, b"y")])


async def test_nobody_listens():
    with pytest.raises(BusUnreachable, match=r"no broker answers at 127\.0\.0\.1:1"):
        await Sender(Connection(bootstrap="127.0.0.1:1")).start()


async def test_readers_go_on_from_where_they_stand(connection: Connection, topic: str):
    async with Sender(connection) as sender, LogReader(connection, topic) as reader:
        assert await reader.read_to_end() == []
        await sender.send([Outgoing(topic, p, None, b"%d" % p) for p in range(4)])
        assert sorted(r.value for r in await reader.read_to_end()) == [b"0", b"1", b"2", b"3"]
        assert await reader.read_to_end() == []
        await sender.send([Outgoing(topic, 1, None, b"later")])
        assert [r.value for r in await reader.poll(10.0)] == [b"later"]
    assert await end_offsets(connection, topic) == [1, 2, 1, 1]
    assert await beginning_offsets(connection, topic) == [0, 0, 0, 0]
    assert await topic_partitions(connection, [topic]) == {topic: 4}


async def test_reading_from_offsets_and_beyond_the_end(connection: Connection, topic: str):
    async with Sender(connection) as sender:
        await sender.send([Outgoing(topic, 0, None, b"%d" % i) for i in range(5)])
    found = await read_to_end(connection, topic, from_offsets={0: 3})
    assert [r.value for r in found] == [b"3", b"4"]
    # A rebuilt log is shorter than what we remember: nothing is read, not everything again.
    assert await read_to_end(connection, topic, from_offsets={0: 99}) == []
