"""Writes straight to topics past every rule of ours: raw record batches, and foreign clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaException, Producer

from deptbus.connection import Connection

Pair = tuple[bytes | None, bytes | None]


class RawProducer:
    """Writes record batches as they are: `async with`, then `write`."""

    def __init__(self, connection: Connection) -> None:
        self._client = AIOKafkaClient(client_id="foreign", **connection.aiokafka())

    async def __aenter__(self) -> RawProducer:
        await self._client.bootstrap()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def write(
        self, topic: str, partition: int, batch: bytes
    ) -> tuple[int, type[BaseException] | None]:
        """(Base offset, None), or (-1, the error) when the broker refuses the batch."""
        await self._client.add_topic(topic)
        node = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
        assert node is not None
        request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, batch)])])
        answer = await self._client.send(node, request)
        ((_, ((_, code, offset, *_),)),) = answer.topics
        return (offset, None) if code == 0 else (-1, for_code(code))


async def write_batch(
    connection: Connection, topic: str, partition: int, batch: bytes
) -> tuple[int, type[BaseException] | None]:
    """One batch; see RawProducer.write."""
    async with RawProducer(connection) as producer:
        return await producer.write(topic, partition, batch)


def write(
    connection: Connection,
    topic: str,
    pairs: Iterable[Pair],
    partition: int | None = 0,
    **words: Any,
) -> list[tuple[int, int]]:
    """librdkafka writes; (partition, offset) of each. `partition` None: its own partitioner, which
    is not ours. Raises KafkaException."""
    producer = Producer(
        {**connection.librdkafka(), "message.max.bytes": 1_000_000_000, "acks": "all"}
        | {name.replace("_", "."): value for name, value in words.items()}
    )
    pairs = list(pairs)
    places: list[tuple[int, int]] = [(-1, -1)] * len(pairs)
    failed: list[Any] = []

    def delivered(index: int) -> Any:
        def call(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)
            else:
                places[index] = (message.partition(), message.offset())

        return call

    where = {} if partition is None else {"partition": partition}
    for index, (key, value) in enumerate(pairs):
        producer.produce(topic, value, key, on_delivery=delivered(index), **where)
        producer.poll(0)
    assert producer.flush(60) == 0
    if failed:
        raise KafkaException(failed[0])
    return places


def write_aborted(
    connection: Connection, topic: str, pairs: Sequence[Pair], partition: int
) -> None:
    """A transaction that is aborted after all of it was written."""
    producer = Producer({**connection.librdkafka(), "transactional.id": "foreign-aborted"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, value in pairs:
        producer.produce(topic, value, key, partition=partition)
    producer.flush(30)
    producer.abort_transaction(30)


def write_committed(
    connection: Connection, topic: str, pairs: Sequence[Pair], partition: int
) -> None:
    producer = Producer({**connection.librdkafka(), "transactional.id": "foreign-committed"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, value in pairs:
        producer.produce(topic, value, key, partition=partition)
    producer.commit_transaction(30)
