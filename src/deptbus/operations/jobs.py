"""One job: brings one recipient to a policy (design, section 4, 'Jobs').

1. Wait until every live agent works under the policy, with all older output acked.
2. Write a marker into every partition of the recipient's inbox: behind it the adapter refuses what
   was decided under an older policy.
3. Only now take the ends of the canonical topics. A change before them is in the fold; one behind
   them is routed by an agent under the new policy. Were the ends taken before step 1, a change
   between the two would be routed by the old rule and never again.
4. Fold each partition up to its end by highest version, and send of each key what the policy gives
   the recipient, or a withdrawal where an older policy may have given something. Every delivery
   bears the policy's number, so it counts as newer than what an older policy delivered.

Progress is on the bus after every partition. A job that is taken up again does all steps again but
the markers (they were acked), and leaves out partitions that are done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import structlog

from deptbus import names
from deptbus.change import Cause
from deptbus.errors import BusRefused
from deptbus.operations.board import AgentsBoard
from deptbus.operations.carrier import Carrier, Owed
from deptbus.operations.due import DueJob
from deptbus.operations.inbox import Inbox
from deptbus.operations.library import Library
from deptbus.operations.logs import CanonicalLogs, Span
from deptbus.stream.log import Outgoing, Sender
from deptbus.stream.schemas import write_schemas
from deptbus.wire.control import JobProgress, PolicyMarker, encode_control, key_of

State = Literal["waiting", "marking", "sending", "done"]

log = structlog.get_logger(__name__)

AGENTS_LOOK_SECONDS = 1.0
REPORT_SECONDS = 2.0  # while it sends, beside the report after every partition


@dataclass(frozen=True, slots=True)
class Tools:
    """What all jobs of a process share."""

    sender: Sender
    library: Library
    schemas: SchemaWriter
    agents: AgentsBoard
    logs: CanonicalLogs
    sending: asyncio.Semaphore  # how many jobs read and send at the same time
    inbox_of: Callable[[str], Inbox]  # unit -> its inbox, with flow control
    calm_inbox_of: Callable[[str], Inbox]  # the same, which gives way to a recipient that suffers
    knows: Callable[[str], bool]  # whether the contract in force has this unit
    now: Callable[[], datetime]  # aware; by it grants end


class SchemaWriter:
    """Puts the schemas of new projections on the bus before any record that uses them.

    Jobs share codecs, so one job may use a schema that another has made a moment ago and that is
    not acked yet: `write` returns when all that are known are.
    """

    def __init__(self, sender: Sender, library: Library) -> None:
        self._sender = sender
        self._library = library
        self._unwritten: dict[int, str] = {}
        self._writing = asyncio.Lock()

    async def write(self) -> None:
        async with self._writing:
            self._unwritten |= self._library.take_new_schemas()
            await write_schemas(self._sender, self._unwritten)
            self._unwritten = {}


class Job:
    """`run` it to its end, or cancel it; a new Job goes on where the progress on the bus stands."""

    def __init__(self, due: DueJob, tools: Tools, progress: JobProgress | None) -> None:
        self.due = due
        self._tools = tools
        self._inbox = tools.inbox_of(due.unit)
        self._reported_at = time.monotonic()
        self._is_marked = progress is not None and progress.state == "sending"
        self._partitions = 0  # of the inbox; known before anything is sent
        now_us = _now_us()
        self.progress = progress or JobProgress(
            job=due.job,
            unit=due.unit,
            policy=due.policy,
            datasets=due.datasets,
            state="waiting",
            done_partitions=(),
            sent=0,
            withdrawn=0,
            started_at_us=now_us,
            updated_at_us=now_us,
        )
        if set(self.progress.datasets) != set(due.datasets):
            # More changed since it was begun: what is done does not cover that.
            self.progress = replace(self.progress, datasets=due.datasets, done_partitions=())
            self._is_marked = False

    async def run(self) -> None:
        """Raises BusUnreachable, BusRefused: run it again later, from the progress on the bus."""
        log.info("job_started", job=self.due.job, datasets=list(self.due.datasets))
        if await self._has_inbox():
            await self._wait_for_agents()
            if not self._is_marked:
                await self._mark()
            await self._send()
        await self._report("done")
        sent, withdrawn = self.progress.sent, self.progress.withdrawn
        log.info("job_completed", job=self.due.job, sent=sent, withdrawn=withdrawn)

    # -- steps ------------------------------------------------------------------------------------

    async def _has_inbox(self) -> bool:
        """A unit that left the contract may have lost its inbox too: nothing reaches it then."""
        try:
            self._partitions = await self._tools.sender.partitions(self._inbox.topic)
        except BusRefused:
            if self._tools.knows(self.due.unit):
                raise
            log.warning("inbox_missing", job=self.due.job, topic=self._inbox.topic)
            return False
        return True

    async def _wait_for_agents(self) -> None:
        agents = self._tools.agents
        told: list[str] | None = []
        while True:
            await agents.refresh()
            awaited = agents.awaited(self.due.policy)
            if awaited == []:
                return
            if not told:
                await self._report("waiting")
            if awaited != told:
                log.info("agents_awaited", job=self.due.job, agents=awaited or "none is live")
                told = awaited
            try:
                async with asyncio.timeout(AGENTS_LOOK_SECONDS), agents.changed:
                    await agents.changed.wait()
            except TimeoutError:
                continue

    async def _mark(self) -> None:
        await self._report("marking")
        marker = PolicyMarker(policy=self.due.policy, datasets=self.due.datasets, job=self.due.job)
        value = encode_control(marker)
        topic = self._inbox.topic
        await self._tools.sender.send(
            [Outgoing(topic, number, None, value) for number in range(self._partitions)]
        )
        await self._report("sending")

    async def _send(self) -> None:
        spans = {d: await self._spans(d) for d in self.due.datasets}
        done = set(self.progress.done_partitions)
        left: list[tuple[str, int, Span]] = []
        for dataset, of_dataset in spans.items():
            for partition, span in enumerate(of_dataset):
                if span.start == span.end:
                    done.add(f"{dataset}/{partition}")
                elif f"{dataset}/{partition}" not in done:
                    left.append((dataset, partition, span))
        for dataset, partition, span in left:
            await self._send_partition(dataset, partition, span)
            done.add(f"{dataset}/{partition}")
            await self._report("sending", done)
        if not left:
            await self._report("sending", done)

    async def _send_partition(self, dataset: str, partition: int, span: Span) -> None:
        winners = await self._tools.logs.winners(dataset, partition, span.end)
        await self._carrier().carry(dataset, partition, winners)

    # -- parts ------------------------------------------------------------------------------------

    def _carrier(self) -> Carrier:
        due = self.due
        tools = self._tools
        owed = Owed(tools.library, tools.now, due.unit, due.policy, due.job, self._cause)
        return Carrier(tools, self._inbox, self._partitions, owed, self._count)

    def _cause(self, dataset: str) -> Cause:
        return Cause.SNAPSHOT if dataset in self.due.first_loads else Cause.REPLAY

    async def _count(self, sent: int, withdrawn: int, _: int) -> None:
        self.progress = replace(
            self.progress,
            sent=self.progress.sent + sent,
            withdrawn=self.progress.withdrawn + withdrawn,
        )
        if time.monotonic() - self._reported_at > REPORT_SECONDS:
            await self._report("sending")

    async def _spans(self, dataset: str) -> list[Span]:
        try:
            return await self._tools.logs.spans(dataset)
        except BusRefused:
            if dataset in self._tools.library.policy(self.due.policy).contract.datasets:
                raise
            log.warning("canonical_topic_missing", job=self.due.job, dataset=dataset)
            return []

    async def _report(self, state: State, done: Iterable[str] | None = None) -> None:
        progress = replace(self.progress, state=state, updated_at_us=_now_us())
        if done is not None:
            progress = replace(progress, done_partitions=tuple(sorted(done)))
        value = encode_control(progress)
        await self._tools.sender.send([Outgoing(names.JOBS, 0, key_of(progress), value)])
        self.progress = progress
        self._reported_at = time.monotonic()


def _now_us() -> int:
    return time.time_ns() // 1000
