"""How quickly a snapshot's rows are enqueued: all at once, but never before live changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deptbus.department import chores
from deptbus.department.capture import Snapshot
from deptbus.department.chores import (
    BACKLOG_ROWS,
    LIVE_PACE_ROWS,
    LIVE_ROWS,
    SNAPSHOT_ROWS,
    Chores,
)

DEADLINE_SECONDS = 10


class Table:
    """What chores need of a capture: one open snapshot, and an outbox that another empties."""

    def __init__(self, rows: int) -> None:
        self.left = rows
        self.waiting = 0
        self.chunks: list[int] = []
        self.has_grown = asyncio.Event()
        self.is_full = asyncio.Event()
        self.is_done = asyncio.Event()

    async def work_off(self, limit: int, hold: Any = ()) -> tuple[int, list[Any]]:
        return 0, []

    async def released(self, at_most: int, datasets: Any) -> list[Any]:
        return []

    async def open_snapshots(self) -> tuple[Snapshot, ...]:
        return (Snapshot("person", 0, 0, False),) if self.left else ()

    async def backlog(self, at_most: int) -> int:
        if self.waiting >= at_most:
            self.is_full.set()
        return min(self.waiting, at_most)

    async def advance_snapshot(self, dataset: str, limit: int) -> Snapshot:
        rows = min(limit, self.left)
        self.left -= rows
        self.waiting += rows
        self.chunks.append(rows)
        self.has_grown.set()
        if not self.left:
            self.is_done.set()
        return Snapshot(dataset, 0, 0, not self.left)


class Pauses:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        sleep = asyncio.sleep

        async def passing(seconds: float) -> None:
            self.now += seconds
            await sleep(0)

        monkeypatch.setattr(chores.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(chores.asyncio, "sleep", passing)


@asynccontextmanager
async def running(table: Table) -> AsyncIterator[Chores]:
    made = Chores(table, {"person": None}, lambda: b"")  # type: ignore[arg-type, dict-item]
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await event.wait()


async def test_alone_it_goes_as_quickly_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, table = Pauses(monkeypatch), Table(BACKLOG_ROWS)
    async with running(table):
        await until(table.is_done)
    assert clock.now == 1000.0
    assert table.chunks == [SNAPSHOT_ROWS] * (BACKLOG_ROWS // SNAPSHOT_ROWS)


async def test_a_full_outbox_is_filled_again_as_soon_as_rows_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chores, "_IDLE_SECONDS", 60 * DEADLINE_SECONDS)  # nobody looks by chance
    table = Table(3 * BACKLOG_ROWS)
    async with running(table) as made:
        for _ in range(2):
            await until(table.is_full)
            assert table.waiting == BACKLOG_ROWS
            table.is_full.clear()
            table.waiting = 0
            made.passed(is_live=False)
        await until(table.is_done)


@pytest.mark.parametrize(
    ("takes", "rows_a_second"),
    [
        (0.0, LIVE_PACE_ROWS),
        (0.01, LIVE_PACE_ROWS),
        (0.1, LIVE_ROWS / 0.2),
        (60.0, LIVE_ROWS / 61),
    ],
)
async def test_beside_live_changes_it_rests_for_as_long_as_its_rows_took(
    monkeypatch: pytest.MonkeyPatch, takes: float, rows_a_second: float
) -> None:
    """But never goes quicker than its pace, nor waits for ever behind rows that took very long."""
    clock, table = Pauses(monkeypatch), Table(20 * LIVE_ROWS)
    async with running(table) as made:
        made.passed(is_live=True)
        began = clock.now
        for _ in range(19):
            await until(table.has_grown)
            assert table.waiting == LIVE_ROWS
            table.has_grown.clear()
            table.waiting = 0
            clock.now += takes
            made.passed(is_live=True)
        await until(table.is_done)
        assert 19 * LIVE_ROWS / (clock.now - began) == pytest.approx(rows_a_second)
