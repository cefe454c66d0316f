"""Sending into an inbox: how much, and whose progress counts. Time and bus are the test's own."""

from __future__ import annotations

import asyncio

import pytest

from deptbus.errors import BusUnreachable
from deptbus.operations.inbox import Inbox
from deptbus.operations.window import FIRST
from deptbus.stream.log import Outgoing


class Log:
    """One inbox of two partitions, and what groups committed in it."""

    def __init__(self) -> None:
        self.ends = [0, 0]
        self.committed_by: dict[str, dict[int, int]] = {}
        self.unreachable = False

    async def send(self, records):
        offsets = []
        for record in records:
            offsets.append(self.ends[record.partition])
            self.ends[record.partition] += 1
        return offsets

    async def committed(self, group, places):
        if self.unreachable:
            raise BusUnreachable("away")
        found = self.committed_by.get(group, {})
        return {number: found[number] for _, number in places if number in found}


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while something sleeps."""
    time = Time()
    real_sleep = asyncio.sleep

    async def sleep(seconds):
        time.now += seconds
        await real_sleep(0)

    monkeypatch.setattr("deptbus.operations.inbox.asyncio.sleep", sleep)
    return time


def inbox(log, clock, *groups) -> Inbox:
    return Inbox("in.housing-330106", log, log, groups, clock=clock)


def records(count: int) -> list[Outgoing]:
    return [Outgoing("in.housing-330106", n % 2, b"k" * 16, b"v") for n in range(count)]


async def test_a_recipient_that_never_ran_gets_the_first_window_and_no_more(log, clock):
    box = inbox(log, clock, "main")
    assert await box.room(1000, 1.0) == FIRST
    await box.send(records(FIRST))
    assert await box.room(1000, 5.0) == 0
    assert clock.now >= 5.0


async def test_what_is_committed_makes_room(log, clock):
    box = inbox(log, clock, "main")
    await box.send(records(FIRST))
    log.committed_by["main"] = {0: FIRST // 2, 1: FIRST // 2}
    clock.now += 0.01
    assert await box.room(1000, 1.0) == 2 * FIRST


async def test_live_deliveries_of_others_are_not_counted(log, clock):
    log.ends = [5000, 5000]
    box = inbox(log, clock, "main")
    log.committed_by["main"] = {0: 0, 1: 0}
    await box.send(records(FIRST))
    assert await box.room(1, 1.0) == 0
    log.committed_by["main"] = {0: 5000 + FIRST, 1: 5000 + FIRST}
    assert await box.room(1, 1.0) == 1


async def test_the_slowest_system_counts_and_one_that_never_ran_does_not(log, clock):
    box = inbox(log, clock, "main", "old", "never")
    log.committed_by = {"main": {0: FIRST, 1: FIRST}, "old": {0: 0, 1: 0}}
    await box.send(records(FIRST))
    assert await box.room(1, 1.0) == 0
    log.committed_by["old"] = {0: FIRST, 1: FIRST}
    assert await box.room(1, 1.0) == 1


async def test_a_unit_that_left_has_nobody_to_hold_up(log, clock):
    box = inbox(log, clock)
    await box.send(records(5000))
    assert await box.room(700, 1.0) == 700


async def test_a_bus_that_is_away_is_no_progress_and_no_failure(log, clock):
    box = inbox(log, clock, "main")
    await box.send(records(FIRST))
    log.unreachable = True
    assert await box.room(1, 1.0) == 0
    log.unreachable = False
    log.committed_by["main"] = {0: FIRST, 1: FIRST}
    assert await box.room(1, 1.0) == 1


async def test_it_waits_for_room_that_is_worth_a_request(log, clock):
    box = inbox(log, clock, "main")
    await box.send(records(FIRST - 2))
    # Two are free: not worth it while a hundred are wanted, enough when only one is.
    assert await box.room(100, 0.1) == 0
    assert await box.room(1, 0.1) == 1


async def test_the_recipient_is_asked_seldom_while_it_does_not_move(log, clock):
    box = inbox(log, clock, "main")
    await box.send(records(FIRST))
    asked = 0
    committed = log.committed

    async def counted(group, places):
        nonlocal asked
        asked += 1
        return await committed(group, places)

    log.committed = counted
    assert await box.room(1, 60.0) == 0
    assert asked < 90
