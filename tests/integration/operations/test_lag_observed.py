"""What a real broker shows of readers: each situation with just its state, number and verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from lag_bench import Eye, Town

from deptbus.connection import Connection
from deptbus.operations.lag import PartitionState
from deptbus.operations.verdicts import Limits, Reader, Verdict

pytestmark = pytest.mark.service

LIMITS = Limits(promise_seconds=60, grace_seconds=10, stall_seconds=60, settle_seconds=30)


class Clock:
    """Our clock, which a test may put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def town(broker: Connection) -> Town:
    return Town(broker)


@pytest.fixture
def eye(town: Town, clock: Clock) -> Callable[[], Eye]:
    return lambda: Eye(town, LIMITS, clock)


async def test_idle_for_an_hour(town, eye, clock):
    town.make()
    town.write(5)
    town.commit(5)
    async with eye() as watching:
        assert (await watching.look()).verdict is Verdict.OK
        clock.forward(3600)
        idle = await watching.look()
        assert (idle.lag.state, idle.lag.records, idle.lag.seconds) == (PartitionState.OK, 0, 0.0)
        assert idle.verdict is Verdict.OK
        town.write(1, at_ms=int(clock() * 1000))
        one = await watching.look()
        assert (one.lag.records, one.verdict) == (1, Verdict.OK)
        assert one.lag.seconds == pytest.approx(0, abs=10)


async def test_the_age_is_that_of_the_first_unread_record(town, eye, clock):
    town.make()
    for age in (400, 300, 200):
        town.write(1, at_ms=int((clock() - age) * 1000))
    town.commit(1)
    async with eye() as watching:
        track = await watching.look()
        assert track.lag.records == 2
        assert track.lag.seconds == pytest.approx(300, abs=10)
        assert track.verdict is Verdict.BEHIND
        town.commit(2)
        assert (await watching.look()).lag.seconds == pytest.approx(200, abs=10)


async def test_a_reader_that_left_and_one_that_stands(town, eye, clock):
    town.make()
    town.write(5, at_ms=int((clock() - 90) * 1000))
    member = town.join()
    member.commit(message=_first(member), asynchronous=False)
    async with eye() as watching:
        assert (await watching.look()).verdict is Verdict.BEHIND
        clock.forward(61)
        assert (await watching.look()).verdict is Verdict.STALLED
        member.close()
        left = await watching.look()
        assert (left.lag.state, left.lag.records) == (PartitionState.OK, 4)
        assert left.verdict is Verdict.STOPPED


def _first(member):
    message = member.poll(20)
    assert message is not None
    assert message.error() is None
    return message


async def test_never_committed(town, eye, clock):
    town.make()
    async with eye() as watching:
        watching.reader = Reader.GONE
        nothing = await watching.look(expected=True)
        assert nothing.lag.state is PartitionState.NEVER_COMMITTED
        assert nothing.verdict is Verdict.OK
        town.write(3, at_ms=int((clock() - 90) * 1000))
        waits = await watching.look(expected=True)
        assert (waits.lag.state, waits.lag.records) == (PartitionState.NEVER_COMMITTED, None)
        assert waits.lag.seconds == pytest.approx(90, abs=10)
        assert waits.verdict is Verdict.STOPPED


async def test_transaction_markers_are_no_records(town, eye, clock):
    town.make()
    transactions = town.transactions()
    transactions.commit(3)
    town.commit(3)
    async with eye() as watching:
        # One offset is left, the marker's: Kafka's own command says 1, a reader finds none.
        phantom = await watching.look()
        assert phantom.seen is not None
        assert phantom.seen.end - phantom.seen.position == 1
        assert town.read_to_end(3) == [0]
        assert (phantom.lag.state, phantom.lag.records) == (PartitionState.PHANTOM, 0)
        clock.forward(3600)
        assert (await watching.look()).verdict is Verdict.OK
        transactions.abort(7)
        aborted = await watching.look()
        assert (aborted.lag.state, aborted.lag.records) == (PartitionState.PHANTOM, 0)
        transactions.commit(2)
        assert (await watching.look()).lag.records == town.read_to_end(3)[0] == 2


async def test_an_open_transaction_holds_back_what_nobody_can_read(town, eye):
    town.make()
    town.write(2)
    town.commit(2)
    transactions = town.transactions()
    transactions.begin(5)
    async with eye() as watching:
        open_ = await watching.look()
        assert (open_.lag.state, open_.lag.records) == (PartitionState.OK, 0)
        town.commit(4)  # a reader that does not wait for transactions: not lost, and not behind
        ahead = await watching.look()
        assert (ahead.lag.state, ahead.lag.records) == (PartitionState.OK, 0)
        assert ahead.verdict is Verdict.OK
        transactions.end()
        town.commit(2)
        assert (await watching.look()).lag.records == town.read_to_end(2)[0] == 5


async def test_what_compaction_took_is_not_unread(town, eye, clock):
    town.make(
        **{
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "100",
        }
    )
    town.write(300, keys=3)
    town.commit(100)
    deadline = time.monotonic() + 60
    while town.read_to_end(100)[0] > 50:
        assert time.monotonic() < deadline, "the log was not compacted in time"
        await asyncio.sleep(0.5)
        town.write(1, keys=1)
    async with eye() as watching:
        track = await watching.look()
        assert track.seen is not None
        found = town.read_to_end(100)[0]
        assert track.seen.end - track.seen.position > found
        assert track.lag.records == found


async def test_retention_overtook_it(town, eye, clock):
    town.make()
    town.write(10, at_ms=int((clock() - 90) * 1000))
    town.commit(2)
    town.delete_before(7)
    async with eye() as watching:
        lost = await watching.look()
        assert (lost.lag.state, lost.lag.gone, lost.lag.records) == (PartitionState.LOST, 5, 3)
        assert lost.verdict is Verdict.LOST
        town.commit(10)
        clock.forward(31)
        assert (await watching.look()).verdict is Verdict.OK


async def test_the_topic_was_made_again(town, eye, clock):
    town.make()
    town.write(10)
    town.commit(4)
    async with eye() as watching:
        assert (await watching.look(expected=True)).verdict is Verdict.OK
        town.drop()
        await _until(watching, town, is_there=False)
        gone = await watching.look(expected=True)
        assert gone.lag.reason == "unknown_topic"
        assert gone.verdict is None
        town.make()
        await _until(watching, town, is_there=True)
        again = await watching.look(expected=True)
        assert again.verdict is Verdict.LOST
        clock.forward(3600)
        assert (await watching.look(expected=True)).verdict is Verdict.LOST  # nobody has read there
        town.write(1)
        town.commit(1)
        clock.forward(31)
        assert (await watching.look(expected=True)).verdict is Verdict.OK


async def _until(watching: Eye, town: Town, *, is_there: bool) -> None:
    deadline = time.monotonic() + 20
    while (town.topic in (await watching.observer.cluster()).topics) is not is_there:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_the_offset_of_another_topic_is_not_the_end(town, eye):
    town.make()
    town.write(2)
    town.commit(1000)
    async with eye() as watching:
        track = await watching.look()
        assert (track.lag.state, track.lag.records) == (PartitionState.LOST, None)
        assert track.verdict is Verdict.LOST


async def test_rewound(town, eye, clock):
    town.make()
    town.write(10, at_ms=int((clock() - 5) * 1000))
    town.commit(8)
    async with eye() as watching:
        assert (await watching.look()).verdict is Verdict.OK
        town.set_back(1)
        back = await watching.look()
        assert (back.verdict, back.lag.records) == (Verdict.REWOUND, 9)
        town.commit(10)
        clock.forward(31)
        assert (await watching.look()).verdict is Verdict.OK


async def test_growing_and_catching_up_with_a_time_of_arrival_that_is_right(town, eye, clock):
    """The reader passes 100 records a second, while 150 and then none come: by our clock."""
    town.make()
    town.write(3000, at_ms=int((clock() - 90) * 1000))
    town.commit(0)
    async with eye() as watching:
        assert (await watching.look()).verdict is Verdict.BEHIND
        for step in range(1, 4):
            clock.forward(5)
            town.write(750)
            town.commit(step * 500)
            track = await watching.look()
        assert (track.verdict, track.expected_seconds) == (Verdict.GROWING, float("inf"))
        for step in range(4, 12):
            clock.forward(10)
            town.commit(1500 + (step - 3) * 350)
            track = await watching.look()
        assert track.verdict is Verdict.CATCHING_UP
        left = 3000 + 3 * 750 - (1500 + 8 * 350)
        assert track.seen is not None
        assert track.seen.end - track.seen.position == left
        assert track.expected_seconds == pytest.approx(left / 35, rel=0.25)


async def test_groups_that_share_a_partition_have_each_its_own_age(town, eye, broker, clock):
    town.make()
    for age in (400, 300, 200):
        town.write(1, at_ms=int((clock() - age) * 1000))
    town.commit(0)
    other = Town(broker)
    other.topic = town.topic
    other.commit(2)
    async with eye() as watching:
        picture = await watching.picture()
    ages = {p.group: t.lag.seconds for p, t in picture.tracks.items() if p.topic == town.topic}
    assert ages[town.group] == pytest.approx(400, abs=10)
    assert ages[other.group] == pytest.approx(200, abs=10)


async def test_members_are_counted_where_brokers_tell_them(town, eye):
    town.make()
    first = town.join()
    second = town.join(beside=first)
    async with eye() as watching:
        assert (await watching.picture()).members[town.group] == 2
        first.close()
        second.close()
        assert (await watching.picture()).members[town.group] == 0


async def test_members_of_the_newer_protocol_are_not_known_which_is_not_0(town, eye):
    town.make()
    member = town.join(**{"group.protocol": "consumer"})
    async with eye() as watching:
        picture = await watching.picture()
        assert picture.groups[town.group].state == "Stable"
        assert town.group not in picture.members
    member.close()
