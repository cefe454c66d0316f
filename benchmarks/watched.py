"""A command that runs to its end: how long, at what CPU, and how much memory it and others held."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench import CouldNot
from benchmarks.cpu import Meter, memory_mb

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Watched:
    """`memory_mb`: the greatest seen, of the command and of each process that was named."""

    code: int
    output: str
    seconds: float
    cpu_seconds: float
    memory_mb: float
    others_mb: Mapping[int, float]


async def watched(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    others: Iterable[int] = (),
    seconds: float = 1800,
) -> Watched:
    """Raises CouldNot when it does not end in time."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    meter = Meter(process.pid)
    most = dict.fromkeys([process.pid, *others], 0.0)
    speaking = asyncio.ensure_future(process.communicate())
    spent = 0.0
    try:
        while not speaking.done():
            for pid in most:
                most[pid] = max(most[pid], await asyncio.to_thread(memory_mb, [pid]))
            spent = max(spent, meter.seconds())
            if time.monotonic() - began > seconds:
                raise CouldNot(f"{argv[0]} did not end within {seconds:.0f} s")
            await asyncio.wait({speaking}, timeout=_LOOK_SECONDS)
    finally:
        if process.returncode is None and not speaking.done():
            process.kill()
        out, errors = await speaking
    elapsed = time.monotonic() - began
    code = process.returncode if process.returncode is not None else -1
    said = out.decode(errors="replace") or errors.decode(errors="replace")
    mine = most.pop(process.pid)
    return Watched(code, said, elapsed, spent, mine, most)
