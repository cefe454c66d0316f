"""Routing to one recipient: a worker beside a plain loop, a stock Faust agent, and a second one."""

from __future__ import annotations

import os

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, median, plain
from benchmarks.streaming import Filler, Lane, Load, Run, check_same, rival_lane, worker_lane
from deptbus.names import data_topic, in_topic

ABOUT = "one recipient: decode under guard, decide, project, encode, deliver, acknowledge"

_PER_CPU = "records/CPU s"
_LEAST_OF_TWO_WORKERS = 1.6


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(240_000, 90_000))
    little = Load(warm=500, measured=bench.scaled(4_000, 2_000))
    runs: list[list[Run]] = [[], [], [], []]
    async with bench.bus(county.contract(1)) as bus:
        filler = Filler(bus, load.total)
        source, targets = data_topic(county.DATASET), [in_topic(county.HOUSING)]
        lanes: list[tuple[Lane, Load]] = [
            (worker_lane(bench, bus, source, targets), load),
            (worker_lane(bench, bus, source, targets, processes=2), load),
            (rival_lane(bench, bus, "plain_loop", "route"), load),
            (rival_lane(bench, bus, "faust_agent"), little),
        ]
        for _ in range(bench.runs):
            for (lane, size), found in zip(lanes, runs, strict=True):
                found.append(await lane.run(bench, filler, size))
        for lane, _ in lanes[2:]:
            await check_same(bus, lanes[0][0], lane)
    one, two, loop, faust = runs
    ours = [r.per_cpu_second for r in one]
    name = "routing to one recipient"
    by_clock = [r.per_second for r in one]
    scaling = against(
        "routing with two workers, beside one",
        [r.per_second for r in two],
        "records/s",
        by_clock,
        least_ratio=_LEAST_OF_TWO_WORKERS,
    )
    return [
        _beside(f"{name}, beside a plain aiokafka loop", ours, loop, 1.0),
        _beside(f"{name}, beside a stock Faust agent", ours, faust, 20.0),
        plain(f"{name}, by the clock", by_clock, "records/s"),
        scaling.with_limit(_limit(one, two)),
    ]


def _beside(name: str, ours: list[float], rival: list[Run], least_ratio: float) -> Figure:
    theirs = [r.per_cpu_second for r in rival]
    return against(name, ours, _PER_CPU, theirs, least_ratio=least_ratio)


def _limit(one: list[Run], two: list[Run]) -> str:
    """What the cores were doing: the product cannot use more of them than there are."""
    cores = os.cpu_count() or 1
    busy = [median([r.cores for r in runs]) for runs in (one, two)]
    broker = median([r.broker_cpu_seconds / r.wall_seconds for r in two])
    each = [median([1e6 / r.per_cpu_second for r in runs]) for runs in (one, two)]
    return (
        f"{cores} cores: one worker and the broker keep {busy[0]:.2f} of them busy, two "
        f"{busy[1]:.2f} (the broker {broker:.2f}); a record costs {each[0]:.1f} us CPU with one "
        f"worker and {each[1]:.1f} with two"
    )
