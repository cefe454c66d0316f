"""`deptbus up`: broker, topics and contract, workers, operations and adapters, run as one thing.

What belongs to other rooms comes in from outside: how the contract is put in force is a function
that the caller passes; workers and adapters are command lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deptbus.cluster.blocking import in_thread
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.ports import LOOPBACK
from deptbus.cluster.postgres import PostgresServer
from deptbus.cluster.runfile import remove_run_file, write_run_file
from deptbus.cluster.supervisor import Part, Supervisor, Tell
from deptbus.connection import Connection
from deptbus.contract.department import Department, load_department
from deptbus.errors import DeptbusError, FileProblems, Problem
from deptbus.metrics.address import METRICS_ADDRESS, Address
from deptbus.names import CERTIFICATE_KEY, CERTIFICATE_KEY_FILE
from deptbus.readiness import GO_FILE

DEPARTMENT_FILE = "department.yml"
BROKER_FOLDER = "broker"
POSTGRES_FOLDER = "postgres"  # there when `demo --postgres` made it
LOG_FOLDER = "logs"
TARGETS_FILE = "prometheus-targets.json"
_RUN_FOLDER = ".run"
_NOT_SEARCHED = {BROKER_FOLDER, POSTGRES_FOLDER, LOG_FOLDER, _RUN_FOLDER, ".deptbus"}

_DEPTBUS = (sys.executable, "-m", "deptbus.cli.main")

SERVERS, AGENTS, ADAPTERS, CONSOLE = 0, 1, 2, 3  # stages: ended in the other order
_START_SECONDS = 300.0  # of agents and adapters, their wait for the servers included

# Puts the contract in force on a bus that has none or another; returns its name for run.json.
PutInForce = Callable[[Connection], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How many processes of each kind; `port` None means any, `console_port` None: no console."""

    port: int | None = None
    workers: int = 1
    adapters: int = 2
    metrics: Address | None = None  # of the first worker; the others and the adapters follow
    console_port: int | None = None


@dataclass(frozen=True, slots=True)
class Commands:
    """The command lines of the parts that are ours; an adapter's files are added to its own."""

    worker: tuple[str, ...] = (sys.executable, "-m", "deptbus.stream.worker")
    operations: tuple[str, ...] = (*_DEPTBUS, "operations", "run")
    adapter: tuple[str, ...] = (*_DEPTBUS, "department", "run")
    console: tuple[str, ...] = (*_DEPTBUS, "console")


class Bus:
    """A bus on this machine. `prepare()`, then `await start(...)`, `await stop()`, `release()`.

    `prepare` blocks (it may download) and takes the folder, so that two cannot use it at once;
    `release` gives it back. All calls from the main thread.
    """

    def __init__(
        self, data: Path, shape: Shape, tell: Tell, commands: Commands | None = None
    ) -> None:
        self._data = data.absolute()
        self._shape = shape
        self._tell = tell
        self._commands = commands or Commands()
        self._broker = EmbeddedBroker(self._data / BROKER_FOLDER, shape.port)
        self._postgres: PostgresServer | None = None
        self._servers: list[Part] = []
        self._departments: tuple[Department, ...] = ()
        self._contract = ""
        self._all_ready = False
        self._opening: asyncio.Task[None] | None = None
        self.supervisor = Supervisor(self._data / _RUN_FOLDER, tell, self._note_processes)

    def prepare(self) -> None:
        """Reads every department.yml, takes the folder, makes what the servers need.

        Raises FileProblems with all that is wrong in the departments' files, or DeptbusError.
        """
        self._departments = find_departments(self._data)
        self._servers = [self._broker_part()]
        try:
            self._targets_file.unlink(missing_ok=True)
            remove_run_file(self._data)  # of an `up` that was killed: the folder is ours now
            if (self._data / POSTGRES_FOLDER / "port").exists():
                self._servers.append(self._postgres_part())
        except (OSError, DeptbusError):
            self.release()
            raise

    async def start(self, put_in_force: PutInForce) -> Connection:
        """Returns when every part is ready and run.json is written."""
        connection = self._broker.connection
        # All side by side: what is not a server imports its modules and waits for our word.
        others = [*self._agents(connection), *self._adapters(connection)]
        self._go_file.unlink(missing_ok=True)
        starting = asyncio.create_task(self.supervisor.start(others), name="start the others")
        try:
            await self.supervisor.start(self._servers)
            self._tell("contract", "being put in force")
            self._contract = await put_in_force(connection)
            self._tell("contract", f"in force: {self._contract}")
            self._go_file.touch()
            await starting
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        self._all_ready = True
        self._note_processes()
        self._note_targets(others)
        self._tell("bus", f"ready at {connection.bootstrap}")
        if self._shape.console_port is not None:
            part = self._console_part(connection, self._shape.console_port)
            self._opening = asyncio.create_task(self._open_console(part), name="open the console")
        return connection

    async def stop(self) -> None:
        """Ends adapters, then workers and operations, then the servers."""
        self._all_ready = False
        remove_run_file(self._data)
        self._targets_file.unlink(missing_ok=True)
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.supervisor.stop()

    def release(self) -> None:
        self._broker.release()

    @property
    def _go_file(self) -> Path:
        return self._data / _RUN_FOLDER / "go"

    def _note_processes(self) -> None:
        if self._all_ready:
            write_run_file(
                self._data,
                bootstrap=self._broker.bootstrap,
                contract=self._contract,
                processes=self.supervisor.processes,
                departments=self._departments,
            )

    def _broker_part(self) -> Part:
        return Part(
            name="broker",
            argv=tuple(self._broker.prepare()),
            log_file=self._broker.log_file,
            stage=SERVERS,
            is_ready=lambda: in_thread(self._broker.is_ready),
            trouble=self._broker.trouble,
        )

    def _postgres_part(self) -> Part:
        server = self._postgres = PostgresServer(self._data / POSTGRES_FOLDER)
        return Part(
            name="postgres",
            argv=tuple(server.prepare()),
            log_file=server.log_file,
            stage=SERVERS,
            is_ready=lambda: in_thread(server.is_ready),
            bind=server.bound_argv,
            stop_signal=signal.SIGINT,
        )

    def _agents(self, connection: Connection) -> list[Part]:
        commands = self._commands
        parts = [
            self._part(f"worker-{n}", commands.worker, AGENTS, connection, self._metrics(n))
            for n in range(self._shape.workers)
        ]
        office = self._part("operations", commands.operations, AGENTS, connection)
        key = os.environ.get(CERTIFICATE_KEY, str(self._data / CERTIFICATE_KEY_FILE))
        return [*parts, replace(office, env={**office.env, CERTIFICATE_KEY: key})]

    def _adapters(self, connection: Connection) -> list[Part]:
        count = min(self._shape.adapters, len(self._departments))
        parts = []
        for number in range(count):
            metrics = self._metrics(self._shape.workers + number)
            argv = [*self._commands.adapter]
            for department in self._departments[number::count]:
                argv += ["--config", department.file]
            part = self._part(f"adapter-{number}", argv, ADAPTERS, connection, metrics)
            parts.append(replace(part, rests_on_refusal=True))
        return parts

    def _console_part(self, connection: Connection, port: int) -> Part:
        argv = [*self._commands.console, "--monitor", "--data", str(self._data)]
        argv += ["--listen", f"{LOOPBACK}:{port}"]
        for department in self._departments:
            argv += ["--department", department.file]
        part = self._part("console", argv, CONSOLE, connection)
        return replace(part, rests_on_refusal=True, stop_seconds=5.0)

    async def _open_console(self, part: Part) -> None:
        """Only once the bus is ready, so that no change waits for it; the bus does without it."""
        try:
            await self.supervisor.start([part])
        except DeptbusError as error:
            self._tell("console", f"did not start: {error}")

    def _metrics(self, number: int) -> Address | None:
        """Of the worker, and behind the workers the adapter, of this number."""
        return self._shape.metrics.next(number) if self._shape.metrics else None

    def _note_targets(self, parts: Iterable[Part]) -> None:
        """For Prometheus, whose `file_sd_configs` reads such a file again when it changes."""
        told = [
            (part.name, part.name.partition("-")[0], address)
            for part in parts
            if (address := part.env.get(METRICS_ADDRESS))
        ]
        if not told:
            return
        if self._shape.console_port is not None:  # it watches the bus
            told.append(("console", "monitor", f"{LOOPBACK}:{self._shape.console_port}"))
        targets = [
            {"targets": [address], "labels": {"process": name, "component": component}}
            for name, component, address in told
        ]
        self._targets_file.write_text(json.dumps(targets, indent=2) + "\n", encoding="utf-8")
        self._tell("metrics", f"listed in {self._targets_file} for Prometheus")

    @property
    def _targets_file(self) -> Path:
        return self._data / TARGETS_FILE

    def _part(
        self,
        name: str,
        argv: Iterable[str],
        stage: int,
        connection: Connection,
        metrics: Address | None = None,
    ) -> Part:
        return Part(
            name=name,
            argv=tuple(argv),
            log_file=self._data / LOG_FOLDER / f"{name}.log",
            stage=stage,
            # A client file of the caller's could name another bus and wins over the environment.
            env={
                **connection.environment(),
                "DEPTBUS_CLIENT_FILE": None,
                GO_FILE: str(self._go_file),
                METRICS_ADDRESS: str(metrics) if metrics else None,
            },
            start_seconds=_START_SECONDS,
        )


def run(bus: Bus, put_in_force: PutInForce) -> None:
    """Runs the bus until SIGINT, SIGTERM or SIGHUP; a second one ends everything at once."""
    bus.prepare()
    try:
        asyncio.run(_run(bus, put_in_force))
    finally:
        bus.release()


async def _run(bus: Bus, put_in_force: PutInForce) -> None:
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            bus.supervisor.kill()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ask)
    starting = asyncio.create_task(bus.start(put_in_force), name="start")
    stopping = asyncio.create_task(asked.wait(), name="stop")
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await bus.stop()


def find_departments(data: Path) -> tuple[Department, ...]:
    """Every department.yml under the folder, by unit. Raises FileProblems with all problems."""
    found: dict[str, Department] = {}
    problems: list[Problem] = []
    for folder, below, files in os.walk(data):
        below[:] = sorted(name for name in below if name not in _NOT_SEARCHED)
        if DEPARTMENT_FILE not in files:
            continue
        path = Path(folder) / DEPARTMENT_FILE
        try:
            department = load_department(path)
        except FileProblems as error:
            problems += error.problems
            continue
        other = found.setdefault(department.unit, department)
        if other is not department:
            what = f"{department.unit} has another file already, {other.file}"
            problems.append(Problem(str(path), 0, what, "Keep one of the two"))
    if problems:
        raise FileProblems(problems)
    return tuple(found[unit] for unit in sorted(found))
