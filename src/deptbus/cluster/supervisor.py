"""Child processes of `up`: started in stages, started anew when they die, ended in the other order.

1. A part is ready when its condition says so; `start` returns then.
2. A part that ends before it was ever ready with exit code 1 or 2 says that a person must act:
   `start` raises with the last line that it wrote.
3. Any other end is answered by a new start, after a pause that doubles up to PAUSE_MAX_SECONDS and
   falls back once the part has run for SETTLED_SECONDS. Exit code 3 asks for a new start at once.
4. A part that rests on refusal and ends with exit code 2 is not started again: starting it anew
   would not mend what it said, and an adapter that was fenced would only fence its successor. The
   others go on.
5. Children die with us, also when we are killed (lifeline.py), and take their own children along
   (each has a process group of its own, which is killed whenever it ends).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from deptbus.cluster.blocking import in_thread
from deptbus.cluster.lifeline import bound
from deptbus.errors import DeptbusError, Exit
from deptbus.readiness import READY_FILE

START_AGAIN = 3  # a worker's exit code: the set of topics changed
PAUSE_MIN_SECONDS = 0.2
PAUSE_MAX_SECONDS = 5.0
SETTLED_SECONDS = 10.0
POLL_SECONDS = 0.05
LOG_BYTES = 10 * 1024 * 1024  # of each part, and as much of what it said before
LOG_LOOK_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One child process as it is wanted. `env` is added to ours; None removes a variable.

    `is_ready` None means: ready when the child has written the file that READY_FILE names. `bind`
    turns argv into that of a child that dies with us. `trouble` tells better than the last line
    of the log why it does not start.
    """

    name: str
    argv: tuple[str, ...]
    log_file: Path
    stage: int
    env: Mapping[str, str | None] = field(default_factory=dict)
    is_ready: Callable[[], Awaitable[bool]] | None = None
    bind: Callable[[Sequence[str]], list[str]] = bound
    trouble: Callable[[], DeptbusError] | None = None
    rests_on_refusal: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    start_seconds: float = 120.0


# Called with a part's name and what became of it, each time that this changes.
Tell = Callable[[str, str], None]


class Supervisor:
    """Looks after the parts that were given to `start`; all calls from the main thread's loop.

    `run_folder` is for the files by which children say that they are ready. `changed` is called
    whenever a process id changed.
    """

    def __init__(self, run_folder: Path, tell: Tell, changed: Callable[[], None]) -> None:
        self._run_folder = run_folder
        self._tell = tell
        self._changed = changed
        self._children: list[_Child] = []

    @property
    def processes(self) -> list[tuple[str, int]]:
        """(name, pid) of every part that runs now, in the order of their start."""
        return [(c.part.name, c.process.pid) for c in self._children if c.process is not None]

    async def start(self, parts: Sequence[Part]) -> None:
        """Starts the parts side by side and returns when all are ready.

        Raises DeptbusError when one of them needs a person (rule 2) or is not ready in time.
        """
        self._run_folder.mkdir(parents=True, exist_ok=True)
        children = [_Child(part, self._run_folder, self._tell, self._changed) for part in parts]
        self._children += children
        waiting = [asyncio.ensure_future(child.start()) for child in children]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    async def stop(self) -> None:
        """Ends all parts, the last stage first; by force those that do not end in time."""
        for stage in sorted({c.part.stage for c in self._children}, reverse=True):
            await asyncio.gather(*(c.stop() for c in self._children if c.part.stage == stage))
        self._children.clear()

    def kill(self) -> None:
        """Ends all at once; for a person who does not want to wait for `stop`."""
        for child in self._children:
            child.kill()


class _Child:
    """One part's process and the task that starts it anew."""

    def __init__(
        self, part: Part, run_folder: Path, tell: Tell, changed: Callable[[], None]
    ) -> None:
        self.part = part
        self.process: asyncio.subprocess.Process | None = None
        self._ready_file = run_folder / f"{part.name}.ready"
        self._tell = tell
        self._changed = changed
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.get_running_loop().create_future()
        self._stopping = False

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), self.part.start_seconds)
        except TimeoutError:
            raise self._trouble(f"not ready after {self.part.start_seconds:.0f} s") from None

    async def stop(self) -> None:
        self._stopping = True
        process = self.process
        if process is not None:
            self._tell(self.part.name, "stopping")
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.part.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.part.stop_seconds)
            except TimeoutError:
                log.warning("part_killed", part=self.part.name, pid=process.pid)
                self.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if not self._ready.done():
            self._ready.cancel()
        elif not self._ready.cancelled():
            self._ready.exception()  # seen: another part's trouble was told instead
        self._ready_file.unlink(missing_ok=True)
        self._tell(self.part.name, "stopped")

    def kill(self) -> None:
        self._stopping = True
        if self.process is not None:
            _kill_group(self.process.pid)

    async def _keep(self) -> None:
        """Starts the process, and again whenever it ends, until `stop`."""
        pause = PAUSE_MIN_SECONDS
        while not self._stopping:
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping:
                return
            if code == Exit.COULD_NOT and self.part.rests_on_refusal:
                said = _last_line(self.part.log_file)
                self._tell(self.part.name, f"stopped until a person acts; it said: {said}")
                self._changed()
                if not self._ready.done():
                    self._ready.set_result(None)
                return
            if code in (Exit.ANSWER_IS_NO, Exit.COULD_NOT) and not self._ready.done():
                self._ready.set_exception(self._trouble(f"ended with exit code {code}"))
                return
            if code == START_AGAIN:
                self._tell(self.part.name, "starts anew")
                continue
            if time.monotonic() - started > SETTLED_SECONDS:
                pause = PAUSE_MIN_SECONDS
            self._tell(self.part.name, f"died ({_ending(code)}), starts anew in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_SECONDS)

    async def _run_once(self) -> int:
        """Runs the process to its end and returns its exit code, negative if a signal ended it."""
        self._ready_file.unlink(missing_ok=True)
        self._tell(self.part.name, "starting")
        _put_aside(self.part.log_file)
        with self.part.log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.part.bind(self.part.argv),
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                # A group of its own: Ctrl-C on the terminal is for us, who stop it in order.
                start_new_session=True,
            )
        self.process = process
        watch = asyncio.create_task(self._watch(), name=f"watch {self.part.name}")
        bounding = asyncio.create_task(self._bound_log(), name=f"bound {self.part.name}")
        try:
            return await process.wait()
        finally:
            watch.cancel()
            bounding.cancel()
            if process.returncode is not None:
                self.process = None
                _kill_group(process.pid)  # what it left behind

    async def _watch(self) -> None:
        """Waits for the condition of readiness and tells it."""
        while not await self._is_ready():  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(POLL_SECONDS)
        if self.process is not None:
            self._tell(self.part.name, f"ready (pid {self.process.pid})")
            if not self._ready.done():
                self._ready.set_result(None)
            self._changed()

    async def _bound_log(self) -> None:
        """A part that stays for months would fill the disk with what it says."""
        while True:
            await asyncio.sleep(LOG_LOOK_SECONDS)
            try:
                await in_thread(lambda: cut_off(self.part.log_file))
            except OSError as error:  # a full disk: the part itself will say so
                log.warning("log_not_cut_off", part=self.part.name, error=error.strerror)

    async def _is_ready(self) -> bool:
        if self.part.is_ready is not None:
            return await self.part.is_ready()
        return self._ready_file.exists()

    def _environment(self) -> dict[str, str]:
        words: dict[str, str | None] = {**os.environ, **self.part.env}
        words[READY_FILE] = str(self._ready_file)
        return {name: value for name, value in words.items() if value is not None}

    def _trouble(self, what: str) -> DeptbusError:
        if self.part.trouble is not None:
            return self.part.trouble()
        said = _last_line(self.part.log_file)
        return DeptbusError(
            f"{self.part.name} {what}; it said: {said}", mend=f"Its log is {self.part.log_file}"
        )


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _kill_group(pid: int) -> None:
    """The child is the leader of its group: pid and group id are the same."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _put_aside(log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))


def cut_off(log_file: Path) -> None:
    """Beyond LOG_BYTES what was said goes into the one older file, while its writer goes on: it
    appends, so the file is emptied under it. What it says in that very moment may be lost."""
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        part = log_file.with_suffix(".log.part")
        shutil.copyfile(log_file, part)
        os.truncate(log_file, 0)
        part.replace(log_file.with_suffix(".log.1"))


def _last_line(log_file: Path) -> str:
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return "nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")[:400]
