"""Decode, route, project and encode in memory: what a change costs a worker beside Kafka itself."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Figure, against, plain

ABOUT = "the worker's functions in memory, beside fastavro without a guard; no broker"

_SCRIPT = Path(__file__).parents[1] / "quick.py"


async def run(bench: Bench) -> list[Figure]:
    found = [await _measure(bench) for _ in range(3 * bench.runs)]
    figures = []
    for step in found[0]:
        times = [each[step] for each in found]
        ours = [t["deptbus"] for t in times]
        name, unit = f"in memory: {step}", "us CPU a change"
        if "fastavro" in times[0]:
            rival = [t["fastavro"] for t in times]
            most = 1.0 if step == "all" else None
            figures.append(against(name, ours, unit, rival, most_ratio=most))
        else:
            figures.append(plain(name, ours, unit))
    return figures


async def _measure(bench: Bench) -> dict[str, dict[str, float]]:
    words = ["--changes", str(bench.scaled(2_000, 700)), "--rounds", str(bench.scaled(5, 3))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_SCRIPT), *words, "--json", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    result: dict[str, Any] = json.loads(output)
    steps: dict[str, dict[str, float]] = result["microseconds_per_change"]
    return steps
