"""What an operator is told of an outbox: how full, how old, whether it is taken, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from deptbus.department.capture import CaptureStatus
from deptbus.department.pressure import fill_percent, pressure_of, spoken
from deptbus.department.pulse import Publishing, Pulse

NOW = 1_800_000_000_000_000
LIVES = Pulse(Publishing.GOING_ON, None, {}, NOW - 3_600_000_000, NOW - 2_000_000)
GONE = Pulse(Publishing.GOING_ON, None, {}, NOW - 7_200_000_000, NOW - 300_000_000)
STALLED = Pulse(Publishing.STALLED, "no broker answers", {}, NOW - 90_000_000, NOW - 1_000_000)
STOPPED = Pulse(Publishing.STOPPED, "restored", {}, NOW - 9e9, NOW - 9_000_000_000)  # type: ignore[arg-type]
HOLDS = Pulse(Publishing.GOING_ON, None, {"person": "not agreed"}, NOW, NOW)


def status(pulse: Pulse | None, rows: int = 0, room: int = 1000, **more: Any) -> CaptureStatus:
    return CaptureStatus(
        installed=True, outbox_rows=rows, cap_rows=1000, room_rows=room, pulse=pulse, **more
    )


@pytest.mark.parametrize(
    ("found", "says", "mends"),
    [
        (status(LIVES), None, ""),
        (status(LIVES, 700, 300, oldest_age_seconds=2.0), None, ""),
        (status(LIVES, gave_way=3), "capture gave way 3 times", "deptbus department resync"),
        (status(LIVES, 1000, 0), "the outbox is full (1000 rows)", "then resync"),
        (status(LIVES, 1, 0), "the outbox is full", "then resync"),  # one old row, many behind it
        (status(LIVES, 800, 200), "80 % full", "outbox_cap_rows"),
        (status(STALLED), "stalled for 90 s: no broker answers", ""),
        (status(STOPPED, 5, 990), "stopped 2 h ago: restored", ""),
        (status(None, 5, 990), "has never run", "deptbus department run"),
        (status(GONE, 5, 990), "last seen 5 min ago", "deptbus department run"),
        (status(HOLDS, 5, 990), "dataset person is held: not agreed", ""),
        (status(LIVES, 5, 990, oldest_age_seconds=75.0), "waited for 75 s although", "brokers"),
        (status(None), None, ""),
        (status(GONE), None, ""),
    ],
)
def test_what_is_found_and_what_to_do(found: CaptureStatus, says: str | None, mends: str) -> None:
    findings = pressure_of(found, NOW).findings
    if says is None:
        assert findings == ()
    else:
        assert says in findings[0].what
        assert mends in findings[0].mend


def test_all_that_is_wrong_is_told_the_worst_first() -> None:
    found = status(STALLED, 1000, 0, gave_way=1, oldest_age_seconds=4000.0)
    words = [finding.what.split()[0:2] for finding in pressure_of(found, NOW).findings]
    assert words == [["capture", "gave"], ["the", "outbox"], ["publishing", "has"]]


def test_an_adapter_that_is_not_seen_any_more_is_no_stall() -> None:
    """What it said last is old news; that it does not run is what matters."""
    old = Pulse(Publishing.STALLED, "x", {}, NOW - 9_000_000_000, NOW - 61_000_000)
    assert pressure_of(status(old), NOW).publishing == "not_seen"
    assert pressure_of(status(STALLED), NOW).publishing == "stalled"
    assert pressure_of(status(None), NOW).publishing == "never_seen"


@pytest.mark.parametrize(
    ("rows", "room", "percent"), [(0, 0, 0.0), (0, 1000, 0.0), (1, 999, 0.1), (9, 0, 100.0)]
)
def test_how_near_capture_is_to_giving_way(rows: int, room: int, percent: float) -> None:
    assert fill_percent(status(LIVES, rows, room)) == percent


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7300, "2 h"), (200_000, "2 days")],
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
