"""`up` as a whole, with a real broker and stand-ins for workers and adapters.

However it ends, nothing stays behind and the next start works.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deptbus.connection import find_connection

pytestmark = pytest.mark.service

PART = """
from deptbus.readiness import await_go, tell_ready
await_go()
tell_ready()
import time; time.sleep(600)
"""
# Says that it is ready if the bus can be used by then, else ends as one that a person must look at.
READER = """
import asyncio, sys
from deptbus.connection import find_connection
from deptbus.errors import DeptbusError
from deptbus.readiness import await_go, tell_ready
from deptbus.stream.policies import read_policies
if "hasty" not in sys.argv: await_go()
try: asyncio.run(read_policies(find_connection())).current()
except DeptbusError: sys.exit(2)
tell_ready()
import time; time.sleep(600)
"""
UP = """
import functools, sys
from pathlib import Path
from deptbus.cli.up import ensure_contract, tell
from deptbus.cluster.up import Bus, Commands, Shape, run
data = Path(sys.argv[1])
part = (sys.executable, "-c", *sys.argv[2:])
bus = Bus(data, Shape(workers=2, adapters=3), tell, Commands(part, part, part))
run(bus, functools.partial(ensure_contract, data, None))
"""
DEPARTMENT = "unit: {unit}\nsystems:\n  main:\n    database: sqlite:///own.db\n"
UNITS = ("civil_affairs@330106", "housing@330106")
DEADLINE_SECONDS = 90.0


class Up:
    """A running `up`."""

    def __init__(self, data: Path, *part: str) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP, str(data), *(part or [PART])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.family: list[psutil.Process] = []

    def run_file(self) -> dict[str, Any]:
        return json.loads((self.data / "run.json").read_text(encoding="utf-8"))

    def wait_ready(self) -> dict[str, Any]:
        self.until(lambda: (self.data / "run.json").exists())
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        return self.run_file()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.family += psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(number)
        code = self.process.wait(60)
        _, alive = psutil.wait_procs(self.family, timeout=10)
        assert alive == []
        return code


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for unit in UNITS:
        folder = tmp_path / "departments" / unit
        folder.mkdir(parents=True)
        (folder / "department.yml").write_text(DEPARTMENT.format(unit=unit), encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(data: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start_one(*part: str) -> Up:
        started.append(Up(data, *part))
        return started[-1]

    yield start_one
    for up in started:
        up.end(signal.SIGKILL)
        assert up.process.stdout is not None
        up.process.stdout.close()


def test_the_life_of_a_bus(data: Path, start: Callable[..., Up]) -> None:
    """It runs what run.json says; a second one is refused; what is killed comes back; it ends
    whole, also when it is killed itself, and starts again each time."""
    up = start()
    content = up.wait_ready()
    _check_content(content, data)
    _second_is_refused(data)
    assert up.run_file() == content
    _comes_back(up, "worker-1")
    _comes_back(up, "broker")
    assert up.end(signal.SIGTERM) == 0
    assert not (data / "run.json").exists()

    again = start()
    assert again.wait_ready()["bootstrap"] == content["bootstrap"]
    assert again.end(signal.SIGKILL) == -signal.SIGKILL
    assert (data / "run.json").exists()  # nobody was left to remove it

    last = start()
    last.until(lambda: not (data / "run.json").exists())
    last.wait_ready()
    assert last.end(signal.SIGINT) == 0


def _check_content(content: dict[str, Any], data: Path) -> None:
    assert content["bootstrap"] == find_connection(data=data).bootstrap
    assert [process["name"] for process in content["processes"]] == [
        "broker",
        "worker-0",
        "worker-1",
        "operations",
        "adapter-0",
        "adapter-1",
    ]
    assert set(content["units"]) == set(UNITS)
    own = data / "departments" / UNITS[0]
    assert content["units"][UNITS[0]] == {
        "config": str(own / "department.yml"),
        "systems": {"main": f"sqlite:///{own / 'own.db'}"},
    }


def _second_is_refused(data: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "deptbus.cli.main", "up", "--embedded", "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert "a bus already runs on" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def _comes_back(up: Up, name: str) -> None:
    """Killed, it is started anew, and run.json says so."""

    def pid() -> int | None:
        return {p["name"]: p["pid"] for p in up.run_file()["processes"]}.get(name)

    before = pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    up.until(lambda: pid() not in (None, before))


def test_parts_start_beside_the_broker_and_wait_for_the_contract(start: Callable[..., Up]) -> None:
    up = start(READER)
    assert up.process.stdout is not None
    said = []
    for line in up.process.stdout:
        said.append(" ".join(line.split()))
        if line.startswith("bus "):
            break
    first = [line.split()[0] for line in said if line.endswith(" starting")]
    assert {"broker", "worker-0", "worker-1", "operations", "adapter-0"} <= set(first)
    in_force = next(n for n, line in enumerate(said) if line.startswith("contract in force"))
    assert said.index("worker-0 starting") < in_force
    assert all(n > in_force for n, line in enumerate(said) if line.startswith("worker-0 ready"))
    assert not any(line.startswith("worker-0 died") for line in said)
    assert up.end(signal.SIGTERM) == 0


def test_a_part_that_does_not_wait_finds_no_bus(start: Callable[..., Up]) -> None:
    """Planted: what the test above is for."""
    up = start(READER, "hasty")
    assert up.process.wait(DEADLINE_SECONDS) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("line", ["broker       starting", "contract     being put", "worker-1"])
def test_ended_while_it_starts_it_leaves_no_process(
    start: Callable[..., Up], number: signal.Signals, line: str
) -> None:
    up = start()
    assert up.process.stdout is not None
    for said in up.process.stdout:
        if said.startswith(line):
            break
    else:
        raise AssertionError(f"it never said {line}")
    assert up.end(number) in (0, -number)
