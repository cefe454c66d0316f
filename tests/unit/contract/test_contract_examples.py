"""The examples are right, and the mappings in them fit the tables that stand beside them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from stdnum.cn import ric

from deptbus.contract.advice import advise
from deptbus.contract.department import load_department
from deptbus.contract.department_check import advise_department, check_department
from deptbus.contract.draft import Draft
from deptbus.contract.load import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-units"
UNITS = {"civil_affairs": "civil_affairs@330106", "health": "health@330106"}


def test_the_contract_is_right_and_has_no_idle_part() -> None:
    contract = load(EXAMPLE)
    assert [u.unit for u in contract.units] == list(UNITS.values())
    last_day = min(grant.until for grant in contract.grants)
    assert advise(Draft(contract), last_day) == []


@pytest.mark.parametrize("name", UNITS)
def test_each_mapping_fits_its_table_and_the_contract(name: str) -> None:
    contract = load(EXAMPLE)
    department = load_department(EXAMPLE / "data" / name / "department.yml", {})
    assert department.unit == UNITS[name]
    assert check_department(department, contract) == []
    assert advise_department(department, contract) == []
    system = department.systems["main"]
    assert system.path == EXAMPLE / "data" / name / "own.db"
    database = sqlite3.connect(":memory:")
    database.executescript((EXAMPLE / "data" / name / "existing.sql").read_text(encoding="utf-8"))
    for mapping in (*system.publishes.values(), *system.receives.values()):
        columns = {
            row[0]
            for row in database.execute("SELECT name FROM pragma_table_info(?)", [mapping.table])
        }
        assert set(mapping.columns.values()) <= columns
        for field, codes in mapping.values.items():
            used = {
                str(code)
                for (code,) in database.execute(
                    f'SELECT DISTINCT "{mapping.columns[field]}" FROM "{mapping.table}"'
                )
            }
            assert used <= set(codes)
    database.close()


def test_people_of_the_example_have_valid_numbers_and_the_account_is_mapped_nowhere() -> None:
    database = sqlite3.connect(":memory:")
    text = (EXAMPLE / "data" / "civil_affairs" / "existing.sql").read_text(encoding="utf-8")
    database.executescript(text)
    numbers = [number for (number,) in database.execute("SELECT sfzh FROM gljt")]
    database.close()
    assert len(numbers) >= 4
    # Not `ric.is_valid`: it wants the district to have been there in the year of birth.
    assert all(number[17] == ric.calc_check_digit(number) for number in numbers)
    published = load_department(EXAMPLE / "data" / "civil_affairs" / "department.yml", {})
    assert "yhzh" in text
    assert "yhzh" not in published.systems["main"].publishes["elder_allowance"].columns.values()
