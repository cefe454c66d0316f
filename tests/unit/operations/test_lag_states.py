"""The rules of `operations.lag`, each with its row: what was seen, and what is said of it."""

from __future__ import annotations

import pytest

from deptbus.operations.lag import Lag, Look, PartitionState, Seen, Unseen, measure

NOW = 1_800_000_000.0
OK, NEVER, LOST = PartitionState.OK, PartitionState.NEVER_COMMITTED, PartitionState.LOST
PHANTOM, UNREACHABLE = PartitionState.PHANTOM, PartitionState.UNREACHABLE


def ago(seconds: float) -> int:
    return int((NOW - seconds) * 1000)


ROWS = {
    "1 no answer": (Unseen("not_leader"), Lag(UNREACHABLE, reason="not_leader")),
    "2 never, nothing there": (Seen(None, 7, 7), Lag(NEVER, None, 0.0, waits=False)),
    "2 never, not looked": (Seen(None, 0, 9), Lag(NEVER, None, None, waits=True)),
    "2 never, something there": (
        Seen(None, 0, 9, look=Look(0, 9, 0, ago(90), 9)),
        Lag(NEVER, None, 90.0, waits=True),
    ),
    "2 never, markers only": (
        Seen(None, 0, 9, look=Look(0, 9)),
        Lag(NEVER, None, 0.0, waits=False),
    ),
    "3 retention overtook it": (
        Seen(10, 500, 700, look=Look(500, 700, 500, ago(3600), 200)),
        Lag(LOST, 200, 3600.0, gone=490, waits=True),
    ),
    "3 and all is gone": (Seen(10, 500, 500), Lag(LOST, 0, 0.0, gone=490, waits=False)),
    "4 behind the last record": (Seen(1000, 0, 5, high=5), Lag(LOST)),
    "4 reads uncommitted": (Seen(8, 0, 5, high=9), Lag(OK, 0, 0.0, waits=False)),
    "4 the last record is not known": (Seen(8, 0, 5), Lag(UNREACHABLE, reason="end_not_known")),
    "5 markers only": (Seen(10, 0, 12, look=Look(10, 12)), Lag(PHANTOM, 0, 0.0, waits=False)),
    "5 the first record lies behind the end": (
        Seen(10, 0, 12, look=Look(10, 13, 12, ago(1), 1)),
        Lag(PHANTOM, 0, 0.0, waits=False),
    ),
    "6 at the end": (Seen(12, 0, 12), Lag(OK, 0, 0.0, waits=False)),
    "6 not looked": (Seen(10, 0, 12), Lag(OK, 2, None, waits=True)),
    "6 looked to the end: records count, not offsets": (
        Seen(10, 0, 20, look=Look(10, 20, 13, ago(5), 4)),
        Lag(OK, 4, 5.0, waits=True),
    ),
    "6 more came since the look": (
        Seen(10, 0, 30, look=Look(10, 20, 13, ago(5), 4)),
        Lag(OK, 20, 5.0, waits=True),
    ),
    "6 markers, and more behind that was not looked at": (
        Seen(10, 0, 30, look=Look(10, 20)),
        Lag(OK, 10, None, waits=True),
    ),
    "6 the reader has passed what was looked at": (
        Seen(25, 0, 30, look=Look(10, 20, 13, ago(5), 4)),
        Lag(OK, 5, None, waits=True),
    ),
    "6 the reader went back": (
        Seen(5, 0, 30, look=Look(10, 20, 13, ago(5), 4)),
        Lag(OK, 25, None, waits=True),
    ),
    "6 below the start of an older log": (
        Seen(0, 0, 30, look=Look(0, 30, 29, ago(5), 1)),
        Lag(OK, 1, 5.0, waits=True),
    ),
    "7 no time": (Seen(0, 0, 1, look=Look(0, 1, 0, None, 1)), Lag(OK, 1, None, waits=True)),
    "7 a clock that is ahead": (
        Seen(0, 0, 1, look=Look(0, 1, 0, ago(-9), 1)),
        Lag(OK, 1, 0.0, waits=True),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_rule(row):
    seen, expected = ROWS[row]
    assert measure(seen, NOW) == expected


def test_every_rule_has_a_row():
    from deptbus.operations import lag

    numbers = {
        line.split(".")[0] for line in (lag.__doc__ or "").splitlines() if line[:1].isdigit()
    }
    assert numbers == {row.split()[0] for row in ROWS}
