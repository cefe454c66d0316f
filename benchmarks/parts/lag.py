"""One look at a thousand units with twenty thousand partitions; the broker is simulated."""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.bench import Bench, CouldNot
from benchmarks.figures import Figure, at_most

ABOUT = "one look of `deptbus lag` at 1,000 units with 20,000 partitions, on a simulated broker"

MOST_SECONDS = 3.0
MOST_MB = 150.0


async def run(bench: Bench) -> list[Figure]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.lag_poll", str(bench.runs)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise CouldNot("the process that looks has failed")
    told = json.loads(out)
    bench.say(f"{told['units']:,} units, {told['partitions']:,} partitions")
    seconds = [told["first_seconds"], *told["seconds"]]
    return [
        at_most("lag: one look, with its document, CPU", seconds, "s", MOST_SECONDS),
        at_most("lag: memory, the simulated broker included", [told["megabytes"]], "MB", MOST_MB),
    ]
