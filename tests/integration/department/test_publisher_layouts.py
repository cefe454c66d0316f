"""What the publisher does with rows of datasets that it does not publish, and that came without its
being told: a wider or narrower mapping was installed while it ran, or before it began."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from source_world import AGREED, PUBLISH, SECRET, TABLE, UNIT, StandingPolicy, department

from deptbus.connection import Connection
from deptbus.department import fence
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import Layout, layout_of
from deptbus.department.publisher import Publisher
from deptbus.names import out_topic
from deptbus.stream.log import Outgoing
from deptbus.stream.own_writes import OwnWrites
from deptbus.stream.sender import Place
from deptbus.wire.passage import Pair

OWN = layout_of("person", PUBLISH, AGREED)
# Of a mapping that has no company any more, and of one that does not have it yet.
NARROW = Layout("person", OWN.table, OWN.keys, OWN.columns[:-1], OWN.place)
OTHER = Layout("step", "steps", ("step",), ("step",), None)
STEPS = "CREATE TABLE steps (step INTEGER PRIMARY KEY)"
PERSON = (
    "INSERT INTO people VALUES ('{}', '330106109051', '李', 1, NULL, '91110000600037341L', NULL)"
)


class Bus:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        self.sent += records
        return list(range(len(records)))

    async def send_boxes(self, boxes: Mapping[Place, Sequence[Pair]]) -> dict[Place, list[range]]:
        for (topic, partition), pairs in boxes.items():
            self.sent += [Outgoing(topic, partition, key, value) for key, value in pairs]
        return {place: [range(len(pairs))] for place, pairs in boxes.items() if pairs}

    def watch(self, place: Place) -> OwnWrites:
        return OwnWrites()

    async def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        return {}


class Source:
    """A database with two captured tables, and a publisher of one of them, already started."""

    def __init__(self, path: Path, capture: SqliteCapture, publisher: Publisher, bus: Bus) -> None:
        self.capture, self.publisher, self.bus = capture, publisher, bus
        self._path = path

    def do(self, *statements: str) -> None:
        with sqlite3.connect(self._path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    async def sent(self, count: int, *, seconds: float = 5) -> None:
        """Returns when so many changes are on the bus; raises what ended the publisher."""
        running = asyncio.create_task(self.publisher.run())
        try:
            async with asyncio.timeout(seconds):
                while self.changes < count:
                    await asyncio.wait((running,), timeout=0.01)
                    if running.done():
                        await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @property
    def changes(self) -> int:
        return sum(record.topic == out_topic(UNIT) for record in self.bus.sent)


@asynccontextmanager
async def source(
    path: Path, *, layouts: Sequence[Layout] = (), before: Sequence[str] = ()
) -> AsyncIterator[Source]:
    """`before` is written while these layouts are captured; then people are, as they are mapped."""
    with sqlite3.connect(path) as connection:
        connection.execute(TABLE)
        connection.execute(STEPS)
    connection.close()
    bus, capture = Bus(), SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
    publisher = Publisher(
        Connection(bootstrap="localhost:1"),
        department(UNIT, f"sqlite:///{path}"),
        "main",
        capture=capture,
        sender=bus,  # type: ignore[arg-type]
        follower=StandingPolicy(AGREED),  # type: ignore[arg-type]
        secret=SECRET,
    )
    made = Source(path, capture, publisher, bus)
    try:
        if before:
            await capture.install(layouts, 1000)
            made.do(*before)
        await capture.install([OWN], 1000)
        await publisher._follow_policy()
        publisher.presence._incarnation = await fence.take_over(
            capture.database, 0, unit=UNIT, system="main"
        )
        publisher.presence.ends = [0]
        yield made
    finally:
        await capture.close()


async def test_rows_of_a_dataset_that_was_installed_meanwhile_wait(tmp_path: Path) -> None:
    async with source(tmp_path / "own.db") as made:
        await made.capture.install([OWN, OTHER], 1000)
        made.do("INSERT INTO steps VALUES (1)", PERSON.format("A1"))
        await made.sent(1)
        assert (await made.capture.read(10))[0].dataset == "step"


async def test_rows_of_a_dataset_that_is_no_longer_mapped_wait(tmp_path: Path) -> None:
    before = ["INSERT INTO steps VALUES (1)"]
    async with source(tmp_path / "own.db", layouts=[OWN, OTHER], before=before) as made:
        made.do(PERSON.format("A1"))
        await made.sent(1)
        assert (await made.capture.read(10))[0].dataset == "step"


async def test_rows_that_lack_a_mapped_column_wait_for_an_adapter_with_their_mapping(
    tmp_path: Path,
) -> None:
    """Or their fields would be published as if they had become empty."""
    async with source(tmp_path / "own.db") as made:
        await made.capture.install([NARROW, OTHER], 1000)
        made.do(PERSON.format("A1"))
        with pytest.raises(TimeoutError):
            await made.sent(1, seconds=1)
        assert set(made.publisher._hold) == {"person", "step"}
        await made.capture.install([OWN], 1000)
        await made.publisher._look_at_layouts(())
        made.do(PERSON.format("A2"))
        await made.sent(2)


async def test_rows_of_before_a_column_was_mapped_are_published(tmp_path: Path) -> None:
    before = [PERSON.format("A1")]
    async with source(tmp_path / "own.db", layouts=[NARROW], before=before) as made:
        made.do(PERSON.format("A2"))
        await made.sent(2)
