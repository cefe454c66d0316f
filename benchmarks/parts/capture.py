"""The department's own single-row transactions, with capture installed and without, in turn.

PostgreSQL is driven by its own pgbench: once with nothing but an update of one row of the published
table, once with pgbench's own transaction and that update in it. SQLite by one writer that commits
row after row. No adapter runs: what is measured is what capture costs the department's program.

Each is measured as it is here, and with a commit that waits 1.6 ms more. For what capture adds is
time of a processor, and whether a program feels that is decided by what else a transaction takes: a
virtual disk may say within 50 us that it has kept a commit. An ordinary SSD has to keep it:
pg_test_fsync says 1,643 us of fdatasync on a Samsung 990 PRO
(https://tanelpoder.com/posts/using-pg-test-fsync-for-testing-low-latency-writes). How long this one
takes is measured too.

Beside them stands an audit trigger as anybody writes it, which copies the changed row into a table
and promises nothing: it may wait, fail and fill the disk. It is what capture by trigger costs at
least.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg

from benchmarks import county, town
from benchmarks.bench import Bench, CouldNot
from benchmarks.clerk import load, load_sqlite
from benchmarks.figures import Figure, against, median, plain
from deptbus.cluster.postgres import PostgresServer
from deptbus.contract.department import Department, Publish, System
from deptbus.department.layout import layout_of
from deptbus.department.opening import open_capture

T = TypeVar("T")

ABOUT = "the department's own single-row transactions with capture, beside those without"

LEAST_RATIO = 0.85
ROWS = 20_000
_CLIENTS, _SCALE = 4, 5
_SIDES = ("with", "without", "audited")
_CAP_ROWS = 10_000_000
_WAIT_SECONDS = 0.0016
_SYNCS = 200
_FIRST = 1_000  # transactions, to warm up and where nothing is known yet
_UPDATE = f"UPDATE {town.TABLE} SET occupation = 'typed ' || :n, updated_at = now() WHERE n = :n;"
_ONE_ROW = f"\\set n random(0, {ROWS - 1})\n{_UPDATE}\n"
# What pgbench does by itself, and one row of ours.
_MIXED = f"""\\set n random(0, {ROWS - 1})
\\set aid random(1, {100_000 * _SCALE})
\\set bid random(1, {_SCALE})
\\set tid random(1, {10 * _SCALE})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
{_UPDATE}
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, now());
END;
"""


_AUDITED = {
    "postgresql": f"""CREATE TABLE audit (number bigserial PRIMARY KEY, at timestamptz, who text,
  op text, changed jsonb);
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit (at, who, op, changed)
  VALUES (clock_timestamp(), session_user, TG_OP, to_jsonb(NEW));
  RETURN NULL;
END$$;
CREATE TRIGGER audited AFTER UPDATE ON {town.TABLE} FOR EACH ROW EXECUTE FUNCTION audited();""",
    "sqlite": f"""CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, op TEXT,
  {", ".join(county.NAMES)});
CREATE TRIGGER audited AFTER UPDATE ON {town.TABLE} BEGIN
  INSERT INTO audit (at, op, {", ".join(county.NAMES)})
  VALUES (datetime('now'), 'u', {", ".join(f"NEW.{name}" for name in county.NAMES)});
END;""",
}


@dataclass(frozen=True, slots=True)
class _Case:
    """Transactions of one kind. `wait`: seconds that a commit takes longer than this disk does."""

    what: str
    rounds: int
    wait: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.what}, {self.wait * 1e3:.1f} ms more a commit" if self.wait else self.what


async def run(bench: Bench) -> list[Figure]:
    syncs = await asyncio.to_thread(_syncs_us, bench.folder)
    disk = plain("a sync of this disk, as a commit waits for one", syncs, "us")
    return [disk, *await _postgres(bench), *await _sqlite(bench)]


def _cases(bench: Bench, what: str) -> tuple[_Case, _Case]:
    # What mostly waits wavers little.
    return _Case(what, 3 * bench.runs), _Case(what, bench.runs, _WAIT_SECONDS)


def _syncs_us(folder: Path) -> list[float]:
    page = b"0" * 8192
    path = folder / "synced"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(descriptor, page * _SYNCS, 0)
        os.fsync(descriptor)
        found = []
        for number in range(_SYNCS):
            os.pwrite(descriptor, page, number * len(page))
            began = time.monotonic()
            os.fdatasync(descriptor)
            found.append((time.monotonic() - began) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()
    return found


async def install(url: str) -> None:
    """Capture of the register, as `deptbus department install` makes it."""
    publish = Publish(table=town.TABLE, columns={name: name for name in county.NAMES})
    system = System(database=url, publishes={county.DATASET: publish})
    told = Department(unit=county.SOURCE, secret_file=Path("none"), systems={"main": system})
    capture = await open_capture(told, "main")
    try:
        layout = layout_of(county.DATASET, publish, county.contract(1))
        await capture.install([layout], _CAP_ROWS)
    finally:
        await capture.close()


async def _postgres(bench: Bench) -> list[Figure]:
    seconds = bench.scaled(0.8, 0.25)
    server = PostgresServer(bench.folder / "postgres", extra_settings=town.SERVER_SETTINGS)
    server.start()
    try:
        urls = {name: server.create_database(name) for name in _SIDES}
        pgbench = server.program("pgbench")
        for name, url in urls.items():
            await town.make_table(url, town.TABLE, "postgresql")
            connection = await asyncpg.connect(url)
            await load(connection, ROWS)
            await connection.close()
            await _pgbench(pgbench, url, "-i", "-q", "-s", str(_SCALE))
            if name == "with":
                await install(url)
            elif name == "audited":
                connection = await asyncpg.connect(url)
                await connection.execute(_AUDITED["postgresql"])
                await connection.close()
        figures: list[Figure] = []
        for what, script in (
            ("PostgreSQL, transactions of one row", _ONE_ROW),
            ("PostgreSQL, pgbench's own with one row of ours", _MIXED),
        ):
            path = bench.folder / "script.sql"
            path.write_text(script, encoding="utf-8")
            words = ("-n", "-M", "prepared", "-c", str(_CLIENTS), "-j", "1", "-f", str(path))
            for case in _cases(bench, what):
                rates: dict[str, list[float]] = {name: [] for name in _SIDES}
                for round_ in range(case.rounds + 1):
                    for name, url in _in_turn(urls, round_):
                        # As many as take `seconds`: a disk may become a hundred times slower.
                        known = rates[name][-1:] or [_FIRST / seconds]
                        each = ("-t", str(1 + int(known[0] * seconds / _CLIENTS)))
                        said = await _pgbench(pgbench, url, *words, *each, wait=case.wait)
                        if round_:
                            rates[name].append(_rate(said))
                    await _empty(urls["with"])
                figures += _told(bench, case, rates)
        return figures
    finally:
        server.stop()
        server.destroy()


def _in_turn(sides: Mapping[str, T], round_: int) -> list[tuple[str, T]]:
    """Each round the other way round: none always comes first."""
    return list(sides.items())[:: -1 if round_ % 2 else 1]


async def _pgbench(program: Path, url: str, *words: str, wait: float = 0.0) -> str:
    """Its output. `wait`: the server sleeps that long before it hands a commit to the disk, with
    the same lock that it holds meanwhile: others wait behind it and share the next one."""
    settings = f"-c commit_delay={wait * 1e6:.0f} -c commit_siblings=0"
    done = await asyncio.to_thread(
        subprocess.run,
        [str(program), *words, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PGOPTIONS": settings},
    )
    if done.returncode:
        raise CouldNot(f"pgbench: {done.stderr.strip()[-500:]}")
    return done.stdout


def _rate(said: str) -> float:
    failed = re.search(r"failed transactions: (\d+)", said)
    if failed is not None and int(failed[1]):
        raise CouldNot(f"pgbench: {failed[1]} transactions failed")
    found = re.search(r"^tps = ([0-9.]+)", said, re.M)
    if found is None:
        raise CouldNot("pgbench did not say its rate")
    return float(found[1])


async def _empty(url: str) -> None:
    """The outbox, as an adapter would: its cap is not what is measured."""
    connection = await asyncpg.connect(url)
    gave_way = await connection.fetchval("SELECT is_called FROM deptbus.gave_way")
    rows = await connection.fetchval("SELECT count(*) FROM deptbus.outbox")
    await connection.execute("TRUNCATE deptbus.outbox")
    await connection.close()
    if gave_way or not rows:
        raise CouldNot("capture gave way, or there was none")


async def _sqlite(bench: Bench) -> list[Figure]:
    seconds = bench.scaled(0.8, 0.2)
    files = {name: bench.folder / f"{name}.db" for name in _SIDES}
    for name, path in files.items():
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.close()
        await town.make_table(f"sqlite:///{path}", town.TABLE, "sqlite")
        connection = sqlite3.connect(path)
        load_sqlite(connection, ROWS)
        if name == "audited":
            connection.executescript(_AUDITED["sqlite"])
        connection.close()
        if name == "with":
            await install(f"sqlite:///{path}")
    figures: list[Figure] = []
    for case in _cases(bench, "SQLite, transactions of one row"):
        rates: dict[str, list[float]] = {name: [] for name in _SIDES}
        for round_ in range(case.rounds + 1):
            for name, path in _in_turn(files, round_):
                rate = await _typed(path, seconds, case.wait)
                if round_:
                    rates[name].append(rate)
        figures += _told(bench, case, rates)
    return figures


async def _typed(path: Path, seconds: float, wait: float) -> float:
    argv = [sys.executable, "-m", "benchmarks.single_rows", str(path), str(seconds), str(wait)]
    done = await asyncio.to_thread(
        subprocess.run, argv, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise CouldNot(f"the writer: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def _told(bench: Bench, case: _Case, rates: dict[str, list[float]]) -> list[Figure]:
    what = case.name
    without = rates["without"]
    floor = against(
        f"{what}, an audit trigger instead", rates["audited"], "transactions/s", without
    )
    ours = against(what, rates["with"], "transactions/s", without, least_ratio=LEAST_RATIO)
    alone = 1e6 / median(without)
    added, audit = (1e6 / figure.ours - alone for figure in (ours, floor))
    limit = (
        f"one takes {alone:.0f} us, capture adds {added:.0f}; an audit trigger, which may wait and "
        f"fail, adds {audit:.0f} and keeps {floor.ratio:.2f}. Where one takes "
        f"{added * LEAST_RATIO / (1 - LEAST_RATIO):.0f} us ours keeps {LEAST_RATIO}"
    )
    bench.say(f"{what}: {ours.ratio:.3f} of the rate without")
    return [ours.with_limit(limit), floor]
