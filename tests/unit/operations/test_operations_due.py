"""Which jobs are due: every way to change what a recipient receives, and every place of a kill."""

from __future__ import annotations

import time

from deptbus.operations.board import SeenReport, agents_that_hold
from deptbus.operations.due import DueJob, due_jobs, last_completed, older_policies
from deptbus.wire.control import AgentReport, JobProgress

HOUSING, GRID = "housing@330106", "grid@330106109"


def due(history: dict[int, dict], completed: dict[str, int] | None = None) -> dict[str, DueJob]:
    return due_jobs(history, history.__getitem__, completed or {})


def progress(unit: str, policy: int, state: str) -> JobProgress:
    return JobProgress(f"{unit}/{policy}", unit, policy, (), state, (), 0, 0, 0, 0)


def test_the_first_policy_loads_every_recipient():
    found = due({1: {HOUSING: {"person": "a", "house": "b"}, GRID: {}}})
    assert found == {
        HOUSING: DueJob(HOUSING, 1, ("house", "person"), frozenset({"house", "person"}))
    }


def test_nothing_is_due_while_nothing_changes():
    history = {1: {HOUSING: {"person": "a"}}, 2: {HOUSING: {"person": "a"}}}
    assert due(history, {HOUSING: 1}) == {}


def test_a_changed_rule_is_due_for_its_dataset_alone():
    history = {
        1: {HOUSING: {"person": "a", "house": "b"}},
        2: {HOUSING: {"person": "c", "house": "b"}},
    }
    assert due(history, {HOUSING: 1}) == {HOUSING: DueJob(HOUSING, 2, ("person",), frozenset())}


def test_the_job_bears_the_policy_of_the_last_change_so_that_later_ones_do_not_restart_it():
    history = {
        1: {HOUSING: {"person": "a"}},
        2: {HOUSING: {"person": "a"}, GRID: {"person": "x"}},
        3: {HOUSING: {"person": "a"}, GRID: {"person": "x"}},
    }
    assert due(history)[HOUSING].policy == 1
    assert due(history)[GRID].policy == 2
    assert due(history)[GRID].job == "grid@330106109/2"


def test_a_rule_that_changed_and_changed_back_is_due():
    """Under the policy in between agents delivered by the other rule."""
    history = {n: {HOUSING: {"person": d}} for n, d in ((1, "a"), (2, "wide"), (3, "a"))}
    assert due(history, {HOUSING: 1})[HOUSING] == DueJob(HOUSING, 3, ("person",), frozenset())


def test_changes_that_were_never_delivered_anew_add_up():
    history = {
        1: {HOUSING: {"person": "a"}},
        2: {HOUSING: {"person": "a", "house": "b"}},
        3: {HOUSING: {"person": "c", "house": "b"}},
    }
    assert due(history, {HOUSING: 1})[HOUSING] == DueJob(
        HOUSING, 3, ("house", "person"), frozenset({"house"})
    )


def test_a_recipient_that_left_is_due_for_all_that_it_held():
    history = {1: {HOUSING: {"person": "a"}}, 2: {}}
    assert due(history, {HOUSING: 1})[HOUSING] == DueJob(HOUSING, 2, ("person",), frozenset())


def test_only_a_completed_job_counts_and_the_last_of_them():
    jobs = [
        progress(HOUSING, 1, "done"),
        progress(HOUSING, 3, "done"),
        progress(HOUSING, 4, "sending"),
        progress(GRID, 1, "marking"),
    ]
    assert last_completed(jobs) == {HOUSING: 3}


def test_a_completed_job_of_a_policy_that_nobody_knows_counts_for_nothing():
    history = {1: {HOUSING: {"person": "a"}}}
    assert due(history, {HOUSING: 9})[HOUSING].policy == 1


def test_a_policy_that_cannot_be_read_is_left_out_of_the_walk():
    history = {1: {HOUSING: {"person": "a"}}, 3: {HOUSING: {"person": "b"}}}
    assert due(history, {HOUSING: 1})[HOUSING].policy == 3


def test_older_policies_are_asked_once_for_each_rule_that_there_was():
    digests = {1: "a", 2: "b", 3: "a", 4: None, 5: "c"}
    history = {n: {HOUSING: {"person": d} if d else {}} for n, d in digests.items()}
    job = DueJob(HOUSING, 5, ("person",), frozenset())
    assert older_policies(job, "person", history, history.__getitem__) == [3, 2]


# -- agents ---------------------------------------------------------------------------------------

NOW_US = time.time_ns() // 1000


def seen(agent: str, policy: int, *, at: float = 100.0, state: str = "running", us: int = NOW_US):
    return {agent: SeenReport(AgentReport(agent, policy, "", state, us), at)}


def held(reports: dict, policy: int = 2, now: float = 101.0) -> list[str] | None:
    return agents_that_hold(reports, policy, now=now, wall_us=NOW_US, lease_seconds=10.0)


def test_a_job_waits_for_every_live_agent():
    assert held(seen("a", 2) | seen("b", 1) | seen("c", 3)) == ["b"]
    assert held(seen("a", 2) | seen("c", 3)) == []


def test_with_no_live_agent_it_is_not_known_when_to_go_on():
    assert held({}) is None
    assert held(seen("a", 1, state="stopped")) is None


def test_an_agent_silent_for_longer_than_the_lease_is_not_waited_for():
    assert held(seen("a", 1, at=90.0) | seen("b", 2, at=100.0)) == []
    assert held(seen("a", 1, at=91.5) | seen("b", 2, at=100.0)) == ["a"]


def test_a_clock_that_is_slow_does_not_hide_a_live_agent():
    assert held(seen("a", 1, us=NOW_US - 30_000_000)) == ["a"]


def test_a_report_from_before_our_start_that_is_minutes_old_is_not_a_live_agent():
    assert held(seen("a", 1, us=NOW_US - 300_000_000) | seen("b", 2)) == []
