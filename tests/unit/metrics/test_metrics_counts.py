"""What a process counts: right in every bucket, forgotten when nobody tells it, nearly free."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deptbus.metrics.catalogue import BY_NAME
from deptbus.metrics.counts import TOLD_SECONDS, Counts, Histogram

END_TO_END = "deptbus_end_to_end_seconds"
BOUNDS = BY_NAME[END_TO_END].buckets
NOW_US = 1_800_000_000_000_000
SYSTEM = ("housing@330106", "main")


@given(st.lists(st.integers(-5_000_000, 2_000_000_000_000), max_size=60))
def test_ages_lie_in_the_buckets_in_which_they_would_lie_one_by_one(ages_us: list[int]) -> None:
    at_once, one_by_one = Histogram(BOUNDS), Histogram(BOUNDS)
    at_once.observe_ages([NOW_US - age for age in ages_us], NOW_US)
    for age in ages_us:
        one_by_one.observe(max(0, age) / 1e6)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)
    assert sum(at_once.counts) == len(ages_us)


def test_an_age_on_a_bound_lies_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe_ages([NOW_US - 1_000_000] * 20, NOW_US)
    assert histogram.counts == [20, 0, 0]


def test_counts_add_up_by_labels() -> None:
    counts = Counts()
    counts.add("deptbus_delivered_total", ("upward",), 2)
    counts.add("deptbus_delivered_total", ("upward",), 3)
    counts.add("deptbus_delivered_total", ("return",), 1)
    assert dict(counts.sums()) == {
        ("deptbus_delivered_total", ("upward",)): 5,
        ("deptbus_delivered_total", ("return",)): 1,
    }


def test_a_gauge_that_nobody_tells_any_more_is_not_known() -> None:
    now = [0.0]
    counts = Counts(clock=lambda: now[0])
    counts.tell("deptbus_outbox_rows", SYSTEM, 7)
    counts.tell("deptbus_last_apply_timestamp_seconds", SYSTEM, 5.0, for_good=True)
    assert len(dict(counts.gauges())) == 2
    now[0] = TOLD_SECONDS + 1
    assert [name for (name, _), _ in counts.gauges()] == ["deptbus_last_apply_timestamp_seconds"]
    counts.tell("deptbus_outbox_rows", SYSTEM, 7)
    counts.tell("deptbus_outbox_rows", SYSTEM, None)
    assert [name for (name, _), _ in counts.gauges()] == ["deptbus_last_apply_timestamp_seconds"]


def test_of_states_one_holds() -> None:
    counts = Counts()
    counts.tell_state("deptbus_system_state", SYSTEM, "running")
    counts.tell_state("deptbus_system_state", ("other@330106", "main"), "running")
    counts.tell_state("deptbus_system_state", SYSTEM, "stopped")
    assert sorted(labels for (_, labels), _ in counts.gauges()) == [
        (*SYSTEM, "stopped"),
        ("other@330106", "main", "running"),
    ]


def test_a_batch_is_counted_for_less_than_a_third_of_what_a_row_may_cost() -> None:
    """0.3 us a row would be felt in a bulk; here a batch of 2,000 rows of one transaction each,
    with all that is counted of a batch. CPU of this thread, the least of some rounds."""
    rng = random.Random(1)
    least = float("inf")
    for _ in range(7):
        counts = Counts()
        times = sorted(NOW_US - rng.randrange(50_000_000) for _ in range(2000))
        began = time.thread_time_ns()
        counts.histogram(END_TO_END, ("resident", "horizontal")).observe_ages(times, NOW_US)
        counts.histogram("deptbus_apply_seconds", SYSTEM).observe(0.02)
        counts.add("deptbus_deliveries_total", (*SYSTEM, "resident", "horizontal", "applied"), 2000)
        counts.tell("deptbus_last_apply_timestamp_seconds", SYSTEM, NOW_US / 1e6, for_good=True)
        least = min(least, (time.thread_time_ns() - began) / 2000 / 1000)
    assert least < 0.1, f"{least:.3f} us a row"
