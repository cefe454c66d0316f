"""What every part is run with: a broker, child processes, how many runs, and that nothing survives.

Discipline: what is measured runs in processes of its own, is warmed up, runs at least three times
and takes turns with its rival; CPU is that of its whole process tree, beside broker and databases.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from deptbus.cluster import topics
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.lifeline import bound
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Policy
from deptbus.readiness import READY_FILE
from deptbus.stream.policies import append_policy

N = TypeVar("N", int, float)

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.01
# Many short runs tell a ratio better than few long ones: what else the machine has to do falls on
# ours and on the rival alike.
ROUNDS_A_RUN = 7
# Room enough that the broker is not what is measured.
HEAP_MB = 1024
# Nobody measures Kafka's own housekeeping here.
_BROKER_SETTINGS = {"log.cleaner.enable": "false", "log.segment.bytes": str(256 * 1024 * 1024)}


class CouldNot(Exception):
    """A part could not be run; says why in one line."""


class Child:
    """A process that is measured or stands by; its output goes to a file. Ended by its bench."""

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self.ready_file = folder / f"{name}.ready"
        self.ready_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                bound(argv),  # it ends with us, however we end
                env={**os.environ, **env, READY_FILE: str(self.ready_file)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Returns when the child said that it is ready (deptbus.readiness)."""
        await self.until(self.ready_file.exists, seconds, "is not ready")

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.is_running:
                raise CouldNot(f"{self.name} ended by itself: {self.last_words()}")
            if time.monotonic() > deadline:
                raise CouldNot(f"{self.name} {what} within {seconds:.0f} s: {self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)

    async def wait(self, seconds: float) -> None:
        """Returns when the child has ended by itself, well."""
        try:
            code = await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise CouldNot(f"{self.name} did not end within {seconds:.0f} s") from None
        if code:
            raise CouldNot(f"{self.name} ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        text = self.log_file.read_text(encoding="utf-8", errors="replace").strip()
        return text[-2000:] or "it said nothing"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass(frozen=True, slots=True)
class Bus:
    """A broker of one's own with the topics of a contract, which is in force as policy 1."""

    broker: EmbeddedBroker
    connection: Connection
    contract: Contract


class Bench:
    """`folder` may be entered by every user of the machine: PostgreSQL does not run as root."""

    def __init__(
        self, *, quick: bool, runs: int, folder: Path, minutes: int = 30, rows: int | None = None
    ) -> None:
        self.quick = quick
        self.rows = rows  # of a part that lets its size be chosen; None: as the form asks for
        self.runs = runs
        self.rounds = runs * ROUNDS_A_RUN  # where ours and the rival take short turns
        self.minutes = minutes  # of what is long on purpose
        self.folder = folder
        self._children: list[Child] = []
        self._buses = 0

    def scaled(self, full: N, quick: N) -> N:
        """How much of something: as much as the form of the benchmark asks for."""
        return quick if self.quick else full

    def say(self, text: str) -> None:
        """Progress, for whoever waits; not part of the result."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def child(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """A process of its own; stopped with the bench at the latest."""
        child = Child(name, argv, env or {}, self.folder)
        self._children.append(child)
        return child

    def worker(self, bus: Bus, name: str = "worker") -> Child:
        """A real worker, as `deptbus up` starts it."""
        argv = [sys.executable, "-m", "deptbus.stream.worker"]
        return self.child(name, argv, bus.connection.environment())

    def script(self, bus: Bus, module: str, *words: str, name: str | None = None) -> Child:
        """A rival or helper of this package (`rivals.plain_route`), told where the bus is."""
        argv = [sys.executable, "-m", f"benchmarks.{module}", bus.connection.bootstrap, *words]
        root = str(Path(__file__).resolve().parents[1])
        return self.child(name or module, argv, {"PYTHONPATH": root})

    @asynccontextmanager
    async def bus(self, contract: Contract) -> AsyncIterator[Bus]:
        """A fresh broker with this contract in force; gone with all it held at the end."""
        self._buses += 1
        folder = self.folder / f"broker-{self._buses}"
        broker = EmbeddedBroker(folder, heap_mb=HEAP_MB, extra_settings=_BROKER_SETTINGS)
        connection = broker.start()  # in the main thread, see cluster.lifeline
        children = len(self._children)
        try:
            await asyncio.to_thread(_create_topics, connection, contract)
            policy = Policy(
                number=1,
                activated_at=datetime.now(UTC),
                activated_by="benchmark",
                contract=contract,
            )
            await append_policy(connection, policy)
            yield Bus(broker, connection, contract)
        finally:
            for child in self._children[children:]:
                child.stop()
            del self._children[children:]
            broker.stop()
            shutil.rmtree(folder)

    def close(self) -> None:
        for child in self._children:
            child.stop()
        self._children.clear()


def _create_topics(connection: Connection, contract: Contract) -> None:
    topics.apply(connection, topics.plan(connection, topics.wanted(contract)))


@asynccontextmanager
async def opened(
    *, quick: bool, runs: int, minutes: int = 30, rows: int | None = None
) -> AsyncIterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="deptbus-bench-"))
    os.chmod(folder, 0o755)
    bench = Bench(quick=quick, runs=runs, folder=folder, minutes=minutes, rows=rows)
    try:
        yield bench
    finally:
        bench.close()
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
