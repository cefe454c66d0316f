"""Rights: a unit sees its own topics and nothing else; strangers' rights are left alone."""

from __future__ import annotations

import pytest

from deptbus.cluster.rights import Right, decide, rights_for, user_of
from deptbus.contract.model import Contract, Unit

UNITS = ("housing@330106", "housing@330106109", "police@330106")
CONTRACT = Contract(
    territories={},
    lines={},
    units=tuple(Unit(unit=u, title="a", title_zh="b", owner="c") for u in UNITS),
    datasets={},
    grants=(),
    schemas={},
)
RIGHTS = rights_for(CONTRACT)


def may(user: str, operation: str, kind: str, name: str) -> bool:
    """As the broker decides (StandardAuthorizer: literal or prefix; no denials)."""
    return any(
        right.user == user
        and right.operation == operation
        and right.kind == kind
        and (name.startswith(right.name) if right.is_prefix else name == right.name)
        for right in RIGHTS
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("other", UNITS)
def test_a_unit_reads_and_writes_its_own_and_nothing_of_others(unit: str, other: str) -> None:
    user, theirs, own = user_of(unit), other.replace("@", "-"), unit == other
    assert may(user, "WRITE", "topic", f"out.{theirs}") is own
    assert may(user, "READ", "topic", f"out.{theirs}") is own
    assert may(user, "WRITE", "topic", f"control.{theirs}") is own
    assert may(user, "READ", "topic", f"in.{theirs}") is own
    assert may(user, "READ", "group", f"deptbus.adapter.{theirs}.main") is own
    assert not may(user, "WRITE", "topic", f"in.{theirs}")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_reads_contract_and_schemas_and_no_other_topic_of_the_bus(unit: str) -> None:
    user = user_of(unit)
    readable = {
        name
        for name in ("contract", "schemas", "quarantine", "audit", "agents", "jobs")
        if may(user, "READ", "topic", f"bus.{name}")
    }
    assert readable == {"contract", "schemas"}
    assert not may(user, "READ", "topic", "data.resident")
    assert not any(may(user, "WRITE", "topic", f"bus.{n}") for n in readable)


def test_workers_do_not_write_contracts_jobs_or_a_departments_own_word() -> None:
    for topic in (
        "bus.contract",
        "bus.audit",
        "bus.jobs",
        "out.housing-330106",
        "control.housing-330106",
    ):
        assert not may("deptbus-worker", "WRITE", "topic", topic)
    for topic in ("data.resident", "in.housing-330106", "bus.quarantine", "bus.agents"):
        assert may("deptbus-worker", "WRITE", "topic", topic)
    assert may("deptbus-worker", "READ", "topic", "out.housing-330106")
    assert may("deptbus-worker", "READ", "group", "deptbus.worker")


def test_operations_write_no_departments_own_word() -> None:
    assert not may("deptbus-operations", "WRITE", "topic", "out.housing-330106")
    assert not may("deptbus-operations", "WRITE", "topic", "control.housing-330106")
    assert may("deptbus-operations", "WRITE", "topic", "bus.contract")
    assert may("deptbus-operations", "READ", "group", "deptbus.adapter.housing-330106.main")


def test_the_plan_takes_what_a_unit_that_left_had_and_leaves_strangers_alone() -> None:
    gone = Right("police-440305", "topic", "in.police-440305", False, "READ")
    too_much = Right("housing-330106", "topic", "data.", True, "READ")
    admin = Right("admin", "topic", "data.", True, "WRITE")
    there = {*RIGHTS[1:], gone, too_much, admin}
    plan = decide(RIGHTS, there)
    assert plan.give == RIGHTS[:1]
    assert set(plan.take) == {gone, too_much}
    assert decide(RIGHTS, set(RIGHTS)).is_empty
