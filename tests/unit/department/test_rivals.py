"""Who is another adapter of the same system, by the records of the control topic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from deptbus.change import Incarnation
from deptbus.department.rivals import greater_than
from deptbus.wire.control import AppliedBeat, Incarnated, OutboxSeen, encode_control, key_of

UNIT = "housing@330106"
MINE = Incarnation(5, b"mmmmmmmm")
GREATER, SAME_NUMBER, LESSER = (
    Incarnation(6, b"aaaaaaaa"),
    Incarnation(5, b"zzzzzzzz"),
    Incarnation(5, b"aaaaaaaa"),
)


def told(*records: Any) -> tuple[Incarnation | None, bool]:
    log = [SimpleNamespace(key=key_of(r), value=encode_control(r)) for r in records]
    return greater_than(MINE, log, UNIT, "main")  # type: ignore[arg-type]


def announced(who: Incarnation, *, unit: str = UNIT, system: str = "main") -> Incarnated:
    return Incarnated(unit, system, who, (3, 4), "f")


def beat(who: Incarnation) -> AppliedBeat:
    return AppliedBeat(UNIT, "main", who, None, 0)


def test_a_greater_one_that_was_announced() -> None:
    assert told(announced(GREATER)) == (GREATER, True)
    assert told(announced(SAME_NUMBER), beat(MINE)) == (SAME_NUMBER, True)


def test_one_that_is_about_to_be_announced_may_yet_be_refused() -> None:
    assert told(Incarnated(UNIT, "main", GREATER, (), "f")) == (None, False)


def test_a_sign_of_life_is_no_announcement() -> None:
    assert told(beat(GREATER)) == (GREATER, False)


def test_ones_own_lesser_ones_and_other_systems_are_none() -> None:
    assert told(announced(MINE), beat(MINE), announced(LESSER), beat(LESSER)) == (None, False)
    assert told(announced(GREATER, system="other")) == (None, False)
    assert told(announced(GREATER, unit="health@330106")) == (None, False)
    assert told(OutboxSeen(UNIT, "main", GREATER, "id")) == (None, False)


def test_bytes_that_are_no_record_stop_nobody() -> None:
    log = [SimpleNamespace(key=b"x", value=b"y"), SimpleNamespace(key=None, value=None)]
    assert greater_than(MINE, log, UNIT, "main") == (None, False)  # type: ignore[arg-type]
