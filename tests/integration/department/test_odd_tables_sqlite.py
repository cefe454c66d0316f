"""Odd tables in SQLite: each is captured to the last row, or refused in one line."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from capture_suite import CAP, fold
from odd_tables import COMMON, SQLITE, Odd

from deptbus.department import fence
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import comma, quoted
from deptbus.department.remove import remove_all
from deptbus.errors import SourceRefused

CASES = [*COMMON, *SQLITE]


async def opened(path: Path) -> SqliteCapture:
    return SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))


def program(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=10)


def table_of(c: sqlite3.Connection, odd: Odd) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    layout = odd.layout
    width = len(layout.keys)
    rows = c.execute(
        f"SELECT {comma(map(quoted, (*layout.keys, *layout.columns)))} FROM {quoted(layout.table)}"
    )
    texts = [tuple(None if v is None else str(v) for v in row) for row in rows]
    return {tuple(map(str, row[:width])): row[width:] for row in texts}


def catalogue(c: sqlite3.Connection) -> list[tuple[str, ...]]:
    found = c.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2, 3")
    return [tuple(map(str, row)) for row in found if row[1] != "sqlite_sequence"]


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
@pytest.mark.parametrize("odd", CASES, ids=[odd.name for odd in CASES])
async def test_each_odd_table_has_its_stated_outcome(
    tmp_path: Path, odd: Odd, encoding: str
) -> None:
    path = tmp_path / "own.db"
    own = program(path)
    own.execute(f"PRAGMA encoding = '{encoding}'")
    for statement in odd.make:
        own.execute(statement)
    before = catalogue(own)
    capture = await opened(path)
    try:
        if odd.refused:
            with pytest.raises(SourceRefused, match=odd.refused):
                await capture.install([odd.layout], CAP)
            assert catalogue(own) == before
            return
        await capture.install([odd.layout], CAP)
        assert await capture.broken() == []
        token = (await fence.take_over(capture.database, 0, unit="u@33", system="main")).token
        moved: dict[str, str] = {}
        for statements in odd.writes:
            own.execute("BEGIN IMMEDIATE")
            for statement in statements:
                own.execute(statement)
            own.execute("COMMIT")
            await capture.look_again(token, CAP, ())
            rows = await capture.read(CAP)
            assert fold(rows) == table_of(own, odd), statements
            moved = {str(r.raw[0]): r.was for r in rows if r.op == "u" and r.was is not None}
        assert odd.moved.items() <= moved.items()
        assert (await capture.state()).gave_way == 0
        await remove_all(capture.database)
        assert catalogue(own) == before
    finally:
        await capture.close()
        own.close()
