"""Topics, producers and readers of their own for tests of lag, on a real broker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from deptbus.connection import Connection
from deptbus.operations.lag import Place
from deptbus.operations.observer import Observer, Picture, reader_by_members
from deptbus.operations.verdicts import Limits, Reader, Track

TIMEOUT_SECONDS = 20
_NO_COORDINATOR = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


class Town:
    """One topic and one group, both new; `clock` is what the observer takes for now."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        name = uuid.uuid4().hex[:12]
        self.topic, self.group = f"town.{name}", f"reader.{name}"
        self._words = {"bootstrap.servers": connection.bootstrap}
        self.admin = AdminClient(self._words)

    def make(self, partitions: int = 1, **config: str) -> None:
        new = NewTopic(self.topic, partitions, 1, config=config)
        (future,) = self.admin.create_topics([new]).values()
        future.result(TIMEOUT_SECONDS)

    def drop(self) -> None:
        (future,) = self.admin.delete_topics([self.topic]).values()
        future.result(TIMEOUT_SECONDS)

    def write(self, count: int, partition: int = 0, at_ms: int = 0, keys: int = 0) -> None:
        """`keys`: so many different ones, in turn; `at_ms`: the time that the records bear."""
        producer = Producer(self._words | {"linger.ms": 0})
        for number in range(count):
            key = str(number % keys).encode() if keys else None
            producer.produce(self.topic, b"v", key, partition, timestamp=at_ms)
        assert producer.flush(TIMEOUT_SECONDS) == 0

    def transactions(self) -> Transactions:
        return Transactions(self.topic, self._words)

    def commit(self, *offsets: int, topic: str | None = None) -> None:
        """By partition, as a program does that is in no group."""
        consumer = Consumer(self._words | {"group.id": self.group})
        places = [TopicPartition(topic or self.topic, n, o) for n, o in enumerate(offsets)]
        deadline = time.monotonic() + 30
        while True:
            try:
                consumer.commit(offsets=places, asynchronous=False)
                break
            except KafkaException as error:  # of a young broker, which makes its topic of offsets
                if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > deadline:
                    raise
        consumer.close()

    def join(self, beside: Consumer | None = None, **words: Any) -> Consumer:
        """A member of the group that has its partitions, or some; another one has to be polled
        meanwhile."""
        joined: list[bool] = []
        consumer = Consumer(
            self._words
            | {"group.id": self.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
            | words
        )
        consumer.subscribe([self.topic], on_assign=lambda *_: joined.append(True))
        while not joined:
            assert consumer.poll(0.1) is None or joined
            if beside is not None:
                beside.poll(0.1)
        return consumer

    def read_to_end(self, *starts: int) -> list[int]:
        """How many records a reader of committed records finds from these offsets to the end."""
        counts = []
        for partition, start in enumerate(starts):
            consumer = Consumer(
                self._words
                | {
                    "group.id": f"counts.{uuid.uuid4().hex}",
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                }
            )
            consumer.assign([TopicPartition(self.topic, partition, start)])
            count = 0
            while True:
                message = consumer.poll(TIMEOUT_SECONDS)
                assert message is not None
                if message.error():
                    break  # the end
                count += 1
            consumer.close()
            counts.append(count)
        return counts

    def delete_before(self, *offsets: int) -> None:
        places = [TopicPartition(self.topic, n, offset) for n, offset in enumerate(offsets)]
        for future in self.admin.delete_records(places).values():
            future.result(TIMEOUT_SECONDS)

    def starts_at(self, partition: int = 0) -> int:
        place = TopicPartition(self.topic, partition)
        (future,) = self.admin.list_offsets({place: OffsetSpec.earliest()}).values()
        return future.result(TIMEOUT_SECONDS).offset

    def forget_commits(self) -> None:
        """As Kafka does when a group was empty for a week."""
        self.admin.delete_consumer_groups([self.group])[self.group].result(TIMEOUT_SECONDS)

    def set_back(self, *offsets: int) -> None:
        places = [TopicPartition(self.topic, n, offset) for n, offset in enumerate(offsets)]
        asked = [ConsumerGroupTopicPartitions(self.group, places)]
        for future in self.admin.alter_consumer_group_offsets(asked).values():
            future.result(TIMEOUT_SECONDS)


class Transactions:
    """A producer of transactions."""

    def __init__(self, topic: str, words: dict[str, Any]) -> None:
        self._topic = topic
        self._producer = Producer(words | {"transactional.id": uuid.uuid4().hex})
        self._producer.init_transactions(TIMEOUT_SECONDS)

    def begin(self, count: int) -> None:
        """Written, and neither committed nor aborted."""
        self._producer.begin_transaction()
        for _ in range(count):
            self._producer.produce(self._topic, b"v", partition=0)
        assert self._producer.flush(TIMEOUT_SECONDS) == 0

    def commit(self, count: int) -> None:
        self.begin(count)
        self._producer.commit_transaction(TIMEOUT_SECONDS)

    def abort(self, count: int) -> None:
        self.begin(count)
        self._producer.abort_transaction(TIMEOUT_SECONDS)

    def end(self) -> None:
        self._producer.commit_transaction(TIMEOUT_SECONDS)


class Eye:
    """An observer with a clock that the test moves; every reader is told by its group's members,
    unless the test says otherwise."""

    def __init__(self, town: Town, limits: Limits, now: Callable[[], float]) -> None:
        self.town = town
        self.observer = Observer(town.connection, limits, now)
        self.reader: Reader | None = None

    async def __aenter__(self) -> Eye:
        await self.observer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.observer.stop()

    async def picture(self, expected: bool = False) -> Picture:
        groups = {self.town.group: [self.town.topic]} if expected else {}
        cluster = await self.observer.cluster()
        return await self.observer.poll(
            cluster, groups, lambda _, group: self.reader or reader_by_members(group)
        )

    async def look(self, partition: int = 0, expected: bool = False) -> Track:
        picture = await self.picture(expected)
        return picture.tracks[Place(self.town.group, self.town.topic, partition)]
