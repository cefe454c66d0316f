"""What legs found, as outcomes: several systems are one, what could not be told is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.outcomes import NAMED_KEYS, outcomes_of_legs
from deptbus.wire.control import ProofOutcome, encode_control

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
EQUAL = LegResult("copy", "housing@330106", "main", "resident", rows=10)
DIFFERENT = replace(EQUAL, by_class={"missing": 2, "stale": 0})
UNTOLD = replace(EQUAL, could_not_tell="a job is open", rows=0)
ABSENT = replace(EQUAL, absent="it keeps no such table", rows=0)


def outcomes(*results: LegResult) -> list[ProofOutcome]:
    words: dict[str, Any] = {"policy": 3, "made_at": AT, "operator": "o", "certificate": b"c"}
    return outcomes_of_legs(results, **words)


def test_an_outcome_says_what_was_found():
    assert outcomes(replace(DIFFERENT, deep=True)) == [
        ProofOutcome(
            "housing@330106", "resident", "copy", "different", 3,
            int(AT.timestamp()) * 1_000_000, True, 10, ("missing",), (2,), "o", b"c",
        )
    ]  # fmt: skip


def test_the_first_keys_are_named_each_with_its_class_and_why():
    findings = tuple(
        Finding(n.to_bytes(16, "big"), "missing", "x" * 999, on_bus=True)
        for n in range(NAMED_KEYS + 5)
    )
    (found,) = outcomes(replace(DIFFERENT, findings=findings))
    assert found.keys == tuple(one.key for one in findings[:NAMED_KEYS])
    assert set(found.key_classes) == {"missing"}
    assert {len(reason) for reason in found.reasons} == {200}
    assert len(encode_control(found)) < 100_000


@pytest.mark.parametrize(
    ("results", "verdict", "rows", "counts"),
    [
        ((EQUAL,), "equal", 10, ()),
        ((EQUAL, replace(EQUAL, system="second")), "equal", 20, ()),
        ((EQUAL, replace(DIFFERENT, system="second")), "different", 20, (2,)),
        ((DIFFERENT, replace(DIFFERENT, system="second")), "different", 20, (4,)),
        ((ABSENT,), "absent", 0, ()),
        ((ABSENT, replace(EQUAL, system="second")), "equal", 10, ()),
    ],
)
def test_systems_of_a_unit_are_one_outcome(results, verdict, rows, counts):
    (found,) = outcomes(*results)
    assert (found.verdict, found.rows, found.counts) == (verdict, rows, counts)


@pytest.mark.parametrize(
    "results",
    [
        (UNTOLD,),
        (EQUAL, replace(UNTOLD, system="second")),
        (replace(DIFFERENT, system="a"), UNTOLD),
    ],
)
def test_what_could_not_be_told_leaves_the_last_outcome_as_it_is(results):
    assert outcomes(*results) == []


def test_legs_datasets_and_units_are_outcomes_of_their_own():
    source = replace(EQUAL, leg="source", unit="public_security@330106")
    other = replace(UNTOLD, dataset="household")
    found = outcomes(EQUAL, source, other, replace(DIFFERENT, dataset="house"))
    assert [(o.unit, o.dataset, o.leg, o.verdict) for o in found] == [
        ("housing@330106", "resident", "copy", "equal"),
        ("public_security@330106", "resident", "source", "equal"),
        ("housing@330106", "house", "copy", "different"),
    ]
