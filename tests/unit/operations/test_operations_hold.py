"""Holds: what they stop, that no job goes round them, and that what they kept back comes."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from routing_county import ACTIVATED, COUNTY, NOW, grant, moved_out, policy, rules, upsert

from deptbus.contract.model import Contract, Policy
from deptbus.errors import DeptbusError, Exit
from deptbus.operations.boundary import crossed
from deptbus.operations.due import (
    HELD,
    Digests,
    digests_under_holds,
    due_jobs,
    older_policies,
)
from deptbus.operations.hold import with_hold, without_hold
from deptbus.operations.inboxes import job_anew
from deptbus.operations.rights import rule_digests
from deptbus.routing import Router, settle

HOUSING, GRID = f"housing@{COUNTY}", f"grid@{COUNTY}"
FIRST = policy()
NOBODY = policy(receivers=rules(lines=("grid",)))  # housing has no rule any more


def held(before: Policy, unit: str = "", dataset: str = "") -> Policy:
    return with_hold(before, unit, dataset, "a test", NOW, "wang")


def resumed(before: Policy, unit: str = "", dataset: str = "") -> Policy:
    return without_hold(before, unit, dataset, NOW, "wang")


def another(before: Policy, contract: Contract) -> Policy:
    """The next policy by an activation: a contract comes under the holds that stand."""
    return before.model_copy(update={"number": before.number + 1, "contract": contract})


class History:
    """Policies one after the other, and what is due by them."""

    def __init__(self, *policies: Policy) -> None:
        self.policies = {p.number: p for p in policies}
        assert list(self.policies) == list(range(1, len(policies) + 1))

    def digests(self, number: int) -> Digests:
        return digests_under_holds(
            self.policies[number], self.policies, lambda n: rule_digests(self.policies[n])
        )

    def due(self, completed: int) -> dict[str, tuple[str, ...]]:
        """Unit -> datasets, when every recipient was brought up to this policy."""
        done = dict.fromkeys((u.unit for u in FIRST.contract.units), completed)
        return {u: job.datasets for u, job in due_jobs(self.policies, self.digests, done).items()}


def units_of(router: Router) -> set[str]:
    return {d.unit for d in router.route(upsert(COUNTY), NOW)}


def test_a_hold_of_a_unit_stops_its_deliveries_and_nobody_elses() -> None:
    before, now = units_of(Router(FIRST)), units_of(Router(held(FIRST, HOUSING)))
    assert HOUSING in before
    assert now == before - {HOUSING}


def test_a_hold_of_a_dataset_stops_it_for_everybody() -> None:
    assert units_of(Router(held(FIRST, dataset="person"))) == set()
    assert units_of(Router(FIRST))


def test_withdrawals_are_held_too() -> None:
    moved = moved_out(COUNTY)
    assert HOUSING in {d.unit for d in Router(FIRST).route(moved, NOW)}
    assert HOUSING not in {d.unit for d in Router(held(FIRST, HOUSING)).route(moved, NOW)}


def test_nothing_is_due_for_what_is_held_and_all_of_it_when_it_goes_on() -> None:
    first = held(FIRST, HOUSING)
    assert History(FIRST, first).due(1) == {}
    assert History(FIRST, first, resumed(first, HOUSING)).due(1) == {HOUSING: ("person",)}


def test_a_job_that_was_due_when_the_hold_came_waits_with_it() -> None:
    first = held(FIRST, HOUSING)
    units = History(FIRST, first).due(0)
    assert units
    assert HOUSING not in units
    assert HOUSING in History(FIRST, first, resumed(first, HOUSING)).due(0)


def test_a_job_that_ended_just_after_the_hold_came_does_not_hide_what_it_kept_back() -> None:
    """The last completed job may be of any policy up to the one that holds."""
    first = held(FIRST, HOUSING)
    history = History(FIRST, first, resumed(first, HOUSING))
    assert history.due(1) == history.due(2) == {HOUSING: ("person",)}
    assert history.due(3) == {}


def test_of_two_holds_each_is_lifted_by_itself() -> None:
    one = held(FIRST, HOUSING)
    two = held(one, dataset="person")
    unit_free = resumed(two, HOUSING)
    assert History(FIRST, one, two, unit_free).due(1) == {}
    free = resumed(unit_free, dataset="person")
    due = History(FIRST, one, two, unit_free, free).due(1)
    assert {HOUSING, GRID} <= set(due)


def test_a_right_that_ends_under_a_hold_is_withdrawn_when_it_goes_on() -> None:
    first = held(FIRST, HOUSING)
    second = another(first, NOBODY.contract)
    third = resumed(second, HOUSING)
    assert HOUSING not in History(FIRST, first, second).due(1)
    history = History(FIRST, first, second, third)
    done = {u.unit: 2 for u in FIRST.contract.units}
    job = due_jobs(history.policies, history.digests, done)[HOUSING]
    assert (job.policy, job.datasets) == (4, ("person",))
    numbers = older_policies(job, "person", history.policies, history.digests)
    assert numbers == [1]  # by the held ones nothing was delivered
    older = [Router(history.policies[n]) for n in numbers]
    delivery = settle(upsert(COUNTY), HOUSING, NOW, Router(third), older)
    assert delivery is not None
    assert delivery.op.value == "withdraw"


def test_an_inbox_that_was_made_again_is_not_filled_round_a_hold() -> None:
    first = held(FIRST, HOUSING)
    history = History(FIRST, first)
    digests = {n: history.digests(n) for n in history.policies}
    assert digests[2][HOUSING] == {"person": HELD}
    assert job_anew(HOUSING, "an-id", digests, None) is None
    assert job_anew(GRID, "an-id", digests, None) is not None


def test_a_boundary_of_a_grant_lifts_no_hold() -> None:
    until = date(2026, 6, 30)
    granted = policy(grants=(grant("june", HOUSING, ("id", "salary"), until=until),))
    following = crossed(held(granted, HOUSING), ACTIVATED + timedelta(days=60))
    assert following is not None
    assert [h.unit for h in following.holds] == [HOUSING]


@pytest.mark.parametrize(
    ("unit", "dataset", "said", "code"),
    [
        (HOUSING, "", "held already, since 2026-06-02 00:00 UTC by wang", Exit.ANSWER_IS_NO),
        ("stranger@330106", "", "no unit stranger@330106", Exit.COULD_NOT),
        ("", "weather", "no dataset weather", Exit.COULD_NOT),
    ],
)
def test_what_cannot_be_held_is_told(unit: str, dataset: str, said: str, code: Exit) -> None:
    with pytest.raises(DeptbusError, match=said) as refused:
        held(held(FIRST, HOUSING), unit, dataset)
    assert refused.value.exit_code == code


def test_what_is_not_held_cannot_go_on() -> None:
    with pytest.raises(DeptbusError, match="is not held") as refused:
        resumed(held(FIRST, HOUSING), GRID)
    assert refused.value.exit_code == Exit.ANSWER_IS_NO


def test_a_hold_of_a_unit_that_left_the_contract_can_still_be_lifted() -> None:
    units = tuple(u for u in FIRST.contract.units if u.unit != HOUSING)
    gone = another(held(FIRST, HOUSING), FIRST.contract.model_copy(update={"units": units}))
    assert resumed(gone, HOUSING).holds == ()
