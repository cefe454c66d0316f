"""The demonstration from beginning to end: build, start, load, a working day, the proof.

The bus is a child process, `deptbus up --embedded`, just as anybody would start it; the clerks, the
witness and the referee stand outside of it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deptbus.cluster.lifeline import bound
from deptbus.cluster.postgres import PostgresServer
from deptbus.connection import RUN_FILE, Connection, find_connection
from deptbus.contract.bundled import bundled
from deptbus.demo.books import Books, parked_rows, read_books
from deptbus.demo.canaries import hunt
from deptbus.demo.chaos import Chaos
from deptbus.demo.clerks import Clerks
from deptbus.demo.county import County, build
from deptbus.demo.mistakes import Mistake, clerks_mistakes, foreign_records
from deptbus.demo.referee import Referee, Verdict
from deptbus.demo.story import Story, tell
from deptbus.demo.witness import Seen, Witness
from deptbus.errors import DeptbusError

START_SECONDS = 300.0  # the first start fetches the broker
SETTLE_SECONDS = 120.0
STOP_SECONDS = 60.0
EDITS_PER_SECOND = 50.0
CALM_EDITS_PER_SECOND = 2.0  # once the day is over, for whoever watches: slow enough to follow
LOOK_SECONDS = 0.25
POSTGRES_FOLDER = "postgres"


@dataclass(frozen=True)
class Plan:
    folder: Path
    residents: int
    seconds: float
    postgres: bool
    chaos: bool
    seed: int
    stays_open: bool = False  # after the proof, until Ctrl-C, with clerks who go on calmly


@dataclass
class Outcome:
    """Everything that happened; `as_json` is the last line of the demonstration."""

    county: County
    seen: Seen
    books: Books
    verdict: Verdict
    mistakes: list[Mistake]
    edits: Counter[str]
    killed: Counter[str]
    story: Story | None
    canary_found: str | None
    seconds: float

    @property
    def is_well(self) -> bool:
        """Every copy equal, and exactly the mistakes made on purpose stopped."""
        return (
            self.verdict.equal
            and self.canary_found is None
            and self.seen.quarantined == self.count("quarantined")
            and self.books.parked == self.count("parked")
        )

    def count(self, outcome: str) -> int:
        return sum(m.outcome == outcome for m in self.mistakes)

    def as_json(self) -> dict[str, Any]:
        return {
            "units": len(self.county.departments),
            "datasets": len(self.county.contract.datasets),
            "published": self.seen.published,
            "delivered": self.seen.delivered,
            "by_direction": {str(d): n for d, n in self.seen.by_direction.items()},
            "withheld_fields": self.seen.withheld_fields,
            "withdrawn": self.seen.withdrawn,
            "quarantined": self.seen.quarantined,
            "parked": self.books.parked,
            "reentries_saved": self.books.reentries,
            "latency_ms": self.books.latency(),
            "rows_per_second": round(self.books.first_load_per_second),
            "copies_equal": self.verdict.equal,
            "seconds": round(self.seconds, 1),
        }


class Stage(Protocol):
    """What the screen is told while the demonstration runs."""

    def say(self, line: str) -> None: ...

    def show(self, seen: Seen, edits: Counter[str], killed: Counter[str]) -> None: ...

    def console(self) -> str | None:
        """Where the console is, in words; None while it is not there."""

    def tell(self, outcome: Outcome) -> None:
        """The day is over and proved; the bus still runs."""

    def close(self) -> None: ...


class Silence:
    """The stage of a demonstration that nobody watches. `tell`: what is done with its outcome."""

    def __init__(self, tell: Callable[[Outcome], None]) -> None:
        self.tell = tell

    def say(self, line: str) -> None:
        """Not heard."""

    def show(self, seen: Seen, edits: Counter[str], killed: Counter[str]) -> None:
        """Not seen."""

    def console(self) -> str | None:
        """Nobody goes there."""
        return None

    def close(self) -> None:
        """Nothing was opened."""


class Doorbell:
    """Says where the console is, once, when it is there: it starts when all else is ready."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._has_rung = False

    def look(self) -> None:
        if not self._has_rung and (where := self._stage.console()) is not None:
            self._has_rung = True
            self._stage.say(where)


def run(plan: Plan, stage: Stage) -> Outcome:
    """Runs everything; the bus is down again when this returns, whatever happens."""
    began = time.monotonic()
    county = _build(plan, stage)
    bus = _start(plan, stage)
    try:
        connection = _wait_until_ready(bus, plan.folder)
        witness = Witness(connection, county.contract)
        witness.start()
        referee = Referee(county.contract_folder, county.configs)
        stage.say("every department loads what it may have")
        bell = Doorbell(stage)
        _settle(bus, lambda: referee.judge(), bell)
        outcome = _working_day(plan, county, connection, witness, bus, stage, bell)
        outcome.seconds = time.monotonic() - began
        stage.tell(outcome)
        if plan.stays_open:
            _stay_open(plan, county, bus, stage, bell)
        return outcome
    finally:
        _stop(bus)


def _build(plan: Plan, stage: Stage) -> County:
    stage.say(f"building a county in {plan.folder}")
    plan.folder.mkdir(parents=True, exist_ok=True)
    if not plan.postgres:
        return build(plan.folder, bundled(), residents=plan.residents, seed=plan.seed)
    with PostgresServer(plan.folder / POSTGRES_FOLDER) as server:
        return build(
            plan.folder,
            bundled(),
            residents=plan.residents,
            seed=plan.seed,
            postgres=server.create_database,
        )


def _start(plan: Plan, stage: Stage) -> subprocess.Popen[bytes]:
    stage.say("starting the bus: deptbus up --embedded")
    argv = [sys.executable, "-m", "deptbus.cli.main", "up", "--embedded"]
    argv += ["--data", str(plan.folder)]
    with (plan.folder / "up.log").open("wb") as log:
        return subprocess.Popen(
            bound(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C on the terminal is for us, who end it in order: a second signal would kill.
            start_new_session=True,
        )


def _wait_until_ready(bus: subprocess.Popen[bytes], folder: Path) -> Connection:
    deadline = time.monotonic() + START_SECONDS
    while not (folder / RUN_FILE).exists():
        _check_alive(bus, folder)
        if time.monotonic() > deadline:
            raise DeptbusError(
                f"the bus is not ready after {START_SECONDS:.0f} s", mend=_see(folder)
            )
        time.sleep(LOOK_SECONDS)
    return find_connection(data=folder)


def _check_alive(bus: subprocess.Popen[bytes], folder: Path) -> None:
    if bus.poll() is not None:
        lines = (folder / "up.log").read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.startswith("deptbus: ")), "")
        what = said.removeprefix("deptbus: ") or f"the bus ended with code {bus.returncode}"
        raise DeptbusError(what, mend=_see(folder))


def _see(folder: Path) -> str:
    return f"See {folder / 'up.log'} and {folder / 'logs'}"


def _stop(bus: subprocess.Popen[bytes]) -> None:
    bus.terminate()
    try:
        bus.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        bus.kill()
        bus.wait()


def _working_day(
    plan: Plan,
    county: County,
    connection: Connection,
    witness: Witness,
    bus: subprocess.Popen[bytes],
    stage: Stage,
    bell: Doorbell,
) -> Outcome:
    clerks, chaos = Clerks(county, plan.seed), Chaos(plan.folder, plan.seed)
    stage.say(f"a working day of {plan.seconds:.0f} seconds: clerks edit their own databases")
    clerks.start(EDITS_PER_SECOND)
    if plan.chaos:
        chaos.start()
    story: Story | None = None
    mistakes: list[Mistake] = []
    try:
        mistakes += clerks_mistakes(county)
        mistakes += asyncio.run(foreign_records(connection))
        if not plan.chaos:
            story = tell(county)
        end = time.monotonic() + plan.seconds
        while time.monotonic() < end:
            _check_alive(bus, plan.folder)
            bell.look()
            stage.show(witness.seen, clerks.so_far(), chaos.killed)
            time.sleep(LOOK_SECONDS)
    finally:
        edits = clerks.stop()
        if plan.chaos:
            chaos.stop()
    stage.say("the day is over; the referee compares every copy with its source")
    ignore = {m.key for m in mistakes if m.key is not None}
    referee = Referee(county.contract_folder, county.configs)
    expected_parked = sum(m.outcome == "parked" for m in mistakes)
    verdict = _settle(
        bus,
        lambda: referee.judge(ignore),
        bell,
        also=lambda: parked_rows(county.departments.values()) == expected_parked,
    )
    seen = witness.finish()
    return Outcome(
        county=county,
        seen=seen,
        books=read_books(county.departments.values()),
        verdict=verdict,
        mistakes=mistakes,
        edits=edits,
        killed=chaos.killed,
        story=story,
        canary_found=seen.canary_topic or hunt(county),
        seconds=0.0,
    )


def _stay_open(
    plan: Plan, county: County, bus: subprocess.Popen[bytes], stage: Stage, bell: Doorbell
) -> None:
    """Until Ctrl-C, which is its good end."""
    clerks = Clerks(county, plan.seed + 1_000)
    stage.say("the clerks go on calmly, and the console stays open; Ctrl-C ends it")
    clerks.start(CALM_EDITS_PER_SECOND)
    try:
        while True:
            bell.look()
            _check_alive(bus, plan.folder)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        stage.say("the bus is stopped")
    finally:
        clerks.stop()


def _settle(
    bus: subprocess.Popen[bytes],
    judge: Callable[[], Verdict],
    bell: Doorbell,
    also: Callable[[], bool] = lambda: True,
) -> Verdict:
    """The verdict once every copy is equal, or the last one when the deadline is over."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        bell.look()
        verdict = judge()
        if (verdict.equal and also()) or time.monotonic() > deadline or bus.poll() is not None:
            return verdict
        time.sleep(LOOK_SECONDS)
