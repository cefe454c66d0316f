"""A replay of a whole copy beside live changes: how long these take, and at what pace it goes."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks import county
from benchmarks.bench import Bench, Child, CouldNot
from benchmarks.cpu import cpu_seconds
from benchmarks.delays import delays_ms, percentile
from benchmarks.figures import Figure, at_most, median, number, plain
from benchmarks.town import Town, run_clerk, town
from benchmarks.watched import watched

ABOUT = "a copy in PostgreSQL is replayed whole, beside 50 live commits a second"
BY_NAME_ONLY = True

MOST_MS = 250.0
RATE = 50
LIVE_SECONDS = 3  # before the replay begins, for comparing
_LIVE_FIRST = 10_000_000  # the live rows' numbers lie behind those of all others
_MOST_SECONDS = 3600
_NOW = "SELECT clock_timestamp()"
_REST = re.compile(r"recipient_given_rest.*?share[\"']?[=:]\s*([0-9.]+)")


@dataclass(frozen=True, slots=True)
class _Replayed:
    rows: int
    rate: float  # deliveries a second
    cpu: dict[str, float]  # microseconds a row, of each process at work
    before: list[float]  # milliseconds of live changes before it began
    beside: list[float]
    shares: list[float]  # each time that the recipient was given a smaller share


async def run(bench: Bench) -> list[Figure]:
    rows = bench.rows or bench.scaled(1_000_000, 20_000)
    async with town(bench, "postgresql") as place:
        office = bench.child(
            "operations", _deptbus("operations", "run"), place.bus.connection.environment()
        )
        try:
            await office.ready()
            await _until_served(place)
            await place.load(rows)
            found = await _replayed(place, office, rows)
            await place.check_copy()
        finally:
            office.stop()
    name = f"live changes beside a replay of {found.rows:,} at {number(found.rate)} rows/s"
    p99 = percentile(found.beside, 99)
    least = min(found.shares, default=1.0)
    bench.say(f"{name}: p99 {p99:.1f} ms of {len(found.beside)}, {len(found.shares)} rests")
    kept = f"median {number(median(found.beside))} ms, greatest {number(max(found.beside))} ms"
    return [
        at_most(f"{name}: p99", [p99], "ms", MOST_MS).with_limit(kept),
        plain(f"{name}: p50", [percentile(found.beside, 50)], "ms"),
        plain(f"{name}: max", [max(found.beside)], "ms"),
        plain("live changes before it: p99", [percentile(found.before, 99)], "ms"),
        plain("replay: pace", [found.rate], "rows/s"),
        plain("replay: times that its share was halved", [float(len(found.shares))], ""),
        plain("replay: least share of the recipient's time", [least * 100], "%"),
        *(plain(f"replay: {who}", [cost], "us CPU a row") for who, cost in found.cpu.items()),
    ]


async def _replayed(place: Town, office: Child, rows: int) -> _Replayed:
    """Live rows are new ones, entered behind the plan: it does not have them, so that their copies
    are written once, and tell when."""
    file = place.bench.folder / "plan.json"
    file.unlink(missing_ok=True)
    words = ("--unit", county.HOUSING, "--all", "--reason", "measured", "--file", str(file))
    plan = await _asked(place, "replay", "plan", *words)
    if plan["to_send"] != rows:
        raise CouldNot(f"{plan['to_send']} of {rows} are planned")
    start, began = await place.applied(), await _now(place)
    clerk = run_clerk(place, "clerk-live", "enter", str(_LIVE_FIRST), str(RATE), str(_MOST_SECONDS))
    await place.until_applied(start + RATE * LIVE_SECONDS, 60)
    cpu = _cpu(place, office)
    since = await _now(place)
    done = await _applied(place, str(file))
    until = await _now(place)
    spent = _cpu(place, office)
    await asyncio.sleep(1 / RATE)
    clerk.stop()
    await place.until_there(60)
    delays = await delays_ms(place, began)
    return _Replayed(
        rows=done["sent"],
        rate=done["rate"],
        cpu={who: (spent[who] - at) / rows * 1e6 for who, at in cpu.items()},
        before=[ms for at, ms in delays if at < since],
        beside=[ms for at, ms in delays if since <= at <= until],
        shares=[float(share) for share in _REST.findall(office.log_file.read_text("utf-8"))],
    )


async def _until_served(place: Town) -> None:
    """Returns when the recipient's first job is over: a replay gives way to it."""
    while True:
        words = ("reconcile", "--unit", county.HOUSING, "--leg", "copy", "--output", "json")
        done = await watched(_deptbus(*words), place.bus.connection.environment())
        if done.code == 0:
            return
        if done.code != 2:
            raise CouldNot(f"the empty copy is not equal: {done.output[-500:]}")
        await asyncio.sleep(1)


async def _asked(place: Town, *words: str) -> dict[str, Any]:
    done = await watched(_deptbus(*words, "--output", "json"), place.bus.connection.environment())
    if done.code:
        raise CouldNot(f"{' '.join(words[:2])} ended with {done.code}: {done.output[-500:]}")
    found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
    return found


async def _applied(place: Town, file: str) -> dict[str, Any]:
    """As `_asked`, but nobody watches the process: that would take time from what is measured."""
    argv = _deptbus("replay", "apply", file, "--yes", "--output", "json")
    child = place.bench.child("apply", argv, place.bus.connection.environment())
    await child.wait(_MOST_SECONDS)
    found: dict[str, Any] = json.loads(child.last_words().splitlines()[-1])
    if found["state"] != "done":
        raise CouldNot(f"the replay is {found['state']}: {found['problem']}")
    return found


def _cpu(place: Town, office: Child) -> dict[str, float]:
    """CPU seconds so far, of those that a replay goes through."""
    spent = place.cpu()
    return {
        "operations": cpu_seconds([office.pid]),
        **{who: spent[who] for who in ("broker", "recipient adapter", "database of the copy")},
    }


async def _now(place: Town) -> datetime:
    ((now,),) = await place.fetch(place.source, _NOW)
    assert isinstance(now, datetime)
    return now


def _deptbus(*words: str) -> list[str]:
    return [sys.executable, "-c", "from deptbus.cli.main import main; main()", *words]
