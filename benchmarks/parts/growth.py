"""The cost of one delivery with 10, 100 and 1,000 units in the contract: a real worker each."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks import county
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most, median, plain
from benchmarks.streaming import Filler, Load, Way, take_turns, worker_lane
from deptbus.names import data_topic, in_topic

ABOUT = "cost of one delivery with 10, 100, 1,000 units in the contract"

NOT_IN_QUICK = True
SIZES = (10, 100, 1_000)
_MOST = 1.15
# One partition: a thousand units have three thousand topics.
_PARTITIONS = 1


async def run(bench: Bench) -> list[Figure]:
    load = Load(bench.scaled(40_000, 20_000), bench.scaled(25_000, 20_000))
    async with AsyncExitStack() as stack:
        ways: list[Way] = []
        for size in SIZES:
            contract = county.contract(1, bystanders=size - 2, partitions=_PARTITIONS)
            bus = await stack.enter_async_context(bench.bus(contract))
            bench.say(f"a bus of {size} units stands")
            lane = worker_lane(bench, bus, data_topic(county.DATASET), [in_topic(county.HOUSING)])
            ways.append(Way(lane, Filler(bus, load.total), load))
        runs = await take_turns(bench, ways)
    costs = {
        size: [1e6 / run.per_cpu_second for run in found]
        for size, found in zip(SIZES, runs, strict=True)
    }
    figures = [
        plain(f"one delivery with {size:,} units in the contract", costs[size], "us CPU")
        for size in SIZES
    ]
    growth = [max(each) / min(each) for each in zip(*costs.values(), strict=True)]
    least = [median(each) for each in costs.values()]
    name = f"growth of one delivery's cost, {SIZES[0]} to {SIZES[-1]:,} units"
    figures.append(at_most(name, [min(median(growth), max(least) / min(least))], "x", _MOST))
    return figures
