"""The publisher on a real broker and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from source_world import PLACES, PUBLISH, SECRET, TABLE, StandingPolicy, contract, department

from deptbus.change import Change
from deptbus.connection import Connection
from deptbus.department.layout import layout_of
from deptbus.department.opening import open_capture
from deptbus.department.publisher import Publisher
from deptbus.department.resync import resync
from deptbus.errors import DatabaseUnavailable, Fenced
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import Sender, read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.keys import fingerprint

pytestmark = pytest.mark.service


class Source:
    def __init__(self, connection: Connection, url: str, desk: asyncpg.Connection) -> None:
        self.connection, self.url, self.desk = connection, url, desk
        self.unit = f"line{uuid.uuid4().hex[:12]}@330106"
        self.contract = contract(self.unit, agreed=fingerprint(SECRET))
        self.follower = StandingPolicy(self.contract)
        self.department = department(self.unit, url)
        self.codecs = Codecs(self.contract)

    def make_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.connection.bootstrap})
        topics = [NewTopic(t(self.unit), n, 1) for t, n in ((out_topic, 4), (control_topic, 1))]
        for future in admin.create_topics(topics).values():
            future.result(30)

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publisher]:
        capture = await open_capture(self.department, "main")
        try:
            async with Sender(self.connection) as sender:
                yield Publisher(
                    self.connection,
                    self.department,
                    "main",
                    capture=capture,
                    sender=sender,
                    follower=self.follower,  # type: ignore[arg-type]
                    secret=SECRET,
                )
        finally:
            await capture.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        async with self.publisher() as publisher:
            await publisher.start()
            task = asyncio.create_task(publisher.run())
            try:
                yield publisher
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def names(self) -> dict[str, str]:
        last: dict[bytes, Change] = {}
        for record in await read_to_end(self.connection, out_topic(self.unit)):
            change = self.codecs.decode_out(record.key, record.value)
            if isinstance(change, Change) and (
                change.key not in last or change.version > last[change.key].version
            ):
                last[change.key] = change
        codec = self.codecs.record_codec("person", 1)
        values = [codec.decode(c.record) for c in last.values() if c.record is not None]
        return {v["id"]: v["name"] for v in values}

    async def drained(self) -> None:
        async def is_empty() -> bool:
            return not await self.desk.fetchval("SELECT count(*) FROM deptbus.outbox")

        await until(is_empty)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, "did not become true in time"
        await asyncio.sleep(0.005)


@pytest.fixture
async def source(broker: Connection, postgres: Callable[[], str]) -> AsyncIterator[Source]:
    url = postgres()
    desk = await asyncpg.connect(url)
    made = Source(broker, url, desk)
    await asyncio.to_thread(made.make_topics)
    await desk.execute(TABLE)
    capture = await open_capture(made.department, "main")
    await capture.install([layout_of("person", PUBLISH, made.contract)], 100_000)
    await capture.close()
    yield made
    await desk.close()


def many(count: int) -> str:
    return (
        f"INSERT INTO people SELECT n, '{PLACES[0]}', 'n' || n, 1, '1990-01-02', NULL, 'x' "
        f"FROM generate_series(0, {count - 1}) n"
    )


async def test_bulk_and_single_changes(source: Source) -> None:
    async with source.running():
        await source.desk.execute(many(5000))
        await source.desk.execute("UPDATE people SET 姓名 = 'b' WHERE 身份证::int % 2 = 0")
        await source.desk.execute("DELETE FROM people WHERE 身份证::int >= 2500")
        for n in range(20):
            await source.desk.execute(f"UPDATE people SET 姓名 = 'c{n}' WHERE 身份证 = '1'")
            await source.drained()
        expected = {str(n): "b" if n % 2 == 0 else f"n{n}" for n in range(2500)} | {"1": "c19"}
        assert await source.names() == expected


async def test_parked_moved_truncated(source: Source) -> None:
    async with source.running() as publisher:
        await source.desk.execute(many(10))
        await source.desk.execute("UPDATE people SET sex = 9 WHERE 身份证 = '1'")
        await source.desk.execute(f"UPDATE people SET area = '{PLACES[1]}' WHERE 身份证 = '2'")
        await source.drained()
        assert dict((await publisher.capture.status()).parked) == {"unknown_code": 1}
        places = await source.desk.fetchval("SELECT places FROM deptbus.places")
        assert places == f"{PLACES[0]},{PLACES[1]}"
        await source.desk.execute("TRUNCATE people")
        await source.drained()
        assert await source.names() == {}
        assert dict((await publisher.capture.status()).parked) == {}


async def test_a_snapshot_and_a_key_that_is_gone(source: Source) -> None:
    async with source.running() as publisher:
        await source.desk.execute(many(3))
        await source.drained()
        records = await read_to_end(source.connection, out_topic(source.unit))
        key = next(r.key for r in records if r.key is not None)
        await source.desk.execute("DELETE FROM people")
        await source.drained()
        await publisher.chores.enqueue_resend("person", key, "request")
        await publisher.chores.enqueue_resend("person", None, "all")

        async def is_worked_off() -> bool:
            status = await publisher.capture.status()
            return status.wanted == 0 and all(s.done for s in status.snapshots)

        await until(is_worked_off)
        await source.drained()
        assert await source.names() == {}


async def test_a_younger_adapter_takes_over_from_one_that_holds_the_row(source: Source) -> None:
    """The older one was stopped inside a transaction: its connection is ended."""
    async with source.publisher() as old:
        await old.start()
        stuck = await asyncpg.connect(
            source.url, server_settings={"application_name": _older_name(source.unit)}
        )
        transaction = stuck.transaction()
        await transaction.start()
        await stuck.execute("SELECT 1 FROM deptbus.adapter FOR SHARE")
        async with source.running() as new:
            assert new.incarnation > old.incarnation
            await source.desk.execute(many(1))
            with pytest.raises(Fenced):
                await old.run()
            await source.drained()
        stuck.terminate()


async def test_resync_renumbers_what_commits_late(source: Source) -> None:
    """A transaction that drew its version before the lift, and commits after it, is not left below
    what the bus knows."""
    async with source.running():
        await source.desk.execute(many(3))
        await source.drained()
    # As after a backup: the database's numbers are behind.
    await source.desk.execute(
        "SELECT setval('deptbus.position', 1); UPDATE deptbus.published SET publication = 0"
    )
    late = await asyncpg.connect(source.url)
    transaction = late.transaction()
    await transaction.start()
    await late.execute("UPDATE people SET 姓名 = 'late' WHERE 身份证 = '1'")
    async with source.publisher() as publisher:
        task = asyncio.create_task(
            resync(source.connection, source.department, "main", publisher, source.codecs)
        )

        async def is_lifted() -> bool:
            return bool(await source.desk.fetchval("SELECT last_value >= 6 FROM deptbus.position"))

        await until(is_lifted)
        await source.desk.execute("UPDATE people SET 姓名 = 'meanwhile' WHERE 身份证 = '2'")
        assert not task.done()
        await transaction.commit()
        await asyncio.wait_for(task, 60)
    await late.close()
    assert await source.names() == {"0": "n0", "1": "late", "2": "meanwhile"}


async def test_a_server_that_goes_away_is_said(source: Source) -> None:
    async with source.publisher() as publisher:
        await publisher.start()
        task = asyncio.create_task(publisher.run())
        await source.desk.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await source.desk.execute(many(1))
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(task, 30)


def _older_name(unit: str) -> str:
    from deptbus.department.connect import application_prefix

    return f"{application_prefix(unit, 'main')}older"
