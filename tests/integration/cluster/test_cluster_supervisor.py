"""The supervisor's rules, with small Python programs as parts; real processes, no service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from deptbus.cluster import supervisor
from deptbus.cluster.supervisor import Part, Supervisor
from deptbus.errors import DeptbusError

DEADLINE_SECONDS = 15.0

READY = """
import sys, time
from deptbus.readiness import tell_ready
print("working", flush=True)
tell_ready()
time.sleep(600)
"""
SAYS_WHY = "import sys; print('the secret is wrong. Ask the county', file=sys.stderr); sys.exit(2)"
NEVER_READY = "import time; time.sleep(600)"
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from deptbus.readiness import tell_ready
tell_ready()
time.sleep(600)
"""
# Crashes twice as a program with a bug does, then works.
CRASHES_TWICE = (
    """
import os, pathlib, sys
count = pathlib.Path(sys.argv[1])
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) < 3:
    os.kill(os.getpid(), 11)
"""
    + READY
)
ASKS_TO_START_AGAIN = (
    """
import pathlib, sys
first = pathlib.Path(sys.argv[1])
if not first.exists():
    first.touch()
    sys.exit(3)
"""
    + READY
)
TALKS = (
    READY.rsplit("time", 1)[0]
    + """
for number in range(1_000_000):
    print(f"line {number:09}", flush=True)
    time.sleep(0.0005)
"""
)
WITH_A_CHILD = (
    """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
"""
    + READY
)


class Bench:
    """A supervisor with what it told, and parts made of program texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, str]] = []
        self.changes = 0
        self.supervisor = Supervisor(
            folder / "run", lambda *words: self.told.append(words), self.note
        )

    def note(self) -> None:
        self.changes += 1

    def part(self, name: str, program: str, *words: str, stage: int = 0, **more: float) -> Part:
        argv = (sys.executable, "-c", program, *words)
        return Part(name, argv, self.folder / f"{name}.log", stage, **more)  # type: ignore[arg-type]

    def pid(self, name: str) -> int | None:
        return dict(self.supervisor.processes).get(name)

    def states(self, name: str) -> list[str]:
        return [state for part, state in self.told if part == name]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    it = Bench(tmp_path)
    yield it
    pids = [pid for _, pid in it.supervisor.processes]
    await it.supervisor.stop()
    assert not any(map(psutil.pid_exists, pids))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


async def test_start_returns_when_all_are_ready_and_stop_leaves_nothing(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("a", READY), bench.part("b", READY)])
    pids = dict(bench.supervisor.processes)
    assert set(pids) == {"a", "b"}
    assert bench.states("a") == ["starting", f"ready (pid {pids['a']})"]
    assert bench.changes == 2
    await bench.supervisor.stop()
    assert bench.states("a")[-2:] == ["stopping", "stopped"]
    assert not any(map(psutil.pid_exists, pids.values()))
    assert (bench.folder / "a.log").read_text() == "working\n"


async def test_a_part_that_was_killed_is_started_anew(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("a", READY)])
    first = bench.pid("a")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: bench.changes == 2)
    assert bench.pid("a") not in (None, first)
    assert "died (SIGKILL), starts anew in 0.2 s" in bench.states("a")


async def test_a_part_that_crashes_before_it_was_ready_is_tried_again(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("a", CRASHES_TWICE, str(bench.folder / "count"))])
    died = [state for state in bench.states("a") if state.startswith("died")]
    assert died == ["died (SIGSEGV), starts anew in 0.2 s", "died (SIGSEGV), starts anew in 0.4 s"]


@pytest.mark.parametrize("is_cut_off", [True, False])
async def test_a_part_that_talks_for_months_does_not_fill_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    """And the mistake that it is cut off at a start only, which for a part that lives is never."""
    monkeypatch.setattr(supervisor, "LOG_BYTES", 2_000)
    monkeypatch.setattr(supervisor, "LOG_LOOK_SECONDS", 0.02)
    if not is_cut_off:
        monkeypatch.setattr(supervisor, "cut_off", lambda log_file: None)
    await bench.supervisor.start([bench.part("a", TALKS)])
    log, older = bench.folder / "a.log", bench.folder / "a.log.1"

    def last(file: Path) -> int:
        lines = [line for line in file.read_text().splitlines() if line.startswith("line ")]
        return int(lines[-1].split()[1]) if lines else 0

    # Some ten times the bound was said.
    await until(lambda: log.exists() and last(log) > 1_500)
    size = log.stat().st_size
    assert (size < 15_000) is is_cut_off
    assert older.exists() is is_cut_off
    if is_cut_off:
        assert b"\0" not in log.read_bytes(), "a hole where it went on writing"
        assert last(older) < last(log)


async def test_exit_code_3_starts_again_at_once(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("a", ASKS_TO_START_AGAIN, str(bench.folder / "one"))])
    assert bench.states("a")[:3] == ["starting", "starts anew", "starting"]
    assert not any("died" in state for state in bench.states("a"))


async def test_a_part_that_needs_a_person_ends_the_start_with_its_own_words(bench: Bench) -> None:
    with pytest.raises(DeptbusError, match=r"bad ended with exit code 2; it said: the secret"):
        await bench.supervisor.start([bench.part("good", NEVER_READY), bench.part("bad", SAYS_WHY)])
    await bench.supervisor.stop()
    assert bench.supervisor.processes == []


async def test_a_part_that_rests_on_refusal_stays_stopped_and_the_others_go_on(
    bench: Bench,
) -> None:
    """A fenced adapter that were started anew would only fence its successor."""
    fenced = bench.part("fenced", SAYS_WHY, rests_on_refusal=True)
    await bench.supervisor.start([bench.part("good", READY), fenced])
    assert [name for name, _ in bench.supervisor.processes] == ["good"]
    assert (
        "fenced",
        "stopped until a person acts; it said: the secret is wrong. Ask the county",
    ) in (bench.told)
    await bench.supervisor.stop()


async def test_a_part_that_is_never_ready_is_not_waited_for_without_end(bench: Bench) -> None:
    with pytest.raises(DeptbusError, match="not ready after 1 s"):
        await bench.supervisor.start([bench.part("a", NEVER_READY, start_seconds=1.0)])


async def test_a_condition_of_readiness_may_be_anything_awaitable(bench: Bench) -> None:
    asked = 0

    async def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    part = bench.part("a", NEVER_READY)
    part = Part(part.name, part.argv, part.log_file, 0, is_ready=third_time)
    await bench.supervisor.start([part])
    assert asked == 3


async def test_stages_end_in_the_other_order(bench: Bench) -> None:
    for stage, name in enumerate(["server", "agent", "adapter"]):
        await bench.supervisor.start([bench.part(name, READY, stage=stage)])
    await bench.supervisor.stop()
    assert [name for name, state in bench.told if state == "stopped"] == [
        "adapter",
        "agent",
        "server",
    ]


async def test_a_part_that_does_not_end_in_time_is_ended_by_force(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("deaf", DEAF, stop_seconds=0.5)])
    pid = bench.pid("deaf")
    assert pid is not None
    started = time.monotonic()
    await bench.supervisor.stop()
    assert time.monotonic() - started < DEADLINE_SECONDS
    assert not psutil.pid_exists(pid)


async def test_what_a_part_started_ends_with_it(bench: Bench) -> None:
    await bench.supervisor.start([bench.part("a", WITH_A_CHILD)])
    pid = bench.pid("a")
    assert pid is not None
    (grandchild,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not grandchild.is_running() or grandchild.status() == "zombie")


async def test_a_variable_can_be_added_and_taken_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTBUS_CLIENT_FILE", "elsewhere")
    show = (
        "import os; print(os.environ.get('DEPTBUS_CLIENT_FILE'), os.environ['ADDED'], flush=True)"
    )
    part = bench.part("a", show + READY)
    env = {"DEPTBUS_CLIENT_FILE": None, "ADDED": "yes"}
    await bench.supervisor.start([Part(part.name, part.argv, part.log_file, 0, env=env)])
    await until(lambda: (bench.folder / "a.log").read_text().startswith("None yes"))
