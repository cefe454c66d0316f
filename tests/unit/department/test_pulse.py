"""The publisher's signs of life: what is said when, and that saying it never stops anything."""

from __future__ import annotations

import asyncio

import pytest

from deptbus.department import pulse
from deptbus.department.pulse import Publishing, Pulse, Signs
from deptbus.errors import (
    BusUnreachable,
    ContractUnreadable,
    DatabaseUnavailable,
    DeptbusError,
    Fenced,
    SourceRefused,
)


class Book:
    """What was written; refuses as often as it is told to."""

    def __init__(self) -> None:
        self.said: list[Pulse] = []
        self.refusals = 0
        self.was_written = asyncio.Event()

    async def write(self, token: bytes | None, said: Pulse) -> None:
        if self.refusals:
            self.refusals -= 1
            raise DatabaseUnavailable("the disk is full")
        self.said.append(said)
        self.was_written.set()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_000_000.0
        monkeypatch.setattr(pulse.time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(pulse.time, "time_ns", lambda: int(self.seconds * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_batch_that_is_not_acked_is_a_stall_since_it_was_sent(clock: Clock) -> None:
    book = Book()
    signs = Signs(book.write)
    signs.sending()
    clock.seconds += pulse.STALL_SECONDS - 1
    await signs.tell()
    clock.seconds += 2
    await signs.tell()
    signs.acked()
    await signs.tell()
    assert [said.state for said in book.said] == ["going_on", "stalled", "going_on"]
    stall = book.said[1]
    assert stall.seen_us - stall.since_us == (pulse.STALL_SECONDS + 1) * 1e6
    assert "does not acknowledge" in str(stall.reason)


async def test_what_the_bus_said_is_told_at_once_and_with_its_mend(clock: Clock) -> None:
    book = Book()
    signs = Signs(book.write)
    signs.sending()
    signs.refused(BusUnreachable("no broker answers", mend="Start one"))
    await signs.tell()
    assert (book.said[0].state, book.said[0].reason) == ("stalled", "no broker answers. Start one")


async def test_nothing_new_is_said_now_and_then_only(clock: Clock) -> None:
    book = Book()
    signs = Signs(book.write)
    for _ in range(21):
        await signs.tell()
        clock.seconds += 1
    assert len(book.said) == 3
    signs.held = {"person": "not agreed"}
    await signs.tell()
    assert book.said[-1].held == {"person": "not agreed"}


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BusUnreachable("x"), Publishing.STALLED),
        (ContractUnreadable("x"), Publishing.STALLED),
        (SourceRefused("x"), Publishing.STOPPED),
        (Fenced("x"), None),
        (DatabaseUnavailable("x"), None),
    ],
)
async def test_what_ends_the_publisher(error: DeptbusError, state: Publishing | None) -> None:
    book = Book()
    await Signs(book.write).ended(error)
    assert [said.state for said in book.said] == ([] if state is None else [state])


async def test_a_database_that_does_not_take_it_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "_LOOK_SECONDS", 0.0)
    book = Book()
    book.refusals = 3
    running = asyncio.create_task(Signs(book.write).run())
    async with asyncio.timeout(10):
        await book.was_written.wait()
    assert not running.done()
    running.cancel()
    book.refusals = 1
    await Signs(book.write).ended(SourceRefused("the first error is the one that is raised"))


def test_whether_an_adapter_seems_to_run() -> None:
    us = 1_000_000
    going, stalled = (Pulse(s, seen_us=100 * us) for s in (Publishing.GOING_ON, Publishing.STALLED))
    assert going.is_going_on(100 * us)
    assert going.is_going_on(159 * us)
    assert not going.is_going_on(161 * us)
    assert not stalled.is_going_on(100 * us)
