"""`deptbus department run`: publisher and applier of every system of several departments, in one
asyncio process.

1. A system that can go on later (database down, bus away) is tried again with back-off, and says so
   once; one that must not (fenced, source refused) stops and says so in one line; others go on.
2. Publisher and applier of a system share one incarnation: who starts the one starts both.
3. When all systems have stopped, the process ends with the last reason (exit code 2).
4. SIGTERM and SIGINT: what is being applied is finished, all within STOP_SECONDS.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from deptbus.change import Incarnation
from deptbus.connection import Connection
from deptbus.contract.department import Department, load_department
from deptbus.department import fence
from deptbus.department.applied_beat import tell_that_it_lives
from deptbus.department.applied_days import tell_days
from deptbus.department.applier import TRANSIENT, Applier
from deptbus.department.folder_import import folder_import_of
from deptbus.department.making_up import make_up_by_itself
from deptbus.department.opening import open_capture, open_system, read_secret
from deptbus.department.parked import tell_parked
from deptbus.department.proof_copy import CopyProof, Strangers
from deptbus.department.proof_desk import Answer, ProofDesk
from deptbus.department.proof_source import SourceProof
from deptbus.department.publisher import Publisher
from deptbus.department.rebuild_told import tell_rebuilds
from deptbus.department.requests import RequestReader, Resend
from deptbus.department.rivals import Rivals
from deptbus.errors import (
    BusRefused,
    BusUnreachable,
    DeptbusError,
    Fenced,
    FileProblems,
    RowRefused,
    SourceRefused,
)
from deptbus.garbage import spare_what_is_loaded
from deptbus.metrics.address import Address, served
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.counts import Counts
from deptbus.readiness import feed_watchdog, is_service, tell_manager, tell_ready
from deptbus.stream.log import Sender
from deptbus.stream.policies import PolicyFollower, tell_policy
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import ResendOrder, ResendRequest
from deptbus.wire.control_proof import Leg

log = structlog.get_logger(__name__)

STOP_SECONDS = 4.5
_BACKOFF_SECONDS = (0.2, 5.0)
_SETTLED_SECONDS = 60.0
_POLICY_SECONDS = 5.0


def run_adapter(
    connection: Connection, configs: Sequence[Path], metrics: Address | None = None
) -> None:
    """Runs until a signal says stop; tells its figures at `metrics`. Raises FileProblems (all
    files' problems at once), BusRefused, the last system's Fenced or SourceRefused when none is
    left, and DeptbusError where the address cannot be taken."""
    departments = _load(configs)
    # A batch makes some ten thousand tuples that die together by their reference counts; looking
    # for cycles among them every 700 took a third of the time of preparing rows.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(connection, departments, metrics))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: 10 to 15 % less time."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _load(configs: Sequence[Path]) -> list[Department]:
    found, problems = [], []
    for path in configs:
        try:
            found.append(load_department(path))
        except FileProblems as wrong:
            problems += wrong.problems
    if problems:
        raise FileProblems(problems)
    if not any(d.systems for d in found):
        raise DeptbusError("no system to run", mend="Name a department.yml with `systems:`")
    return found


class Shared:
    """What all systems of the process use: one follower of the contract, one of the schemas, one
    sender."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.codecs = Codecs()
        self.follower = PolicyFollower(connection)
        self.schemas = SchemaFollower(connection, self.codecs)
        self.sender = Sender(connection)
        self.counts = Counts()
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Waits for a bus that is not there yet, and says so once. Raises BusRefused."""
        await _patiently(self.follower.start)
        await _patiently(self.schemas.start)
        await _patiently(self.sender.start)
        self._telling = asyncio.create_task(self._tell_policy())

    async def _tell_policy(self) -> None:
        while True:
            tell_policy(self.counts, self.follower)
            await asyncio.sleep(_POLICY_SECONDS)

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
        await self.sender.stop()
        await self.schemas.stop()
        await self.follower.stop()


async def _patiently(start: Any) -> None:
    """A service waits for rights too: brokers that start answer before they have read who they may
    let in, and nobody is there to try again."""
    pause = _BACKOFF_SECONDS[0]
    waits_for = (BusUnreachable, BusRefused) if is_service() else BusUnreachable
    while True:
        try:
            return await start()
        except waits_for as error:
            tell_manager(f"STATUS=waits for the bus: {error}")
            if pause == _BACKOFF_SECONDS[0]:
                log.warning("bus_awaited", error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_SECONDS[1])


class SystemRun:
    """One system of one department, for as long as it may. `ended` tells why it stopped for good;
    `settled` is set once it has begun, or has said why it cannot yet."""

    def __init__(self, shared: Shared, department: Department, system: str) -> None:
        self._shared, self._department, self._system = shared, department, system
        self._settings = department.systems[system]
        self._stopping = asyncio.Event()
        self._log = log.bind(unit=department.unit, system=system)
        self.settled = asyncio.Event()
        self.ended: DeptbusError | None = None
        self._incarnation: Incarnation | None = None
        self._secret: bytes | None = None
        self._strangers = Strangers()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        pause, said = _BACKOFF_SECONDS[0], ""
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._live()
            except (Fenced, SourceRefused) as error:
                if isinstance(error, Fenced) and await self._was_restored():
                    self._log.warning("database_was_replaced")
                    continue
                self.ended = error
                self._tell_state("stopped")
                self._log.error("system_stopped", reason=str(error))
                self.settled.set()
                return
            except (*TRANSIENT, RowRefused) as error:
                # A row of our own bookkeeping refused: this system's matter, not its neighbours'.
                settled = time.monotonic() - began > _SETTLED_SECONDS
                if error.what != said or settled:
                    self._log.warning("system_waits", error=str(error))
                    said = error.what
                self._tell_state("waiting")
                self.settled.set()
                if settled:
                    pause = _BACKOFF_SECONDS[0]
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                pause = min(pause * 2, _BACKOFF_SECONDS[1])

    def _tell_state(self, state: str) -> None:
        labels = self._department.unit, self._system
        self._shared.counts.tell_state("deptbus_system_state", labels, state)

    async def _was_restored(self) -> bool:
        """After Fenced: no younger adapter is there, but our own database is another one, which has
        to be taken over like any other. Waits for a database that is away."""
        mine = self._incarnation
        while mine is not None and not self._stopping.is_set():
            with suppress(*TRANSIENT):
                database = await open_system(self._department, self._system)
                try:
                    return await fence.is_restored(database, mine)
                finally:
                    await database.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_BACKOFF_SECONDS[1]):
                    await self._stopping.wait()
        return False

    async def _live(self) -> None:
        """One incarnation: ends with the first of its parts, or when it is asked to."""
        async with AsyncExitStack() as stack:
            parts: list[Coroutine[Any, Any, None]] = []
            publisher: Publisher | None = None
            legs: dict[Leg, Answer] = {}
            desk = ProofDesk(self._department.unit, self._system, self._shared.sender, legs)
            if self._settings.publishes:
                publisher = await self._publisher(stack)
                self._incarnation = publisher.incarnation
                legs["source"] = SourceProof(self._department, self._system, publisher).answer
                parts.append(publisher.run())
                who = self._shared.connection, self._department, self._system, publisher
                parts.append(make_up_by_itself(*who))
                if self._settings.kind == "folder":
                    parts.append((await folder_import_of(publisher, self._settings.path)).run())
            else:
                self._incarnation = await self._take_over()
            applier: Applier | None = None
            parts.append(desk.run())
            if self._settings.receives:
                legs["copy"] = CopyProof(
                    self._department,
                    self._system,
                    self._shared.follower,
                    self._shared.codecs,
                    self._strangers,
                    lambda: None if applier is None else applier.export,
                ).answer
                applier = self._applier(self._incarnation.token, publisher, desk)
                parts += self._tellings(applier, self._incarnation)
                if publisher is None:
                    parts.append(self._rivals().watch(self._incarnation))
                parts.append(applier.run())
            elif publisher is not None:
                parts.append(self._requests(publisher, desk).run())
            self.settled.set()
            self._tell_state("running")
            await self._until_first(parts, applier)

    async def _publisher(self, stack: AsyncExitStack) -> Publisher:
        if self._secret is None:
            # Once: a folder that goes away for a while takes this file along, not the secret.
            self._secret = read_secret(self._department.secret_file)
        capture = await open_capture(self._department, self._system)
        stack.push_async_callback(capture.close)
        publisher = Publisher(
            self._shared.connection,
            self._department,
            self._system,
            capture=capture,
            sender=self._shared.sender,
            follower=self._shared.follower,
            secret=self._secret,
            counts=self._shared.counts,
        )
        try:
            await publisher.start()
        except Fenced:
            self._incarnation = publisher.incarnation  # for `_was_restored`: it had taken over
            raise
        return publisher

    async def _take_over(self) -> Incarnation:
        """A system that only receives has no announcements: its own database is its fence."""
        database = await open_system(self._department, self._system)
        try:
            await fence.ensure_adapter_table(database)
            return await fence.take_over(
                database, 0, unit=self._department.unit, system=self._system
            )
        finally:
            await database.close()

    def _rivals(self) -> Rivals:
        """Of a system that only receives; where something is published the publisher watches."""

        async def is_ours() -> bool:
            database = await open_system(self._department, self._system)
            try:
                return (await fence.read_adapter(database)).incarnation == self._incarnation
            finally:
                await database.close()

        shared, unit = self._shared, self._department.unit
        return Rivals(shared.connection, shared.sender, unit, self._system, is_ours=is_ours)

    def _requests(self, publisher: Publisher, desk: ProofDesk) -> RequestReader:
        return RequestReader(
            self._shared.connection,
            self._department.unit,
            self._system,
            self._settings.publishes,
            resend_by(publisher),
            desk.take,
        )

    def _applier(self, token: bytes, publisher: Publisher | None, desk: ProofDesk) -> Applier:
        return Applier(
            self._shared.connection,
            self._department,
            self._system,
            token,
            follower=self._shared.follower,
            schemas=self._shared.schemas,
            codecs=self._shared.codecs,
            resend=None if publisher is None else resend_by(publisher),
            prove=desk.take,
            stranger=self._strangers.row,
            counts=self._shared.counts,
        )

    def _tellings(
        self, applier: Applier, incarnation: Incarnation
    ) -> list[Coroutine[Any, Any, None]]:
        """What the bus is told of the recipient, beside its work."""
        who = self._shared.sender, self._department.unit, self._system, incarnation
        return [
            tell_that_it_lives(*who, lambda: applier.applied_at_us, lambda: applier.parked),
            tell_days(*who, applier.days),
            tell_parked(*who, applier.parked_book),
            tell_rebuilds(*who[:3], applier.rebuilds),
        ]

    async def _until_first(
        self, parts: Sequence[Coroutine[Any, Any, None]], applier: Applier | None
    ) -> None:
        tasks = [asyncio.create_task(part) for part in parts]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
            failed = [t for t in tasks if t.done()]
            if applier is not None:
                applier.stop()
                await asyncio.wait((tasks[-1],), timeout=STOP_SECONDS - 1)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
        for task in failed:
            task.result()  # raises what ended it


def resend_by(publisher: Publisher) -> Resend:
    """What is done with what a system is asked to publish again."""

    async def resend(asked: ResendRequest | ResendOrder) -> None:
        if isinstance(asked, ResendOrder):
            await publisher.resend(asked)
        else:
            await publisher.chores.enqueue_resend(asked.dataset, asked.key, asked.request)

    return resend


async def _run(
    connection: Connection, departments: Sequence[Department], metrics: Address | None
) -> None:
    shared = Shared(connection)
    tell_manager("READY=1\nSTATUS=waits for the bus")
    feeding = asyncio.create_task(feed_watchdog())
    with served(metrics, Teller.ADAPTER, shared.counts):
        try:
            await _run_until_asked(shared, departments)
        finally:
            tell_manager("STOPPING=1")
            feeding.cancel()


async def _run_until_asked(shared: Shared, departments: Sequence[Department]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    starting = asyncio.create_task(shared.start())
    waiting = asyncio.create_task(asked.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    try:
        starting.result()
        runs = [SystemRun(shared, d, system) for d in departments for system in d.systems]
        await _run_systems(runs, waiting)
    finally:
        waiting.cancel()
        await shared.stop()
    ended = [run.ended for run in runs]
    if not asked.is_set() and all(ended):
        raise next(error for error in reversed(ended) if error is not None)


async def _run_systems(runs: Sequence[SystemRun], waiting: asyncio.Task[Any]) -> None:
    tasks = [asyncio.create_task(run.run()) for run in runs]
    every = asyncio.gather(*tasks)
    ready = asyncio.create_task(_tell_ready(runs))
    try:
        await asyncio.wait((every, waiting), return_when=asyncio.FIRST_COMPLETED)
        # Not by us: the end of the process has to look like one, or nobody starts it again.
        was_cancelled = any(task.cancelled() for task in tasks)
        for run in runs:
            run.stop()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
    finally:
        for task in (ready, *tasks):
            task.cancel()
        await asyncio.gather(ready, *tasks, return_exceptions=True)
        # A system's own bug is not swallowed: it ends the process, which is started again.
        with suppress(asyncio.CancelledError):
            await every
    if was_cancelled:
        raise RuntimeError("a system was cancelled, and nobody had asked for it")


async def _tell_ready(runs: Sequence[SystemRun]) -> None:
    for run in runs:
        await run.settled.wait()
    spare_what_is_loaded()
    log.info("adapter_begun", systems=len(runs))
    tell_ready()
    tell_manager(f"STATUS=looks after {len(runs)} systems")
