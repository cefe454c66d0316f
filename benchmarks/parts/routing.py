"""Routing to one recipient: a worker beside a plain loop, a stock Faust agent, and a second one."""

from __future__ import annotations

import os

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, median, plain
from benchmarks.streaming import (
    Filler,
    Load,
    Run,
    Way,
    check_same,
    rival_lane,
    take_turns,
    worker_lane,
)
from deptbus.names import data_topic, in_topic

ABOUT = "one recipient: decode under guard, decide, project, encode, deliver, acknowledge"

_PER_CPU = "records/CPU s"
_LEAST_OF_TWO_WORKERS = 1.6


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(50_000, 20_000))
    less = Load(load.warm, bench.scaled(20_000, 10_000))
    little = Load(warm=500, measured=bench.scaled(800, 450))
    source, targets = data_topic(county.DATASET), [in_topic(county.HOUSING)]
    async with (
        bench.bus(county.contract(1)) as bus,
        # Two workers are a group of their own, and have a broker of their own.
        bench.bus(county.contract(1)) as of_two,
    ):
        filler = Filler(bus, load.total)
        worker = worker_lane(bench, bus, source, targets)
        pair = worker_lane(bench, of_two, source, targets, processes=2)
        plain_loop = rival_lane(bench, bus, "plain_loop", "route")
        agent = rival_lane(bench, bus, "faust_agent")
        one, two, loop, faust = await take_turns(
            bench,
            [
                Way(worker, filler, load),
                Way(pair, Filler(of_two, load.total), load),
                Way(plain_loop, filler, less),
                Way(agent, filler, little),
            ],
        )
        for rival in (plain_loop, agent):
            await check_same(bus, worker, rival)
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
