"""What recipients parked, as the office lists it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deptbus.change import Incarnation
from deptbus.cli import quarantine_view
from deptbus.cli.quarantine_view import (
    outcome_line,
    parked_document,
    print_parked,
    record_document,
)
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.operations.parked import ParkedRecord, ParkedRows, parked_records, parked_rows
from deptbus.operations.parked_desk import Ask, Outcome, asks_of
from deptbus.wire.control import AppliedBeat, ParkedList, ParkedRetried

ME = Incarnation(1, b"\1" * 8)
HOUSING, CIVIL = "housing@330106", "civil_affairs@330106"
POLICE = "public_security@330106"


def beat(unit: str, *parked: tuple[str, str, int]) -> AppliedBeat:
    datasets, reasons, rows = zip(*parked, strict=True) if parked else ((), (), ())
    return AppliedBeat(unit, "main", ME, None, 1_800_000_000_000_000, sum(rows), datasets,
                       reasons, rows)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[ParkedRows]:
    beats = [
        beat(CIVIL),
        beat(HOUSING, ("resident", "CHECK [x]", 2)),
        beat(CIVIL, ("resident", "CHECK [x]", 5), ("flat", "y", 1)),
    ]
    return parked_rows(load(bundled()), beats)


def test_the_most_rows_first_with_their_owner(rows: list[ParkedRows]) -> None:
    assert [(r.unit, r.dataset, r.rows) for r in rows] == [
        (CIVIL, "resident", 5),
        (HOUSING, "resident", 2),
        (CIVIL, "flat", 1),
    ]
    assert parked_document(rows[0])["owner"] == "西湖区民政局办公室"
    assert parked_document(rows[0])["told_at"] == "2027-01-15T08:00:00+00:00"


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (("", "", ""), 3),
        ((CIVIL, "", ""), 2),
        ((CIVIL, "flat", ""), 1),
        (("", "", "CHECK [x]"), 2),
        ((HOUSING, "flat", ""), 0),
    ],
)
def test_they_are_chosen_as_notes_are(
    rows: list[ParkedRows], chosen: tuple[str, str, str], count: int
) -> None:
    assert sum(row.is_of(*chosen) for row in rows) == count


def parked_list(unit: str, system: str, *since_us: int) -> ParkedList:
    count = len(since_us)
    return ParkedList(
        unit, system, ME, count + 7, ("resident",) * count, (POLICE,) * count,
        tuple(us.to_bytes(16, "big") for us in since_us), (4,) * count, ("CHECK [x]",) * count,
        since_us, (3,) * count, 1_800_000_000_000_000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def records() -> list[ParkedRecord]:
    lists = [
        parked_list(HOUSING, "main", 5, 9),
        parked_list(CIVIL, "annex", 7),
        parked_list("gone@330106", "main", 1),
    ]
    return parked_records(load(bundled()), lists)


def test_rows_are_listed_with_who_waits_the_longest_first(records: list[ParkedRecord]) -> None:
    assert [(r.unit, r.system, r.parked_at_us) for r in records] == [
        (HOUSING, "main", 5), (CIVIL, "annex", 7), (HOUSING, "main", 9),
    ]  # fmt: skip
    document = record_document(records[1])
    assert (document["key"], document["owner"]) == (f"{7:032x}", "西湖区民政局办公室")
    assert (document["reason"], document["attempts"]) == ("CHECK [x]", 3)
    assert [r.parked_at_us for r in records if r.is_of("", "resident", "", bytes(15) + b"\7")] == [
        7
    ]
    assert not any(r.is_of("", "", "another", None) for r in records)


def test_each_unit_is_asked_once_and_each_of_its_systems_awaited() -> None:
    systems = [(CIVIL, "main"), (HOUSING, "b"), (HOUSING, "a"), (HOUSING, "b")]
    first, second = asks_of(systems, "resident", refused_for="CHECK [x]")
    assert first == Ask(CIVIL, frozenset({"main"}), "resident", None, "CHECK [x]")
    assert (second.unit, second.systems) == (HOUSING, {"a", "b"})
    assert second.subject == f"{HOUSING} resident CHECK [x]"


def test_what_came_of_it_is_told() -> None:
    ask = Ask(HOUSING, frozenset({"main"}))

    def line(rows: int, written: int, still: int, *, is_done: bool = True) -> str:
        told = ParkedRetried(HOUSING, "main", ME, "r", rows, written, still, is_done, 1)
        return outcome_line(Outcome(ask, "main", told))

    assert line(9, 6, 3) == f"{HOUSING}, main: 9 rows tried, 6 written, 3 refused"
    assert line(9, 5, 3).endswith(", 1 overtaken by newer ones")
    assert line(9, 0, 0, is_done=False).endswith("9 rows are being tried")
    assert "has not answered" in outcome_line(Outcome(ask, "main", None))


def test_the_table(
    rows: list[ParkedRows], records: list[ParkedRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(quarantine_view, "Console", lambda: Console(file=text, width=160))
    print_parked([], [], 5)
    assert text.getvalue() == ""
    print_parked(rows, records, 2)
    assert "CHECK [x]" in text.getvalue()
    assert f"{5:032x}" in text.getvalue()
    assert text.getvalue().count("and 1 more") == 2
