"""Routing to one recipient: a real worker beside a plain loop, and beside a stock Faust agent."""

from __future__ import annotations

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, plain
from benchmarks.streaming import Filler, Lane, Load, Run, check_same, rival_lane, worker_lane
from deptbus.names import data_topic, in_topic

ABOUT = "one recipient: decode under guard, decide, project, encode, deliver, acknowledge"

_PER_CPU = "records/CPU s"


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(240_000, 120_000))
    little = Load(warm=500, measured=bench.scaled(4_000, 2_000))
    runs: list[list[Run]] = [[], [], []]
    async with bench.bus(county.contract(1)) as bus:
        filler = Filler(bus, load.total)
        lanes: list[tuple[Lane, Load]] = [
            (worker_lane(bench, bus, data_topic(county.DATASET), [in_topic(county.HOUSING)]), load),
            (rival_lane(bench, bus, "plain_loop", "route"), load),
            (rival_lane(bench, bus, "faust_agent"), little),
        ]
        for _ in range(bench.runs):
            for (lane, size), found in zip(lanes, runs, strict=True):
                found.append(await lane.run(bench, filler, size))
        for lane, _ in lanes[1:]:
            await check_same(bus, lanes[0][0], lane)
    ours, loop, faust = ([r.per_cpu_second for r in found] for found in runs)
    name = "routing to one recipient"
    return [
        against(f"{name}, beside a plain aiokafka loop", ours, _PER_CPU, loop, least_ratio=1.0),
        against(f"{name}, beside a stock Faust agent", ours, _PER_CPU, faust, least_ratio=20.0),
        plain(f"{name}, by the clock", [r.per_second for r in runs[0]], "records/s"),
    ]
