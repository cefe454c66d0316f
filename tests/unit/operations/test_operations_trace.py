"""Where a record waits: the rules of `trace`, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from routing_county import COUNTY, NOW, policy, removed, rules, upsert

from deptbus.change import Cause, Change, DeliveryOp, Direction, Received
from deptbus.contract.model import Policy
from deptbus.operations.hold import with_hold
from deptbus.operations.quarantine import Case
from deptbus.operations.trace import (
    Arrival,
    Seen,
    Version,
    recipients_of,
    versions_of,
    waits_of,
)
from deptbus.routing import Router
from deptbus.wire.control import QuarantineNote

HOUSING = f"housing@{COUNTY}"
ALONE = policy(receivers=rules(lines=("housing",))[:1])  # the housing of the county and nobody else
SOURCE = f"police@{COUNTY}"


def at(topic: str, is_read: bool | None, offset: int = 0) -> Seen:
    return Seen(topic, 0, offset, 1_000, is_read)


def change(version: int = 1) -> Change:
    return replace(upsert(COUNTY), version=version)


def accepted(version: int = 1, *, is_read: bool | None = True) -> Version:
    return Version(change(version), at("out", True), at("data", is_read))


def arrival(version: int = 1, *, is_read: bool | None = True, number: int = 1) -> Arrival:
    received = Received(
        "person", bytes(16), DeliveryOp.UPSERT, SOURCE, version, 0, number, Direction.HORIZONTAL,
        "horizontal", (), Cause.LIVE, None, ("id",), (b"",), 1,
    )  # fmt: skip
    return Arrival(HOUSING, received, at("in", is_read))


def waits(
    versions: list[Version], arrivals: list[Arrival], in_force: Policy = ALONE
) -> list[tuple[str, str, int]]:
    free = Router(in_force.model_copy(update={"holds": ()}))
    found = waits_of(versions, arrivals, free, in_force, NOW)
    return [(wait.stage, wait.unit, wait.version) for wait in found]


@pytest.mark.parametrize(
    ("versions", "arrivals", "expected"),
    [
        ([Version(change(), at("out", False))], [], [("intake", SOURCE, 1)]),
        # Where workers never committed they have taken nothing.
        ([Version(change(), at("out", None))], [], [("intake", SOURCE, 1)]),
        ([accepted(is_read=None)], [], [("routing", "", 1)]),
        ([accepted(is_read=False)], [], [("routing", "", 1)]),
        ([accepted()], [], [("missing", HOUSING, 1)]),
        ([accepted()], [arrival(is_read=False)], [("inbox", HOUSING, 1)]),
        # Of several systems one may never have run: that the others have not read is not known.
        ([accepted()], [arrival(is_read=None)], []),
        ([accepted()], [arrival()], []),
        ([accepted(1), accepted(2)], [arrival(1)], [("missing", HOUSING, 2)]),
        # The newest delivery counts, in the order in which an adapter takes them.
        ([accepted(2)], [arrival(1, is_read=False), arrival(2)], []),
        ([accepted(1)], [arrival(1, is_read=False, number=2), arrival(1)], [("inbox", HOUSING, 1)]),
        (
            [accepted(1), Version(change(2), at("out", False))],
            [arrival(1)],
            [("intake", SOURCE, 2)],
        ),
    ],
)
def test_the_first_rule_that_holds_names_the_stage(
    versions: list[Version], arrivals: list[Arrival], expected: list[tuple[str, str, int]]
) -> None:
    assert waits(versions, arrivals) == expected


def test_what_is_held_is_not_missing() -> None:
    held = with_hold(ALONE, HOUSING, "", "a test", NOW, "wang")
    assert waits([accepted()], [], held) == [("held", HOUSING, 1)]


def test_a_refused_version_waits_for_a_person_until_a_newer_one_is_accepted() -> None:
    refused = Version(change(2), at("out", True), None, "outside_territory")
    old = [accepted(1), refused]
    assert waits(old, [arrival(1)]) == [("quarantine", SOURCE, 2)]
    assert waits([*old, accepted(3)], [arrival(3)]) == []


def test_a_delete_that_was_delivered_waits_nowhere() -> None:
    gone = Version(replace(removed(COUNTY), version=2), at("out", True), at("data", True))
    assert waits([gone], [arrival(1)]) == [("missing", HOUSING, 2)]
    assert waits([gone], [arrival(2)]) == []


def test_versions_are_put_together_from_where_they_lie() -> None:
    note = QuarantineNote("out", 0, 5, 5, "malformed", "li", SOURCE, "person", bytes(16), 2, 1_000)
    found = versions_of(
        [(change(2), at("out", True, 5)), (change(3), at("out", False, 6))],
        [(change(1), at("data", True))],
        [Case(note)],
    )
    assert [v.change.version for v in found] == [1, 2, 3]
    assert [v.out is not None for v in found] == [False, True, True]
    assert [v.refused for v in found] == [None, "malformed", None]


def test_recipients_of_every_policy_are_looked_at() -> None:
    nobody = policy(receivers=())
    assert recipients_of([change()], [Router(nobody)], NOW) == set()
    assert recipients_of([change()], [Router(nobody), Router(ALONE)], NOW) == {HOUSING}
