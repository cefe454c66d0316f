"""The edge to aiokafka: opens its clients, asks for metadata, turns its errors into ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from deptbus.connection import Connection
from deptbus.errors import (
    CREDENTIALS,
    CREDENTIALS_MEND,
    BusRefused,
    BusUnreachable,
    DeptbusError,
)
from deptbus.stream import hang_up, sessions, unpack

_OPENED_SECONDS = 1.0
REQUEST_TIMEOUT_MS = 10_000
# New topics and rights need about a second to reach every broker: one "no" is no answer yet.
PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
# How long the broker may hold a fetch that finds nothing. It answers at the first byte, so a long
# wait delays no record of the partitions that it asks for, and an idle consumer costs next to
# nothing. A partition whose last records lie unread in the client is not asked for: where records
# come, its turn must come soon.
SHORT_WAIT_MS, LONG_WAIT_MS = 50, 1000

_CREDENTIALS = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
_TASKS_OF_A_MEMBER = (
    *("_coordination_task", "_heartbeat_task", "_commit_refresh_task"),
    "_reset_committed_task",
)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


def refused_topic(topic: str) -> BusRefused:
    """Kafka hides topics that one has no right to: unknown and forbidden look alike."""
    return BusRefused(
        f"topic {topic} is unknown to the bus, or this client has no right to it",
        mend="Run `deptbus topics apply`, and check the user's rights to the topic",
    )


def translate(error: BaseException, *, topic: str | None = None) -> DeptbusError:
    """What a client's error means to us: BusRefused (a person must mend it) or BusUnreachable."""
    if isinstance(error, DeptbusError):
        return error
    if isinstance(error, _CREDENTIALS):
        return BusRefused(CREDENTIALS, mend=CREDENTIALS_MEND)
    if isinstance(error, TopicAuthorizationFailedError | UnknownTopicOrPartitionError):
        return refused_topic(topic or "named")
    if isinstance(error, CorruptRecordException):
        return BusRefused(
            f"the broker's own log is damaged at {error}",
            mend="Let the broker's replica of this partition be made again from another one",
        )
    if isinstance(error, InvalidTopicError):
        return BusRefused(f"{topic} cannot be a topic's name")
    if isinstance(error, GroupAuthorizationFailedError | ClusterAuthorizationFailedError):
        return BusRefused(
            f"this client lacks a right on the bus ({type(error).__name__})",
            mend="Give the user the rights that `deptbus topics plan` lists",
        )
    if isinstance(error, _TOO_LARGE):
        return BusRefused(
            f"a record is too large for topic {topic}",
            mend="Raise max.message.bytes of the topic with `deptbus topics apply`",
        )
    name = type(error).__name__
    return BusUnreachable(f"the bus did not answer in time ({name})", mend="Is it running?")


async def _why(connection: Connection) -> DeptbusError:
    """aiokafka says only "unable to bootstrap" and logs the reason: ask once more to know it."""
    words = connection.aiokafka()
    last: BaseException = ConnectionError("no address")
    for address in words.pop("bootstrap_servers"):
        host, _, port = address.rpartition(":")
        try:
            conn = await create_conn(
                host.strip("[]"), int(port), client_id="deptbus", request_timeout_ms=5000, **words
            )
        except _CREDENTIALS as error:
            return translate(error)
        except (OSError, KafkaError, TimeoutError, ValueError) as error:
            last = error
        else:
            conn.close()
    tls = await asyncio.to_thread(connection.tls_trouble)
    if tls is not None:
        return tls
    reason = last.strerror if isinstance(last, OSError) and last.strerror else str(last)
    return BusUnreachable(
        f"no broker answers at {connection.bootstrap} ({reason or type(last).__name__})",
        mend="Start the bus, or name another with --bootstrap",
    )


async def explained(
    error: BaseException, connection: Connection, *, topic: str | None = None
) -> DeptbusError:
    """`translate` of what a client said that was just opened: with the reason why it does not get
    through, which clients keep to themselves."""
    found = translate(error, topic=topic)
    return await _why(connection) if isinstance(found, BusUnreachable) else found


async def _start(client: Any, connection: Connection) -> None:
    starting = asyncio.ensure_future(client.start())
    try:
        await asyncio.shield(starting)
    except (KafkaError, OSError, TimeoutError) as error:
        with suppress(KafkaError, OSError):
            await client.stop()
        raise await explained(error, connection) from None
    except BaseException:
        # The client never closes a connection whose opening was cancelled: it is given a moment.
        # Who is in a hurry cancels us a second time, and the client is stopped all the same.
        try:
            await asyncio.wait((starting,), timeout=_OPENED_SECONDS)
        finally:
            starting.cancel()
            try:
                await asyncio.gather(starting, return_exceptions=True)
            finally:
                with suppress(KafkaError, OSError):
                    await client.stop()
        raise


async def open_producer(connection: Connection, **words: Any) -> AIOKafkaProducer:
    """A started producer: acks=all, idempotent, zstd. Raises BusUnreachable, BusRefused."""
    reach_into_client()
    producer = AIOKafkaProducer(
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",  # aiokafka's lz4 is of level 9: six times the time for more bytes
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        **connection.aiokafka(),
        **words,
    )
    await _start(producer, connection)
    return producer


class BusConsumer(AIOKafkaConsumer):
    """A consumer whose `stop` raises nothing of its own.

    The client's awaits the fetches that it has just cancelled. One that rests after a failure (of a
    broker that did not answer, say) passes its CancelledError on to whoever stops the consumer, who
    then seems to be cancelled, by nobody; and its connections stay open. Reaches into the client,
    whose version is pinned.
    """

    async def stop(self) -> None:
        try:
            await self._stop_fetches()
            await super().stop()
        except BaseException:
            # Who stops it is cancelled meanwhile. It leaves its group and its connections all the
            # same: a member that went on with its heartbeats would keep what it was assigned.
            self._closed = True
            for name in _TASKS_OF_A_MEMBER:
                task = getattr(self._coordinator, name, None)
                if task is not None:
                    task.cancel()
            await self._client.close()
            raise

    async def _stop_fetches(self) -> None:
        fetcher = self._fetcher
        if fetcher is None or self._closed:
            return
        fetcher._fetch_task.cancel()
        await asyncio.gather(fetcher._fetch_task, return_exceptions=True)
        resting = list(fetcher._pending_tasks)
        for fetch in resting:
            fetch.cancel()
        await asyncio.gather(*resting, return_exceptions=True)
        fetcher._pending_tasks.clear()


async def look_for_topics(consumer: AIOKafkaConsumer) -> None:
    """New metadata, where partitions of a group were shared out without some of its topics."""
    if 0 in consumer._coordinator._metadata_snapshot.values():
        await consumer._client.force_metadata_update()


def reach_into_client() -> None:
    """To be called before the first client of a process is made; may be called again."""
    unpack.install()
    sessions.install()
    hang_up.install()


async def open_consumer(
    connection: Connection, *, group: str | None = None, reset: str = "earliest", **words: Any
) -> AIOKafkaConsumer:
    """A started consumer; assign partitions only after `partition_count`, because `assign` on a
    forbidden topic spins for ever. `reset`: what a position outside of the log becomes ("none": an
    error). Raises BusUnreachable, BusRefused.

    What a foreign producer's transaction has not committed, or has aborted, is not read."""
    reach_into_client()
    words.setdefault("max_partition_fetch_bytes", 2 * 1024 * 1024)
    consumer = BusConsumer(
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset=reset,
        fetch_max_wait_ms=SHORT_WAIT_MS,
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        **connection.aiokafka(),
        **words,
    )
    await _start(consumer, connection)
    return consumer


def wait_long(consumer: AIOKafkaConsumer, is_idle: bool) -> None:
    """How the next fetches wait; to be told after every poll whether it found nothing. Reaches into
    the client, whose version is pinned."""
    consumer._fetcher._fetch_max_wait_ms = LONG_WAIT_MS if is_idle else SHORT_WAIT_MS


@asynccontextmanager
async def consumer_of(connection: Connection) -> AsyncIterator[AIOKafkaConsumer]:
    """`open_consumer`, stopped at the end; driver errors inside are translated."""
    consumer = await open_consumer(connection)
    try:
        yield consumer
    except (KafkaError, OSError, TimeoutError) as error:
        raise translate(error) from error
    finally:
        await consumer.stop()


async def partition_count(
    client: AIOKafkaClient, topic: str, *, patience: float = PATIENCE_SECONDS
) -> int:
    """Number of partitions. Raises BusRefused after `patience` seconds of "unknown" or
    "forbidden", BusUnreachable when no broker answered."""
    known = client.cluster.partitions_for_topic(topic)
    if known:
        return len(known)
    client.add_topic(topic)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        if client._sync_task is None:
            # Its producer was thrown away meanwhile. Nobody fetches its metadata any more, and who
            # waits for them waits for ever.
            raise BusUnreachable("the connection to the bus was replaced")
        answered = await client.force_metadata_update()
        known = client.cluster.partitions_for_topic(topic)
        if known:
            return len(known)
        if loop.time() > deadline:
            client._topics.discard(topic)  # or each later update would ask and complain again
            if not answered:
                raise BusUnreachable("no broker answers", mend="Is the bus running?")
            raise refused_topic(topic)
        await asyncio.sleep(_PAUSE_SECONDS)


async def check_group(connection: Connection, group: str) -> None:
    """Raises BusRefused when this client may not use the group, BusUnreachable when the bus does
    not answer in time. A consumer that may not join its group says nothing, for ever."""
    client = AIOKafkaClient(client_id="deptbus-check", **connection.aiokafka())
    try:
        await client.bootstrap()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await client.coordinator_lookup(CoordinationType.GROUP, group)
    except (KafkaError, OSError, TimeoutError) as error:
        raise await explained(error, connection) from error
    finally:
        await client.close()


async def topic_partitions(connection: Connection, topics: Iterable[str]) -> dict[str, int]:
    """Topic -> number of partitions, for topics that exist. Raises BusRefused for any other."""
    names = list(topics)
    async with consumer_of(connection) as consumer:
        client = consumer._client
        for topic in names:  # all with the first answer: a thousand units have thousands of topics
            client.add_topic(topic)
        return {topic: await partition_count(client, topic) for topic in names}


async def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    count = await partition_count(consumer._client, topic)
    return [TopicPartition(topic, number) for number in range(count)]


async def beginning_offsets(connection: Connection, topic: str) -> list[int]:
    """The first offset still kept in each partition, by partition number."""
    async with consumer_of(connection) as consumer:
        places = await partitions_of(consumer, topic)
        found = await consumer.beginning_offsets(places)
        return [found[place] for place in places]


async def end_offsets(connection: Connection, topic: str) -> list[int]:
    """The offset that the next record gets in each partition, by partition number."""
    async with consumer_of(connection) as consumer:
        places = await partitions_of(consumer, topic)
        found = await consumer.end_offsets(places)
        return [found[place] for place in places]
