"""Drives the installed command as anybody would: from an empty folder, in a clean environment.

A `Room` is such a folder. It knows every process that was started in it, however far removed, by a
mark in the process's environment or by the folder that it works in; so a test can say that nothing
is left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MARK = "DEPTBUS_TEST_ROOM"
KEEP = "DEPTBUS_TEST_KEEP"  # in our own environment: leave the folders for whoever looks why
START_SECONDS = 120.0
STOP_SECONDS = 60.0
# What a command could find by itself and should not: the checkout, other buses, a caller's choices.
_NOT_INHERITED = ("PYTHON", "DEPTBUS_", "VIRTUAL_ENV", "COVERAGE", "PYTEST")


@dataclass(frozen=True)
class Said:
    """What a command that has ended said."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def told(self) -> str:
        """The one line by which it ended: the last on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def __str__(self) -> str:
        words = " ".join(self.argv)
        return (
            f"`{words}` ended with {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"
        )


def is_ci() -> bool:
    """Where everything runs in full, and what cannot run is a failure."""
    return os.environ.get("DEPTBUS_REQUIRE_SERVICES") == "1" or os.environ.get("CI") == "true"


class Room:
    """An empty folder outside of the checkout, and what is run in it."""

    def __init__(self, bin_folder: Path) -> None:
        # Not pytest's folder: the user who runs PostgreSQL must be able to enter it.
        self.folder = Path(tempfile.mkdtemp(prefix="deptbus-room-"))
        self.folder.chmod(0o755)
        self.deptbus = str(bin_folder / "deptbus")
        self._bin = bin_folder
        self._mark = uuid.uuid4().hex
        self._log_number = 0

    def environment(self, **more: str) -> dict[str, str]:
        words = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
        words["PATH"] = f"{self._bin}{os.pathsep}{words.get('PATH', os.defpath)}"
        words["XDG_STATE_HOME"] = str(self.folder / "state")  # reports of our own bugs lie there
        words[MARK] = self._mark
        if "DEPTBUS_CACHE" in os.environ:
            words["DEPTBUS_CACHE"] = os.environ["DEPTBUS_CACHE"]
        return words | more

    def run(
        self, *words: str | Path, timeout: float = 180, folder: Path | None = None, **env: str
    ) -> Said:
        """Runs `deptbus <words>` to its end. It never ends by a traceback or by our own bug."""
        argv = (self.deptbus, *map(str, words))
        began = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=folder or self.folder,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = Said(
            ("deptbus", *argv[1:]), done.returncode, done.stdout, done.stderr,
            time.monotonic() - began,
        )  # fmt: skip
        assert "Traceback" not in said.out + said.err, str(said)
        assert said.code in (0, 1, 2), str(said)
        return said

    def start(
        self, *words: str | Path, folder: Path | None = None, **env: str
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts `deptbus <words>`; returns the process and the file of all that it says."""
        self._log_number += 1
        said = self.folder / f"said-{self._log_number}.log"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [self.deptbus, *map(str, words)],
                cwd=folder or self.folder,
                env=self.environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return process, said

    def processes(self) -> list[psutil.Process]:
        """All that run because of this room, but for those that are dead and not yet buried."""
        return [p for p in psutil.process_iter() if self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get(MARK) == self._mark:
                return True
            # PostgreSQL overwrites its environment: known by the folder of its databases.
            folder = str(self.folder.resolve())
            home = process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False
        return home.startswith(folder) or any(
            home.startswith(str(link.resolve())) for link in self._clusters()
        )

    def _clusters(self) -> Iterator[Path]:
        for depth in ("*/postgres/cluster", "postgres/cluster"):
            yield from self.folder.glob(depth)

    def check_empty(self, seconds: float = 10) -> None:
        """Nothing runs any more, or not for long: what was told to end has this time to do it."""
        wait_until(lambda: not self.processes(), seconds, lambda: f"left: {self._names()}")

    def _names(self) -> list[str]:
        names = []
        for process in self.processes():
            try:
                names.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            except psutil.NoSuchProcess:
                continue
        return names

    def check_logs(self) -> None:
        """No log holds a traceback, and no report of our own bug was written."""
        for log in self.folder.rglob("*.log*"):
            assert "Traceback" not in log.read_text(errors="replace"), log
        reports = [p.read_text() for p in (self.folder / "state").rglob("bugs/*")]
        assert not reports, "\n".join(reports)

    def close(self) -> None:
        """Ends what is left (a test that failed); removes the folder unless KEEP says not to."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if os.environ.get(KEEP):
            return
        for link in self._clusters():
            shutil.rmtree(link.resolve(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Up:
    """`deptbus up --embedded` on one folder; `start` returns when run.json is there. Without the
    console, which is one more process, unless `--console` is among the words."""

    def __init__(self, room: Room, data: Path, *words: str | Path, **env: str) -> None:
        self.room, self.data = room, data
        self._words, self._env = words, env
        self._process: subprocess.Popen[bytes] | None = None
        self._said = Path()

    @property
    def _has_console(self) -> bool:
        return "--console" in self._words

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def launch(self) -> None:
        """Starts it and does not wait."""
        words = ["up", "--embedded", "--data", self.data, *self._words]
        if not self._has_console:
            words.append("--no-console")
        self._process, self._said = self.room.start(*words, **self._env)

    def start(self, seconds: float = START_SECONDS) -> Up:
        self.launch()
        wait_until(self._is_ready, seconds, lambda: f"not ready: {self.said}")
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.said}"
        wanted = ["bus          ready"] + ["console      ready"] * self._has_console
        said = self.said
        return (self.data / "run.json").exists() and all(word in said for word in wanted)

    def run_file(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.data / "run.json").read_text(encoding="utf-8"))
        return content

    @property
    def bootstrap(self) -> str:
        return str(self.run_file()["bootstrap"])

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code, negative if a signal ended it."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Ends it by SIGTERM; it must end well and leave nothing."""
        if self._process is None or self._process.poll() is not None:
            return
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.said
        self.room.check_empty()

    def __enter__(self) -> Up:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_until(
    condition: Callable[[], object],
    seconds: float,
    otherwise: Callable[[], object] = lambda: "in vain",
    pause: float = 0.05,
) -> None:
    """Returns when the condition holds; fails with what `otherwise` says after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s: {otherwise()}"
        time.sleep(pause)


def sql(database: Path, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """One statement in a connection of its own, committed: what a clerk's own program does."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


def script(database: Path, text: str) -> None:
    """Several statements, as the sqlite3 shell reads them from a file."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.executescript(text)


def last_json(said: Said) -> dict[str, Any]:
    """The object on the last line of stdout."""
    content: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return content
