"""From `deptbus up --embedded` to the first delivered change: on a fresh folder, and again."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.bench import Bench, Child
from benchmarks.cpu import cpu_seconds
from benchmarks.figures import Figure, at_most, median, number, plain

ABOUT = "`up --embedded` to the first delivered change, on examples/two-units"

MOST_SECONDS = 8.0
_NAME = "`up --embedded` to the first delivered change"
_DEADLINE_SECONDS = 60.0
_EXAMPLE = Path(__file__).parents[2] / "examples" / "two-units"
_PERSON = "330106193805120012"


async def run(bench: Bench) -> list[Figure]:
    fresh: list[float] = []
    again: list[float] = []
    spent: list[float] = []
    for n in range(bench.runs):
        folder = bench.folder / f"start-{n}"
        await asyncio.to_thread(_make, folder)
        # The register's rows are there already: the first start loads them.
        seconds, cpu = await _start(bench, folder, f"up-{n}-fresh", "330106109001")
        fresh.append(seconds)
        spent.append(cpu)
        bench.say(f"fresh {seconds:.1f} s")
        if bench.quick:
            continue
        _move(folder, "330106109030")
        seconds, _ = await _start(bench, folder, f"up-{n}-again", "330106109030")
        again.append(seconds)
        bench.say(f"again {seconds:.1f} s")
    limit = f"{number(median(spent))} s of CPU: Java, and six processes that import Python modules"
    figures = [
        at_most(f"{_NAME} on a fresh folder", fresh, "s", MOST_SECONDS).with_limit(limit),
        plain(f"{_NAME} on a fresh folder: all processes", spent, "s CPU"),
    ]
    if again:
        figures.append(at_most(f"{_NAME}, again", again, "s", MOST_SECONDS).with_limit(limit))
    return figures


def _make(folder: Path) -> None:
    """As the README of the example says it; but the copy has no rows that a person has to look
    at before the first load."""
    shutil.copytree(_EXAMPLE, folder)
    for unit in ("civil_affairs", "health"):
        with closing(sqlite3.connect(folder / "data" / unit / "own.db")) as connection:
            connection.executescript((folder / "data" / unit / "existing.sql").read_text("utf-8"))
    with closing(sqlite3.connect(folder / "data" / "health" / "own.db")) as connection, connection:
        connection.execute("DELETE FROM elder")


def _move(folder: Path, place: str) -> None:
    """A change that waits for the bus to come."""
    with closing(sqlite3.connect(folder / "data" / "civil_affairs" / "own.db")) as connection:
        connection.execute("UPDATE gljt SET sq = ? WHERE xm = '沈测试甲'", (place,))
        connection.commit()


async def _start(bench: Bench, folder: Path, name: str, place: str) -> tuple[float, float]:
    """Seconds, and CPU seconds of the whole tree, from the start of the process until the copy has
    the person at this place."""
    began = time.monotonic()
    words = ["up", "--embedded", "--contract", str(folder), "--data", str(folder / "data")]
    argv = [sys.executable, "-c", "from deptbus.cli.main import main; main()", *words]
    child: Child = bench.child(name, argv)
    copy = folder / "data" / "health" / "own.db"
    try:
        await child.until(
            lambda: _place_of(copy) == place, _DEADLINE_SECONDS, "has not delivered the change"
        )
        return time.monotonic() - began, cpu_seconds([child.pid])
    finally:
        await asyncio.to_thread(child.stop)


def _place_of(copy: Path) -> str | None:
    with closing(sqlite3.connect(copy, timeout=10)) as connection:
        row = connection.execute(
            "SELECT area FROM elder WHERE person_id = ?", (_PERSON,)
        ).fetchone()
    return None if row is None else str(row[0])
