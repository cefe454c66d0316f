"""What the proof of a second copy has to say before it may take the other's place."""

from __future__ import annotations

import pytest

from deptbus.operations.leg import LegResult
from deptbus.operations.rebuild import faults_of, untold
from deptbus.operations.reconcile_copy import CopyProved


def proved(*of_systems: dict[str, int], **words) -> list[CopyProved]:
    return [
        CopyProved(LegResult("copy", "u", f"s{n}", "d", by_class=by_class, **words))
        for n, by_class in enumerate(of_systems)
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (proved({}), {}),
        (proved({"parked": 3, "claimed": 1}), {}),
        (proved({"parked": 3, "missing": 1}), {"missing": 1}),
        (proved({"stale": 2}, {"stale": 1, "wrong": 1}), {"stale": 3, "wrong": 1}),
        (proved({"edited_locally": 1, "unentitled": 1}), {"edited_locally": 1, "unentitled": 1}),
        (proved({"extra": 1}), {"extra": 1}),
    ],
)
def test_rows_that_no_copy_could_hold_are_no_fault(found, expected):
    assert faults_of(found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (proved({}), ""),
        (proved({}, could_not_tell="a job is open"), "a job is open"),
        (proved({}, absent="none receives it"), "none receives it"),
        (proved({}) + proved({}, could_not_tell="it is silent"), "it is silent"),
    ],
)
def test_one_that_cannot_tell_is_enough(found, expected):
    assert untold(found) == expected
