"""How much of a recipient's time a job may take: each rule, and a recipient that suffers."""

from __future__ import annotations

import asyncio
from bisect import bisect_right

import pytest

from deptbus.operations.breather import Breather
from deptbus.operations.inbox import Inbox
from deptbus.operations.pace import LEAST_SHARE, MOST_REST_SECONDS, Pace, Unread
from deptbus.stream.log import Outgoing


def test_a_slow_commit_halves_the_share_and_quick_ones_raise_it_by_a_quarter():
    pace = Pace(0, 60)
    pace.committed(0.51, 1)
    assert pace.share == 0.5
    pace.committed(0.5, 2)
    assert pace.share == 0.625
    for second in range(3, 10):
        pace.committed(0.01, second)
    assert pace.share == 1.0


def test_one_slow_moment_counts_once_and_is_not_forgotten_within_its_step():
    pace = Pace(0, 60)
    pace.committed(2, 0.2)
    pace.committed(0.01, 0.9)
    assert pace.share == 1.0
    pace.committed(0.01, 1.0)
    assert pace.share == 0.5
    pace.committed(2, 1.1)
    pace.committed(2, 1.9)
    assert pace.share == 0.5


def test_a_live_change_that_waits_for_half_of_the_promise_slows_down():
    pace = Pace(0, 60)
    pace.live_lag(30, 1)
    pace.live_lag(None, 2)  # not known: says nothing, for better or worse
    assert pace.share == 1.0
    pace.live_lag(30.1, 3)
    assert pace.share == 0.5


def test_it_is_never_starved_and_never_rests_for_long():
    pace = Pace(0, 60)
    for second in range(1, 30):
        pace.committed(9, second)
    assert pace.share == LEAST_SHARE
    assert pace.rest(0.1) == pytest.approx(6.3)
    assert pace.rest(10) == MOST_REST_SECONDS


def test_a_rest_is_so_long_that_work_is_its_share_of_both():
    pace = Pace(0, 60)
    assert pace.rest(3) == 0
    pace.committed(1, 1)
    assert pace.rest(3) == 3


def test_what_lay_below_an_end_that_was_seen_long_ago_is_as_old():
    unread = Unread(60)
    assert unread.age({}, 0) is None
    for second, end in enumerate((10, 20, 30)):
        unread.seen({0: end, 1: 0}, second)
    assert unread.age({0: 30}, 2) == 0
    assert unread.age({0: 29}, 2) == 0
    assert unread.age({0: 15}, 2) == 1
    assert unread.age({0: 9}, 2) == 2
    assert unread.age({1: 0}, 2) is None  # nothing was ever committed of one that has records


def test_of_ages_beyond_the_most_one_sample_is_kept():
    unread = Unread(60)
    for second in range(200):
        unread.seen({0: second}, second)
    assert unread.age({0: 0}, 199) >= 60
    assert len(unread._seen) <= 62


class Desk:
    """An inbox of one partition whose recipient commits each send `seconds` after it was sent, or
    after the send before it."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        self.commits: list[tuple[float, int]] = []  # when, up to which offset

    def clock(self) -> float:
        return self.now

    async def send(self, records):
        last, end = self.commits[-1] if self.commits else (0.0, 0)
        self.commits.append((max(self.now, last) + self.seconds, end + len(records)))
        return list(range(end, end + len(records)))

    async def committed(self, group, places):
        number = bisect_right(self.commits, (self.now, float("inf")))
        return {0: self.commits[number - 1][1] if number else 0}

    async def age(self, now):
        return None


async def _busy_share(desk: Desk, monkeypatch) -> tuple[Breather, float]:
    """What share of the last minute of two the recipient had something of ours to do."""
    real_sleep = asyncio.sleep

    async def sleep(seconds):
        desk.now += seconds
        await real_sleep(0)

    monkeypatch.setattr("deptbus.operations.inbox.asyncio.sleep", sleep)
    breather = Breather(desk, clock=desk.clock)
    inbox = Inbox("in.a", desk, desk, ["g"], breather=breather, clock=desk.clock)
    while desk.now < 120:
        room = await inbox.room(100, None)
        await inbox.send([Outgoing("in.a", 0, b"k", b"v")] * room)
    return breather, sum(desk.seconds for at, _ in desk.commits if at >= 60) / 60


async def test_a_recipient_that_commits_slowly_is_given_rests(monkeypatch):
    breather, busy = await _busy_share(Desk(0.8), monkeypatch)
    assert breather.share < 0.1
    assert busy < 0.2


async def test_a_quick_recipient_is_not_held_up(monkeypatch):
    breather, busy = await _busy_share(Desk(0.05), monkeypatch)
    assert breather.share == 1.0
    assert busy > 0.9
