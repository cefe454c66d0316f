"""Half an hour at 2,000 rows a second: do latency or memory grow?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from benchmarks.bench import Bench, Child
from benchmarks.cpu import memory_mb
from benchmarks.delays import delays_ms, percentile
from benchmarks.figures import Figure, plain
from benchmarks.growth import Sample, growth, last_two_thirds
from benchmarks.town import Town, run_clerk, town

ABOUT = "half an hour at 2,000 rows a second (--minutes): whether latency or memory grow"
BY_NAME_ONLY = True

RATE, ROWS = 2_000, 50_000
TYPED_A_SECOND, TYPED_ROWS = 20, 10_000
# What counts as growth over the last two thirds: more than this part, and than so much.
_MEMORY = {"part": 0.03, "least": 5.0}  # MB
_LATENCY = {"part": 0.25, "least": 2.0}  # ms
_WINDOWS = 120


@dataclass(slots=True)
class Course:
    """What was sampled, over time."""

    memory: dict[str, list[Sample]] = field(default_factory=dict)
    p50: list[Sample] = field(default_factory=list)
    p99: list[Sample] = field(default_factory=list)


async def run(bench: Bench) -> list[Figure]:
    seconds = bench.minutes * 60
    async with town(bench, "postgresql") as place:
        await place.load(ROWS + TYPED_ROWS)
        start = await place.applied()
        clerks = [
            run_clerk(place, "clerk-steady", "steady", str(ROWS), str(RATE), str(seconds)),
            run_clerk(place, "clerk-typing", "type", str(ROWS), str(TYPED_ROWS),
                      str(TYPED_A_SECOND), str(seconds)),
        ]  # fmt: skip
        course = await _watch(place, clerks, seconds)
        for clerk in clerks:
            await clerk.wait(60)
        await place.until_applied(start + (RATE + TYPED_A_SECOND) * seconds, 60)
        await place.check_copy()
    return figures_of(course)


async def _watch(place: Town, clerks: list[Child], seconds: int) -> Course:
    course = Course()
    length = max(2.0, seconds / _WINDOWS)
    began = time.monotonic()
    since = datetime.now(UTC)
    while time.monotonic() - began < seconds and all(clerk.is_running for clerk in clerks):
        await asyncio.sleep(length)
        at = time.monotonic() - began
        for name, pid in place.processes.items():
            course.memory.setdefault(name, []).append((at, memory_mb([pid])))
        # What was committed in the last second may still be on its way: it counts next time.
        until = datetime.now(UTC) - timedelta(seconds=1)
        found = [ms for commit, ms in await delays_ms(place, since) if commit <= until]
        since = until
        if found:
            course.p50.append((at, percentile(found, 50)))
            course.p99.append((at, percentile(found, 99)))
            memory = sum(samples[-1][1] for samples in course.memory.values())
            place.bench.say(
                f"{at:6.0f} s: p50 {course.p50[-1][1]:.1f} ms, p99 {course.p99[-1][1]:.1f} ms, "
                f"{memory:.0f} MB"
            )
    return course


def figures_of(course: Course) -> list[Figure]:
    """Raises ValueError when too little was sampled to say anything."""
    whole = [
        (moments[0][0], sum(mb for _, mb in moments))
        for moments in zip(*course.memory.values(), strict=True)
    ]
    return [
        _judged("soak: memory of all processes", whole, "MB", **_MEMORY),
        *(
            _judged(f"soak: memory of the {name}", samples, "MB", **_MEMORY)
            for name, samples in course.memory.items()
        ),
        _judged("soak: latency p50", course.p50, "ms", **_LATENCY),
        _judged("soak: latency p99", course.p99, "ms", **_LATENCY),
    ]


def _judged(name: str, samples: list[Sample], unit: str, *, part: float, least: float) -> Figure:
    late = last_two_thirds(samples)
    found = growth(late)
    grows = found.is_growth(part=part, least=least)
    middle = plain(name, [value for _, value in late], unit)
    text = f"no growth (last 2/3: {found.rise:+.1f} {unit})"
    return Figure(name, middle.ours, unit, target=text, met=not grows)
