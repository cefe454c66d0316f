"""What recipients parked, as the office lists it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deptbus.change import Incarnation
from deptbus.cli import quarantine_view
from deptbus.cli.quarantine_view import parked_document, print_parked
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.operations.parked import ParkedRows, parked_rows
from deptbus.wire.control import AppliedBeat

ME = Incarnation(1, b"\1" * 8)
HOUSING, CIVIL = "housing@330106", "civil_affairs@330106"


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


def test_the_table(rows: list[ParkedRows], monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(quarantine_view, "Console", lambda: Console(file=text, width=160))
    print_parked([], 5)
    assert text.getvalue() == ""
    print_parked(rows, 2)
    assert "CHECK [x]" in text.getvalue()
    assert "and 1 more" in text.getvalue()
