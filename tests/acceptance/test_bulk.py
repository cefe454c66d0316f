"""Much at once: 100,000 rows changed by one statement; a table whose keys move onto each other."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from installed import Room, Up, is_ci, sql, wait_until
from small_world import District, accounts, write_contract

from deptbus.cluster.postgres import PostgresServer

pytestmark = pytest.mark.service

BULK_ROWS = 100_000 if is_ci() else 20_000
ARRIVES_SECONDS = 250.0


def await_carried(district: District) -> None:
    """Waits until all copies are the registry's."""

    def is_carried() -> bool:
        return (
            district.sums_agree()
            and district.is_carried()
            and (not district.archive_url or district.archived() == district.accounts(4))
        )

    wait_until(is_carried, ARRIVES_SECONDS, district.sums, pause=0.5)


@contextmanager
def bus_of(room: Room, district: District) -> Iterator[None]:
    """A bus with 100 accounts; at its end nothing is parked at the registry."""
    district.build(accounts(100))
    with Up(room, district.data, "--contract", write_contract(room.folder / "contract")):
        wait_until(district.is_carried, ARRIVES_SECONDS)
        if district.archive_url:
            wait_until(district.archived, ARRIVES_SECONDS)
        yield
        said = room.run("department", "status", "--config", district.config("registry@330106"))
        assert said.code == 0, str(said)


def test_keys_shifted_onto_one_another(room: Room, postgres: PostgresServer) -> None:
    """Each number becomes that of the row before it: every record but one has a new content, the
    last is gone, and 0 is new. Then back again by way of the negative numbers, and round."""
    many = 5000
    district = District(room.folder / "data", postgres.create_database("bulk_archive"))
    with bus_of(room, district):
        _type_in(district, 101, many)
        await_carried(district)
        # One statement; SQLite checks the index row by row, so the order of the rows decides.
        sql(district.source, "UPDATE zh SET bh = bh - 1")
        assert len(district.accounts()) == many
        await_carried(district)
        # In one transaction every number is used twice and none is free at its end but the first.
        _in_one(district, "UPDATE zh SET bh = -bh", "UPDATE zh SET bh = 1 - bh")
        await_carried(district)
        _in_one(
            district,
            "UPDATE zh SET bh = -bh",
            f"UPDATE zh SET bh = CASE WHEN bh = -{many} THEN 1 ELSE 1 - bh END",
        )
        assert len(district.accounts()) == many
        await_carried(district)


@pytest.mark.timeout(600)
def test_bulk_update(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    """100,000 rows in CI, fewer elsewhere, by one statement, in SQLite on both sides."""
    district = District(room.folder / "data")
    with bus_of(room, district):
        began = time.monotonic()
        _type_in(district, 101, BULK_ROWS)
        await_carried(district)
        loaded = time.monotonic() - began
        began = time.monotonic()
        sql(district.source, "UPDATE zh SET je = je + 1, hm = hm || '改'")
        typed = time.monotonic() - began
        await_carried(district)
        changed = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n{BULK_ROWS} rows to two departments: new ones in {loaded:.1f} s, changed ones in "
            f"{changed:.1f} s, of which the clerk's own statement {typed:.1f} s"
        )


def _type_in(district: District, start: int, end: int) -> None:
    rows = accounts(end + 1 - start, start)
    _in_one(district, *[("INSERT INTO zh VALUES (?, ?, ?, ?, ?, ?)", row) for row in rows])


def _in_one(district: District, *statements: object) -> None:
    with closing(sqlite3.connect(district.source, timeout=30)) as connection, connection:
        for statement in statements:
            if isinstance(statement, tuple):
                connection.execute(*statement)
            else:
                connection.execute(statement)
