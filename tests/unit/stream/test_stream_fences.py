"""Fences by their numbered rules, and that the order of learning does not matter."""

from __future__ import annotations

import itertools

import pytest

from deptbus.change import Incarnation
from deptbus.stream.fences import Fences
from deptbus.stream.quarantine import FENCED, NOT_ANNOUNCED
from deptbus.wire.control import Incarnated

ONE = Incarnation(1, b"aaaaaaaa")
TWO = Incarnation(2, b"aaaaaaaa")
TWIN = Incarnation(2, b"bbbbbbbb")  # of a copied database: the greater token wins
UNKNOWN = Incarnation(9, b"zzzzzzzz")


@pytest.mark.parametrize("order", list(itertools.permutations([(ONE, 10), (TWO, 20), (TWIN, 30)])))
def test_who_may_publish_where(order):
    fences = Fences()
    for incarnation, offset in order:
        fences.announce("main", incarnation, offset)
        fences.announce("main", incarnation, offset)  # told again
    expected = {
        (ONE, 10): NOT_ANNOUNCED,  # rule 1: not before its own announcement
        (ONE, 11): None,
        (ONE, 20): None,
        (ONE, 21): FENCED,
        (ONE, 15): None,  # rule 2: also when it is read again later
        (TWO, 21): None,
        (TWO, 31): FENCED,
        (TWIN, 31): None,
        (UNKNOWN, 99): NOT_ANNOUNCED,
    }
    assert {asked: fences.refusal(*asked) for asked in expected} == expected


def test_a_late_announcement_of_a_lesser_incarnation_does_not_lift_the_fence():
    fences = Fences()
    fences.announce("main", TWO, 10)
    fences.announce("main", ONE, 20)
    assert fences.refusal(ONE, 21) == FENCED
    assert fences.refusal(TWO, 21) is None


def test_systems_of_one_unit_do_not_fence_each_other():
    fences = Fences()
    fences.announce("main", TWO, 10)
    fences.announce("archive", ONE, 20)
    assert fences.refusal(ONE, 21) is None
    assert fences.refusal(TWO, 21) is None


def test_known_from_control_records():
    record = Incarnated("a@33", "main", TWO, (5, 7), "f")
    fences, beyond = Fences(), Fences()
    fences.learn([record], 1)
    beyond.learn([record], 2)
    assert fences.refusal(TWO, 8) is None
    assert fences.refusal(TWO, 6) == NOT_ANNOUNCED
    assert beyond.refusal(TWO, 99) == NOT_ANNOUNCED
