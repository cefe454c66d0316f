"""Saved entries: what is an entry, whose, and on which day."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from deptbus.change import Cause, Incarnation
from deptbus.department.applied_days import AppliedDays, Counts, counts_of
from deptbus.department.fold import Outcome, Tally
from deptbus.department.store import day_of
from deptbus.operations.picture import SavedRow
from deptbus.operations.saved import is_day, saved_entries
from deptbus.wire.control import AppliedDay

HOUSING = "housing@330106"
ME = Incarnation(1, b"\1" * 8)


def _told(day: str, system: str = "main", **datasets: tuple[int, int, int]) -> AppliedDay:
    entries, live, others = zip(*datasets.values(), strict=True)
    return AppliedDay(HOUSING, system, ME, day, tuple(datasets), entries, live, others, 0)


def _line(outcome: Outcome, cause: Cause, dataset: str = "resident") -> Tally:
    return Tally(dataset, cause.value, "horizontal", outcome.value)


def test_of_all_that_becomes_of_deliveries_live_reentries_alone_are_entries() -> None:
    lines = Counter({_line(o, c): 1 for o in Outcome for c in Cause if o is not Outcome.REENTRY})
    lines[_line(Outcome.REENTRY, Cause.LIVE)] = 7
    assert counts_of(lines) == {"resident": (7, 1, 4)}


def test_directions_of_a_dataset_are_added_up() -> None:
    lines = {
        Tally("notice", "live", direction, outcome): 2
        for direction in ("return", "downward")
        for outcome in (Outcome.APPLIED, Outcome.REENTRY)
    }
    assert counts_of(lines) == {"notice": (4, 4, 0)}


def test_rows_are_by_day_unit_and_dataset() -> None:
    saved = saved_entries(
        [
            _told("2026-11-25", resident=(5, 6, 100), household=(0, 2, 0)),
            _told("2026-11-25", "annex", resident=(1, 1, 0)),
            _told("2026-11-24", resident=(9, 9, 0)),
        ]
    )
    assert saved.rows == (
        SavedRow(HOUSING, "resident", "2026-11-24", 9, 9, 0),
        SavedRow(HOUSING, "household", "2026-11-25", 0, 2, 0),
        SavedRow(HOUSING, "resident", "2026-11-25", 6, 7, 100),
    )
    assert saved.since == datetime(2026, 11, 23, 16, tzinfo=UTC).timestamp()  # midnight in China
    assert saved.is_whole
    assert saved_entries([], is_whole=False).rows == ()


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 11, 25, 15, 59, 59, 999_999, tzinfo=UTC), "2026-11-25"),
        (datetime(2026, 11, 25, 16, tzinfo=UTC), "2026-11-26"),
        (datetime(2026, 12, 31, 16, tzinfo=UTC), "2027-01-01"),
    ],
)
def test_a_day_begins_at_midnight_in_china(at: datetime, day: str) -> None:
    assert day_of(int(at.timestamp() * 1e6)) == day
    assert is_day(day)


@pytest.mark.parametrize("text", ["", "2026-11-5", "2026-02-30", "330106199001011234", "20261125"])
def test_a_day_is_spelled_one_way(text: str) -> None:
    assert not is_day(text)


class _Day:
    """A database that counts, as AppliedDays is told of it."""

    def __init__(self) -> None:
        self.lines: dict[str, Counter[Tally]] = {}

    def apply(self, day: str, count: int) -> None:
        lines = self.lines.setdefault(day, Counter())
        lines[_line(Outcome.APPLIED, Cause.LIVE)] += count
        lines[_line(Outcome.REENTRY, Cause.LIVE)] += count

    def since(self, day: str) -> dict[str, Counter[Tally]]:
        return {d: Counter(lines) for d, lines in self.lines.items() if d >= day}


NOW_US = 1_795_600_000_000_000  # 2026-11-25


def _entries(counts: dict[str, Counts]) -> dict[str, int]:
    return {day: c["resident"][0] for day, c in counts.items()}


def test_a_day_is_told_when_it_has_grown_and_not_before() -> None:
    database, days = _Day(), AppliedDays()
    database.apply("2026-11-25", 3)
    days.take(database.since(days.since(NOW_US)))
    assert _entries(days.untold()) == {"2026-11-25": 3}
    days.tell(days.untold())
    assert days.untold() == {}
    days.take(database.since(days.since(NOW_US)))
    assert days.untold() == {}
    database.apply("2026-11-25", 1)
    database.apply("2026-11-26", 2)
    days.take(database.since(days.since(NOW_US)))
    assert _entries(days.untold()) == {"2026-11-25": 4, "2026-11-26": 2}


def test_what_could_not_be_told_is_told_later() -> None:
    database, days = _Day(), AppliedDays()
    database.apply("2026-11-24", 1)
    days.take(database.since(days.since(NOW_US)))
    lost = days.untold()
    assert _entries(lost) == {"2026-11-24": 1}
    database.apply("2026-11-25", 1)
    database.apply("2026-11-26", 1)
    days.take(database.since(days.since(NOW_US)))
    assert _entries(days.untold()) == {"2026-11-24": 1, "2026-11-25": 1, "2026-11-26": 1}


def test_an_adapter_that_starts_tells_all_days_again_and_forgets_old_ones() -> None:
    database, days = _Day(), AppliedDays()
    for number in range(1, 25):
        database.apply(f"2026-11-{number:02}", number)
    database.apply("2025-10-01", 7)  # more than four hundred days ago
    days.take(database.since(days.since(NOW_US)))
    told = days.untold()
    assert _entries(told) == {f"2026-11-{n:02}": n for n in range(1, 25)}
    days.tell(told)
    assert days.since(NOW_US) == "2026-11-24"
    assert len(days._known) == 2
