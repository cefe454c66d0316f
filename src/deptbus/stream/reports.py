"""Tells the bus which policy this worker works under, and that it lives (`bus.agents`)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import structlog

from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import AGENTS
from deptbus.stream.log import Outgoing, Sender
from deptbus.stream.policies import LEASE_SECONDS
from deptbus.wire.control import AgentReport, encode_control, key_of

log = structlog.get_logger(__name__)

REPORT_SECONDS = 1.0


def topics_digest(topics: Iterable[str]) -> str:
    """SHA-256 over the names of the topics that a worker reads, hexadecimal."""
    return hashlib.sha256("\n".join(sorted(topics)).encode()).hexdigest()


class PoliciesAtWork:
    """Under which policies batches are being routed and delivered right now."""

    def __init__(self) -> None:
        self._at_work: Counter[int] = Counter()
        self.changed = asyncio.Event()

    @contextmanager
    def under(self, policy: int) -> Iterator[None]:
        """Enter without an await after the policy was looked up; leave when all output of the batch
        is acked (or will be sent again under a policy looked up anew)."""
        self._at_work[policy] += 1
        try:
            yield
        finally:
            self._at_work[policy] -= 1
            if not self._at_work[policy]:
                del self._at_work[policy]
                self.changed.set()

    def oldest(self, current: int) -> int:
        """The policy to report: all output of older ones is acked."""
        return min(self._at_work, default=current)


class Reporter:
    """Reports every second, and at once when the policy to report has changed; `stopped` at a clean
    end. `state` gives (policy, topics digest).

    A job waits for the agents that it heard of within the lease, and takes its ends without the
    others. So an agent works only while its last acked report is younger than the lease
    (`age_seconds`), and after a longer silence only when it has read the contract again since it
    is heard of (`heard_since`): else it could route a record that lies behind the job's ends
    under the policy that the job replaces.
    """

    def __init__(
        self,
        sender: Sender,
        agent: str,
        state: Callable[[], tuple[int, str]],
        changed: asyncio.Event,
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._sender = sender
        self._agent = agent
        self._state = state
        self._changed = changed
        self._lease_seconds = lease_seconds
        self._sent_at = float("-inf")
        self.heard_since = float("inf")  # when the first report of this unbroken series was acked
        self._task: asyncio.Task[None] | None = None

    @property
    def age_seconds(self) -> float:
        """How long ago the last report that was acked was sent."""
        return asyncio.get_running_loop().time() - self._sent_at

    async def start(self) -> None:
        """Returns when the first report is acked. Raises BusUnreachable, BusRefused."""
        await self._send("running")
        self._task = asyncio.create_task(self._report_for_ever())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._report("stopped")

    async def _report_for_ever(self) -> None:
        while True:
            await self._report("running")
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def _report(self, state: Literal["running", "stopped"]) -> None:
        try:
            await self._send(state)
        except (BusUnreachable, BusRefused) as error:
            log.warning("report_failed", error=error.what)

    async def _send(self, state: Literal["running", "stopped"]) -> None:
        now = self._state()
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        record = AgentReport(
            agent=self._agent,
            policy=now[0],
            topics_digest=now[1],
            state=state,
            reported_at_us=time.time_ns() // 1000,
        )
        await self._sender.send(
            [Outgoing(AGENTS, 0, key_of(record), encode_control(record))],
            deadline_seconds=3.0,
        )
        if self.age_seconds > self._lease_seconds:
            self.heard_since = clock()
        self._sent_at = sent_at
