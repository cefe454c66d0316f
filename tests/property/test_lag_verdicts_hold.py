"""Random histories of logs and readers against what the verdicts promise, and planted mistakes.

A log is a list of records (with their times) and gaps (markers, what compaction took); readers
commit, stop, go back; retention removes; brokers go away; topics are made again. What is seen is
made from that, so that what is true is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.operations import lag as lag_module
from deptbus.operations import verdicts as verdicts_module
from deptbus.operations.lag import Lag, Look, PartitionState, Seen, Unseen
from deptbus.operations.verdicts import Limits, Reader, Track, Verdict, follow

T = 1_800_000_000.0
LIMITS = Limits(promise_seconds=60, grace_seconds=10, stall_seconds=45, settle_seconds=30)


@dataclass
class World:
    """One partition and one reader, as they really are."""

    now: float = T
    log: list[float | None] = field(default_factory=list)  # time of a record; None: no record
    open_from: int | None = None  # first offset of a transaction that is open
    start: int = 0
    committed: int | None = None
    topic: int = 0
    is_away: bool = False
    looked: bool = True
    reader: Reader = Reader.UNKNOWN

    @property
    def end(self) -> int:
        return len(self.log) if self.open_from is None else self.open_from

    def unread(self) -> list[float]:
        """Times of the records that a reader could read from where it stands."""
        position = max(self.committed or 0, self.start)
        return [at for at in self.log[position : self.end] if at is not None]

    def is_beyond(self) -> bool:
        return self.committed is not None and self.committed > len(self.log)

    def seen(self) -> Seen | Unseen:
        if self.is_away:
            return Unseen("not_leader")
        position = max(self.committed or 0, self.start)
        look = None
        if self.looked and position < self.end:
            there = [i for i in range(position, self.end) if self.log[i] is not None]
            first = there[0] if there else None
            at = None if first is None else self.log[first]
            look = Look(
                position, self.end, first, None if at is None else int(at * 1000), len(there)
            )
        topic = str(self.topic)
        return Seen(self.committed, self.start, self.end, len(self.log), look, topic)


def step(world: World, act: tuple[str, Any]) -> None:
    kind, value = act
    if kind == "write":
        world.log += [world.now] * value
    elif kind == "gap":
        world.log += [None] * value
    elif kind == "compact":
        for i in range(0, world.end, value):
            world.log[i] = None
    elif kind == "open":
        world.open_from = len(world.log) if world.open_from is None else world.open_from
    elif kind == "close":
        world.open_from = None
    elif kind == "read":
        position = max(world.committed or 0, world.start)
        world.committed = min(position + value, world.end) if position <= world.end else position
    elif kind == "back":
        if world.committed is not None:
            world.committed = max(0, world.committed - value)
    elif kind == "forget":
        world.start = min(world.end, world.start + value)
    elif kind == "made again":
        world.log, world.start, world.open_from = [], 0, None
        world.topic += 1
        world.committed = None if value % 2 else world.committed
    elif kind == "away":
        world.is_away = not world.is_away
    elif kind == "blind":
        world.looked = not world.looked
    else:
        world.reader = list(Reader)[value % 3]


ACTS = st.tuples(
    st.sampled_from(
        ["write"] * 5
        + ["read"] * 6
        + [
            "gap",
            "compact",
            "open",
            "close",
            "back",
            "forget",
            "made again",
            "away",
            "blind",
            "sign",
        ]
    ),
    st.integers(1, 30),
)
HISTORIES = st.lists(st.tuples(st.lists(ACTS, max_size=3), st.floats(0.1, 50)), max_size=40)


def play(history: list[tuple[list[tuple[str, Any]], float]]) -> list[tuple[World, Track]]:
    world, track, told = World(), None, []
    for acts, pause in history:
        for act in acts:
            step(world, act)
        track = verdicts_module.follow(track, world.seen(), world.reader, world.now, LIMITS)
        copy = World(**{**vars(world), "log": list(world.log)})
        told.append((copy, track))
        world.now += pause
    return told


def check(told: list[tuple[World, Track]]) -> None:
    entered: dict[Verdict, float] = {}
    last: Verdict | None = None
    for world, track in told:
        numbers(world, track.lag)
        unread = world.unread()
        if world.is_away:
            assert track.verdict is None
        elif unread and world.now - unread[0] > LIMITS.promise_seconds + 0.001:
            assert track.verdict is not Verdict.OK, "OK while unread records are late"
        if track.verdict is not None and track.verdict is not last:
            before = entered.get(track.verdict, float("-inf"))
            assert world.now - before >= LIMITS.settle_seconds, "it flaps"
            entered[track.verdict] = world.now
        last = track.verdict if track.verdict is not None else last
        if track.expected_seconds is not None:
            assert track.expected_seconds >= 0


def numbers(world: World, lag: Lag) -> None:
    """A state is no number, and a number is never wrong."""
    unread = world.unread()
    if world.is_away:
        assert lag == Lag(PartitionState.UNREACHABLE, reason="not_leader")
        return
    if world.committed is None:
        assert lag.state is PartitionState.NEVER_COMMITTED
        assert lag.records is None
    elif world.is_beyond():
        assert lag == Lag(PartitionState.LOST)
        return
    elif world.committed < world.start:
        assert lag.state is PartitionState.LOST
        assert lag.gone == world.start - world.committed
    assert lag.records is None or lag.records >= len(unread)
    assert lag.seconds is None or lag.seconds >= 0
    if world.looked and lag.records is not None:
        assert lag.records == len(unread)
    if world.looked:
        assert lag.waits == bool(unread)
        age = world.now - unread[0] if unread else 0.0
        assert lag.seconds == pytest.approx(age, abs=0.002)
    elif lag.seconds is not None:
        assert lag.seconds == 0
        assert not unread


@given(HISTORIES)
@settings(max_examples=400, deadline=None)
def test_no_history_makes_them_lie_or_flap(history):
    check(play(history))


# --- planted mistakes: each is met by the same check ---------------------------------------


def log_end(seen: Seen | Unseen) -> Seen | Unseen:
    return seen._replace(end=seen.high) if isinstance(seen, Seen) and seen.high else seen


def unknown_is_zero(seen: Seen | Unseen) -> Seen | Unseen:
    return seen if isinstance(seen, Seen) else Seen(0, 0, 0, 0)


def never_is_zero(seen: Seen | Unseen) -> Seen | Unseen:
    if isinstance(seen, Seen) and seen.committed is None:
        return seen._replace(committed=seen.start)
    return seen


def lost_is_read(seen: Seen | Unseen) -> Seen | Unseen:
    if isinstance(seen, Seen) and seen.committed is not None and seen.committed < seen.start:
        return seen._replace(committed=seen.start)
    return seen


def markers_are_records(seen: Seen | Unseen) -> Seen | Unseen:
    if isinstance(seen, Seen) and seen.look is not None and seen.look.first is None:
        return seen._replace(look=seen.look._replace(first=seen.look.origin, records=1))
    return seen


def interpolated(seen: Seen | Unseen) -> Seen | Unseen:
    """The age by the middle of what is unread, as exporters guess it."""
    if isinstance(seen, Seen) and seen.look is not None and seen.look.first_ms is not None:
        half = int(T * 1000 + (seen.look.first_ms - T * 1000) / 2)
        return seen._replace(look=seen.look._replace(first_ms=half))
    return seen


SEEN_WRONG = [
    log_end,
    unknown_is_zero,
    never_is_zero,
    lost_is_read,
    markers_are_records,
    interpolated,
]
# A transaction that is open, something late, something lost, markers only, away: all in one.
STORY = [
    ([("write", 4), ("read", 4), ("write", 3)], 30.0),
    ([("open", 1), ("write", 2)], 45.0),
    ([("away", 1)], 1.0),
    ([("away", 1), ("close", 1), ("read", 30), ("gap", 2)], 40.0),
    ([("write", 20), ("forget", 12)], 5.0),
    ([("made again", 1), ("write", 2)], 90.0),
    ([("read", 30), ("write", 2)], 31.0),
    ([("read", 30)], 1.0),
]


def test_the_story_is_told_right():
    check(play(STORY))


@pytest.mark.parametrize("mistake", SEEN_WRONG, ids=lambda m: m.__name__)
def test_what_is_seen_wrong_is_caught(monkeypatch, mistake):
    right = lag_module.measure
    monkeypatch.setattr(verdicts_module, "measure", lambda seen, now: right(mistake(seen), now))
    with pytest.raises(AssertionError):
        check(play(STORY))


def test_an_end_that_was_read_before_the_committed_offset_is_caught(monkeypatch):
    """A reader that went on meanwhile is ahead of what we think is the end."""
    right = lag_module.measure

    def late(seen: Seen | Unseen, now: float) -> Lag:
        if isinstance(seen, Seen) and seen.committed is not None and seen.end == seen.committed:
            seen = seen._replace(end=seen.end - 1, high=seen.end - 1)
        return right(seen, now)

    monkeypatch.setattr(verdicts_module, "measure", late)
    with pytest.raises(AssertionError):
        check(play(STORY))


def test_a_verdict_without_hysteresis_is_caught(monkeypatch):
    monkeypatch.setattr(
        verdicts_module, "_settling", lambda before, finding, now, limits: ((finding, now),)
    )
    flapping = [
        ([("write", 4), ("read", 4), ("write", 1)], 61.0),
        ([], 1.0),
        ([("read", 9)], 1.0),
        ([("back", 1)], 1.0),
    ]
    with pytest.raises(AssertionError, match="flaps"):
        check(play([*flapping, *[([("read", 9)], 1.0), ([("back", 1)], 1.0)] * 2]))


def test_a_promise_that_is_not_kept_is_caught(monkeypatch):
    monkeypatch.setattr(verdicts_module, "_is_late", lambda *_: False)
    with pytest.raises(AssertionError, match="late"):
        check(play([([("write", 4), ("read", 2)], 61.0), ([], 1.0)]))


def test_a_verdict_without_a_sight_is_caught(monkeypatch):
    def guess(before: Track | None, lag: Lag, now: float) -> Track:
        return before if before is not None else Track(now, None, lag, Verdict.OK, now)

    monkeypatch.setattr(verdicts_module, "_blind", guess)
    with pytest.raises(AssertionError):
        check(play(STORY))


def test_follow_is_the_function_under_test():
    assert verdicts_module.follow is follow
