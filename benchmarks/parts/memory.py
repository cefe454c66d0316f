"""Memory of deptbus's own processes while a register is changed in bulk."""

from __future__ import annotations

import asyncio

from benchmarks.bench import Bench
from benchmarks.cpu import memory_mb
from benchmarks.figures import Figure, at_most, plain
from benchmarks.town import Town, town

ABOUT = "memory of both adapters and the worker while a register is changed in bulk"

MOST_MB = 400.0
_LOOK_SECONDS = 0.25


async def run(bench: Bench) -> list[Figure]:
    rows = bench.scaled(100_000, 30_000)
    peaks: list[float] = []
    by_process: dict[str, list[float]] = {}
    async with town(bench, "postgresql") as place:
        await place.load(rows)
        for edition in range(1, bench.runs + 1):
            found = await _peaks_of_a_bulk(place, rows, edition)
            peaks.append(found.pop("all"))
            for name, peak in found.items():
                by_process.setdefault(name, []).append(peak)
        await place.check_copy()
        ends = [memory_mb(place.processes.values())]
    figures = [at_most("memory during a bulk: peak of all processes", peaks, "MB", MOST_MB)]
    figures.append(plain("memory after the bulks: all processes", ends, "MB"))
    for name, runs in by_process.items():
        figures.append(plain(f"memory during a bulk: peak of the {name}", runs, "MB"))
    return figures


async def _peaks_of_a_bulk(place: Town, rows: int, edition: int) -> dict[str, float]:
    peaks: dict[str, float] = {}
    bulk = asyncio.create_task(place.bulk(rows, edition))
    while not bulk.done():
        now = {name: memory_mb([pid]) for name, pid in place.processes.items()}
        now["all"] = sum(now.values())
        peaks = {name: max(mb, peaks.get(name, 0.0)) for name, mb in now.items()}
        await asyncio.wait((bulk,), timeout=_LOOK_SECONDS)
    await bulk
    return peaks
