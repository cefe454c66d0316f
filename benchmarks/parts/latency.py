"""PostgreSQL to PostgreSQL: from commit to commit, at 50 single-row commits a second."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.delays import delays_ms, percentile
from benchmarks.figures import Figure, at_most, median, number, plain
from benchmarks.relay import relay_ms
from benchmarks.streaming import make_topic
from benchmarks.town import run_clerk, town

ABOUT = "PostgreSQL to PostgreSQL: commit to commit at 50 single-row commits a second"

RATE = 50
MOST_MS = {50: 12.0, 99: 40.0}
_WARM_UP_SECONDS = 5
_RELAY_SECONDS = 3


async def run(bench: Bench) -> list[Figure]:
    seconds = bench.scaled(30, 8)
    runs: dict[str, list[float]] = {"p50": [], "p99": [], "max": []}
    least: list[float] = []
    # Each change is on a row of its own, so that both of its commits are found afterwards.
    rows = RATE * max(seconds, _WARM_UP_SECONDS)
    async with town(bench, "postgresql") as place:
        topic = make_topic(place.bus, "relay")
        await place.load(rows)
        for n in range(bench.runs + 1):
            length = seconds if n else _WARM_UP_SECONDS
            start = await place.applied()
            clerk = run_clerk(place, f"clerk-{n}", "type", "0", str(rows), str(RATE), str(length))
            await clerk.wait(length + 60)
            await place.until_applied(start + RATE * length, 60)
            if n == 0:
                continue
            found = [ms for _, ms in await delays_ms(place)]
            for name in ("p50", "p99"):
                runs[name].append(percentile(found, int(name[1:])))
            runs["max"].append(max(found))
            least.append(percentile(await relay_ms(place, topic, RATE, _RELAY_SECONDS), 50))
            bench.say(", ".join(f"{name} {values[-1]:.1f} ms" for name, values in runs.items()))
        await place.check_copy()
    name = "commit to commit at 50 commits a second"
    limit = (
        f"two commits and three hops over Kafka by one plain program take {number(median(least))} "
        "ms here; ours wakes five processes"
    )
    return [
        at_most(f"{name}: p50", runs["p50"], "ms", MOST_MS[50]).with_limit(limit),
        at_most(f"{name}: p99", runs["p99"], "ms", MOST_MS[99]).with_limit(limit),
        plain(f"{name}: max", runs["max"], "ms"),
        plain("two commits and three hops by one plain program: p50", least, "ms"),
    ]
