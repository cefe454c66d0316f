"""Eight recipients with three projections: deliveries a CPU second, beside one recipient alone."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, at_least, plain
from benchmarks.streaming import Filler, Load, Way, take_turns, worker_lane
from deptbus.names import data_topic, in_topic

ABOUT = "eight recipients with three projections: each made once, not once per recipient"

_UNIT = "deliveries/CPU s"
_LEAST = 100_000


async def run(bench: Bench) -> list[Figure]:
    measured = {county.EIGHT: bench.scaled(25_000, 10_000), 1: bench.scaled(50_000, 20_000)}
    async with AsyncExitStack() as stack:
        ways: list[Way] = []
        for recipients, count in measured.items():
            bus = await stack.enter_async_context(bench.bus(county.contract(recipients)))
            inboxes = [in_topic(unit) for unit in county.recipients_of(bus.contract)]
            lane = worker_lane(bench, bus, data_topic(county.DATASET), inboxes)
            load = Load(bench.scaled(30_000, 20_000), count)
            ways.append(Way(lane, Filler(bus, load.total), load))
        eight, one = await take_turns(bench, ways)
    deliveries = [r.per_cpu_second * county.EIGHT for r in eight]
    alone = [r.per_cpu_second for r in one]
    name = "routing to eight recipients, three projections"
    return [
        at_least(name, deliveries, _UNIT, _LEAST),
        against(f"{name}, beside one recipient", deliveries, _UNIT, alone),
        plain(
            f"{name}, by the clock", [r.per_second * county.EIGHT for r in eight], "deliveries/s"
        ),
    ]
