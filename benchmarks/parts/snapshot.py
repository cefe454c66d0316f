"""A first load: existing rows to one recipient, alone, and beside live changes at half the pace."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import datetime

from benchmarks import county
from benchmarks.bench import Bench, Child, CouldNot
from benchmarks.bulks import limit
from benchmarks.delays import delays_ms, percentile
from benchmarks.figures import Figure, at_least, at_most, median, number, plain
from benchmarks.town import Town, run_clerk, town

ABOUT = "existing rows to one recipient: alone, and beside 50 live commits a second"

LEAST_ROWS_A_SECOND = 20_000
MOST_MS = 250.0
RATE = 50
_LIVE_FIRST = 10_000_000  # the live rows' numbers lie behind those of all others
_NOW = "SELECT clock_timestamp()"
_OPEN = "SELECT 1 FROM deptbus.snapshot WHERE NOT done"
_BEGUN = "SELECT 1 FROM deptbus.snapshot WHERE after IS NOT NULL"
_LOOK_SECONDS = 0.05


async def run(bench: Bench) -> list[Figure]:
    rows = bench.scaled(1_000_000, 60_000)
    rates: list[float] = []
    costs: list[float] = []
    async with town(bench, "postgresql") as place:
        await run_clerk(place, "clerk-unseen", "unseen", str(rows)).wait(1200)
        for _ in range(bench.runs):
            before = sum(place.cpu().values())
            seconds = await _snapshot(place, rows)
            costs.append((sum(place.cpu().values()) - before) / rows * 1e6)
            rates.append(rows / seconds)
            bench.say(f"alone {rates[-1]:,.0f} rows/s")
        await place.check_copy()
        pace, delays = await _beside_live(place, rows)
        await place.check_copy()
    live = f"live changes beside a snapshot of {number(pace)} rows/s"
    p99 = percentile(delays, 99)
    bench.say(f"{live}: p99 {p99:.1f} ms of {len(delays)}")
    alone = at_least("snapshot alone", rates, "rows/s", LEAST_ROWS_A_SECOND)
    kept = f"median {number(median(delays))} ms, greatest {number(max(delays))} ms"
    return [
        alone.with_limit(limit(rates, costs)),
        plain("snapshot alone: all processes", costs, "us CPU a row"),
        at_most(f"{live}: p99", [p99], "ms", MOST_MS).with_limit(kept),
        plain(f"{live}: p50", [percentile(delays, 50)], "ms"),
    ]


async def _snapshot(place: Town, rows: int) -> float:
    """Seconds from the wish until the copy has every row; the running adapter does the work."""
    start = await place.applied()
    asked = await _ask(place)
    began = time.monotonic()
    await place.until_applied(start + rows, 60)
    seconds = time.monotonic() - began
    await asked.wait(60)
    return seconds


async def _ask(place: Town) -> Child:
    """The command that asks for it and watches. Its own start is no part of what is measured: it is
    over when the wish stands in the database."""
    config = place.bench.folder / county.SOURCE.replace("@", "-") / "department.yml"
    words = ["department", "snapshot", "--config", str(config)]
    argv = [sys.executable, "-c", "from deptbus.cli.main import main; main()", *words]
    asked = place.bench.child("snapshot", argv)
    while not await place.fetch(place.source, _OPEN):
        await asyncio.sleep(_LOOK_SECONDS)
        if not asked.is_running:
            raise CouldNot(f"no snapshot was begun: {asked.last_words()}")
    return asked


async def _beside_live(place: Town, rows: int) -> tuple[float, list[float]]:
    """Rows a second of a snapshot while a clerk enters new ones, and milliseconds from commit to
    commit of those that he entered once its walk had passed them: it sends none of these once
    more, and a copy's row tells when it was last written."""
    seconds = 4 + 2 * rows // LEAST_ROWS_A_SECOND
    start = await place.applied()
    clerk = run_clerk(place, "clerk-live", "enter", str(_LIVE_FIRST), str(RATE), str(seconds))
    await place.until_applied(start + RATE, 60)  # a second's, so that the adapter has seen them
    asked = await _ask(place)
    began = time.monotonic()
    since: datetime | None = None
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if since is None and await place.fetch(place.source, _BEGUN):
            ((since,),) = await place.fetch(place.source, _NOW)
        if not await place.fetch(place.source, _OPEN):
            break
    pace = rows / (time.monotonic() - began)
    ((until,),) = await place.fetch(place.source, _NOW)
    await asked.wait(60)
    await clerk.wait(seconds + 60)
    # Live rows that were entered before the walk's end went out a second time by it.
    await place.until_there(60)
    assert since is not None  # a finished snapshot has begun
    return pace, [ms for at, ms in await delays_ms(place, since) if at <= until]
