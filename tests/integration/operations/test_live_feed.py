"""What the console sees move, on a real broker: exact while it can be, estimated and said so when
too much comes, and never more work than a bounded part of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from office_bus import (
    GRID,
    HOUSING,
    PARTITIONS,
    SOURCE,
    Agent,
    Bus,
    contract,
    make_again,
    person,
    until,
)

from deptbus import names
from deptbus.change import Incarnation
from deptbus.errors import BusRefused
from deptbus.operations import live_feed
from deptbus.operations.live_feed import BusFeed
from deptbus.operations.picture import Live, SavedRow
from deptbus.routing import Router
from deptbus.stream.log import Outgoing
from deptbus.wire.control import AppliedBeat, AppliedDay, encode_control, key_of

pytestmark = pytest.mark.service

ME = Incarnation(1, b"\1" * 8)


class Console:
    """Looks as the console does, and sums up what it was told."""

    def __init__(self, bus: Bus, feed: BusFeed) -> None:
        self.bus, self.feed = bus, feed
        self.told: Counter[tuple[str, str, str, str]] = Counter()
        self.estimated = 0
        self.last = Live()

    async def look(self) -> None:
        self.last = await self.feed.look()
        for flow in self.last.flows:
            self.told[flow.source, flow.recipient, flow.dataset, flow.direction] += flow.count
            self.estimated += flow.count if flow.is_estimated else 0

    async def sees(self, condition: Callable[[], object], what: str) -> None:
        async def is_so() -> bool:
            await self.look()
            return bool(condition())

        await until(is_so, f"{what}: {self.told}")


SIDEWAYS = (SOURCE, HOUSING, "person", "horizontal")
BACK = (SOURCE, GRID, "person", "return")


async def test_every_delivery_is_told_with_its_way(new_bus: Callable[[], Bus]) -> None:
    async with new_bus() as bus:
        agent = Agent(bus, "a", await bus.activate(contract()))
        await bus.write(*(person(bus.codecs, n) for n in range(30)))
        await agent.route()  # before the feed began: not told
        feed = BusFeed(bus.connection)
        await feed.start()
        console = Console(bus, feed)
        try:
            await console.look()
            await bus.write(*(person(bus.codecs, n, 2) for n in range(60)))
            await agent.route()
            await console.sees(lambda: console.told[SIDEWAYS] >= 60, "sideways")
            # Two of the three places of the 60 lie in the grid's town.
            await console.sees(lambda: console.told[BACK] >= 40, "back")
            await console.look()
            assert console.told == {SIDEWAYS: 60, BACK: 40}
            assert console.estimated == 0
        finally:
            await feed.stop()


async def test_too_many_are_counted_all_and_attributed_by_some(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "READ_AT_ONCE", 40)
    decoded = 0
    path = BusFeed._path

    def counting(self: BusFeed, record: object) -> object:
        nonlocal decoded
        decoded += 1
        return path(self, record)  # type: ignore[arg-type]

    monkeypatch.setattr(BusFeed, "_path", counting)
    async with new_bus() as bus:
        agent = Agent(bus, "a", await bus.activate(contract()))
        feed = BusFeed(bus.connection)
        await feed.start()
        console = Console(bus, feed)
        try:
            await console.look()
            for version in (1, 2, 3):
                await bus.write(*(person(bus.codecs, n, version) for n in range(900)))
                await agent.route()
                await console.sees(
                    lambda wanted=900 * version: console.told[SIDEWAYS] >= wanted, "all of them"
                )
            await console.sees(lambda: console.told[BACK] >= 1800, "back")
            assert console.told == {SIDEWAYS: 2700, BACK: 1800}
            assert console.estimated > 2000
            assert decoded < 2000
        finally:
            await feed.stop()


async def test_markers_and_strangers_bytes_are_no_deliveries(new_bus: Callable[[], Bus]) -> None:
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        agent = Agent(bus, "a", policy)
        feed = BusFeed(bus.connection)
        await feed.start()
        console = Console(bus, feed)
        try:
            await console.look()
            inbox = names.in_topic(HOUSING)
            await bus.sender.send([Outgoing(inbox, n, None, b"canary") for n in range(PARTITIONS)])
            forged = replace(person(bus.codecs, 1), source_unit="nobody@330106")
            (delivery,) = (
                d
                for d in Router(policy).route(person(bus.codecs, 1), datetime.now(UTC))
                if d.unit == HOUSING
            )
            (value,) = bus.codecs.encode_deliveries(forged, [delivery], policy.number)
            await bus.sender.send([Outgoing(inbox, 0, forged.key, value)])
            await bus.write(person(bus.codecs, 7))
            await agent.route()
            await console.sees(lambda: console.told[SIDEWAYS] >= 1, "the one delivery")
            await console.look()
            assert sum(n for way, n in console.told.items() if way[1] == HOUSING) == 1
        finally:
            await feed.stop()


async def test_who_applied_last_and_what_is_parked(new_bus: Callable[[], Bus]) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        now_us = time.time_ns() // 1000
        beats = [
            AppliedBeat(HOUSING, "main", ME, now_us - 9, now_us, 2, ("person",), ("late",), (2,)),
            AppliedBeat(HOUSING, "annex", ME, None, now_us, 3),
            AppliedBeat(GRID, "main", ME, None, now_us),
            AppliedBeat("nobody@330106", "main", ME, now_us, now_us, 5),
        ]
        for beat in beats[:3]:
            topic = names.control_topic(beat.unit)
            await bus.sender.send([Outgoing(topic, 0, key_of(beat), encode_control(beat))])
        # One unit may not speak for another.
        forged = Outgoing(names.control_topic(GRID), 0, key_of(beats[3]), encode_control(beats[3]))
        feed = BusFeed(bus.connection)
        await feed.start()
        console = Console(bus, feed)
        try:
            await console.sees(lambda: len(console.last.applied) == 2, "two units")
            applied = console.last.applied
            assert applied[HOUSING].last_applied_at == (now_us - 9) / 1e6
            assert applied[HOUSING].parked == 5
            assert applied[GRID].last_applied_at is None
            assert applied[GRID].parked is None
            day = AppliedDay(
                HOUSING, "main", ME, "2026-11-25", ("person",), (4,), (5,), (9,), now_us
            )
            for told in (day, replace(day, entries=(6,), live=(7,)), replace(day, day="a canary")):
                topic = names.control_topic(HOUSING)
                await bus.sender.send([Outgoing(topic, 0, key_of(told), encode_control(told))])
            await bus.sender.send([forged])
            await bus.sender.send(
                [Outgoing(names.control_topic(GRID), 0, key_of(b), encode_control(b))
                 for b in [replace(beats[2], parked=0)]]
            )  # fmt: skip
            await console.sees(lambda: console.last.applied[GRID].parked == 0, "the last beat")
            assert set(console.last.applied) == {HOUSING, GRID}
            # The last word of a day counts, and nothing that is no day.
            await console.sees(lambda: console.last.saved.rows, "the saved entries")
            assert console.last.saved.rows == (SavedRow(HOUSING, "person", "2026-11-25", 6, 7, 9),)
            assert console.last.saved.is_whole
        finally:
            await feed.stop()


async def test_a_topic_that_was_made_again_is_followed_again(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "TOPICS_SECONDS", 0.2)
    async with new_bus() as bus:
        agent = Agent(bus, "a", await bus.activate(contract()))
        feed = BusFeed(bus.connection)
        await feed.start()
        console = Console(bus, feed)
        try:
            await bus.write(*(person(bus.codecs, n) for n in range(30)))
            await agent.route()
            await console.sees(lambda: console.told[SIDEWAYS] >= 30, "before")
            await make_again(bus, names.in_topic(HOUSING))
            await bus.write(*(person(bus.codecs, n, 2) for n in range(12)))
            await agent.route()
            await console.sees(lambda: console.told[SIDEWAYS] >= 42, "after")
            assert console.told[SIDEWAYS] == 42
        finally:
            await feed.stop()


async def test_a_bus_without_a_contract_topic_is_refused(new_bus: Callable[[], Bus]) -> None:
    feed = BusFeed(new_bus().connection)
    with pytest.raises(BusRefused, match=r"bus\.contract"):
        await feed.start()
    await feed.stop()
