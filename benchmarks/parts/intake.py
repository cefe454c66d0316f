"""Intake: a worker that runs this agent alone, beside a plain loop that decodes and copies."""

from __future__ import annotations

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, plain
from benchmarks.streaming import Filler, Lane, Load, Run, announce, check_same, rival_lane
from deptbus.names import data_topic, out_topic

ABOUT = "outbox to canonical topic: decode under guard, judge, fence, pass on, acknowledge"


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(240_000, 120_000))
    ours: list[Run] = []
    loop: list[Run] = []
    async with bench.bus(county.contract(1)) as bus:
        await announce(bus)
        filler = Filler(bus, load.total)
        lanes = (
            Lane(
                out_topic(county.SOURCE),
                [data_topic(county.DATASET)],
                lambda: bench.script(bus, "only_intake", name="intake"),
                bus,
            ),
            rival_lane(bench, bus, "plain_loop", "copy"),
        )
        for _ in range(bench.runs):
            for lane, found in zip(lanes, (ours, loop), strict=True):
                found.append(await lane.run(bench, filler, load))
        await check_same(bus, *lanes)
    name = "intake"
    return [
        against(
            f"{name}, beside a plain aiokafka copy loop",
            [r.per_cpu_second for r in ours],
            "records/CPU s",
            [r.per_cpu_second for r in loop],
            least_ratio=1.0,
        ),
        plain(f"{name}, by the clock", [r.per_second for r in ours], "records/s"),
    ]
