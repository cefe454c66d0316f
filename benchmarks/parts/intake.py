"""Intake: a worker that runs this agent alone, beside a plain loop that decodes and copies."""

from __future__ import annotations

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, plain
from benchmarks.streaming import (
    Filler,
    Lane,
    Load,
    Way,
    announce,
    check_same,
    rival_lane,
    take_turns,
)
from deptbus.names import data_topic, out_topic

ABOUT = "outbox to canonical topic: decode under guard, judge, fence, pass on, acknowledge"


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(60_000, 30_000), bench.scaled(50_000, 25_000))
    less = Load(load.warm, bench.scaled(25_000, 12_000))
    async with bench.bus(county.contract(1)) as bus:
        await announce(bus)
        filler = Filler(bus, load.total)
        intake = Lane(
            out_topic(county.SOURCE),
            [data_topic(county.DATASET)],
            lambda: bench.script(bus, "only_intake", name="intake"),
            bus,
        )
        rival = rival_lane(bench, bus, "plain_loop", "copy")
        ways = [Way(intake, filler, load), Way(rival, filler, less)]
        ours, loop = await take_turns(bench, ways)
        await check_same(bus, intake, rival)
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
