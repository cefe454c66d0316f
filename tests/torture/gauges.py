"""What scenarios measure of the product from outside: memory, CPU time, inboxes, status."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psutil

from deptbus.change import Received
from deptbus.cli.main import run
from deptbus.names import SCHEMAS, in_topic
from deptbus.stream.log import LogReader, end_offsets, read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.codecs import Codecs

from .world import Child, World

_SAMPLE_SECONDS = 0.2
MEGABYTE = 1_000_000


class Memory:
    """Resident memory of children, sampled in a thread: `start`, then `grown` for each. Those that
    are not alive at a moment are left out of that sample."""

    def __init__(self, children: Iterable[Child]) -> None:
        self._children = list(children)
        self._first: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_always, name="memory", daemon=True)

    def start(self) -> Memory:
        self._sample()
        self._first = dict(self._most)
        self._thread.start()
        return self

    def stop(self) -> dict[str, float]:
        """Name -> by how many megabytes it has grown at most."""
        self._stop.set()
        self._thread.join(10)
        return {
            name: round((self._most[name] - first) / MEGABYTE, 1)
            for name, first in self._first.items()
        }

    def _sample_always(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for child in self._children:
            if child.is_alive:
                try:
                    now = psutil.Process(child.pid).memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                self._most[child.name] = max(self._most.get(child.name, 0), now)


def cpu_seconds(children: Iterable[Child]) -> float:
    """User and system time of these processes since they were started."""
    return sum(sum(psutil.Process(child.pid).cpu_times()[:2]) for child in children)


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `deptbus ...`, run to its end in this process: who asks
    again and again would wait for a start of Python each time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return code, out.getvalue(), err.getvalue()


def status(world: World, unit: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the one system of `deptbus department status`, as it is installed."""
    config = str(world.county.config(unit))
    code, out, err = command("department", "status", "--config", config, "-o", "json")
    if code not in (0, 1):
        raise RuntimeError(f"status of {unit} ended with {code}: {err}")
    (system,) = json.loads(out)["systems"]
    return code, system


def inbox_ends(world: World, units: Iterable[str]) -> dict[str, list[int]]:
    """Unit -> the ends of its inbox's partitions."""

    async def ask() -> dict[str, list[int]]:
        return {u: list(await end_offsets(world.connection, in_topic(u))) for u in units}

    return asyncio.run(ask())


def codecs_of(world: World) -> Codecs:
    """That read whatever was ever written."""
    codecs = Codecs(world.contract)
    for policy in asyncio.run(read_policies(world.connection)).policies.values():
        codecs.add_contract(policy.contract)
    for record in asyncio.run(read_to_end(world.connection, SCHEMAS)):
        if record.value is not None:
            codecs.add_schema(int.from_bytes(record.key or b"", "big"), record.value)
    return codecs


def inboxes(
    world: World, codecs: Codecs, since: Mapping[str, Sequence[int]]
) -> list[tuple[str, Received]]:
    """(place, delivery) of everything in these units' inboxes from those offsets to their ends."""

    async def read() -> list[tuple[str, Received]]:
        found = []
        for unit, offsets in since.items():
            topic = in_topic(unit)
            async with LogReader(
                world.connection, topic, from_offsets=dict(enumerate(offsets))
            ) as reader:
                for record in await reader.read_to_end():
                    delivery = codecs.decode_inbox(record.key, record.value)
                    if isinstance(delivery, Received):
                        found.append((f"{topic}/{record.partition}/{record.offset}", delivery))
        return found

    return asyncio.run(read())
