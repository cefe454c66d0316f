"""A unit's own topics, deleted by mistake and made again: noticed, told, and nothing lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic
from source_bus import PARTITIONS, SqliteSource, until
from test_resync import back_up, restore, table

from deptbus.connection import Connection
from deptbus.department import publisher as publishing
from deptbus.department.bus_memory import BusMemory
from deptbus.errors import DeptbusError, SourceRefused
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import end_offsets, read_to_end
from deptbus.wire.control import Incarnated, decode_control

pytestmark = pytest.mark.service


@pytest.fixture
async def source(broker: Connection, tmp_path: Path) -> SqliteSource:
    made = await asyncio.to_thread(SqliteSource, broker, tmp_path)
    await made.install()
    return made


async def make_again(source: SqliteSource, topic: str, partitions: int) -> None:
    """As an operator does who sees his mistake at once."""
    for deleted in source.admin.delete_topics([topic]).values():
        await asyncio.to_thread(deleted.result, 30)

    async def is_made() -> bool:
        (made,) = source.admin.create_topics([NewTopic(topic, partitions, 1)]).values()
        try:
            await asyncio.to_thread(made.result, 30)
        except KafkaException:
            return False  # the old one is still going
        return True

    await until(is_made)


async def retention_takes_all(source: SqliteSource) -> None:
    topic = out_topic(source.unit)
    ends = await end_offsets(source.connection, topic)
    places = [TopicPartition(topic, p, end) for p, end in enumerate(ends)]
    for deleted in source.admin.delete_records(places).values():
        await asyncio.to_thread(deleted.result, 30)


async def test_an_outbox_topic_made_again_under_a_running_adapter(source: SqliteSource) -> None:
    async with source.intake(), source.running():
        source.do(*[source.person(n, "first") for n in range(10)])
        await source.arrived()
    async with source.publisher() as publisher:
        await publisher.start()
        task = asyncio.create_task(publisher.run())
        source.do(source.person(1, "lost with the topic"), "DELETE FROM people WHERE 身份证 = '2'")
        await source.drained()  # acked, and nobody has taken it in
        await make_again(source, out_topic(source.unit), PARTITIONS)
        with pytest.raises(DeptbusError) as stopped:
            await asyncio.wait_for(task, 60)
    if not isinstance(stopped.value, SourceRefused):
        # It was not there for a moment: the adapter that starts again says it.
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="was made again") as stopped:
                await publisher.start()
    assert "deptbus department resync" in str(stopped.value)
    async with source.bus():
        done = await source.resync()
        assert (done.published, done.deleted, done.equal) == (1, 1, 8)
        await source.arrived()
        assert source.named(await source.canonical()) == table(source)
        async with source.running():
            source.do(source.person(3, "goes on"))
            await source.arrived()


async def test_an_outbox_topic_made_again_while_no_adapter_ran(source: SqliteSource) -> None:
    async with source.running():
        source.do(source.person(1))
        await source.drained()
    await make_again(source, out_topic(source.unit), PARTITIONS)
    for _ in range(2):  # an adapter that is started over and over does not come to believe it
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="was made again"):
                await publisher.start()
    async with source.bus():
        assert (await source.resync()).published == 1
    async with source.running():
        source.do(source.person(2))
        await source.drained()


async def test_ends_of_another_topic_are_not_believed(source: SqliteSource) -> None:
    """What lies in the topic of today counts, though the heartbeat's ends lie beyond it: a database
    that was restored is told from its numbers all the same."""
    async with source.running():
        source.do(*[source.person(n) for n in range(30)])
        await source.drained()
    backup = back_up(source)
    await make_again(source, out_topic(source.unit), PARTITIONS)
    async with source.bus():
        await source.resync()
        async with source.running():
            source.do(source.person(1, "since"))
            await source.arrived()
        restore(backup, source.path)
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="restored from a backup"):
                await publisher.start()


async def test_what_retention_took_behind_the_last_sign_of_life(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat, records, death before the next one, a standstill for longer than the retention,
    a backup from in between: nothing tells any more that the backup is behind the bus."""
    monkeypatch.setattr(publishing, "HEARTBEAT_SECONDS", 3600.0)
    async with source.intake(), source.running():
        source.do(source.person(1, "before"))
        await source.arrived()
        backup = back_up(source)
        source.do(source.person(1, "after"))
        await source.arrived()
    await retention_takes_all(source)
    restore(backup, source.path)
    async with source.publisher() as publisher:
        with pytest.raises(SourceRefused, match="gone by retention"):
            await publisher.start()
    async with source.bus():
        await source.resync()
        await source.arrived()
        assert source.named(await source.canonical()) == {"1": "before"} == table(source)


async def test_retention_alone_asks_for_nothing(source: SqliteSource) -> None:
    async with source.running() as publisher:
        source.do(source.person(1))
        await source.drained()
        await publisher._beat()
    await retention_takes_all(source)
    async with source.running():
        source.do(source.person(2))
        await source.drained()


async def test_a_control_topic_made_again_under_a_running_adapter(source: SqliteSource) -> None:
    """Intake that starts afterwards knows of the adapter; so does its successor."""
    topic = control_topic(source.unit)
    async with source.running() as publisher:
        source.do(source.person(1))
        await source.drained()
        await make_again(source, topic, 1)

        async def is_told() -> bool:
            found = [decode_control(r.value) for r in await read_to_end(source.connection, topic)]
            told = [r for r in found if isinstance(r, Incarnated)]
            return [r.incarnation for r in told] == [publisher.incarnation]

        await until(is_told)
    async with source.running() as younger:
        assert younger.incarnation > publisher.incarnation


async def test_a_control_topic_made_again_while_no_adapter_ran(source: SqliteSource) -> None:
    async with source.running():
        source.do(source.person(1))
        await source.drained()
    await make_again(source, control_topic(source.unit), 1)
    for _ in range(3):  # what a refused start leaves on the bus is no reason to let the next one in
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="knows nothing of it") as refused:
                await publisher.start()
        assert "deptbus department resync" in str(refused.value)
    async with source.bus():
        await source.resync()
    async with source.running():
        source.do(source.person(2))
        await source.drained()


async def test_planted_bug_a_refused_start_counts_as_one_that_the_bus_knows(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = property(lambda memory: len(memory.tokens) > 1)  # its own is one of them
    monkeypatch.setattr(BusMemory, "is_of_one_that_began", counts)
    check = publishing.Publisher._check_publication

    def late(self: publishing.Publisher, *words: Any) -> None:
        if self.presence._incarnation is not None:  # or it leaves nothing on the bus
            check(self, *words)

    monkeypatch.setattr(publishing.Publisher, "_check_publication", late)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_a_control_topic_made_again_while_no_adapter_ran(source)


async def test_planted_bug_the_outbox_is_not_looked_at(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "check_outbox", lambda *_, **__: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await test_an_outbox_topic_made_again_while_no_adapter_ran(source)
