"""Runs every job that is due or ordered, several recipients at a time, and goes on after failures.

One job a recipient: what a policy makes due goes before what a person ordered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from deptbus.errors import DeptbusError
from deptbus.operations.board import JobsBoard
from deptbus.operations.due import DueJob, due_jobs, last_completed
from deptbus.operations.inboxes import Inboxes
from deptbus.operations.jobs import Job, Tools
from deptbus.operations.replay_job import OrderedJob
from deptbus.operations.replay_orders import DueOrder
from deptbus.stream.follow import TopicFollower
from deptbus.stream.policies import PolicyFollower

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_BACKOFF_SECONDS = (0.5, 30.0)


class Desk:
    """One task a recipient; a job whose recipient's rule changes again gives way to the next.

    `run` until cancelled: then all jobs are cancelled too, and their progress is on the bus.
    """

    def __init__(
        self,
        tools: Tools,
        policies: PolicyFollower,
        jobs: JobsBoard,
        inboxes: Inboxes,
        ordered: Callable[[DueOrder], OrderedJob],
    ) -> None:
        """`ordered`: makes the job of an order."""
        self._ordered = ordered
        self._tools = tools
        self._inboxes = inboxes
        self._policies = policies
        self._jobs = jobs
        self._running: dict[str, tuple[DueJob | DueOrder, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        try:
            # A job that this process thinks due may have been completed by a former leader.
            await self._jobs.refresh()
            watching = [
                asyncio.create_task(self._wake_on(follower))
                for follower in (self._policies, self._jobs)
            ]
            try:
                while True:
                    await self._settle()
                    await self._next_look()
            finally:
                for task in watching:
                    task.cancel()
        finally:
            await self._cancel(list(self._running))

    def due(self) -> dict[str, DueJob]:
        """Unit -> the job that is due by what is on the bus."""
        library = self._tools.library
        completed = last_completed(self._jobs.jobs.values())
        numbers = library.numbers()
        due = due_jobs(numbers, library.digests, completed)
        return self._inboxes.due(due, {number: library.digests(number) for number in numbers})

    async def _settle(self) -> None:
        """Bring the running tasks in line with what is due."""
        wanted: dict[str, DueJob | DueOrder] = {**self._jobs.orders.due(), **self.due()}
        for unit, (_, task) in list(self._running.items()):
            if task.done() and unit in self._running:
                _look_at(task)
                del self._running[unit]
        stale = [u for u, (job, _) in self._running.items() if wanted.get(u) != job]
        await self._cancel(stale)
        for unit, job in wanted.items():
            if unit not in self._running:
                task = asyncio.create_task(self._run_job(job), name=f"job {job.job}")
                self._running[unit] = (job, task)

    async def _run_job(self, due: DueJob | DueOrder) -> None:
        """The job again and again until it is completed; a failure of one disturbs no other."""
        pause = _BACKOFF_SECONDS[0]
        while True:
            before = self._progress(due)
            try:
                await self._made(due).run()
                # Only what is read back from the bus makes a job completed.
                await self._jobs.refresh()
                self._wake.set()
                return
            except DeptbusError as error:
                log.warning("job_interrupted", job=due.job, error=error.what)
            await asyncio.sleep(pause)
            with suppress(DeptbusError):
                await self._jobs.refresh()
            moved = self._progress(due) != before
            pause = _BACKOFF_SECONDS[0] if moved else min(pause * 2, _BACKOFF_SECONDS[1])

    def _made(self, due: DueJob | DueOrder) -> Job | OrderedJob:
        if isinstance(due, DueJob):
            return Job(due, self._tools, self._jobs.jobs.get(due.job))
        return self._ordered(due)

    def _progress(self, due: DueJob | DueOrder) -> object:
        ordered = self._jobs.orders.progress
        return (self._jobs.jobs if isinstance(due, DueJob) else ordered).get(due.job)

    async def _cancel(self, units: list[str]) -> None:
        tasks = [self._running.pop(unit)[1] for unit in units]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wake_on(self, follower: TopicFollower) -> None:
        while True:
            async with follower.changed:
                await follower.changed.wait()
            self._wake.set()

    async def _next_look(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wake.wait()
        self._wake.clear()
        for _, task in self._running.values():
            _look_at(task)


def _look_at(task: asyncio.Task[None]) -> None:
    """Anything but a DeptbusError is our own bug, and ends the process."""
    if task.done() and not task.cancelled():
        task.result()
