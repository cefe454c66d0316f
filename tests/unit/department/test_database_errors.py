"""What a driver says is told apart: of one row, of a lock, of the database; and never quoted."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import pytest

from deptbus.department.connect import postgres_translated, sqlite_translated
from deptbus.errors import DatabaseBusy, DatabaseUnavailable, DeptbusError, RowRefused

SECRET = "330106199001010017"


def told(code: str, **more: str) -> DeptbusError:
    fields: dict[str, Any] = {"C": code, "S": "ERROR", "M": f"no {SECRET}", "D": SECRET, **more}
    with pytest.raises(DeptbusError) as found, postgres_translated("db"):
        raise asyncpg.PostgresError.new(fields)
    assert SECRET not in str(found.value)
    return found.value


@pytest.mark.parametrize(
    "code",
    [
        *("21000", "22001", "22P02", "23505", "23514", "27000", "38001", "44000", "54000"),
        *("P0001", "P0002", "P0004"),
        *("45000", "AB123", "ZZ999", "22X99", "42X99"),  # chosen by the author of a trigger
    ],
)
def test_of_one_row(code: str) -> None:
    assert isinstance(told(code, W="PL/pgSQL function f() line 3 at RAISE"), RowRefused)


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014"])
def test_of_a_lock(code: str) -> None:
    assert isinstance(told(code), DatabaseBusy)


@pytest.mark.parametrize(
    "code",
    [
        *("08006", "08X99", "0A000", "25006", "28P01", "3D000", "42501", "42703", "42P01"),
        *("53100", "53X99", "55000", "57P01", "57P03", "58030", "XX000", "XX001"),
    ],
)
def test_of_the_database(code: str) -> None:
    found = told(code, W="PL/pgSQL function f() line 3 at RAISE")
    assert isinstance(found, DatabaseUnavailable)
    assert not isinstance(found, DatabaseBusy)


def test_an_unknown_code_is_named() -> None:
    assert str(told("45000")) == "db: SQLSTATE 45000 of a trigger"


def test_a_trigger_of_sqlite_is_not_quoted() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id)")
    connection.execute(
        f"CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no {SECRET}'); END"
    )
    with pytest.raises(RowRefused) as found, sqlite_translated("db"):
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert SECRET not in str(found.value)
