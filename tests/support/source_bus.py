"""One source of its own on the shared broker, with its database, and the bus's side of a resync.

Intake is the product's own judgement fed by hand, so that a test may stop it; operations is the
product's own duty. Both databases' sources are told what to do in their own SQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from source_world import PLACES, PUBLISH, SECRET, TABLE, StandingPolicy, contract, department

from deptbus.change import Change
from deptbus.connection import Connection
from deptbus.department.adapter import resend_by
from deptbus.department.capture import Capture
from deptbus.department.layout import layout_of
from deptbus.department.opening import open_capture
from deptbus.department.proof_desk import ProofDesk
from deptbus.department.proof_source import SourceProof
from deptbus.department.publisher import Publisher
from deptbus.department.requests import RequestReader
from deptbus.department.resync import Resynced, resync
from deptbus.names import AUDIT, control_topic, data_topic, in_topic, out_topic
from deptbus.operations.inventory import Shelves
from deptbus.operations.library import Library
from deptbus.operations.requests import RequestsDesk
from deptbus.stream.data import decode_data
from deptbus.stream.fences import Fences
from deptbus.stream.intake import Outbox, judge_batch
from deptbus.stream.log import LogReader, Sender, read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.keys import fingerprint
from deptbus.wire.partitioner import partition_of

CAP = 100_000
PARTITIONS = 4


async def until(
    condition: Callable[[], Awaitable[bool]], seconds: float = 60, poll_seconds: float = 0.02
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, "did not become true in time"
        await asyncio.sleep(poll_seconds)


class Policies(StandingPolicy):
    """A contract that nobody changes, also for those who follow it."""

    async def refresh(self) -> None:
        """It is known to its end."""


class BusSource:
    """A unit that publishes `person`, its topics, and what lies in them."""

    def __init__(self, connection: Connection, url: str) -> None:
        self.connection = connection
        self.unit = f"line{uuid.uuid4().hex[:12]}@330106"
        self.contract = contract(self.unit, agreed=fingerprint(SECRET))
        self.follower = Policies(self.contract)
        self.department = department(self.unit, url)
        self.codecs = Codecs(self.contract)
        self.admin = AdminClient({"bootstrap.servers": connection.bootstrap, "log_level": 0})

    def make_topics(self) -> None:
        """The canonical topic is every test's: units tell their records apart."""
        compacted = {"cleanup.policy": "compact"}
        for topic in (
            NewTopic(out_topic(self.unit), PARTITIONS, 1),
            NewTopic(in_topic(self.unit), PARTITIONS, 1),
            NewTopic(control_topic(self.unit), 1, 1, config=compacted),
            NewTopic(data_topic("person"), PARTITIONS, 1, config=compacted),
            NewTopic(AUDIT, 1, 1, config={"retention.ms": "-1"}),
        ):
            (made,) = self.admin.create_topics([topic]).values()
            try:
                made.result(30)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    async def capture(self) -> Capture:
        return await open_capture(self.department, "main")

    async def install(self, cap_rows: int = CAP) -> None:
        capture = await self.capture()
        await capture.install([layout_of("person", PUBLISH, self.contract)], cap_rows)
        await capture.close()

    @asynccontextmanager
    async def publisher(self, secret: bytes = SECRET) -> AsyncIterator[Publisher]:
        """Not started."""
        capture = await self.capture()
        try:
            async with Sender(self.connection) as sender:
                yield Publisher(
                    self.connection,
                    self.department,
                    "main",
                    capture=capture,
                    sender=sender,
                    follower=self.follower,  # type: ignore[arg-type]
                    secret=secret,
                )
        finally:
            await capture.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        async with self.publisher() as publisher:
            await publisher.start()
            async with _task(publisher.run()):
                yield publisher

    @asynccontextmanager
    async def proving(self) -> AsyncIterator[Publisher]:
        """`running`, and it answers what the data office asks, as an adapter does."""
        async with self.running() as publisher, Sender(self.connection) as sender:
            proof = SourceProof(self.department, "main", publisher)
            desk = ProofDesk(self.unit, "main", sender, {"source": proof.answer})
            reader = RequestReader(
                self.connection,
                self.unit,
                "main",
                {"person": PUBLISH},
                resend_by(publisher),
                desk.take,
            )
            async with _task(desk.run()), _task(reader.run()):
                yield publisher

    async def resync(self, **words: Any) -> Resynced:
        async with self.publisher() as publisher:
            return await resync(self.connection, self.department, "main", publisher, **words)

    async def gave_way(self) -> int:
        capture = await self.capture()
        try:
            return (await capture.state()).gave_way
        finally:
            await capture.close()

    # --- the bus's side -------------------------------------------------------------------

    @asynccontextmanager
    async def intake(self) -> AsyncIterator[None]:
        """Takes in what lies in `out` from its beginning, and what comes."""
        async with Sender(self.connection) as sender, _task(self._take_in(sender)):
            yield

    async def _take_in(self, sender: Sender) -> None:
        topic = out_topic(self.unit)
        boxes = [Outbox(self.unit, topic, p, Fences()) for p in range(PARTITIONS)]
        async with LogReader(self.connection, topic) as reader:
            while True:
                found = await reader.poll(0.1)
                for box in boxes:
                    records = [r for r in found if r.partition == box.partition]
                    now_us = time.time_ns() // 1000
                    judged = judge_batch(box, records, self.codecs, self.contract, 1, now_us)
                    assert not judged.reasons, judged.reasons
                    await sender.send_boxes(
                        {(topic, box.partition): pairs for topic, pairs in judged.accepted.items()}
                    )

    @asynccontextmanager
    async def office(self, **words: Any) -> AsyncIterator[Shelves]:
        library = Library(self.follower)  # type: ignore[arg-type]
        async with Sender(self.connection) as sender:
            yield Shelves(self.connection, sender, library, asyncio.Lock(), **words)

    @asynccontextmanager
    async def operations(self, **words: Any) -> AsyncIterator[None]:
        """Answers this unit's requests."""
        async with self.office(**words) as shelves:
            desk = RequestsDesk(self.connection, shelves, lambda: [self.unit])
            async with _task(desk.run()):
                yield

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[None]:
        async with self.intake(), self.operations():
            yield

    # --- what lies there ------------------------------------------------------------------

    async def out(self) -> list[Change]:
        found = []
        for record in await read_to_end(self.connection, out_topic(self.unit)):
            assert b"canary" not in (record.value or b"")
            change = self.codecs.decode_out(record.key, record.value)
            if isinstance(change, Change):
                assert record.partition == partition_of(change.key, PARTITIONS)
                found.append(change)
        return found

    async def canonical(self) -> list[Change]:
        """Of this unit, as intake has it."""
        found = []
        for record in await read_to_end(self.connection, data_topic("person")):
            change = decode_data(self.codecs, record.key, record.value)
            if isinstance(change, Change) and change.source_unit == self.unit:
                found.append(change)
        return found

    async def state(self) -> dict[bytes, Change]:
        """As everybody ends: the highest version of each key."""
        return _last(await self.out())

    async def names(self) -> dict[str, str]:
        """Natural key -> name, of what is there by `out`."""
        return self.named(await self.out())

    def named(self, changes: list[Change]) -> dict[str, str]:
        """Natural key -> name, of what is there behind these changes."""
        codec = self.codecs.record_codec("person", 1)
        live = [c.record for c in _last(changes).values() if c.record is not None]
        values = [codec.decode(record) for record in live]
        return {v["id"]: v["name"] for v in values}

    async def is_empty(self) -> bool:
        raise NotImplementedError

    async def drained(self, poll_seconds: float = 0.02) -> None:
        await until(self.is_empty, poll_seconds=poll_seconds)

    async def arrived(self) -> None:
        """All of `out` lies in the canonical topic."""

        async def has_come() -> bool:
            canonical = _last(await self.canonical())
            return all(canonical.get(k) == c for k, c in _last(await self.out()).items())

        await self.drained()
        await until(has_come)


def _last(changes: list[Change]) -> dict[bytes, Change]:
    last: dict[bytes, Change] = {}
    for change in changes:
        if change.key not in last or change.version > last[change.key].version:
            last[change.key] = change
    return last


@asynccontextmanager
async def _task(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class SqliteSource(BusSource):
    def __init__(self, connection: Connection, folder: Path) -> None:
        self.path = folder / "own.db"
        super().__init__(connection, f"sqlite:///{self.path}")
        self.make_topics()
        self.do(TABLE)

    def do(self, *statements: str) -> None:
        with sqlite3.connect(self.path, timeout=10) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def unseen(self, *statements: str) -> None:
        """What no trigger captures: a department's program that switched them off."""
        with sqlite3.connect(self.path, timeout=10) as connection:
            connection.execute("BEGIN IMMEDIATE")  # others' writes are captured
            triggers = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                connection.execute(f'DROP TRIGGER "{name}"')
            for statement in (*statements, *(sql for _, sql in triggers)):
                connection.execute(statement)
            connection.execute("UPDATE deptbus_published SET gave_way = gave_way + 1")
        connection.close()

    def person(self, number: Any, name: str = "李", place: str = PLACES[0], sex: int = 1) -> str:
        return (
            f"INSERT OR REPLACE INTO people VALUES ('{number}', '{place}', '{name}', {sex}, NULL, "
            "NULL, 'canary of religion')"
        )

    async def is_empty(self) -> bool:
        def count() -> int:
            with sqlite3.connect(self.path, timeout=10) as c:
                found = c.execute("SELECT count(*) FROM deptbus_outbox").fetchone()[0]
                found += c.execute("SELECT count(*) FROM deptbus_wanted").fetchone()[0]
            c.close()
            return int(found)

        return await asyncio.to_thread(count) == 0


class PostgresSource(BusSource):
    def __init__(self, connection: Connection, url: str, desk: asyncpg.Connection) -> None:
        super().__init__(connection, url)
        self.url, self.desk = url, desk
        self.make_topics()

    async def unseen(self, *statements: str) -> None:
        """What no trigger captures."""
        async with self.desk.transaction():
            await self.desk.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await self.desk.execute(statement)
            await self.desk.execute("SELECT nextval('deptbus.gave_way')")

    async def is_empty(self) -> bool:
        return not await self.desk.fetchval("SELECT count(*) FROM deptbus.outbox")
