"""Which order is at work, over every history of orders, steering and progress."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deptbus.operations.replay_orders import CLOSED, DueOrder, Orders
from deptbus.wire.control import JobOrder, JobSteer, OrderedKeys, OrderProgress

HOUSING = "housing@330106"


def order(job: str, at: int = 0, unit: str = HOUSING, parts: int = 0) -> JobOrder:
    return JobOrder(
        job, unit, "replay", ("person",), ("id",), (), (), (), parts, 1, "", 1, "wang", "", "why",
        at,
    )  # fmt: skip


def steer(job: str, wanted: str) -> JobSteer:
    return JobSteer(job, wanted, "wang", "", "why", 0)


def progress(job: str, state: str) -> OrderProgress:
    return OrderProgress(job, HOUSING, 1, state, "", (), "", 0, 0, 0, 0, 0)


def orders(*records) -> Orders:
    found = Orders()
    for record in records:
        found.take(record)
    return found


def due(*records) -> tuple[str, str] | None:
    found = orders(*records).due().get(HOUSING)
    return None if found is None else (found.job, found.wanted)


def test_the_one_that_was_ordered_first_is_at_work_and_the_next_waits():
    given_ = (order("b", 2), order("a", 1))
    assert due(*given_) == ("a", "run")
    assert due(*given_, progress("a", "sending")) == ("a", "run")
    assert due(*given_, progress("a", "done")) == ("b", "run")
    assert due(*given_, progress("a", "done"), progress("b", "refused")) is None


def test_each_recipient_has_its_own():
    found = orders(order("a"), order("b", unit="bank@330106")).due()
    assert {unit: d.job for unit, d in found.items()} == {HOUSING: "a", "bank@330106": "b"}


def test_one_that_is_to_pause_is_told_so_once_and_keeps_its_place():
    given_ = (order("a", 1), order("b", 2), progress("a", "sending"), steer("a", "paused"))
    assert due(*given_) == ("a", "paused")
    assert due(*given_, progress("a", "paused")) is None
    assert due(*given_, progress("a", "paused"), steer("a", "run")) == ("a", "run")


def test_one_that_is_cancelled_does_not_wait_for_its_turn():
    given_ = (order("a", 1), order("b", 2), progress("a", "paused"), steer("a", "paused"))
    assert due(*given_, steer("b", "cancelled")) == ("b", "cancelled")
    assert due(*given_, steer("b", "cancelled"), progress("b", "cancelled")) is None


def test_what_is_closed_stays_closed_whatever_is_said():
    given_ = (order("a"), progress("a", "done"))
    assert due(*given_, steer("a", "run")) is None
    assert due(*given_, order("a", 9), steer("a", "cancelled")) is None


def test_a_leader_that_was_frozen_reopens_nothing():
    """It goes on with an order that its successor has closed meanwhile."""
    given_ = (order("a"), progress("a", "done"), progress("a", "sending"))
    assert due(*given_) is None
    assert orders(*given_).progress["a"].state == "done"


def test_the_same_order_again_changes_nothing():
    found = orders(order("a", 1), order("a", 2, unit="bank@330106"))
    assert found.orders["a"].unit == HOUSING


def test_keys_come_in_parts_and_are_missing_as_a_whole():
    parts = [OrderedKeys("a", n, "person", (bytes([n]) * 16,)) for n in range(3)]
    whole = orders(*parts, order("a", parts=3))
    assert whole.keys_of(order("a", parts=3)) == {
        "person": frozenset(bytes([n]) * 16 for n in range(3))
    }
    assert orders(parts[0], parts[2]).keys_of(order("a", parts=3)) is None
    assert orders(order("a")).keys_of(order("a")) == {}


def test_keys_of_a_closed_order_are_forgotten():
    part = OrderedKeys("a", 0, "person", (bytes(16),))
    found = orders(part, order("a", parts=1), progress("a", "done"), part)
    assert found._keys == {}


JOBS = st.sampled_from("abc")
RECORDS = st.one_of(
    st.builds(order, JOBS, st.integers(0, 3)),
    st.builds(steer, JOBS, st.sampled_from(["run", "paused", "cancelled"])),
    st.builds(
        progress, JOBS,
        st.sampled_from(["waiting", "sending", "paused", "done", "cancelled", "refused"]),
    ),
)  # fmt: skip


@given(st.lists(RECORDS, max_size=30))
def test_one_order_a_recipient_and_never_a_closed_one(records):
    found = orders(*records)
    due = found.due()
    assert set(due) <= {HOUSING}
    for job in due.values():
        state = found.progress.get(job.job)
        assert isinstance(job, DueOrder)
        assert found.is_open(job.job)
        assert state is None or state.state not in CLOSED
    opened = found.open_of(HOUSING)
    if opened and not due:
        # Nothing is at work although something is open: then its first one rests.
        assert found.wanted(opened[0].job) == "paused"
        assert found.progress[opened[0].job].state == "paused"
