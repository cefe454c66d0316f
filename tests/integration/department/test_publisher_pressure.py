"""What the database says of a bus that does not take what is published: back-pressure, as
`deptbus department status` shows it, without any bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from source_world import PUBLISH, SECRET
from test_publisher import Source, until

from deptbus.connection import Connection
from deptbus.department.capture import CaptureStatus
from deptbus.department.layout import layout_of
from deptbus.department.pressure import Pressure, pressure_of
from deptbus.department.publisher import Publisher
from deptbus.errors import BusRefused, BusUnreachable, SourceRefused
from deptbus.stream.log import Sender
from deptbus.stream.sender import Place
from deptbus.wire.passage import Pair

pytestmark = pytest.mark.service

CAP = 200


class Tap(Sender):
    """A sender whose bus can be turned off, silent or with a word."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.open = asyncio.Event()
        self.open.set()
        self.refusal: Exception | None = None

    async def send_boxes(
        self, boxes: Mapping[Place, Sequence[Pair]], *, deadline_seconds: float | None = None
    ) -> dict[Place, list[range]]:
        if self.refusal is not None:
            raise self.refusal
        await self.open.wait()
        return await super().send_boxes(boxes, deadline_seconds=deadline_seconds)


@pytest.fixture
async def source(broker: Connection, tmp_path: Path) -> Source:
    made = await asyncio.to_thread(Source, broker, tmp_path)
    capture = await made.capture()
    await capture.install([layout_of("person", PUBLISH, made.contract)], CAP)
    await capture.close()
    return made


@asynccontextmanager
async def tapped(source: Source) -> AsyncIterator[tuple[Tap, asyncio.Task[None]]]:
    capture = await source.capture()
    async with Tap(source.connection) as tap:
        publisher = Publisher(
            source.connection,
            source.department,
            "main",
            capture=capture,
            sender=tap,
            follower=source.follower,  # type: ignore[arg-type]
            secret=SECRET,
        )
        await publisher.start()
        task = asyncio.create_task(publisher.run())
        try:
            yield tap, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await capture.close()


async def look(source: Source) -> tuple[CaptureStatus, Pressure]:
    """As another process sees it, later."""
    capture = await source.capture()
    try:
        status = await capture.status()
    finally:
        await capture.close()
    return status, pressure_of(status, time.time_ns() // 1000)


async def says(source: Source, state: str) -> bool:
    return (await look(source))[1].publishing == state


async def test_a_bus_that_takes_nothing_fills_the_outbox_and_is_named(source: Source) -> None:
    """The department writes on, also beyond the cap; then all that was captured arrives."""
    async with tapped(source) as (tap, _):
        await until(lambda: says(source, "going_on"))
        tap.open.clear()
        source.do(*[source.person(n) for n in range(CAP - 20)])
        await until(lambda: says(source, "stalled"))
        status, pressure = await look(source)
        assert 85 <= pressure.fill_percent < 100
        assert pressure.since_seconds is not None
        assert 4 < pressure.since_seconds < 20
        assert "does not acknowledge" in str(pressure.reason)
        assert [f.what.split()[1] for f in pressure.findings] == ["outbox", "has"]
        source.do(*[source.person(n) for n in range(CAP - 20, CAP + 50)])
        status, pressure = await look(source)
        assert status.gave_way > 0
        assert pressure.fill_percent == 100.0
        assert pressure.findings[0].mend.startswith("The adapter makes it good by itself")
        tap.open.set()
        await source.drained()
        await until(lambda: says(source, "going_on"))
        status, pressure = await look(source)
        assert [f.what for f in pressure.findings] == [
            f"capture gave way {status.gave_way} times: resync needed"
        ]
    assert len(await source.names()) == CAP


@pytest.mark.parametrize("error", [BusRefused("no right to write"), BusUnreachable("no broker")])
async def test_what_the_bus_said_is_still_known_when_the_adapter_is_gone(
    source: Source, error: BusRefused | BusUnreachable
) -> None:
    async with tapped(source) as (tap, task):
        tap.refusal = error
        source.do(source.person(1))
        await until(lambda: says(source, "stalled"))
        if isinstance(error, BusRefused):
            with pytest.raises(BusRefused):
                await task
    _, pressure = await look(source)
    assert (pressure.publishing, pressure.reason) == ("stalled", error.what)


async def test_why_an_adapter_was_stopped_is_said_by_the_database(source: Source) -> None:
    source.do("UPDATE deptbus_published SET publication = 7")
    async with source.publisher() as publisher:
        with pytest.raises(SourceRefused):
            await publisher.start()
    _, pressure = await look(source)
    assert pressure.publishing == "stopped"
    assert "deptbus department resync" in pressure.findings[0].what


async def test_a_held_dataset_is_named(source: Source) -> None:
    async with tapped(source):
        source.do("UPDATE deptbus_layout SET is_current = 0")
        source.follower.put(source.contract)

        async def is_held() -> bool:
            return any("person is held" in f.what for f in (await look(source))[1].findings)

        await until(is_held)
