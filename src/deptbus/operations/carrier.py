"""Carries the last state of keys from one canonical partition into one inbox, as there is room.

What jobs share, whoever made them: a policy that changed, or a person's order. What is owed to the
recipient for a key is decided here alone, by the policy that the job works under.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from deptbus.change import Cause, Change, Delivery, DeliveryOp
from deptbus.operations.due import DueJob, older_policies
from deptbus.operations.fold import Winners
from deptbus.operations.inbox import Inbox
from deptbus.operations.library import Library
from deptbus.operations.logs import Span
from deptbus.routing import Router, settle
from deptbus.stream.log import LogRecord, Outgoing

if TYPE_CHECKING:
    from deptbus.operations.jobs import Tools

# A recipient that takes nothing for so long gives its place to the jobs of others.
PATIENCE_SECONDS = 1.0
# Records handled at a stretch, before other tasks of the process come to their turn.
_STRETCH = 500


class Ready(NamedTuple):
    """One delivery on its way."""

    offset: int  # of its change, in the canonical partition
    op: DeliveryOp
    source_unit: str
    outgoing: Outgoing


class Owed:
    """What one recipient is owed under one policy: today's projection of the last state of a key,
    or a withdrawal where an older policy may have given something."""

    def __init__(
        self,
        library: Library,
        now: Callable[[], datetime],
        unit: str,
        policy: int,
        job: str,
        cause_of: Callable[[str], Cause],
    ) -> None:
        """`now`: aware; by it grants end. `cause_of`: dataset -> why it is sent."""
        self._library, self._now = library, now
        self.unit, self.policy = unit, policy
        self._job, self._cause_of = job, cause_of
        self._older: dict[str, list[Router]] = {}

    def of(self, change: Change) -> tuple[DeliveryOp, bytes] | None:
        """None: the recipient never had a right to the key."""
        delivery = self.delivery(change)
        if delivery is None:
            return None
        (value,) = self._library.codecs.encode_deliveries(
            change,
            [delivery],
            self.policy,
            cause=self._cause_of(change.dataset),
            job=self._job,
        )
        return delivery.op, value

    def delivery(self, change: Change) -> Delivery | None:
        newest = self._library.router(self.policy)
        return settle(change, self.unit, self._now(), newest, self._before(change.dataset))

    def span(self) -> tuple[datetime, datetime]:
        """From when (exclusive) until when what is decided now holds: until a grant ends."""
        return self._library.router(self.policy).span(self._now())

    def _before(self, dataset: str) -> list[Router]:
        if dataset not in self._older:
            library = self._library
            job = DueJob(self.unit, self.policy, (dataset,), frozenset())
            numbers = older_policies(job, dataset, library.numbers(), library.digests)
            self._older[dataset] = [library.router(number) for number in numbers]
        return self._older[dataset]


Told = Callable[[int, int, int], Awaitable[None]]
Sift = Callable[[list[Ready]], Awaitable[list[Ready]]]


async def _all(ready: list[Ready]) -> list[Ready]:
    return ready


class Carrier:
    """`carry` one partition after the other; what it has sent it tells at once."""

    def __init__(
        self, tools: Tools, inbox: Inbox, partitions: int, owed: Owed, told: Told, sift: Sift = _all
    ) -> None:
        """`partitions`: of the inbox. `told(sent, withdrawn, next_offset)` after each send that was
        acked: everything below that offset is. `sift` is asked right before each send which of
        the deliveries are still to go."""
        self._tools, self._inbox, self._partitions = tools, inbox, partitions
        self._owed, self._told, self._sift = owed, told, sift

    async def carry(
        self, dataset: str, partition: int, winners: Winners, position: int | None = None
    ) -> None:
        """From `position` on (the beginning when None). Raises BusUnreachable, BusRefused."""
        at = max(position or 0, winners.first)
        while at < winners.end:
            # The place among those who send is not held while the recipient takes nothing.
            await self._inbox.room(1, None)
            async with self._tools.sending:
                at = await self._send_some(dataset, partition, winners, at)

    async def _send_some(
        self, dataset: str, partition: int, winners: Winners, position: int
    ) -> int:
        """Send from `position` on; returns where to go on (the end, or where there was no room)."""
        batches = self._tools.logs.read(dataset, partition, Span(position, winners.end))
        async with aclosing(batches):
            async for records in batches:
                for start in range(0, len(records), _STRETCH):
                    stretch = records[start : start + _STRETCH]
                    stopped = await self._send_stretch(stretch, winners)
                    if stopped is not None:
                        return stopped
                    await asyncio.sleep(0)
        return winners.end

    async def _send_stretch(self, records: Iterable[LogRecord], winners: Winners) -> int | None:
        """None when all is sent, else the offset of the first record for which was no room."""
        ready: list[Ready] = []
        for record in records:
            if record.offset in winners:
                change = await self._tools.logs.decode(record)
                owed = None if change is None else self._owed.of(change)
                if change is not None and owed is not None:
                    ready.append(self._ready(record, change, *owed))
        await self._tools.schemas.write()
        while ready:
            room = await self._inbox.room(len(ready), PATIENCE_SECONDS)
            if room == 0:
                return ready[0].offset
            taken, ready = ready[:room], ready[room:]
            now = await self._sift(taken)
            if now:
                await self._inbox.send([r.outgoing for r in now])
            withdrawn = sum(1 for r in now if r.op is DeliveryOp.WITHDRAW)
            await self._told(len(now) - withdrawn, withdrawn, taken[-1].offset + 1)
        return None

    def _ready(self, record: LogRecord, change: Change, op: DeliveryOp, value: bytes) -> Ready:
        # The inbox has as many partitions as the canonical topic or a divisor of that number, and
        # the partition is the hash's remainder: so a key keeps its place.
        partition = record.partition % self._partitions
        outgoing = Outgoing(self._inbox.topic, partition, change.key, value)
        return Ready(record.offset, op, change.source_unit, outgoing)
