"""The servers, the county and our processes: what a scenario breaks.

Two ways to run the product. *Children*: `begin()`, then `worker`, `operations`, `adapter` start
processes that are killed, stopped (`freeze`) and woken one by one. *`up`*: `begin(up=True)`, then
`start_up()` runs the product's own supervisor over the same folder.

All calls from the main thread (children are bound to it, see deptbus.cluster.lifeline).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import psutil

from deptbus.cli.up import ensure_contract
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.lifeline import bound
from deptbus.cluster.postgres import PostgresServer
from deptbus.connection import Connection
from deptbus.contract.load import load
from deptbus.contract.model import Contract
from deptbus.readiness import READY_FILE
from tests.support.nursery import Forked, nursery

from .county import CANARY, HOUSING, IN_POSTGRES, REGISTRY, SOURCES, County, Rights, rights
from .foreign import Foreign
from .launch import launched, words_of
from .scenario import Bug
from .verdict import Verdict
from .witness import Witness, settled
from .writers import Numbers, Writer

START_SECONDS = 240.0
STOP_SECONDS = 30.0
SETTLE_SECONDS = 180.0
STILL_SECONDS = 8.0  # what a planted bug lost does not come
KEEP = "DEPTBUS_TORTURE_KEEP"  # in the environment: leave the folder for whoever looks why
EXISTING_ROWS = 60  # of each source, before the bus is there
# A partition's are laid out whole, and the hunt reads every file: two gigabytes by default.
SMALL_INDEXES = {"log.index.size.max.bytes": "65536"}


class Bus(Protocol):
    """The brokers of a world."""

    @property
    def connection(self) -> Connection: ...
    def start(self) -> object: ...
    def stop(self) -> None: ...


class Child:
    """One process of ours; its log goes to a file that every start adds to."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        env: Callable[[], dict[str, str]],
        *,
        is_forked: bool = False,
    ) -> None:
        """`is_forked`: `argv` is what follows `python`, and the nursery starts it."""
        self.name, self._is_forked = name, is_forked
        self.argv = list(argv)
        self.log_file = folder / f"{name}.log"
        self._ready_file = folder / f"{name}.ready"
        self._env = env
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.kills = 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def code(self) -> int | None:
        """Exit code, negative if a signal ended it; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def is_ready(self) -> bool:
        return self.is_alive and self._ready_file.exists()

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def found_no_broker(self) -> bool:
        """Whether that is why it ended."""
        return self.code == 2 and "no broker answers" in self.log[-500:]

    def start(self) -> Child:
        self._ready_file.unlink(missing_ok=True)
        env = {**self._env(), READY_FILE: str(self._ready_file), "TORTURE_NAME": self.name}
        if self._is_forked:
            self.process = nursery().start(self.argv, env, self.log_file)
            return self
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                bound(self.argv),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self, seconds: float = START_SECONDS) -> Child:
        settled(
            lambda: self._ready_file.exists() or not self.is_alive,
            seconds,
            f"{self.name} is ready",
        )
        if not self.is_alive:
            raise RuntimeError(f"{self.name} did not start: {self.log[-2000:]}")
        return self

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        self.kills += 1

    def freeze(self) -> None:
        """SIGSTOP: all its threads stand still until `wake`."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)


@dataclass
class World:
    """See above. `bug` is planted in every child of the roles that it names."""

    verdict: Verdict
    seed: int = 0
    short: bool = True
    bug: Bug | None = None
    say: Callable[[str], None] = print
    folder: Path = field(init=False)
    county: County = field(init=False)
    broker: EmbeddedBroker = field(init=False)
    bus: Bus = field(init=False)  # the same, or what a scenario has brought
    postgres: PostgresServer = field(init=False)
    witness: Witness = field(init=False)
    foreign: Foreign = field(init=False)
    contract: Contract = field(init=False)  # the newest that was put in force
    writers: dict[str, Writer] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    # What the foreign consumer asks of every change: who joins later has no right to earlier ones.
    foreign_rights: Rights = field(init=False)
    policies: int = 0  # how many contracts were put in force
    # Unit -> how often people had its copy written once more, see Witness.decide.
    again: Counter[str] = field(default_factory=Counter)
    up: Child | None = None

    def __post_init__(self) -> None:
        # Not a folder of root's alone: the user who runs PostgreSQL must be able to enter it.
        self.folder = Path(tempfile.mkdtemp(prefix="deptbus-torture-"))
        self.folder.chmod(0o755)
        (self.folder / "logs").mkdir()
        self._numbers = Numbers()
        self._is_up = False

    # -- life -------------------------------------------------------------------------------------

    def did(self, what: str) -> None:
        """One line of what was done, told at once and kept in the verdict."""
        self.verdict.did.append(what)
        self.say(f"  {time.monotonic() - self.verdict.began:6.1f} s  {what}")

    def begin(
        self,
        *,
        up: bool = False,
        rows: int = EXISTING_ROWS,
        broker: dict[str, Any] | None = None,
        bus: Bus | None = None,
        rights_now: Rights | None = None,
        typists: Collection[str] = (),
        guards: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Servers, county and (without `up`) the contract; writers and witness are made, and
        nothing of the product runs. `broker`: further arguments of EmbeddedBroker; `bus`: what
        runs in its place. `typists`, `guards`: see County; `before` is called when all tables are
        there, and before anything of the product has touched them."""
        self._is_up = up
        self.postgres = PostgresServer(self.folder / "postgres")
        self.postgres.start()
        urls = {
            u: self.postgres.create_database(u.replace("@", "_").replace("-", "_"))
            for u in IN_POSTGRES
        }
        self.county = County(self.folder, urls, typists=typists, guards=guards)
        now = rights_now if rights_now is not None else rights()
        self.county.write(now)
        self.contract = load(self.county.contract_folder)
        for number, (unit, dataset) in enumerate(SOURCES.items()):
            writer = Writer(
                unit, dataset, lambda unit=unit: self.county.desk(unit), self._numbers,
                self.folder / f"writer-{number}.jsonl", self.verdict, seed=self.seed,
            )  # fmt: skip
            writer.fill(rows)
            self.writers[unit] = writer
        before()
        self.witness = Witness(self.county, self.writers, self.verdict)
        self.witness.rights = now
        words = dict(broker or {})
        words["extra_settings"] = SMALL_INDEXES | words.get("extra_settings", {})
        self.broker = EmbeddedBroker(self.folder / "broker", **words)
        self.bus = self.broker if bus is None else bus
        self.foreign_rights = now
        self.foreign = Foreign(
            self._bus, lambda: self.contract, lambda: self.foreign_rights, self.verdict
        )
        if up:
            self.postgres.stop()
            return
        self.bus.start()
        self.activate()

    def watch(self) -> None:
        """Witness and foreign consumer begin; call it before the first change."""
        self.witness.start()
        self.foreign.start()

    def activate(self) -> None:
        """Puts the contract in the county's folder in force, and joins who is not joined yet."""
        folder = self.county.contract_folder
        self.contract = load(folder)
        self.policies += 1
        asyncio.run(ensure_contract(self.folder, folder, self.connection))

    def _bus(self) -> Connection | None:
        try:
            return self.connection
        except (OSError, ValueError, KeyError):
            return None

    @property
    def connection(self) -> Connection:
        """How to reach the bus. Raises OSError while an `up` is not ready for the first time."""
        if not self._is_up:
            return self.bus.connection
        return Connection(bootstrap=self.run_file()["bootstrap"])

    def close(self) -> None:
        """Ends everything, by force; the folder goes unless KEEP is set."""
        for writer in self.writers.values():
            writer.close()
        if hasattr(self, "witness"):
            self.witness.close()
            self.foreign.abandon()
        for child in (*self.children.values(), *([self.up] if self.up else [])):
            if child.is_alive:
                child.wake()
                child.kill()
        if hasattr(self, "bus"):
            self.bus.stop()
        if hasattr(self, "postgres"):
            self.postgres.stop()
            self._wait_for_orphans()
        if os.environ.get(KEEP):
            self.say(f"  everything is left in {self.folder}")
            return
        if hasattr(self, "postgres"):
            self.postgres.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_for_orphans(self) -> None:
        """What an `up` that was killed left dies by itself; its files must not go before it."""
        settled(lambda: not self._processes_here(), 20, "children of a killed `up` are gone")

    def _processes_here(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(str(self.folder) in word for word in words):
                found.append(process)
        return found

    # -- our processes ----------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Of a child of ours; it names the bus."""
        return {**os.environ, **(self.connection.environment() if self._bus() else {}),
                "PYTHONWARNINGS": "default", "TORTURE_FOLDER": str(self.folder)}  # fmt: skip

    def _patches(self, role: str, more: Sequence[str]) -> list[str]:
        planted = self.bug.patches.get(role, ()) if self.bug is not None else ()
        return [*planted, *more]

    def _child(self, name: str, role: str, patches: Sequence[str], *arguments: str) -> Child:
        argv = words_of(role, self._patches(role, patches), *arguments)
        child = Child(name, argv, self.folder / "logs", self.environment, is_forked=True)
        self.children[name] = child
        return child.start()

    def worker(self, name: str = "worker-0", patches: Sequence[str] = ()) -> Child:
        return self._child(name, "worker", patches)

    def operations(
        self, name: str = "operations", patches: Sequence[str] = (), *arguments: str
    ) -> Child:
        return self._child(name, "operations", patches, *arguments)

    def adapter(self, name: str, units: Sequence[str], patches: Sequence[str] = ()) -> Child:
        words = [word for unit in units for word in ("--config", str(self.county.config(unit)))]
        return self._child(name, "adapter", patches, *words)

    def tend(self) -> list[str]:
        """Starts anew, as a supervisor would, every child that died or asked for it; who ended
        because it was refused (exit code 2) stays, but not who only found no broker, as one that
        starts while the broker does. Names of those that were started."""
        gone = [
            c
            for c in self.children.values()
            if not c.is_alive and (c.code not in (0, 2) or c.found_no_broker)
        ]
        return [child.start().name for child in gone]

    def kill_broker(self) -> None:
        """SIGKILL, and it is started again."""
        assert self.broker.pid is not None
        os.kill(self.broker.pid, signal.SIGKILL)
        self.broker.stop()
        self.broker.start()

    def start_default(self, *, workers: int = 1) -> None:
        """Workers, operations, one adapter process for the sources and one for the others."""
        others = [u for u in self.county.units(self.witness.rights) if u not in SOURCES]
        started = [self.worker(f"worker-{n}") for n in range(workers)]
        started += [
            self.operations(),
            self.adapter("adapter-sources", [REGISTRY, HOUSING]),
            self.adapter("adapter-others", others),
        ]
        for child in started:
            child.wait_ready()

    # -- `up` -------------------------------------------------------------------------------------

    def start_up(
        self, *, workers: int = 2, adapters: int = 3, patches: Sequence[str] = (), wait: bool = True
    ) -> None:
        """The product's own supervisor; `patches` are written `role=module:function`."""
        planted = [
            f"{role}={patch}" for role in ("worker", "adapter", "operations")
            for patch in self._patches(role, ())
        ]  # fmt: skip
        named = [*planted, *patches]
        if named:
            argv = launched("up", named, str(self.folder), str(workers), str(adapters))
        else:
            argv = [sys.executable, "-m", "deptbus.cli.main", "up", "--embedded", "--data"]
            argv += [str(self.folder), "--workers", str(workers), "--adapters", str(adapters)]
        environment = {**os.environ, "PYTHONWARNINGS": "default",
                       "TORTURE_FOLDER": str(self.folder)}  # fmt: skip
        self._forget_run_file()
        self.up = Child("up", argv, self.folder / "logs", lambda: environment).start()
        self.policies = max(self.policies, 1)
        if wait:
            self.wait_up()

    def _forget_run_file(self) -> None:
        # What a killed `up` left names processes that are dead.
        (self.folder / "run.json").unlink(missing_ok=True)

    def wait_up(self, seconds: float = START_SECONDS) -> None:
        up = self.up
        assert up is not None
        settled(
            lambda: (self.folder / "run.json").exists() or not up.is_alive, seconds, "`up` is ready"
        )
        if not up.is_alive:
            raise RuntimeError(f"`up` ended: {up.log[-2000:]}")

    def run_file(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "run.json").read_text("utf-8"))
        return content

    def processes(self) -> dict[str, int]:
        """Name -> process id of what an `up` runs now."""
        return {p["name"]: p["pid"] for p in self.run_file()["processes"]}

    # -- traffic and verdict ----------------------------------------------------------------------

    def write(self, changes: int, *, per_second: float | None = None) -> None:
        """Both clerks begin; together they make about so many changes at such a pace."""
        share = len(self.writers)
        for writer in self.writers.values():
            pace = None if per_second is None else per_second / share
            writer.start(-(-changes // share), per_second=pace)

    def write_on(self, *, per_second: float) -> None:
        """Both clerks write until `write_until`."""
        for writer in self.writers.values():
            writer.start(per_second=per_second / len(self.writers))

    def write_until(self, changes: int, seconds: float = 1200) -> None:
        """Ends what `write_on` began, once so many changes were made in all."""
        settled(
            lambda: self.changes >= changes or not self.is_writing, seconds, f"{changes} changes"
        )
        for writer in self.writers.values():
            writer.stop()

    @property
    def is_writing(self) -> bool:
        return any(writer.is_running for writer in self.writers.values())

    @property
    def changes(self) -> int:
        return sum(writer.changes for writer in self.writers.values())

    def has_shown(self, still_seconds: float) -> bool:
        """Whether a planted bug was found, or is one of those after which copies stay wrong, and
        nothing has moved for long."""
        if self.bug is None:
            return False
        if any(self.verdict.counts[kind] for kind in self.bug.shows):
            return True
        stays_wrong = {"lost", "unentitled", "doubled"}
        return still_seconds > STILL_SECONDS and not stays_wrong.isdisjoint(self.bug.shows)

    def wait_written(self, seconds: float = 1200) -> None:
        for writer in self.writers.values():
            writer.join(seconds)

    def conclude(self, seconds: float = SETTLE_SECONDS, *, drained: bool = True) -> Verdict:
        """Writers have ended: waits until the copies are right and (`drained`) the workers have
        read all there is, then counts. What is not right by then is found."""
        if self.has_shown(0.0):
            for writer in self.writers.values():
                writer.stop()
            self.did("the planted mistake is found: nothing more is waited for")
            return self.verdict
        self.wait_written()
        began = time.monotonic()
        arrived = self.witness.settle(seconds, enough=self.has_shown)
        if drained and arrived:
            self._drain(seconds)
        self.did(f"waited {time.monotonic() - began:.1f} s for the copies")
        self.foreign.finish()
        broken_jobs = sum(c.kills for n, c in self.children.items() if n.startswith("operations"))
        self.witness.decide(self.foreign.versions, self.policies, broken_jobs, self.again)
        self.hunt()
        self.verdict.counted |= {
            "changes": {u: dict(sorted(w.done.items())) for u, w in self.writers.items()},
            "unknown_outcomes": sum(w.unknown for w in self.writers.values()),
            "foreign_rounds": self.foreign.rounds,
            "foreign_checked": dict(self.foreign.checked),
            "refused": dict(self.foreign.refused),
        }
        return self.verdict

    def _drain(self, seconds: float) -> None:
        """Whatever is still under way twice has its effect before it is counted."""
        looked = self.foreign.rounds
        try:
            settled(
                lambda: self.foreign.is_drained(looked), seconds, "workers have read everything"
            )
        except TimeoutError as error:
            self.verdict.add("other", str(error))

    def hunt(self) -> None:
        """Canaries in every file but the sources' own databases: logs, Kafka's segments, copies."""
        homes = [self.county.file(u) for u in SOURCES if u not in self.county.urls]
        mark = CANARY.encode()
        skipped = self.folder / "postgres"
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file() or path.is_relative_to(skipped):
                continue
            if any(path.name.startswith(home.name) and path.parent == home.parent
                   for home in homes):  # fmt: skip
                continue
            if mark in path.read_bytes():
                self.verdict.add("leaked", f"a canary lies in {path.relative_to(self.folder)}")
