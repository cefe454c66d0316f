"""When copies are proved by themselves: rules 1 to 3 of `proof_rounds`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Proofs
from deptbus.operations.proof_rounds import due_subjects, round_begun
from deptbus.operations.proofs import Subject
from deptbus.routing import CHINA

CONTRACT = load(bundled()).model_copy(update={"proofs": Proofs(at="23:30")})
A, B, C = (Subject(*words, "copy") for words in (("a@1", "d"), ("a@1", "e"), ("b@1", "d")))
D = Subject("c@1", "d", "source")


def china(day: int, clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-{day:02}T{clock}+08:00")


def us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("now", "began"),
    [
        (china(5, "23:29:59"), None),
        (china(5, "23:30:00"), china(5, "23:30")),
        (china(6, "00:10:00"), china(5, "23:30")),
        (china(6, "05:29:59"), china(5, "23:30")),
        (china(6, "05:30:00"), None),
        (china(6, "12:00:00"), None),
    ],
)
def test_a_round_lasts_six_hours_from_the_hour_of_the_contract(now, began):
    assert round_begun("23:30", now) == began
    assert round_begun("23:30", now.astimezone(UTC)) == began


def test_due_is_what_was_not_proved_in_this_round_the_oldest_first():
    now = china(6, "01:00")
    proved = {
        A: us(china(5, "23:31")),
        B: us(china(5, "23:29")),
        C: us(china(4, "23:40")),
        D: None,
    }
    assert due_subjects(CONTRACT, proved, now) == [D, C, B]


def test_nothing_is_due_between_rounds_or_without_an_hour():
    assert due_subjects(CONTRACT, {A: None}, china(6, "12:00")) == []
    silent = CONTRACT.model_copy(update={"proofs": None})
    assert due_subjects(silent, {A: None}, china(6, "01:00")) == []


def test_each_is_due_once_a_day_whenever_it_is_looked():
    """A month, a look every ten minutes: each proof that was due is made, none twice a round."""
    now, made = china(1, "12:00"), []
    proved: dict[Subject, int | None] = {A: None, B: None}
    for _ in range(30 * 144):
        now += timedelta(minutes=10)
        for subject in due_subjects(CONTRACT, proved, now)[:1]:
            proved[subject] = us(now)
            made.append((subject, now.astimezone(CHINA) - timedelta(hours=23, minutes=30)))
    days = [(subject, at.date()) for subject, at in made]
    assert len(days) == len(set(days)) == 60
