"""The rules of `operations.verdicts`, each with its row: a history, and the verdict at its end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import pytest

from deptbus.operations import verdicts
from deptbus.operations.lag import Look, Seen, Unseen
from deptbus.operations.verdicts import Limits, Reader, Track, Verdict, follow

T = 1_800_000_000.0
LIMITS = Limits(promise_seconds=60, grace_seconds=10, stall_seconds=60, settle_seconds=30)
ALIVE, GONE, UNKNOWN = Reader.ALIVE, Reader.GONE, Reader.UNKNOWN
AWAY = Unseen("coordinator_not_available")


class At(NamedTuple):
    """`seconds` after the first moment: where reader and log stand, and when the first unread
    record was written (None: nobody knows)."""

    seconds: float
    committed: int | None
    end: int
    written: float | None = None
    start: int = 0
    topic: str = "a"
    reader: Reader = UNKNOWN
    looked: bool = True


def seen(at: At) -> Seen:
    position = max(at.committed or 0, at.start)
    look = None
    if at.looked and position < at.end:
        written = None if at.written is None else int((T + at.written) * 1000)
        look = Look(position, at.end, position, written, at.end - position)
    return Seen(at.committed, at.start, at.end, at.end, look, at.topic)


def play(*moments: At | float, limits: Limits = LIMITS) -> Track:
    """A bare number is a moment at which the place could not be seen."""
    track = None
    for at in moments:
        if isinstance(at, At):
            track = follow(track, seen(at), at.reader, T + at.seconds, limits)
        else:
            track = follow(track, AWAY, UNKNOWN, T + at, limits)
    assert track is not None
    return track


LATE = At(0, 5, 9, -70)
ROWS = {
    "1 away": ([0.0], None),
    "1 away, after it was well": ([At(0, 9, 9), 2.0], None),
    "1 away, after it was bad": ([At(0, 5, 9, -90, start=7), 2.0], None),
    "2 retention overtook it": ([At(0, 5, 90, start=50, written=-9)], "LOST"),
    "2 offsets of another topic": ([At(0, 95, 9)], "LOST"),
    "3 made again with something unread": (
        [At(0, 5, 9, -1), At(2, None, 0, topic="b")],
        "LOST",
    ),
    "3 and nothing committed since": (
        [At(0, 5, 9, -1), At(2, None, 0, topic="b"), At(600, None, 3, 590, topic="b")],
        "LOST",
    ),
    "3 the offset of before stands": (
        [At(0, 5, 9, -1), At(2, 5, 9, 1, topic="b"), At(600, 5, 9, 590, topic="b")],
        "LOST",
    ),
    "3 until it has committed": (
        [At(0, 5, 9, -1), At(2, None, 1, topic="b"), At(600, 3, 3, topic="b")],
        "OK",
    ),
    "3 made again with nothing unread": ([At(0, 9, 9), At(2, None, 0, topic="b")], "OK"),
    "4 rewound": ([At(0, 90, 100, -1), At(2, 5, 100, -50)], "REWOUND"),
    "4 not there again yet": (
        [At(0, 90, 100, -1), At(2, 5, 100, -50), At(60, 80, 100, -1)],
        "REWOUND",
    ),
    "4 there again": (
        [At(0, 90, 100, 1), At(2, 5, 100, -50), At(60, 95, 100, 59)],
        "OK",
    ),
    "4 at the end": ([At(0, 90, 100, -1), At(2, 5, 80, -50), At(60, 80, 80)], "OK"),
    "5 nothing waits": ([At(0, 9, 9)], "OK"),
    "5 nothing waits, and nothing did for an hour": ([At(0, 9, 9), At(3600, 9, 9)], "OK"),
    "5 nothing was ever written": ([At(0, None, 0)], "OK"),
    "5 nothing waits for a reader that is gone": ([At(0, 9, 9, reader=GONE)], "OK"),
    "6 gone": ([At(0, 5, 9, -11, reader=GONE)], "STOPPED"),
    "6 gone within the grace": ([At(0, 5, 9, -9, reader=GONE)], "OK"),
    "6 gone, of unknown age": (
        [At(0, 5, 9, reader=GONE), At(11, 5, 9, reader=GONE)],
        "STOPPED",
    ),
    "6 called gone, and it moves": (
        [At(0, 5, 9, -20, reader=GONE), At(40, 7, 9, 20, reader=GONE)],
        "OK",
    ),
    "6 never began": ([At(0, None, 9, -500, reader=GONE)], "STOPPED"),
    "7 waits, and not for long": ([At(0, 5, 9, -59)], "OK"),
    "7 the reader was idle for an hour and one came": ([At(0, 5, 5), At(3600, 5, 6, 3599)], "OK"),
    "7 of unknown age": ([At(0, 5, 9)], None),
    "7 of unknown age, and we saw it wait": ([At(0, 5, 9), At(59, 5, 9)], None),
    "8 stands": ([LATE, At(60, 5, 9, -70)], "STALLED"),
    "8 stands, of unknown age": ([At(0, 5, 9), At(61, 5, 9)], "STALLED"),
    "8 alive, and never began": (
        [At(0, None, 9, -70, reader=ALIVE), At(60, None, 9, -70, reader=ALIVE)],
        "STALLED",
    ),
    "9 loses ground": ([At(0, 5, 1000, -70), At(10, 105, 2000, -69)], "GROWING"),
    "10 gains ground": ([At(0, 0, 1000, -70), At(40, 400, 1000, -69)], "CATCHING_UP"),
    "11 the first look": ([LATE], "BEHIND"),
    "11 steady": ([At(0, 0, 1000, -70), At(10, 500, 1500, -69)], "BEHIND"),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_rule(row):
    moments, expected = ROWS[row]
    assert play(*moments).verdict == expected


def test_every_rule_has_a_row():
    doc = (verdicts.__doc__ or "").splitlines()
    numbers = {line.split(".")[0].strip() for line in doc if line[:2].strip().isdigit()}
    assert numbers == {row.split()[0] for row in ROWS} == {str(n) for n in range(1, 12)}


def test_it_turns_worse_at_once_and_better_after_settling():
    bad = [At(0, 5, 5), At(2, 5, 9, -99)]
    assert play(*bad).verdict is Verdict.BEHIND
    assert play(*bad, At(4, 9, 9)).verdict is Verdict.BEHIND
    assert play(*bad, At(4, 9, 9), At(31, 9, 9)).verdict is Verdict.BEHIND
    assert play(*bad, At(4, 9, 9), At(33, 9, 9)).verdict is Verdict.OK


def test_a_moment_that_nobody_saw_takes_no_verdict_away():
    track = play(At(0, 5, 5), At(2, 5, 9, -99), 4.0, At(6, 9, 9))
    assert track.verdict is Verdict.BEHIND


def test_the_time_of_arrival():
    track = play(At(0, 0, 1000, -70), At(40, 400, 1200, -69))
    assert track.expected_seconds == pytest.approx(800 / 5)
    assert play(At(0, 5, 1000, -70), At(10, 105, 2000, -69)).expected_seconds == math.inf


def test_since_when():
    assert play(LATE).since == T - 70  # the first look: as long as that waits
    assert play(At(0, 5, 5), At(62, 5, 9, 1)).since == T + 62
    grown = [At(0, 5, 5), At(62, 5, 900, 1), At(70, 6, 9000, 2)]
    assert play(*grown).since == T + 70


def test_a_rewound_reader_has_a_time_of_arrival_by_its_new_pace():
    track = play(
        At(0, 900, 1000, -1), At(2, 0, 1000, -50), At(12, 100, 1000, -50), At(22, 200, 1000, -50)
    )
    assert track.verdict is Verdict.REWOUND
    assert track.expected_seconds == pytest.approx(80)


def test_moments_are_few_and_spread():
    track = None
    for second in range(0, 4000):
        track = follow(
            track, seen(At(second, second, 9000, second - 70)), ALIVE, T + second, LIMITS
        )
    assert track is not None
    assert 4 <= len(track.moments) <= 9
    assert track.moments[0].at >= T + 3999 - 70


def test_limits_are_used():
    assert play(LATE, limits=replace(LIMITS, promise_seconds=71)).verdict is Verdict.OK
