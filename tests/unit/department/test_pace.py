"""Batches follow the length of the transactions that they make."""

from __future__ import annotations

from deptbus.department.store import Pace


def pace() -> Pace:
    return Pace(least=50, most=500, start=200, seconds=0.010)


def test_long_transactions_halve_the_batch_down_to_the_least() -> None:
    found = pace()
    limits = []
    for _ in range(4):
        found.took(0.020, found.limit)
        limits.append(found.limit)
    assert limits == [100, 50, 50, 50]


def test_a_short_batch_that_took_long_counts_by_its_rows() -> None:
    found = pace()
    found.took(0.020, 120)
    assert found.limit == 60


def test_short_transactions_of_full_batches_let_it_grow_to_the_most() -> None:
    found = pace()
    for _ in range(20):
        found.took(0.001, found.limit)
    assert found.limit == 500


def test_single_rows_say_nothing_about_large_batches() -> None:
    found = pace()
    for _ in range(100):
        found.took(0.001, 1)
    assert found.limit == 200
