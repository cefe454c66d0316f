"""A register that is changed in bulk, and its copy: rows a second, CPU and memory by process."""

from __future__ import annotations

import asyncio

from benchmarks.bench import Bench
from benchmarks.cpu import memory_mb
from benchmarks.figures import Figure, at_least, at_most, median, number, plain
from benchmarks.town import Kind, Town, town

MOST_MB = 400.0
# Seldom enough that looking costs nothing of what is measured.
_LOOK_SECONDS = 0.5


async def bulk_figures(
    bench: Bench, kind: Kind, name: str, rows: int, least: float
) -> list[Figure]:
    """`least`: the target, in rows a second. The copy is compared after each run."""
    rates: list[float] = []
    costs: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    async with town(bench, kind) as place:
        await place.load(rows)
        await place.check_copy()
        for edition in range(1, bench.runs + 1):
            seconds, spent, peak = await _once(place, rows, edition)
            rates.append(rows / seconds)
            for who, megabytes in peak.items():
                peaks.setdefault(who, []).append(megabytes)
            for who, cost in spent.items():
                costs.setdefault(who, []).append(cost)
            bench.say(f"{rates[-1]:,.0f} rows/s")
    sums = [sum(each) for each in zip(*costs.values(), strict=True)]
    figures = [at_least(name, rates, "rows/s", least).with_limit(limit(rates, sums))]
    figures.append(plain(f"{name}: all processes", sums, "us CPU a row"))
    figures += [plain(f"{name}: {who}", runs, "us CPU a row") for who, runs in costs.items()]
    all_peaks = [sum(each) for each in zip(*peaks.values(), strict=True)]
    figures.append(at_most(f"{name}: most memory of our processes", all_peaks, "MB", MOST_MB))
    figures += [plain(f"{name}: most memory, {who}", runs, "MB") for who, runs in peaks.items()]
    return figures


async def _once(
    place: Town, rows: int, edition: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds of a bulk, microseconds of CPU a row by process, and the most MB that each of our own
    processes had. The copy is compared."""
    before = place.cpu()
    bulk = asyncio.create_task(place.bulk(rows, edition))
    watching = asyncio.create_task(_peaks(place, bulk))
    seconds = await bulk
    after = place.cpu()
    peaks = await watching
    await place.check_copy()
    spent = {name: (after[name] - before.get(name, 0.0)) / rows * 1e6 for name in before}
    return seconds, spent, peaks


async def _peaks(place: Town, bulk: asyncio.Task[float]) -> dict[str, float]:
    """Of each process for itself; while the bulk lasts, and once behind it."""
    peaks: dict[str, float] = {}
    while True:
        for name, pid in place.processes.items():
            peaks[name] = max(memory_mb([pid]), peaks.get(name, 0.0))
        if bulk.done():
            return peaks
        await asyncio.wait((bulk,), timeout=_LOOK_SECONDS)


def limit(rates: list[float], costs: list[float]) -> str:
    """What bounds rows a second; `costs`: microseconds of CPU a row of everything at work."""
    cost = median(costs)
    busy = median(rates) * cost / 1e6
    return f"{number(cost)} us CPU a row kept {number(busy)} cores busy"
