"""One worker and two on the same bus, by the clock."""

from __future__ import annotations

import os

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, median
from benchmarks.streaming import Filler, Load, Run, worker_lane
from deptbus.names import data_topic, in_topic

ABOUT = "two worker processes beside one, by the clock, and what bounds them"

_LEAST = 1.6


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(240_000, 120_000))
    found: dict[int, list[Run]] = {1: [], 2: []}
    async with bench.bus(county.contract(1)) as bus:
        filler = Filler(bus, load.total)
        source, targets = data_topic(county.DATASET), [in_topic(county.HOUSING)]
        lanes = {n: worker_lane(bench, bus, source, targets, n) for n in (2, 1)}
        for _ in range(bench.runs):
            for count, lane in lanes.items():
                found[count].append(await lane.run(bench, filler, load))
    two, one = ([r.per_second for r in found[count]] for count in (2, 1))
    name = "routing with two workers, beside one"
    figure = against(name, two, "records/s", one, least_ratio=_LEAST)
    return [figure.with_limit(_limit(found))]


def _limit(found: dict[int, list[Run]]) -> str:
    """What the cores were doing: the product cannot use more of them than there are."""
    cores = os.cpu_count() or 1
    busy = {count: median([r.cores for r in runs]) for count, runs in found.items()}
    broker = median([r.broker_cpu_seconds / r.wall_seconds for r in found[2]])
    each = {count: median([1e6 / r.per_cpu_second for r in runs]) for count, runs in found.items()}
    return (
        f"{cores} cores: one worker and the broker keep {busy[1]:.2f} of them busy, two "
        f"{busy[2]:.2f} (the broker {broker:.2f}); a record costs {each[1]:.1f} us CPU with one "
        f"worker and {each[2]:.1f} with two"
    )
