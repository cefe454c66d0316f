"""A register that is changed in bulk, and its copy: rows a second, and CPU of every process."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, median, number, plain
from benchmarks.town import Kind, Town, town


async def bulk_figures(
    bench: Bench, kind: Kind, name: str, rows: int, least: float
) -> list[Figure]:
    """`least`: the target, in rows a second. The copy is compared after each run."""
    rates: list[float] = []
    costs: dict[str, list[float]] = {}
    async with town(bench, kind) as place:
        await place.load(rows)
        await place.check_copy()
        for edition in range(1, bench.runs + 1):
            seconds, spent = await _once(place, rows, edition)
            rates.append(rows / seconds)
            for who, cost in spent.items():
                costs.setdefault(who, []).append(cost)
            bench.say(f"{rates[-1]:,.0f} rows/s")
    sums = [sum(each) for each in zip(*costs.values(), strict=True)]
    figures = [at_least(name, rates, "rows/s", least).with_limit(limit(rates, sums))]
    figures.append(plain(f"{name}: all processes", sums, "us CPU a row"))
    figures += [plain(f"{name}: {who}", runs, "us CPU a row") for who, runs in costs.items()]
    return figures


async def _once(place: Town, rows: int, edition: int) -> tuple[float, dict[str, float]]:
    """Seconds of a bulk, and microseconds of CPU a row by process. The copy is compared."""
    before = place.cpu()
    seconds = await place.bulk(rows, edition)
    after = place.cpu()
    await place.check_copy()
    return seconds, {name: (after[name] - before.get(name, 0.0)) / rows * 1e6 for name in before}


def limit(rates: list[float], costs: list[float]) -> str:
    """What bounds rows a second; `costs`: microseconds of CPU a row of everything at work."""
    cost = median(costs)
    busy = median(rates) * cost / 1e6
    return f"{number(cost)} us CPU a row kept {number(busy)} cores busy"
