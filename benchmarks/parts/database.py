"""PostgreSQL to PostgreSQL: a register that is changed in bulk, and its copy."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, median, number, plain
from benchmarks.town import Town, town

ABOUT = "PostgreSQL to PostgreSQL: rows a second over the whole path, CPU of every process"

LEAST_ROWS_A_SECOND = 20_000


async def run(bench: Bench) -> list[Figure]:
    rows = bench.scaled(100_000, 30_000)
    rates: list[float] = []
    costs: dict[str, list[float]] = {}
    async with town(bench, "postgresql") as place:
        await place.load(rows)
        await place.check_copy()
        for edition in range(1, bench.runs + 1):
            seconds, spent = await _once(place, rows, edition)
            rates.append(rows / seconds)
            for name, cost in spent.items():
                costs.setdefault(name, []).append(cost)
            bench.say(f"{rates[-1]:,.0f} rows/s")
    sums = [sum(each) for each in zip(*costs.values(), strict=True)]
    rate = at_least("database to database", rates, "rows/s", LEAST_ROWS_A_SECOND)
    figures = [rate.with_limit(_limit(median(rates), median(sums)))]
    figures.append(plain("database to database: all processes", sums, "us CPU a row"))
    for name, runs in costs.items():
        figures.append(plain(f"database to database: {name}", runs, "us CPU a row"))
    return figures


async def _once(place: Town, rows: int, edition: int) -> tuple[float, dict[str, float]]:
    """Seconds of a bulk, and microseconds of CPU a row by process. The copy is compared."""
    before = place.cpu()
    seconds = await place.bulk(rows, edition)
    after = place.cpu()
    await place.check_copy()
    return seconds, {name: (after[name] - before.get(name, 0.0)) / rows * 1e6 for name in before}


def _limit(rate: float, cost: float) -> str:
    """`cost`: microseconds of CPU a row of everything that works for it."""
    busy = rate * cost / 1e6
    return f"{number(cost)} us CPU a row kept {number(busy)} cores busy"
