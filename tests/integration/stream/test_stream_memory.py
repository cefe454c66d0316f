"""Workers under a memory limit: a place at which three of them died is noted, the rest arrives."""

from __future__ import annotations

import asyncio

import foreign_producer as foreign
import hostile_bytes as hostile
import pytest
import stream_town as town
from stream_crew import Crew, Worker, committed, planted, until, versions_in
from test_stream_bad_bytes import DATA, OUT, notes_by_place, wait_committed

from deptbus.connection import Connection
from deptbus.names import in_topic
from deptbus.stream.log import Sender, end_offsets
from deptbus.stream.memory import DEATHS, SETTING
from deptbus.wire.partitioner import partition_of

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

LIMIT_MB = "400"
PLACE = partition_of(town.key_for("greedy"), town.PARTITIONS)


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, LIMIT_MB)


async def deaths_of(bus: Connection, crew: Crew, bug: str, most: int) -> int:
    """Workers are started one after the other until one has done all, or so many have died."""
    for deaths in range(most):
        worker = crew.start(planted(bug))
        if not await asyncio.to_thread(_dies, bus, worker):
            return deaths
        assert worker.process.returncode == 70, worker.log[-3000:]
        assert "out_of_memory" in worker.log or "uncounted" in bug
    return most


def _dies(bus: Connection, worker: Worker) -> bool:
    def is_over() -> bool:
        return worker.process.poll() is not None or is_done(bus)

    until(is_over, 90)
    return worker.process.poll() is not None


def is_done(bus: Connection) -> bool:
    ends = asyncio.run(end_offsets(bus, OUT))
    offsets = committed(bus, OUT)
    return all(offsets[p] >= end for p, end in enumerate(ends))


async def test_one_record_that_takes_all_memory_is_found_among_thousands(
    bus: Connection, crew: Crew
) -> None:
    await town.open_town(bus)
    source = town.Source()
    changes = town.changes_of(source, 2500, 1)
    changes.insert(len(changes) // 2, source.change("greedy", 1))
    async with Sender(bus) as sender:
        await source.announce(sender)
        records = source.outgoing(changes)
        offsets = await sender.send(records)
    assert await deaths_of(bus, crew, "greedy", DEATHS + 1) == DEATHS
    at = next(o for r, o in zip(records, offsets, strict=True) if r.key == town.key_for("greedy"))
    assert await notes_by_place(bus) == {(OUT, PLACE, at): "out_of_memory"}
    await wait_committed(bus, DATA)
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert versions.keys() == {c.key for c in changes} - {town.key_for("greedy")}


@pytest.mark.parametrize("codec", ["zstd"])
async def test_a_bomb_that_is_not_bounded_kills_three_workers_and_no_more(
    bus: Connection, crew: Crew, codec: str
) -> None:
    good, at = await _write_bomb_between(bus, codec)
    assert await deaths_of(bus, crew, "unbounded", DEATHS + 1) == DEATHS
    noted = await notes_by_place(bus)
    assert noted == {
        (OUT, PLACE, at + n): "out_of_memory" for n in range(hostile.OFFSETS_OF_A_BOMB)
    }
    await wait_committed(bus, DATA)
    versions = await versions_in(bus, town.Source().codecs, in_topic(town.HOUSING))
    assert versions.keys() == good


async def test_planted_deaths_that_are_not_counted_are_caught(bus: Connection, crew: Crew) -> None:
    await _write_bomb_between(bus, "zstd")
    assert await deaths_of(bus, crew, "unbounded_and_uncounted", DEATHS + 2) == DEATHS + 2
    assert await notes_by_place(bus) == {}


async def test_other_deaths_do_not_count(bus: Connection, crew: Crew) -> None:
    await town.open_town(bus)
    source = town.Source()
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(town.changes_of(source, 10, 1)))
    for _ in range(DEATHS + 1):
        worker = crew.start(planted("agent_raises"))
        assert await asyncio.to_thread(worker.process.wait, 60) == 70
    crew.start()
    await wait_committed(bus, OUT)
    await wait_committed(bus, DATA)
    assert await notes_by_place(bus) == {}
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert versions.keys() == {town.key_for(f"k{n}") for n in range(10)}


async def _write_bomb_between(bus: Connection, codec: str) -> tuple[set[bytes], int]:
    """Good changes in all partitions, a bomb in one of them, good ones behind it. Returns the keys
    of the good ones and the bomb's first offset."""
    await town.open_town(bus)
    source = town.Source()
    changes = town.changes_of(source, 80, 1)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(changes[:40]))
        bomb = await asyncio.to_thread(hostile.bomb, codec)
        at, error = await foreign.write_batch(bus, OUT, PLACE, bomb)
        assert error is None
        await sender.send(source.outgoing(changes[40:]))
    return {change.key for change in changes}, at
