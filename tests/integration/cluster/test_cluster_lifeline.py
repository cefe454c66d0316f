"""Children die with their parent however it ends; real processes, no service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deptbus.cluster import lifeline
from deptbus.cluster.lifeline import bound

SLEEPER = "import time; time.sleep(600)"
PARENT = """
import subprocess, sys, time
from deptbus.cluster.lifeline import bound
child = subprocess.Popen(bound([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
time.sleep(600)
"""
DEADLINE_SECONDS = 10.0


def gone(pid: int) -> bool:
    """True when the process ends before the deadline (a zombie has ended)."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as it:
        yield it
        it.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(parent: subprocess.Popen[str], number: int) -> None:
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.send_signal(number)
    parent.wait(DEADLINE_SECONDS)
    assert gone(child)


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    argv = bound([sys.executable, "-c", "print('ran')"])
    argv[argv.index(str(os.getpid()))] = "999999999"  # a parent that we are not
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_child_takes_the_launchers_place_with_its_arguments_and_its_exit_code() -> None:
    script = "import os, sys; print(os.getppid(), sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(
        bound([sys.executable, "-c", script, "a b", "-x", "--"]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert done.stdout == f"{os.getpid()} ['a b', '-x', '--']\n"


def test_what_cannot_be_executed_is_told(tmp_path: Path) -> None:
    done = subprocess.run(bound([tmp_path / "absent"]), capture_output=True, text=True, check=False)
    assert done.returncode == lifeline.COULD_NOT_EXECUTE
    assert "absent: No such file" in done.stderr


def test_binding_in_another_thread_is_refused() -> None:
    errors: list[Exception] = []

    def bind() -> None:
        try:
            bound(["true"])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=bind)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    assert len(errors) == 1


# The guard is what systems without prctl have; it runs here as well.
GUARD = f"""
import os, signal, sys
from deptbus.cluster.lifeline import _guard
sys.exit(_guard(int(sys.argv[1]), signal.SIGKILL, [sys.executable, "-c", {SLEEPER!r}]))
"""
GUARDED_PARENT = f"""
import os, subprocess, sys, time
guard = subprocess.Popen([sys.executable, "-c", {GUARD!r}, str(os.getpid())])
print(guard.pid, flush=True)
time.sleep(600)
"""


def started_by(pid: int) -> psutil.Process:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children()
        if children:
            return children[0]
        time.sleep(0.01)
    raise AssertionError("nothing was started")


def test_the_guard_ends_the_child_with_its_parent() -> None:
    argv = [sys.executable, "-c", GUARDED_PARENT]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        child = started_by(guard)
        parent.kill()
        parent.wait(DEADLINE_SECONDS)
        assert gone(child.pid)
        assert gone(guard)


def test_the_guard_passes_signals_on_and_tells_how_the_child_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", GUARD, str(os.getpid())]) as guard:
        child = started_by(guard.pid)
        guard.terminate()
        assert guard.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
        assert gone(child.pid)
