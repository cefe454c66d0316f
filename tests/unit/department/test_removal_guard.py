"""Which removals are too many at once to be meant: the rules of `removal_guard`, one by one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_world import PLACES, PUBLICATION
from source_world import Desk as Table

from deptbus.contract.department import HoldRemovals
from deptbus.department import removal_guard as guard
from deptbus.department.capture import HeldRemoval, OutboxRow
from deptbus.department.judge import find_keys

RULE = HoldRemovals(percent=10, at_least=5, minutes=10)
PUBLICATIONS = {"person": PUBLICATION}
NOW = 1_000
HERE, THERE, OUTSIDE = PLACES[0], PLACES[1], "330102001001"


@pytest.mark.parametrize(
    ("counts", "size", "held"),
    [
        ({1: 4}, 10, set()),  # fewer than five, though 40 %
        ({1: 5}, 10, {1}),
        ({1: 5}, 50, set()),  # no more than a tenth
        ({1: 6}, 50, {1}),
        ({1: 3, 10: 3}, 50, {1, 10}),  # within ten minutes
        ({1: 3, 11: 3}, 50, set()),  # within eleven
        ({1: 5, 9: 5, 12: 5}, 90, {1, 9, 12}),  # two stretches that overlap
        (dict.fromkeys(range(0, 1440, 3), 1), 50, set()),  # over a day
        ({}, 0, set()),
    ],
)
def test_a_stretch_of_time_with_too_many_removals(
    counts: dict[int, int], size: int, held: set[int]
) -> None:
    assert guard.crowded(counts, RULE, size) == held


@given(
    st.dictionaries(st.integers(0, 60), st.integers(0, 9), max_size=40),
    st.integers(0, 300),
    st.integers(1, 30),
)
def test_it_is_what_counting_every_stretch_says(
    counts: dict[int, int], size: int, minutes: int
) -> None:
    rule = RULE.model_copy(update={"minutes": minutes})
    plainly: set[int] = set()
    most = 0
    for first in range(-minutes, 61):
        within = {m: n for m, n in counts.items() if first <= m < first + minutes and n}
        total = sum(within.values())
        most = max(most, total)
        if total >= rule.at_least and total > size * rule.percent / 100:
            plainly |= within.keys()
    assert guard.crowded(counts, rule, size) == plainly
    assert guard.busiest(counts, rule) == most


def minute_of(row: OutboxRow, minute: int = NOW) -> OutboxRow:
    return row._replace(source_time_us=minute * guard.MINUTE_US)


def deleted(table: Table, key: str, place: str | None = HERE, name: str | None = "李") -> OutboxRow:
    there = table.row("u", key, **({"area": place} | ({"姓名": name} if name else {})))
    row = table.row("d", key, was=place)
    return minute_of(row._replace(columns=there.columns, cells=there.cells) if name else row)


def sift(
    *rows: OutboxRow,
    crowded: bool = True,
    held: dict[guard.Pair, HeldRemoval] | None = None,
    shared: set[guard.Pair] | None = None,
    last: dict[guard.Pair, str] | None = None,
) -> tuple[guard.Sifted, dict[guard.Pair, HeldRemoval]]:
    found = find_keys(PUBLICATIONS, rows)
    removals = [
        removal
        for at, (row, one) in enumerate(zip(rows, found, strict=True))
        if (removal := guard.removal_of(at, row, one, PUBLICATION, last or {})) is not None
    ]
    removals, left_out = guard.netted(rows, found, removals, PUBLICATIONS)
    now = dict(held or {})
    outlook = guard.Outlook(
        PUBLICATIONS,
        {"person": {NOW}} if crowded else {},
        now,
        {"person": 3},
        shared or set(),
    )
    return guard.sift(rows, found, removals, left_out, outlook), now


def key_of(key: str) -> guard.Pair:
    found = PUBLICATION.key_of_raw((key,)).key
    assert found is not None
    return "person", found


def test_removals_are_deletes_and_moves_away_and_nothing_else() -> None:
    table = Table()
    rows = [
        deleted(table, "1"),
        minute_of(table.row("u", "2", was=HERE, area=THERE)),
        minute_of(table.row("u", "3", was=HERE, area=OUTSIDE)),
        minute_of(table.row("u", "4", was="no place", area=HERE)),  # was nowhere
        minute_of(table.row("u", "5", was=HERE, area="no place")),  # will be parked
        minute_of(table.row("u", "6", was=HERE, area=HERE)),
        minute_of(table.row("u", "7")),
        minute_of(table.row("u", "8", was=HERE, area=THERE)._replace(job="release/1")),
    ]
    sifted, held = sift(*rows)
    assert set(held) == {key_of("1"), key_of("2"), key_of("3")}
    assert [row.raw for row in sifted.rows] == [("4",), ("5",), ("6",), ("7",), ("8",)]
    assert sifted.drop == [row.position for row in rows[:3]]
    assert sifted.holding.removals == {("person", NOW): 3}
    assert sifted.remember == [(*key_of(k), HERE) for k in "123"]


def test_a_move_that_a_resync_found_is_a_removal_from_where_the_bus_has_it() -> None:
    table = Table()
    rows = [
        minute_of(table.row("u", key, area=place)._replace(job=guard.MOVED))
        for key, place in {"1": THERE, "2": OUTSIDE, "3": HERE, "4": "no place", "5": THERE}.items()
    ]
    sifted, held = sift(*rows, last={key_of(key): HERE for key in "1234"})
    assert {pair: one.place for pair, one in held.items()} == {key_of("1"): HERE, key_of("2"): HERE}
    assert [row.raw for row in sifted.rows] == [("3",), ("4",), ("5",)]
    assert sifted.holding.removals == {("person", NOW): 2}


def test_few_removals_are_published_and_counted() -> None:
    table = Table()
    row = deleted(table, "1")
    sifted, held = sift(row, crowded=False)
    assert sifted.rows == [row]
    assert not held
    assert not sifted.drop
    assert sifted.holding.removals == {("person", NOW): 1}
    assert not sifted.holding.held


def test_what_comes_of_a_held_key_waits_while_it_is_a_removal_still() -> None:
    table = Table()
    pair = key_of("1")
    held = {pair: HeldRemoval(3, *pair, '["1"]', HERE, "")}
    rows = [
        minute_of(table.row("u", "1", area=THERE, 姓名="王")),
        deleted(table, "1", THERE),
        minute_of(table.row("u", "1", area=OUTSIDE)),
    ]
    sifted, now = sift(*rows, held=held)
    assert sifted.drop == [row.position for row in rows]
    assert now == held
    assert not sifted.holding.held
    assert not sifted.holding.given_back
    assert not sifted.holding.removals  # it was counted when it was held


def test_a_row_that_is_back_ends_its_hold_and_is_sent_only_where_it_differs() -> None:
    table = Table()
    sifted, held = sift(deleted(table, "1"), deleted(table, "2"), deleted(table, "3", name=None))
    back = [minute_of(table.row("u", k, 姓名="李" if k == "1" else "王")) for k in "123"]
    sifted, held = sift(*back, held=held)
    assert not held
    assert sifted.holding.given_back == [key_of(k) for k in "123"]
    assert [row.raw for row in sifted.rows] == [("2",), ("3",)]
    assert sifted.drop == [back[0].position]


def test_a_row_that_is_back_because_somebody_asked_is_sent_whatever_it_is() -> None:
    table = Table()
    _, held = sift(deleted(table, "1"))
    row = minute_of(table.row("u", "1")._replace(cause="resend", job="x"))
    sifted, held = sift(row, held=held)
    assert sifted.rows == [row]
    assert not held


def test_a_place_where_it_never_was_published_is_not_named() -> None:
    table = Table()
    _, held = sift(minute_of(table.row("u", "1", was=HERE, area=THERE)))
    (row,) = sift(minute_of(table.row("u", "1", was=THERE, area=HERE)), held=held)[0].rows
    assert row.was is None


def test_a_row_that_is_back_within_the_batch_is_no_removal() -> None:
    table = Table()
    gone, same = deleted(table, "1"), minute_of(table.row("u", "1"))
    also, other = deleted(table, "2"), minute_of(table.row("u", "2", 姓名="王"))
    away, moved = deleted(table, "3"), minute_of(table.row("u", "3", area=THERE))
    sifted, held = sift(gone, same, also, other, away, moved, crowded=False)
    assert sifted.rows == [other, away, moved]
    assert not held
    assert sifted.drop == [gone.position, same.position, also.position]
    assert sifted.holding.removals == {("person", NOW): 1}
    sifted, held = sift(away, moved)
    assert sifted.drop == [away.position, moved.position]
    assert list(held) == [key_of("3")]


def test_what_was_published_in_between_is_not_taken_for_the_row_that_is_back() -> None:
    table = Table()
    rows = [
        deleted(table, "1", name="李"),
        minute_of(table.row("u", "1", 姓名="王")),
        deleted(table, "1", name="王"),
        minute_of(table.row("u", "1", 姓名="李")),
    ]
    sifted, _ = sift(*rows, crowded=False)
    # The first delete says nothing of how the row ends; the last state goes out.
    assert sifted.rows[-1] == rows[-1]


def test_a_key_that_several_rows_bear_is_not_held() -> None:
    table = Table()
    row = deleted(table, "1")
    sifted, held = sift(row, shared={key_of("1")})
    assert sifted.rows == [row]
    assert not held


def test_another_row_of_the_key_does_not_end_its_hold() -> None:
    table = Table()
    _, held = sift(deleted(table, "1"))
    row = minute_of(table.row("u", "1 "))
    sifted, now = sift(row, held=held, shared={key_of("1")})
    assert sifted.rows == [row]
    assert now == held


def test_a_removal_that_was_held_and_given_back_in_one_batch_leaves_nothing() -> None:
    table = Table()
    away = minute_of(table.row("u", "1", was=HERE, area=THERE))
    back = minute_of(table.row("u", "1", was=THERE, area=HERE))
    sifted, held = sift(away, back)
    assert not held
    assert not sifted.holding.held
    assert Counter(sifted.drop) == Counter([away.position])
    assert sifted.rows == [back._replace(was=None)]
