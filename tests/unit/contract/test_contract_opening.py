"""When units work: service hours, China's holidays and make-up days, and days of one's own."""

from __future__ import annotations

from datetime import date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Calendar, Contract, Duty
from deptbus.contract.opening import CHINA, Opening, opening_of, working_days

HOUR = 3600.0
OFFICE = Opening((time(8, 30), time(17, 30)), working_days(Calendar()))
ALWAYS = Opening(None)


def at(text: str) -> float:
    """China's time: `2026-10-09 16:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=CHINA).timestamp()


@pytest.mark.parametrize(
    ("day", "works"),
    [
        ("2026-11-25", True),  # a Wednesday
        ("2026-11-28", False),  # a Saturday
        ("2026-10-01", False),  # National Day
        ("2026-10-07", False),  # a Wednesday that is free
        ("2026-10-10", True),  # the Saturday that is worked for it
        ("2026-02-14", True),  # before the Spring Festival
        ("2027-02-08", False),  # the Spring Festival of a year whose order may not be out yet
    ],
)
def test_working_days(day, works):
    assert working_days(Calendar())(date.fromisoformat(day)) is works


def test_own_days_have_the_last_word():
    calendar = Calendar(closed=(date(2026, 11, 25),), open=(date(2026, 11, 28), date(2026, 10, 1)))
    works = working_days(calendar)
    assert not works(date(2026, 11, 25))
    assert works(date(2026, 11, 28))
    assert works(date(2026, 10, 1))


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        ("2026-11-25 08:29", False),
        ("2026-11-25 08:30", True),
        ("2026-11-25 17:29", True),
        ("2026-11-25 17:30", False),
        ("2026-11-28 10:00", False),
        ("2026-10-10 10:00", True),
    ],
)
def test_service_hours(now, is_open):
    assert OFFICE.is_open(at(now)) is is_open
    assert ALWAYS.is_open(at(now))


@pytest.mark.parametrize(
    ("last", "hours", "due"),
    [
        ("2026-11-24 10:00", 24, "2026-11-25 10:00"),
        ("2026-11-27 15:00", 24, "2026-11-30 15:00"),  # over the weekend
        ("2026-11-24 20:00", 24, "2026-11-26 17:30"),  # would be at night: the next service's end
        ("2026-11-24 17:00", 12, "2026-11-25 17:30"),  # would be at five in the morning
        ("2026-11-27 17:00", 8, "2026-11-30 17:30"),  # would be on Saturday
        ("2026-09-30 12:00", 24, "2026-10-08 12:00"),  # over National Day
        ("2026-09-30 12:00", 72, "2026-10-10 12:00"),  # whose Saturday is worked
        ("2026-11-28 12:00", 24, "2026-12-01 17:30"),  # refreshed at a weekend: from Monday on
    ],
)
def test_when_a_promise_is_due(last, hours, due):
    assert OFFICE.due(at(last), hours * HOUR) == at(due)


def test_who_always_works_is_due_by_the_clock():
    assert ALWAYS.due(at("2026-09-30 12:00"), 24 * HOUR) == at("2026-10-01 12:00")
    assert ALWAYS.opens_next(at("2026-09-30 12:00")) is None
    assert ALWAYS.longest_closed_seconds(date(2026, 1, 1)) == 0


@given(st.integers(0, 500 * 24 * 60), st.floats(0.1, 2000, allow_nan=False, allow_infinity=False))
def test_it_is_never_due_before_the_clock_says_so_nor_while_nobody_works(minutes, hours):
    last = at("2026-01-01 00:00") + minutes * 60
    due = OFFICE.due(last, hours * HOUR)
    assert due >= last + hours * HOUR - 1
    assert OFFICE.is_open(due) or OFFICE.is_open(due - 60)


def test_when_it_opens_next():
    assert OFFICE.opens_next(at("2026-11-25 07:00")) == at("2026-11-25 08:30")
    assert OFFICE.opens_next(at("2026-11-25 12:00")) == at("2026-11-26 08:30")
    assert OFFICE.opens_next(at("2026-11-27 18:00")) == at("2026-11-30 08:30")
    assert OFFICE.opens_next(at("2026-10-09 18:00")) == at("2026-10-10 08:30")
    nobody = Opening((time(8), time(9)), lambda _: False)
    assert nobody.opens_next(at("2026-11-25 07:00")) is None
    assert nobody.due(at("2026-11-25 07:00"), HOUR) == at("2026-11-25 08:00")


def test_the_longest_closing_is_that_of_the_spring_festival():
    closed = OFFICE.longest_closed_seconds(date(2026, 1, 1), 365)
    assert closed == at("2026-02-24 08:30") - at("2026-02-14 17:30")


def contract(**unit: str) -> Contract:
    whole = load(bundled())
    first = whole.units[0].model_copy(update=unit)
    return whole.model_copy(update={"units": (first, *whole.units[1:])})


def test_a_unit_of_the_contract():
    opening = opening_of(contract(service_hours="09:00-17:00").units[0], contract())
    assert opening.is_open(at("2026-11-25 09:00"))
    assert not opening.is_open(at("2026-11-25 08:59"))
    assert opening_of(contract().units[0], contract()).is_open(at("2026-11-25 03:00"))


def test_a_contract_that_does_not_use_it_is_what_it_was():
    """Its digest stands on buses, beside its content: another one would be refused there."""
    bare = tuple(unit.model_copy(update={"duty": None}) for unit in contract().units)
    text = contract().model_copy(update={"units": bare, "office": None}).to_json()
    assert "service_hours" not in text
    assert '"calendar"' not in text
    assert '"office":' not in text
    assert '"duty":' not in text
    post = Duty(name="值班室", phone="0571-8765-4321")
    used = contract(service_hours="09:00-17:00", duty=post).model_copy(
        update={"calendar": Calendar(closed=(date(2026, 5, 4),)), "office": post}
    )
    assert used.digest != contract().digest
    assert Contract.from_json(used.to_json()) == used
