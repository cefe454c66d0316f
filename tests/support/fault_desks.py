"""Departments whose systems run as in the adapter's process, and clerks who never stop typing.

What a fault does is asked from outside: the clerk knows how long each commit took and whether one
failed, the table is read by plain SQL, and the bus by its topics.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from inbox_feed import FixedPolicy
from source_bus import BusSource, Policies
from source_world import PLACES, PUBLISH, SECRET, StandingPolicy, contract

from deptbus.change import Change, ChangeOp
from deptbus.connection import Connection
from deptbus.contract.department import load_department
from deptbus.department import install
from deptbus.department.adapter import SystemRun
from deptbus.department.resync import Resynced
from deptbus.metrics.counts import Counts
from deptbus.names import SCHEMAS, control_topic, in_topic, out_topic
from deptbus.stream.log import Sender, read_to_end
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.keys import fingerprint

TABLE = (
    "CREATE TABLE people (身份证 TEXT PRIMARY KEY, area TEXT, 姓名 TEXT, sex INTEGER, born TEXT, "
    "firm TEXT, religion TEXT)"
)
# What a statement raises whose server goes away; the last one when it goes just as it is sent.
_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)
UPSERT = (
    "INSERT INTO people (身份证, area, 姓名, sex) VALUES ({}, {}, {}, 1) "
    "ON CONFLICT (身份证) DO UPDATE SET 姓名 = excluded.姓名"
)


async def until(condition: Callable[[], Any], what: str = "", seconds: float = 30) -> None:
    """Waits until it is true; awaits it first when it gives an awaitable."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.05)


def said(logs: Sequence[Any], event: str, desk: Any) -> list[Any]:
    """The lines with this event that the systems of a desk have logged."""
    unit = desk.department.unit
    return [line for line in logs if line["event"] == event and line.get("unit") == unit]


class SourceDesk:
    """One unit that publishes `person` out of a SQLite file or a PostgreSQL database."""

    def __init__(self, bus: Connection, folder: Path, url: str | None = None) -> None:
        self.bus = bus
        self.unit = f"line{uuid.uuid4().hex[:12]}@330106"
        self.contract = contract(self.unit, agreed=fingerprint(SECRET))
        self.follower = StandingPolicy(self.contract)
        self.url = url
        self.folder = folder / self.unit
        self.folder.mkdir()
        self.file = self.folder / "own.db"
        (self.folder / "key.secret").write_text(SECRET.hex(), encoding="ascii")
        system = {
            "database": url or "sqlite:///own.db",
            "publishes": {"person": PUBLISH.model_dump(exclude_none=True)},
        }
        path = self.folder / "department.yml"
        path.write_text(json.dumps({"unit": self.unit, "systems": {"main": system}}), "utf-8")
        self.department = load_department(path)

    async def open(self) -> SourceDesk:
        await self.sql(TABLE)
        await self.install()
        admin = AdminClient(self.bus.librdkafka())
        topics = {out_topic(self.unit): 4, in_topic(self.unit): 4, control_topic(self.unit): 1}
        for topic, count in topics.items():
            admin.create_topics([NewTopic(topic, count, 1)])[topic].result(30)
        with suppress(KafkaException):  # another desk made it
            admin.create_topics([NewTopic(SCHEMAS, 1, 1)])[SCHEMAS].result(30)
        return self

    async def install(self) -> list[str]:
        return await install.install_system(self.department, "main", self.contract)

    async def sql(self, *statements: str) -> None:
        """As the department's own program would, each in a transaction of its own."""
        if self.url is None:
            with closing(sqlite3.connect(self.file, timeout=30)) as connection:
                for statement in statements:
                    connection.execute(statement)
                    connection.commit()
            return
        connection = await asyncpg.connect(self.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def table(self, name: str = "姓名") -> dict[str, str]:
        query = f"SELECT 身份证, {name} FROM people"
        if self.url is None:
            with closing(sqlite3.connect(self.file, timeout=30)) as connection:
                return dict(connection.execute(query).fetchall())
        connection = await asyncpg.connect(self.url)
        try:
            return {r[0]: r[1] for r in await connection.fetch(query)}
        finally:
            await connection.close()

    async def changes(self) -> list[Change]:
        """All that lies in `out`, in the order of versions."""
        codecs = Codecs(self.contract)
        read = [
            codecs.decode_out(record.key, record.value)
            for record in await read_to_end(self.bus, out_topic(self.unit))
        ]
        return sorted((c for c in read if isinstance(c, Change)), key=lambda c: c.version)

    async def published(self) -> dict[str, str]:
        """id -> name, of the highest version of every key that lies in `out`."""
        codec = Codecs(self.contract).record_codec("person", 1)
        last = {change.key: change for change in await self.changes()}
        found = (codec.decode(c.record) for c in last.values() if c.op is ChangeOp.UPSERT)
        return {record["id"]: record["name"] for record in found}

    async def is_published(self) -> bool:
        return await self.published() == await self.table()

    async def resync(self) -> Resynced:
        """`deptbus department resync`, with a bus that takes in and answers meanwhile."""
        side = BusSource(self.bus, self.url or "")
        side.unit, side.contract, side.department = self.unit, self.contract, self.department
        side.follower, side.codecs = Policies(self.contract), Codecs(self.contract)
        side.make_topics()
        async with side.intake(), side.operations():
            return await side.resync()

    async def status(self) -> Any:
        async with install.capture_of(self.department, "main") as capture:
            return await capture.status()


class Clerk:
    """Types one row after the other, each a commit of its own, and takes the time.

    `slowest` seconds, `failed`: the errors of the writes that did not go through.
    """

    def __init__(self, desk: SourceDesk, *, rows: int = 40, seed: int = 1) -> None:
        self._desk = desk
        self._rows, self._random = rows, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._type, daemon=True)
        self.written = 0
        self.slowest = 0.0
        self.failed: list[str] = []
        self.forgives = False  # the database itself is away: not what the bus is to blame for

    def _type(self) -> None:
        with self._connected() as write:
            while not self._stop.is_set():
                number = self._random.randrange(self._rows)
                began = time.monotonic()
                try:
                    write(f"{number:018}", PLACES[0], f"n{self.written}")
                except (sqlite3.Error, *_AWAY) as e:
                    if not self.forgives:
                        self.failed.append(f"{type(e).__name__}: {e}")
                    time.sleep(0.05)
                    continue
                self.written += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                self._stop.wait(0.004)

    @contextmanager
    def _connected(self) -> Iterator[Callable[..., None]]:
        if self._desk.url is None:
            yield self._write_sqlite
            return
        runner = asyncio.Runner()
        kept: list[asyncpg.Connection] = []

        async def write(*words: str) -> None:
            if not kept or kept[0].is_closed():
                kept[:] = [await asyncpg.connect(self._desk.url, timeout=5)]
            try:
                await kept[0].execute(UPSERT.format("$1", "$2", "$3"), *words)
            except _AWAY:
                kept.pop().terminate()  # it may believe for ever that a statement is under way
                raise

        try:
            yield lambda *words: runner.run(write(*words))
        finally:
            if kept:
                runner.run(kept[0].close())
            runner.close()

    def _write_sqlite(self, *words: str) -> None:
        # Opened each time: the file may have been replaced.
        mode = f"file:{self._desk.file}?mode=rw"
        with closing(sqlite3.connect(mode, uri=True, timeout=5)) as connection:
            connection.execute(UPSERT.format("?", "?", "?"), words)
            connection.commit()

    async def wait_for(self, rows: int) -> None:
        goal = self.written + rows
        await until(lambda: self.written >= goal, f"{rows} rows typed; {self.failed[-2:]}")

    def __enter__(self) -> Clerk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)


@asynccontextmanager
async def running(
    bus: Connection, desks: Sequence[Any], follower: Any = None
) -> AsyncIterator[list[SystemRun]]:
    """The systems of these desks (`department`, `follower`), as one adapter process runs them."""
    codecs = Codecs()
    schemas = SchemaFollower(bus, codecs)
    await schemas.start()
    async with Sender(bus) as sender:
        runs = [
            SystemRun(
                SimpleNamespace(  # type: ignore[arg-type]
                    connection=bus,
                    codecs=codecs,
                    follower=follower or getattr(desk, "follower", None) or FixedPolicy(),
                    schemas=schemas,
                    sender=sender,
                    counts=Counts(),
                ),
                desk.department,
                system,
            )
            for desk in desks
            for system in desk.department.systems
        ]
        tasks = [asyncio.create_task(run.run()) for run in runs]
        try:
            for run, task in zip(runs, tasks, strict=True):
                settled = asyncio.create_task(run.settled.wait())
                await asyncio.wait((settled, task), return_when=asyncio.FIRST_COMPLETED)
                if not settled.done():
                    settled.cancel()
                    task.result()  # raises what ended it before it had begun
            yield runs
        finally:
            for run in runs:
                run.stop()
            await asyncio.wait(tasks, timeout=10)
            assert all(task.done() for task in tasks)
            await schemas.stop()
            for task in tasks:
                task.result()
