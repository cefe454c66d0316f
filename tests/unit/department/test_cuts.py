"""A cut is a look and then a marker, or there is none and whoever wished it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deptbus.change import Incarnation
from deptbus.department import cuts
from deptbus.department.cuts import Cuts
from deptbus.errors import BusRefused, BusUnreachable, DatabaseBusy
from deptbus.wire.control import Marker

MINE = Incarnation(3, b"t" * 8)


class Bus:
    """What cuts need of a source's presence."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refuses: Exception | None = None

    async def cut(self, name: str, kind: Any, *, deadline_seconds: float | None = None) -> Marker:
        if self.refuses is not None:
            raise self.refuses
        self.done.append(f"marker {name}")
        return Marker(name, kind, "u@1", "main", MINE, len(self.done))


async def wished(bus: Bus, made: Cuts, name: str = "a", error: Exception | None = None) -> Any:
    async def look() -> str:
        bus.done.append(f"look {name}")
        if error is not None:
            raise error
        return name

    task = asyncio.create_task(made.make(name, look))
    await asyncio.sleep(0)
    assert made.are_wanted
    return task


async def test_it_is_looked_before_the_marker_goes() -> None:
    bus = Bus()
    made = Cuts(bus)  # type: ignore[arg-type]
    assert not made.are_wanted
    task = await wished(bus, made)
    assert bus.done == []
    await made.make_all()
    assert bus.done == ["look a", "marker a"]
    marker, seen = await task
    assert (marker.kind, marker.sent_at_us, seen) == ("cut", 2, "a")
    assert not made.are_wanted


async def test_who_cannot_look_is_told_and_others_have_their_cut() -> None:
    bus = Bus()
    made = Cuts(bus)  # type: ignore[arg-type]
    bad = await wished(bus, made, "bad", DatabaseBusy("locked"))
    good = asyncio.create_task(made.make("good", lambda: asyncio.sleep(0, "seen")))
    await asyncio.sleep(0)
    await made.make_all()
    with pytest.raises(DatabaseBusy, match="locked"):
        await bad
    assert (await good)[1] == "seen"
    assert bus.done == ["look bad", "marker good"]


@pytest.mark.parametrize("error", [BusUnreachable("away"), BusRefused("no right")])
async def test_without_its_marker_there_is_no_cut(error: Exception) -> None:
    bus = Bus()
    bus.refuses = error
    made = Cuts(bus)  # type: ignore[arg-type]
    task = await wished(bus, made)
    await made.make_all()
    with pytest.raises(type(error)):
        await task


async def test_publishing_waits_for_a_look_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuts, "LOOK_SECONDS", 0.01)
    bus = Bus()
    made = Cuts(bus)  # type: ignore[arg-type]
    task = asyncio.create_task(made.make("a", asyncio.Event().wait))
    await asyncio.sleep(0)
    await made.make_all()
    with pytest.raises(DatabaseBusy):
        await task
    assert bus.done == []


async def test_who_has_gone_away_gets_none() -> None:
    bus = Bus()
    made = Cuts(bus)  # type: ignore[arg-type]
    task = await wished(bus, made)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await made.make_all()
    assert bus.done == []


async def test_the_end_of_publishing_is_told_to_who_waits_and_who_comes() -> None:
    bus = Bus()
    made = Cuts(bus)  # type: ignore[arg-type]
    task = await wished(bus, made)
    made.give_up()
    for waits in (task, made.make("b", lambda: asyncio.sleep(0))):
        with pytest.raises(BusUnreachable, match="stopped"):
            await waits


async def test_all_who_wait_are_told_when_publishing_is_cut_short() -> None:
    made = Cuts(Bus())  # type: ignore[arg-type]
    tasks = [asyncio.create_task(made.make(name, asyncio.Event().wait)) for name in ("a", "b")]
    await asyncio.sleep(0)
    publishing = asyncio.create_task(made.make_all())
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    made.give_up()
    async with asyncio.timeout(10):
        for waits in tasks:
            with pytest.raises(BusUnreachable, match="stopped"):
                await waits
