"""The window: what waits of a job is what the recipient applies in a fifth of a second."""

from __future__ import annotations

from itertools import pairwise

import pytest

from deptbus.operations.window import FIRST, LEAST, MOST, TARGET_SECONDS, Window


def run(
    rate: float, seconds: float, *, look_seconds: float = 0.01, commit_seconds: float = 0.05
) -> tuple[Window, float, float]:
    """A recipient that applies `rate` records a second and commits now and then, and a job that
    always has more to send.

    Returns the window, what was applied a second, and the longest wait of a delivery in the inbox
    over the second half.
    """
    now, committed_at, longest = 0.0, 0.0, 0.0
    waiting = applied = committed = 0
    owed = 0.0  # what it could apply by now, in records
    window = Window(now)
    while now < seconds:
        if window.room:
            waiting += window.room
            window.sent(window.room, now)
        now += look_seconds
        owed = min(owed + look_seconds * rate, waiting)
        done = int(owed)
        owed, waiting, applied = owed - done, waiting - done, applied + done
        if now - committed_at >= commit_seconds:
            window.applied(applied - committed, now)
            committed, committed_at = applied, now
        else:
            window.applied(0, now)
        if now > seconds / 2:
            longest = max(longest, waiting / rate)
    return window, applied / seconds, longest


@pytest.mark.parametrize("rate", [1_000, 5_000, 20_000, 60_000])
def test_a_recipient_is_kept_busy_and_nothing_waits_longer_than_the_target(rate):
    _, applied_per_second, longest = run(rate, 10)
    assert applied_per_second > 0.6 * rate
    assert longest <= TARGET_SECONDS * 1.25


def test_a_slow_recipient_gets_the_least_window():
    window, _, _ = run(100, 10)
    assert window.size == LEAST


def test_a_recipient_that_is_down_gets_little_and_then_nothing():
    window = Window(0.0)
    window.sent(window.room, 0.0)
    for look in range(1, 100):
        window.applied(0, look * 0.1)
    assert window.waiting == FIRST
    assert window.room == 0
    assert window.size == LEAST


def test_an_idle_hour_does_not_make_a_recipient_slow():
    window = Window(0.0)
    window.sent(100, 3600.0)
    window.applied(100, 3600.01)
    assert window.size == 2 * FIRST


def test_the_window_never_more_than_doubles_and_has_a_top():
    window = Window(0.0)
    sizes = []
    now = 0.0
    for _ in range(20):
        window.sent(window.room, now)
        now += 0.001
        window.applied(window.waiting, now)
        sizes.append(window.size)
    assert all(b <= 2 * a for a, b in pairwise(sizes))
    assert sizes[-1] == MOST
