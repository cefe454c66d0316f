"""A copy that was spoilt by SQL: what differs is named, beside reladiff between the two tables."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from benchmarks import county
from benchmarks.bench import Bench, CouldNot
from benchmarks.counted import counted, through
from benchmarks.figures import Figure, against, at_most, median, number, plain
from benchmarks.rivals import reladiff
from benchmarks.spoiling import EXTRA_FIRST, NUMBERED
from benchmarks.town import COPY, TABLE, Town, run_clerk, town
from benchmarks.watched import Watched, watched

ABOUT = "PostgreSQL to PostgreSQL: rows of a copy spoilt by SQL are named, beside reladiff"

NOT_IN_QUICK = True
MOST_MEMORY_MB = 300.0
FEWER_BYTES = 20
TRAFFIC_A_SECOND = 500
_MOST_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Spoilt:
    """By the rows' numbers."""

    missing: range
    edited: range
    extra: range

    @property
    def numbers(self) -> set[str]:
        return {str(n) for numbers in (self.missing, self.edited, self.extra) for n in numbers}

    @property
    def by_class(self) -> dict[str, int]:
        return {
            "edited_locally": len(self.edited),
            "extra": len(self.extra),
            "missing": len(self.missing),
        }


async def run(bench: Bench) -> list[Figure]:
    rows = bench.rows or bench.scaled(1_000_000, 20_000)
    differences = bench.scaled(999, 198)
    python = await asyncio.to_thread(reladiff.installed)
    ours: list[_Run] = []
    theirs: list[_Run] = []
    async with town(bench, "postgresql") as place:
        office = bench.child(
            "operations", deptbus_command("operations", "run"), place.bus.connection.environment()
        )
        try:
            await office.ready()
            await _in_copy(place, *NUMBERED)  # the rival's key: dense, whole, with an index
            await place.load(rows)
            await until_told(place)
            spoilt = await _spoil(place, rows, differences // 3)
            for _ in range(bench.runs):
                ours.append(await _ours(place, spoilt))
                theirs.append(await _theirs(place, python, spoilt))
                bench.say(f"{ours[-1].told()}; reladiff {theirs[-1].told()}")
            beside = None if bench.quick else await _beside_traffic(place, rows, spoilt)
            if beside is not None:
                bench.say(f"beside {TRAFFIC_A_SECOND} changes a second {beside.told()}")
        finally:
            office.stop()
    return _figures(f"{rows:,} rows, {len(spoilt.numbers)} differ", ours, theirs, beside)


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    cpu_seconds: float
    kilobytes: float
    memory_mb: float
    adapter_mb: float = 0.0

    def told(self) -> str:
        return f"{self.seconds:.1f} s, {self.kilobytes:,.0f} kB"


def _figures(name: str, ours: list[_Run], theirs: list[_Run], beside: _Run | None) -> list[Figure]:
    spent = median([run.cpu_seconds for run in ours])

    def beside_rival(what: str, unit: str, most_ratio: float | None = None) -> Figure:
        mine, other = ([float(getattr(run, what)) for run in runs] for runs in (ours, theirs))
        return against(f"{name}: {what}", mine, unit, other, most_ratio=most_ratio)

    figures = [
        beside_rival("kilobytes", "kB", 1 / FEWER_BYTES).with_limit(
            "a sketch for thousands of differences is as large for few rows"
        ),
        beside_rival("seconds", "s", 1.0).with_limit(
            f"{number(spent)} s of CPU; it reads the canonical topic too, and what was delivered"
        ),
        beside_rival("cpu_seconds", "s"),
        at_most(
            f"{name}: memory of the command", [r.memory_mb for r in ours], "MB", MOST_MEMORY_MB
        ),
        at_most(
            f"{name}: memory of the adapter", [r.adapter_mb for r in ours], "MB", MOST_MEMORY_MB
        ),
    ]
    if beside is not None:
        figures.append(
            plain(f"{name}: time beside {TRAFFIC_A_SECOND} changes/s", [beside.seconds], "s")
        )
    return figures


async def _spoil(place: Town, rows: int, each: int) -> Spoilt:
    """Rows far apart from each other are gone, edited, and there though nobody delivered them; none
    in the second half, where the traffic is."""
    step = rows // (4 * each)
    spoilt = Spoilt(
        range(0, step * each, step),
        range(rows // 4, rows // 4 + step * each, step),
        range(EXTRA_FIRST, EXTRA_FIRST + each),
    )
    numbered = f"'H' || ({EXTRA_FIRST} - 1 + row_number() OVER (ORDER BY n))"
    made = {"resident_id": "'X' || n", "household_id": numbered}
    values = ", ".join(made.get(name, name) for name in county.MOST)
    await _in_copy(
        place,
        # First, while the rows that they are made of are there.
        f"INSERT INTO {COPY} ({', '.join(county.MOST)}) SELECT {values} FROM "
        f"(SELECT * FROM {COPY} ORDER BY n LIMIT {each}) AS first_ones",
        f"DELETE FROM {COPY} WHERE n = ANY(ARRAY{list(spoilt.missing)}::bigint[])",
        f"UPDATE {COPY} SET address = address || '!' "
        f"WHERE n = ANY(ARRAY{list(spoilt.edited)}::bigint[])",
        f"ANALYZE {COPY}",
    )
    return spoilt


async def _ours(place: Town, spoilt: Spoilt) -> _Run:
    done = await watched(
        deptbus_command(
            "reconcile", "--unit", county.HOUSING, "--leg", "copy", "--deep", "--output", "json"
        ),
        place.bus.connection.environment(),
        others=[place.applier.pid],
    )
    told = _document(done)
    found = {name: count for name, count in told["by_class"].items() if count}
    if found != spoilt.by_class:
        raise CouldNot(f"reconcile names {found}, and {spoilt.by_class} differ")
    (adapter_mb,) = done.others_mb.values()
    return _Run(done.seconds, done.cpu_seconds, told["bytes"] / 1000, done.memory_mb, adapter_mb)


async def _beside_traffic(place: Town, rows: int, spoilt: Spoilt) -> _Run:
    """While a clerk changes rows of the second half, as long as it takes."""
    words = [rows // 2, rows // 2, TRAFFIC_A_SECOND, _MOST_SECONDS]
    clerk = run_clerk(place, "clerk-traffic", "type", *map(str, words))
    await clerk.ready()
    try:
        return await _ours(place, spoilt)
    finally:
        clerk.stop()


def _document(done: Watched) -> dict[str, Any]:
    if done.code != 1:
        raise CouldNot(f"reconcile ended with {done.code}: {done.output[-500:].strip()}")
    document: dict[str, Any] = json.loads(done.output)
    return document


async def _theirs(place: Town, python: Path, spoilt: Spoilt) -> _Run:
    ends = [urlsplit(url) for url in (place.source, place.copy)]
    ports = [(end.hostname or "127.0.0.1", end.port or 5432) for end in ends]
    async with counted(*ports[0]) as here, counted(*ports[1]) as there:
        argv = reladiff.command(
            python,
            (through(place.source, here.port), TABLE),
            (through(place.copy, there.port), COPY),
            "n",
            county.MOST,
        )
        done = await watched(argv, reladiff.ENVIRONMENT)
        if done.code:
            raise CouldNot(f"reladiff ended with {done.code}: {done.output[-500:].strip()}")
        found = reladiff.differing(done.output)
        if found != spoilt.numbers:
            raise CouldNot(f"reladiff names {len(found)} rows, and {len(spoilt.numbers)} differ")
        sent = (here.bytes + there.bytes) / 1000
        return _Run(done.seconds, done.cpu_seconds, sent, done.memory_mb)


async def until_told(place: Town) -> None:
    """Returns when the recipient's first job is over: until then nothing can be told."""
    while True:
        done = await watched(
            deptbus_command(
                "reconcile", "--unit", county.HOUSING, "--leg", "copy", "--output", "json"
            ),
            place.bus.connection.environment(),
        )
        if done.code == 0:
            return
        if done.code != 2:
            raise CouldNot(f"the copy is not equal before it is spoilt: {done.output[-500:]}")
        await asyncio.sleep(1)


async def _in_copy(place: Town, *statements: str) -> None:
    connection = await asyncpg.connect(place.copy)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def deptbus_command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from deptbus.cli.main import main; main()", *words]
