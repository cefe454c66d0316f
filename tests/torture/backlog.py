"""Slow consumer, slow broker, full outbox: what cannot go on waits at its source, and says so.

`registry@330106` has room for few rows in its outbox. Each adapter that is slowed down is a process
of its own.

1. Slow broker: it stands still most of the time (SIGSTOP and SIGCONT in turn) while changes are
   written. The outbox fills and empties.
2. Slow consumer: the adapter of `archive@330106` stands still most of the time. Nobody waits for
   it.
3. Full outbox: the broker stands still, and more is written than the outbox has room for. Every
   write goes through; status says that publishing has stalled, that the outbox is full, that
   changes were missed, and what mends it. When the broker goes on, what was captured arrives, the
   adapter makes good what was not, and every copy is equal without anybody's word.

Through all of it the memory of every process of the product stays flat.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import yaml

from .county import ARCHIVE, HOUSING, REGISTRY, SOURCES
from .gauges import Memory, command, status
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import World

CAP_ROWS = 150
MOST_GROWN_MB = 60.0  # beside what caches and the first batches take
SOON = 60.0
PER_SECOND = 60
_STANDS, _RUNS = 0.6, 0.15  # seconds of a turn


class Slowed:
    """A process that stands still most of the time, while in the `with` block."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._turns, name="slowed", daemon=True)

    def __enter__(self) -> Slowed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        os.kill(self._pid, signal.SIGCONT)

    def _turns(self) -> None:
        while not self._stop.is_set():
            os.kill(self._pid, signal.SIGSTOP)
            self._stop.wait(_STANDS)
            os.kill(self._pid, signal.SIGCONT)
            self._stop.wait(_RUNS)


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    world.watch()
    _start(world)
    memory = Memory(world.children.values()).start()
    for changes in (200,) if short else (4_000, 2_000, 2_000):
        _slow(world, changes)
        if world.verdict.is_clean:
            _full(world)
        if not world.verdict.is_clean:
            break  # what comes behind would wait for what is broken already
    grown = memory.stop()
    world.verdict.counted["memory_grown_mb"] = grown
    for name, megabytes in grown.items():
        world.verdict.check(
            megabytes <= MOST_GROWN_MB, f"memory: {name} grew by {megabytes} MB under back-pressure"
        )
    return world.conclude()


def _start(world: World) -> None:
    others = [u for u in world.county.units(world.witness.rights)
              if u not in SOURCES and u != ARCHIVE]  # fmt: skip
    world.worker()
    world.operations()
    world.adapter("adapter-registry", [REGISTRY])
    world.adapter("adapter-housing", [HOUSING])
    world.adapter("adapter-archive", [ARCHIVE])
    world.adapter("adapter-others", others)
    for child in world.children.values():
        child.wait_ready()
    # What was there before has been published: from now on the outbox has its small room.
    world.verdict.check(world.witness.settle(SOON), "the first load did not arrive")
    config = world.county.config(REGISTRY)
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["systems"]["main"]["outbox_cap_rows"] = CAP_ROWS
    config.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    words = ("--config", str(config), "--contract", str(world.county.contract_folder))
    _done("department", "install", *words)


def _done(*words: str) -> None:
    code, _, err = command(*words)
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {err}")


# -- 1 and 2 --------------------------------------------------------------------------------------


def _slow(world: World, changes: int) -> None:
    """Broker and one recipient in turn."""
    broker = world.broker.pid
    assert broker is not None
    desk, most = world.county.desk(REGISTRY, read_only=True), 0
    with Slowed(broker):
        world.write(changes, per_second=PER_SECOND)
        while world.is_writing:
            ((rows,),) = desk.rows("SELECT count(*) FROM deptbus_outbox")
            most = max(most, rows)
            time.sleep(0.02)
    world.wait_written()
    desk.close()
    world.did(f"a broker that stands still {_STANDS / (_STANDS + _RUNS):.0%} of the time: "
              f"{most} rows waited at most")  # fmt: skip
    world.verdict.check(most > 0, "what a slow broker does not take did not wait in the outbox")
    with Slowed(world.children["adapter-archive"].pid):
        # Not faster than a busy machine publishes: this is not about a full outbox yet.
        world.write(changes, per_second=PER_SECOND)
        world.wait_written()
        others = {u for u, _ in world.witness.rights} - {ARCHIVE}
        world.verdict.check(
            world.witness.settle(SOON, units=others), "the others wait for a slow recipient"
        )
    world.did("a recipient that stands still as often")


# -- 3 --------------------------------------------------------------------------------------------


def _full(world: World) -> None:
    broker = world.broker.pid
    assert broker is not None
    writer = world.writers[REGISTRY]
    settled(lambda: not _source(world)["outbox_rows"], SOON, "the outbox is empty")
    os.kill(broker, signal.SIGSTOP)
    began = time.monotonic()
    try:
        # A first change is on its way when the bus stops taking anything.
        writer.start(CAP_ROWS // 2)
        writer.join()
        _told(world, "stalled", lambda s: s["publishing"]["state"] == "stalled")
        half = _source(world)
        world.verdict.check(
            20 < half["outbox_fill_percent"] < 100 and half["outbox_room_rows"] > 0,
            f"half full is told as {half['outbox_fill_percent']} %",
        )
        world.verdict.check(half["oldest_age_seconds"], "how old the oldest row is is not told")
        if not world.verdict.is_clean:
            return
        writer.start(2 * CAP_ROWS)
        writer.join()
        code, system = status(world, REGISTRY)
        full = system["source"]
        world.verdict.check(code == 1, "status says that all is well where the outbox is full")
        world.verdict.check(full["outbox_fill_percent"] == 100.0, "a full outbox is not told")
        world.verdict.check(full["resync_needed"], "that changes were missed is not told")
        world.verdict.check(
            full["outbox_rows"] <= CAP_ROWS + 5, f"{full['outbox_rows']} rows beyond the cap"
        )
        told = " ".join(f"{f['what']}. {f['mend']}" for f in full["findings"])
        for words in ("deptbus department resync", "is full", "stalled"):
            world.verdict.check(words in told, f"status does not say {words!r}: {told}")
    finally:
        os.kill(broker, signal.SIGCONT)
    stood = time.monotonic() - began
    settled(lambda: not _source(world)["outbox_rows"], SOON, "what was captured is published")
    _told(world, "going on", lambda s: s["publishing"]["state"] == "going_on")
    missed = full["captures_missed"]
    world.did(f"a broker that stood still for {stood:.0f} s: outbox full, {missed} captures missed")
    _made_good(world)


def _source(world: World) -> dict[str, Any]:
    found: dict[str, Any] = status(world, REGISTRY)[1]["source"]
    return found


def _told(world: World, what: str, condition: Any) -> None:
    """Status says so soon; a finding where it does not."""
    try:
        settled(lambda: condition(_source(world)), 30, what)
    except TimeoutError:
        world.verdict.add("other", f"status does not say {what!r}: {_source(world)['publishing']}")


def _made_good(world: World) -> None:
    """By the adapter itself, and status says so."""
    settled(lambda: not _source(world)["resync_needed"], SOON, "what was missed is made good")
    world.verdict.check(
        world.witness.settle(SOON), "copies are not equal after what was missed was made good"
    )
    world.did("made good by itself: every copy is equal")


# -- planted bugs ---------------------------------------------------------------------------------


def nothing_is_said() -> None:
    """The adapter never writes its signs of life."""
    from deptbus.department.pulse import Signs

    async def silent(self: Signs, pulse: object) -> None:
        return

    Signs._say = silent  # type: ignore[method-assign,assignment]


def all_is_kept() -> None:
    """The adapter keeps in memory whatever it has ever read from its outbox."""
    from deptbus.department.publisher import Publisher

    kept: list[bytearray] = []
    turn = Publisher._turn

    async def keep(self: Publisher, *words: Any) -> Any:
        found = await turn(self, *words)
        kept.extend(bytearray(b"x" * 1_000_000) for _ in found.changes)
        return found

    Publisher._turn = keep  # type: ignore[method-assign]


SCENARIO = Scenario(
    "backlog",
    "a slow broker, a slow recipient, an outbox that is full: status, memory, resync",
    run,
    {
        "nothing is said": Bug(
            "the adapter does not say that the bus takes nothing",
            ("other",),
            {"adapter": ("backlog:nothing_is_said",)},
        ),
        "all is kept": Bug(
            "the adapter keeps in memory all that it publishes",
            ("other",),
            {"adapter": ("backlog:all_is_kept",)},
        ),
    },
)
