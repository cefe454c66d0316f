"""A unit that switches off outside of its service hours: closed, not stopped; and seen to be so."""

from __future__ import annotations

from datetime import datetime

import pytest

from benchmarks import lag_poll
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract
from deptbus.contract.opening import CHINA
from deptbus.operations.lag_report import exit_code, lag_document
from deptbus.operations.lag_watch import LagWatch
from deptbus.operations.signs import Life
from deptbus.operations.stages import Stage
from deptbus.operations.status import status_document
from deptbus.operations.verdicts import Reader, Verdict

HOUSING = "housing@330106"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=CHINA).timestamp()


def contract() -> Contract:
    whole = load(bundled())
    units = tuple(
        unit.model_copy(update={"service_hours": "08:30-17:30"}) if unit.unit == HOUSING else unit
        for unit in whole.units
    )
    return whole.model_copy(update={"units": units})


class Silent(lag_poll.Alive):
    """Nobody has given a sign since six in the evening."""

    def recipient(self, system: tuple[str, str], now: float) -> Life:
        return Life(Reader.GONE, at("2026-11-25 18:00"))

    source = recipient


@pytest.fixture
def watch() -> LagWatch:
    made = lag_poll.watch(contract(), lag_poll.world(contract()))
    made._signs = Silent()
    return made


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-25 20:00", "2026-11-26 08:30"),
        ("2026-11-27 20:00", "2026-11-30 08:30"),  # over the weekend
        ("2026-11-26 08:45", "2026-11-26 09:15"),  # it has just opened: nobody is that quick
        ("2026-11-26 09:05", None),
        ("2026-11-26 12:00", None),
    ],
)
def test_until_when_it_is_closed(watch, now, until):
    unit = contract().unit_by_name[HOUSING]
    gone = Life(Reader.GONE, at("2026-11-25 18:00"))
    found = watch._closed_until(unit, gone, at(now))
    assert found == (None if until is None else at(until))
    alive = Life(Reader.ALIVE, at(now))
    assert watch._closed_until(unit, alive, at(now)) is None  # who works late is judged as ever
    police = contract().unit_by_name["public_security@330106"]
    assert watch._closed_until(police, gone, at(now)) is None


async def test_what_is_said_of_it_at_night_and_in_the_morning(watch):
    watch._now = watch._observer._now = lambda: at("2026-11-25 20:00")
    night = await watch.look()
    stages = {s.unit: s for s in night.stages if s.stage is Stage.APPLY}
    assert stages[HOUSING].verdict is Verdict.OK
    assert stages[HOUSING].closed_until == at("2026-11-26 08:30")
    assert stages["civil_affairs@330106"].verdict is Verdict.STOPPED
    document = status_document(night)
    assert {"unit": HOUSING, "until": "2026-11-26T00:30:00Z"} in document["closed"]
    assert HOUSING not in {row["unit"] for row in document["red"]}
    (row,) = lag_document(night, unit=HOUSING, only_bad=False)["units"]
    assert (row["verdict"], row["closed_until"]) == ("OK", "2026-11-26T00:30:00Z")
    assert exit_code([stages[HOUSING].verdict]) == 0
    watch._now = watch._observer._now = lambda: at("2026-11-26 10:00")
    morning = await watch.look()
    assert {s.verdict for s in morning.stages if s.unit == HOUSING and s.stage is Stage.APPLY} == {
        Verdict.STOPPED
    }
