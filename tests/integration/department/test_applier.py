"""The applier against a real broker: from inbox to rows, through everything that goes wrong."""

from __future__ import annotations

import asyncio
import csv
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition
from inbox_feed import PARTITIONS, Feed, FixedPolicy, department_file, upsert, withdrawal
from recipient_contract import CODECS, CONTRACT
from structlog.testing import capture_logs

from deptbus.connection import Connection
from deptbus.contract.department import load_department
from deptbus.department import fence
from deptbus.department.applier import Applier
from deptbus.department.connect import open_database, target_of
from deptbus.errors import Fenced, SourceRefused
from deptbus.names import adapter_group
from deptbus.stream.brokers import open_consumer
from deptbus.stream.log import Outgoing
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import PolicyMarker, ResendRequest, encode_control, key_of
from deptbus.wire.partitioner import partition_of

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]


@pytest.fixture
def feed(broker: Connection) -> Feed:
    return Feed(broker)


class Desk:
    """One recipient with its applier; `rows` reads its own table by plain SQL."""

    def __init__(
        self, feed: Feed, folder: Path, database: str = "sqlite:///own.db", **receive: Any
    ):
        self.feed = feed
        self.path = folder / "own.db"
        if database.startswith("sqlite"):
            sqlite3.connect(self.path).close()
        self.department = load_department(department_file(folder, feed.unit, database, **receive))
        self.requests: list[ResendRequest] = []
        self.follower = FixedPolicy()

    async def token(self) -> bytes:
        target = target_of(self.department.systems["main"].database)
        database = await open_database(
            target, unit=self.feed.unit, system="main", create=target.folder is not None
        )
        await fence.ensure_adapter_table(database)
        taken = await fence.take_over(database, 0, unit=self.feed.unit, system="main")
        await database.close()
        return taken.token

    @asynccontextmanager
    async def applying(self) -> AsyncIterator[tuple[Applier, asyncio.Task[None]]]:
        codecs = Codecs()
        schemas = SchemaFollower(self.feed.connection, codecs)
        await schemas.start()

        async def resend(request: ResendRequest) -> None:
            self.requests.append(request)

        applier = Applier(
            self.feed.connection,
            self.department,
            "main",
            await self.token(),
            follower=self.follower,  # type: ignore[arg-type]
            schemas=schemas,
            codecs=codecs,
            resend=resend,
        )
        task = asyncio.create_task(applier.run())
        try:
            yield applier, task
        finally:
            applier.stop()
            await asyncio.wait((task,), timeout=10)
            await schemas.stop()
            assert task.done()

    def rows(self, sql: str = "SELECT id, name FROM people ORDER BY id") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, timeout=5)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a database cannot set an event
            await asyncio.sleep(0.01)


async def test_deliveries_become_rows_and_lag_is_committed(feed: Feed, tmp_path: Path) -> None:
    desk = Desk(feed, tmp_path)
    async with desk.applying():
        await feed.deliver([upsert(n) for n in range(100)])
        await feed.deliver([upsert(1, 2, name="new"), withdrawal(2, 2)])
        await until(lambda: ("id000001", "new") in desk.rows())
        await until(lambda: len(desk.rows()) == 99)
        offsets = desk.rows("SELECT part, next_offset FROM deptbus_offsets ORDER BY part")
        assert sum(o for _, o in offsets) == 102
        # A new coordinator may refuse at first: it is told again without anything to apply.
        async with asyncio.timeout(60):
            while await committed(feed) != offsets:  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.1)


async def committed(feed: Feed) -> list[tuple[int, int | None]]:
    consumer = await open_consumer(feed.connection, group=adapter_group(feed.unit, "main"))
    try:
        places = [TopicPartition(feed.topic, n) for n in range(PARTITIONS)]
        consumer.assign(places)
        return [(place.partition, await consumer.committed(place)) for place in places]
    finally:
        await consumer.stop()


async def test_goes_on_from_the_offsets_in_sql(feed: Feed, tmp_path: Path) -> None:
    desk = Desk(feed, tmp_path)
    async with desk.applying():
        await feed.deliver([upsert(n) for n in range(10)])
        await until(lambda: len(desk.rows()) == 10)
    await feed.deliver([upsert(n, 2, name="later") for n in range(10)])
    async with desk.applying():
        await until(lambda: {n for _, n in desk.rows()} == {"later"})
    tallies = dict(
        desk.rows("SELECT outcome, sum(deliveries) FROM deptbus_statistics GROUP BY outcome")
    )
    assert tallies == {"applied": 20}


async def test_hostile_bytes_are_noted_and_their_neighbours_go_on(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)
    await feed.deliver([upsert(1)])
    wrong = 1 - partition_of(b"k" * 16, PARTITIONS)
    (elsewhere, delivery) = upsert(int.from_bytes(b"k" * 16, "big"))
    (value,) = CODECS.encode_deliveries(elsewhere, [delivery], 1)
    await feed.raw(
        Outgoing(feed.topic, 0, b"k" * 16, b"\x00\x00\x00\x00\x01garbage"),
        Outgoing(feed.topic, 0, None, b"not framed at all"),
        Outgoing(feed.topic, wrong, b"k" * 16, value),
    )
    await feed.deliver([upsert(2), upsert(3)])
    async with desk.applying():
        await until(lambda: len(desk.rows()) == 3)
    reasons = {r for (r,) in desk.rows("SELECT reason FROM deptbus_unreadable")}
    assert reasons == {"unknown_schema", "not_framed", "wrong_partition"}


async def test_resend_requests_reach_the_publisher_and_markers_hold(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)
    department = desk.department
    system = department.systems["main"]
    publish = {"table": "own", "columns": {"id": "id"}}
    system = type(system).model_validate(system.model_dump() | {"publishes": {"house": publish}})
    desk.department = department.model_copy(update={"systems": {"main": system}})
    async with desk.applying():
        await feed.deliver([upsert(1)])
        request = ResendRequest("r1", "house", b"k" * 16, "asked")
        await feed.raw(Outgoing(feed.topic, 0, key_of(request), encode_control(request)))
        await feed.control(PolicyMarker(policy=2, datasets=("person",), job="j"))
        await feed.deliver([upsert(1, 2, name="old policy")])
        await feed.deliver([upsert(2, 1, name="new policy")], policy=2)
        await until(lambda: len(desk.rows()) == 2)
        await until(lambda: bool(desk.requests))
    assert desk.rows() == [("id000001", "李雷"), ("id000002", "new policy")]
    assert desk.requests == [request]


async def test_a_database_that_stops_is_waited_for_and_said_once(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)

    def said() -> list[str]:
        return [line["error"] for line in logs if line["event"] == "applying_stopped"]

    with capture_logs() as logs:
        async with desk.applying() as (_, task):
            await feed.deliver([upsert(1)])
            await until(lambda: len(desk.rows()) == 1)
            desk.rows("ALTER TABLE people RENAME COLUMN phone TO fon")
            await feed.deliver([upsert(2)])
            # The statement that failed; tried again, the column that is missing.
            await until(lambda: any("no column phone" in error for error in said()))
            assert not task.done()
            desk.rows("ALTER TABLE people RENAME COLUMN fon TO phone")
            await until(lambda: len(desk.rows()) == 2)
    assert len(said()) == len(set(said()))


async def test_an_older_adapter_is_fenced_and_the_younger_goes_on(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)
    async with desk.applying() as (older, first):
        await feed.deliver([upsert(1)])
        await until(lambda: len(desk.rows()) == 1)
        async with desk.applying() as (younger, _):
            await asyncio.wait_for(younger.begun.wait(), 30)
            await feed.deliver([upsert(2)])
            await until(lambda: len(desk.rows()) == 2)
            with pytest.raises(Fenced):
                await asyncio.wait_for(first, 30)
        assert older.begun.is_set()


async def test_a_topic_made_again_is_refused(feed: Feed, tmp_path: Path) -> None:
    desk = Desk(feed, tmp_path)
    async with desk.applying():
        await feed.deliver([upsert(1)])
        await until(lambda: len(desk.rows()) == 1)
    feed.drop_topic()
    feed.make_topic()
    await feed.deliver([upsert(n) for n in range(5)])
    async with desk.applying() as (_, task):
        with pytest.raises(SourceRefused, match="rebuilt topic"):
            await asyncio.wait_for(task, 30)
    assert len(desk.rows()) == 1


async def test_a_folder_receives_a_file_that_excel_opens(feed: Feed, tmp_path: Path) -> None:
    desk = Desk(
        feed, tmp_path, "folder:share", columns={"id": "证件号", "name": "姓名", "phone": "电话"}
    )
    path = tmp_path / "share" / "person.csv"

    def read() -> list[list[str]]:
        if not path.exists():
            return []
        assert path.read_bytes().startswith(b"\xef\xbb\xbf")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))

    async with desk.applying():
        await until(lambda: read() == [["证件号", "姓名", "电话"]])
        await feed.deliver([upsert(2), upsert(1, name='说"好", 行', phone=None)])
        await until(lambda: len(read()) == 3)
        assert read()[1:] == [["id000001", '说"好", 行', ""], ["id000002", "李雷", "13800000000"]]
        await feed.deliver([withdrawal(1, 2)])
    # What was applied is in the file when the adapter has stopped, however short the time was.
    assert len(read()) in (2, 3)
    async with desk.applying():
        await until(lambda: len(read()) == 2)


async def test_postgres_lives_through_a_broken_connection(
    feed: Feed, tmp_path: Path, postgres: Callable[[], str]
) -> None:
    url = postgres()
    desk = Desk(feed, tmp_path, url)

    async def count() -> int:
        connection = await asyncpg.connect(url)
        try:
            if await connection.fetchval("SELECT to_regclass('people')") is None:
                return 0
            return await connection.fetchval("SELECT count(*) FROM people")
        finally:
            await connection.close()

    async def wait_for(wanted: int) -> None:
        async with asyncio.timeout(30):
            while await count() != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async with desk.applying():
        await feed.deliver([upsert(n) for n in range(500)])
        await wait_for(500)
        connection = await asyncpg.connect(url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'deptbus %'"
        )
        await connection.close()
        await feed.deliver([upsert(n) for n in range(500, 1000)])
        await wait_for(1000)


async def test_a_dataset_that_is_received_from_now_on_brings_what_came_before(
    feed: Feed, tmp_path: Path
) -> None:
    """A clerk adds it to `receives:`; its deliveries lie behind the offsets."""
    desk = Desk(feed, tmp_path)
    both = desk.department
    house = (
        both.systems["main"]
        .receives["person"]
        .model_copy(update={"table": "houses", "columns": {"id": "id", "address": "address"}})
    )
    desk.department = _receiving(both, {"house": house})
    async with desk.applying():
        await feed.deliver([upsert(n) for n in range(9)])
        await feed.control(ResendRequest("r", "person", None, "x"))
        await until(lambda: sum(o for _, o in desk.rows(_OFFSETS)) == 11)
    assert desk.rows() == []
    desk.department = _receiving(both, {"house": house, **both.systems["main"].receives})
    desk.requests.clear()
    async with desk.applying():
        await until(lambda: len(desk.rows()) == 9)
        await until(lambda: sum(o for _, o in desk.rows(_OFFSETS)) == 11)
    assert desk.requests == []  # they were passed on the first time


_OFFSETS = "SELECT part, next_offset FROM deptbus_offsets ORDER BY part"


def _receiving(department: Any, receives: dict[str, Any]) -> Any:
    system = department.systems["main"].model_copy(update={"receives": receives})
    return department.model_copy(update={"systems": {"main": system}})


async def test_copies_of_a_dataset_that_left_the_contract_are_withdrawn(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)
    async with desk.applying():
        await feed.deliver([upsert(n) for n in range(5)])
        await until(lambda: len(desk.rows()) == 5)
        without = {n: d for n, d in CONTRACT.datasets.items() if n != "person"}
        desk.follower.put(CONTRACT.model_copy(update={"datasets": without}))
        await feed.deliver([withdrawal(n, 1) for n in range(5)], policy=2)
        await until(lambda: desk.rows() == [])


async def test_deliveries_that_are_quicker_than_their_contract_are_not_lost(
    feed: Feed, tmp_path: Path
) -> None:
    desk = Desk(feed, tmp_path)
    without = {n: d for n, d in CONTRACT.datasets.items() if n != "person"}
    desk.follower = FixedPolicy(CONTRACT.model_copy(update={"datasets": without}))
    async with desk.applying():
        with capture_logs() as told:
            await feed.deliver([upsert(n) for n in range(5)], policy=2)
            await until(lambda: any(e["event"] == "applying_stopped" for e in told))
        assert sum(o for _, o in desk.rows(_OFFSETS)) == 0
        desk.follower.put(CONTRACT)
        await until(lambda: len(desk.rows()) == 5)
