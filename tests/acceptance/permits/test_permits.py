"""A permit log goes through the bus by a contract of its own, and every copy is the file again.

Cases live in one office's PostgreSQL and flow down and sideways, steps live in ten groups' SQLite
files and flow up and, by a grant, across lines. What every department holds in the end is compared
with the file, field by field; the bus is not asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from installed import Room, Up, wait_until
from permit_log import REAL_CASES, REAL_STEPS, PermitLog, read_permit_log, synthetic_log
from permit_office import Office

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

CONTRACT = Path(__file__).parent / "contract"
PROJECT = Path(__file__).resolve().parents[3]
ARRIVED_SECONDS = 120.0


def carry(log: PermitLog, room: Room, postgres: PostgresServer, say: Callable[[str], None]) -> None:
    data = room.folder / "data"
    office = Office(log, data, postgres.create_database("permit_register"))
    office.build()
    with Up(room, data, "--contract", CONTRACT):
        began = time.monotonic()
        transactions = office.write_all()
        written = time.monotonic() - began
        wait_until(lambda: not office.differences(), ARRIVED_SECONDS, office.differences, pause=0.5)
        arrived = time.monotonic() - began
    assert office.parked() == []
    assert office.differences() == [], "it stays so when the bus is down"
    changes = len(log.cases) + len(log.steps) + sum(
        row["case:enddate"] != "" for row in log.cases.values()
    )  # fmt: skip
    say(
        f"{log.origin}: {len(log.cases)} cases, {len(log.steps)} steps, {changes} changes in "
        f"{transactions} transactions written in {written:.1f} s, all copies equal after "
        f"{arrived:.1f} s"
    )


def test_every_copy_is_the_file_again(
    room: Room, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    log = read_permit_log(PROJECT)
    if log.is_real:
        assert (len(log.cases), len(log.steps)) == (REAL_CASES, REAL_STEPS)
    assert len({row["org:group"] for row in log.steps}) == 10

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    carry(log, room, postgres, say)


def test_the_synthetic_log_has_the_form_of_the_real_one() -> None:
    made = synthetic_log(cases=200)
    assert len(made.cases) == 200
    assert len({row["concept:instance"] for row in made.steps}) == len(made.steps)
    real = read_permit_log(PROJECT)
    assert set(made.steps[0]) == set(real.steps[0])
    for column in made.steps[0]:
        empty = any(row[column] == "" for row in made.steps)
        assert empty == any(row[column] == "" for row in real.steps), column
