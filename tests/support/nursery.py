"""Where children come from that are started by the hundred: a process that has imported what all
need, and forks. A start costs a third of what it costs otherwise.

Imported are third parties, and rooms that no patch of a test touches: what is patched has to be
imported behind its patch. A child is a process like any other, with an environment, a session and
an output of its own; it dies with the nursery, and the nursery with whoever runs the tests. As a
script it is the nursery itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deptbus.cluster.lifeline import PR_SET_PDEATHSIG, _prctl, bound
from deptbus.lean import without

IMPORTED = (
    "aiokafka", "asyncpg", "confluent_kafka.admin", "cryptography.x509", "fastavro", "packaging",
    "prometheus_client", "stdnum", "structlog", "typer", "uvloop", "yaml",
    "deptbus.contract.load", "deptbus.contract.department", "deptbus.metrics.counts",
    "deptbus.proof", "deptbus.wire.codecs", "deptbus.wire.control",
)  # fmt: skip
FAUST = ("faust.types", "faust.transport.consumer", "faust.transport.drivers.aiokafka", "mode")
_POLL_SECONDS = 0.01


class Forked:
    """A child of the nursery, used as a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None  # the nursery says it

    def poll(self) -> int | None:
        return self.code

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended, and we have not heard of it
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"child {self.pid}", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code


class Nursery:
    """`start` from the main thread; what it gives may be asked by any."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                bound([sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())]),
                env={**os.environ, "PYTHONWARNINGS": "default"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket, self._lines = ours, ours.makefile("rb")
        self._alive: dict[int, Forked] = {}  # by process id, which may be another's later
        self._started: list[Forked] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, name="nursery", daemon=True).start()

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], output: Path, log: Path | None = None
    ) -> Forked:
        """`argv` is what follows `python`: a script or `-m` and a module, and their words. Output
        is added to `output`, and errors to `log`."""
        words = {"argv": [*argv], "env": {**env}, "output": str(output), "log": str(log or output)}
        with self._changed:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            if not self._changed.wait_for(lambda: self._started, 60):
                raise TimeoutError("the nursery does not answer")
            return self._started.pop()

    def _listen(self) -> None:
        for line in self._lines:
            told = json.loads(line)
            with self._changed:
                if "code" in told:
                    self._alive.pop(told["pid"]).code = told["code"]
                else:
                    child = self._alive[told["pid"]] = Forked(told["pid"])
                    self._started.append(child)
                self._changed.notify_all()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._socket.close()


_nursery: Nursery | None = None


def nursery() -> Nursery:
    """That of this process; it is made at the first call."""
    global _nursery
    if _nursery is None or _nursery._process.poll() is not None:
        _nursery = Nursery()
        atexit.register(_nursery.close)
    return _nursery


# -- the process itself ---------------------------------------------------------------------------


def _import_all() -> None:
    from importlib import import_module

    for name in IMPORTED:
        import_module(name)
    with without("aiohttp", "aiohttp.client", ClientSession=object):
        import_module("faust.app.base")
    for name in FAUST:
        import_module(name)
    gc.collect()
    gc.freeze()


def _fork_as_asked(channel: socket.socket) -> dict[str, Any]:
    """Returns in each child, with what was asked of it; ends with whoever asks."""
    ends, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told)
    import select

    lines = channel.makefile("rb")
    while True:
        ready, _, _ = select.select([channel, ends], [], [])
        if ends in ready:
            os.read(ends, 4096)
            for pid, code in _ended():
                channel.sendall(json.dumps({"pid": pid, "code": code}).encode() + b"\n")
        if channel not in ready:
            continue
        line = lines.readline()
        if not line:
            os._exit(0)
        parent, pid = os.getpid(), os.fork()
        if pid:
            channel.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (ends, told, channel.detach()):
            os.close(number)
        _prctl()(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        asked: dict[str, Any] = json.loads(line)
        return asked


def _ended() -> list[tuple[int, int]]:
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def _become(asked: Mapping[str, Any]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(asked["env"])
    for name, number in (("output", 1), ("log", 2)):
        file = os.open(asked[name], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(file, number)
        os.close(file)


def _run(argv: Sequence[str]) -> None:
    """As Python does."""
    if argv[0] == "-m":
        sys.argv = list(argv[1:])
        sys.path[0] = os.getcwd()
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(argv)
    sys.path[0] = str(Path(argv[0]).parent)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    _import_all()
    asked_of_me = _fork_as_asked(socket.socket(fileno=int(sys.argv[1])))
    _become(asked_of_me)
    _run(asked_of_me["argv"])
