"""`deptbus department resync`: makes the bus equal to a source that was restored, or missed some.

1. The system is taken over; its numbers are lifted above all that the bus knows, rows that wait
   included; every transaction that is older has then ended. From here on live changes flow.
2. A marker goes through every partition of `out`. Operations folds the canonical topics behind it
   and tells of each key of this unit: version, digest, places (operations/inventory.py).
3. The own rows are walked, some partitions at a time: what differs is published under a new
   version; a key that no row bears is deleted, at a version that was drawn before the walk; places
   that a restored database does not know are remembered. What is equal is left alone.
4. When all of it is acked, the times that capture gave way before step 1 are forgiven, and no
   others: what was missed meanwhile asks for the next resync.

Killed anywhere it is run again from step 1: what was published by then is equal.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog

from deptbus.connection import Connection
from deptbus.contract.department import Department
from deptbus.department.bus_inventory import PATIENCE_SECONDS, Part, read_parts
from deptbus.department.capture import RawKey
from deptbus.department.comparison import Comparison, Differences, Held
from deptbus.department.judge import find_keys
from deptbus.department.publication import Publication
from deptbus.department.publisher import Publisher
from deptbus.department.removal_guard import MOVED
from deptbus.department.speakers import key_in
from deptbus.names import in_topic
from deptbus.stream.log import LogReader, end_offsets
from deptbus.wire.partitioner import partition_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

JOB = "resync"
_CAUSE = "resend"
_ANSWER_PARTITION = 0  # of the inbox: where operations tells (operations.inventory)
_HELD_KEYS = 200_000  # told keys that one walk over the table compares: some 60 MB
_ROWS = 1_000
_ENQUEUED_ROWS = 250  # in one transaction: below 10 ms
_BACKLOG_ROWS = 5_000  # with more than this waiting, live changes go first
_STRETCH = 250
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Resynced:
    """What was done, in rows and keys. `left_out`: datasets that could not be looked at.
    `missed_again`: capture gave way meanwhile, so that there has to be another resync."""

    published: int
    deleted: int
    equal: int
    left_out: tuple[str, ...]
    missed_again: bool

    @property
    def is_complete(self) -> bool:
        return not self.left_out and not self.missed_again


async def resync(
    connection: Connection,
    department: Department,
    system: str,
    publisher: Publisher,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Resynced:
    """Runs until everything is published. `publisher` is fresh, not started.

    Raises what Publisher raises, and BusUnreachable or BusRefused when operations does not tell:
    then nothing is forgiven.
    """
    run = _Resync(connection, department, system, publisher, patience_seconds)
    missed = (await publisher.capture.state()).gave_way + 1  # the lift counts as one
    await publisher.start(resync=True)
    running = asyncio.create_task(publisher.run())
    try:
        return await _beside(running, run.run(missed))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def make_up(
    connection: Connection,
    department: Department,
    system: str,
    publisher: Publisher,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Resynced:
    """Publishes what capture missed, beside a publisher that runs: steps 2 to 4, and of step 1 that
    older transactions have ended. Raises as `resync`."""
    run = _Resync(connection, department, system, publisher, patience_seconds)
    state = await publisher.when_free(publisher.capture.state)
    return await run.run(state.gave_way)


async def _beside(running: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T:
    """`work`, unless the publisher stops before: then what stopped it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((running, task), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            running.result()
        return await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,))


class _Resync:
    """Steps 2 and 3, while the publisher runs."""

    def __init__(
        self,
        connection: Connection,
        department: Department,
        system: str,
        publisher: Publisher,
        patience_seconds: float,
    ) -> None:
        self._connection = connection
        self._unit = department.unit
        self._publisher = publisher
        self._capture = publisher.capture
        self._patience_seconds = patience_seconds
        self._system = system
        self._publishes = department.systems[system].publishes.keys()
        cap = department.systems[system].outbox_cap_rows
        # Versions that are drawn for deletes count as if rows waited.
        self._held_keys = max(1, min(_HELD_KEYS, cap // 4))
        self._backlog_rows = max(1, min(_BACKLOG_ROWS, cap // 2))
        self.datasets: frozenset[str] = frozenset()
        self.published = self.deleted = self.equal = self.lifted = 0

    @property
    def _token(self) -> bytes:
        return self._publisher.incarnation.token

    async def _free(self, work: Callable[..., Awaitable[T]], *words: Any) -> T:
        """Waits in place for a lock that the department's program holds."""
        return await self._publisher.when_free(partial(work, *words))

    async def run(self, missed: int) -> Resynced:
        """All of it; so many of the times that capture gave way are forgiven in the end."""
        try:
            await self.make_equal()
        finally:
            for dataset in self._publishes:
                self._publisher.removals.expect(dataset, 0)
        left_out = tuple(sorted(self._publishes - self.datasets))
        if not left_out:
            await self._free(self._capture.forgive, self._token, missed + self.lifted)
        missed_again = (await self._free(self._capture.state)).gave_way > 0
        log.info(
            "source_resynced",
            unit=self._unit,
            system=self._system,
            published=self.published,
            deleted=self.deleted,
            equal=self.equal,
        )
        again = missed_again and not left_out
        return Resynced(self.published, self.deleted, self.equal, left_out, again)

    async def make_equal(self) -> None:
        """Returns when all that differed is acked."""
        self.datasets = self._publisher.datasets
        request, topic = uuid.uuid4().hex, in_topic(self._unit)
        begins = (await end_offsets(self._connection, topic))[_ANSWER_PARTITION]
        reader = LogReader(
            self._connection,
            topic,
            partitions=[_ANSWER_PARTITION],
            from_offsets={_ANSWER_PARTITION: begins},
        )
        if self.datasets:
            await self._catch_up()
            async with reader:
                await self._publisher.ask_inventory(request, sorted(self.datasets))
                await self._compare_all(reader, request)
                await self._publisher.ask_inventory(request, ())
        while True:  # nobody tells when the broker has acked the last of it
            pending = [await self._free(self._capture.is_pending, job) for job in (JOB, MOVED)]
            if not any(pending):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _catch_up(self) -> None:
        """What waits in the outbox goes before the marker, or it would be found to differ. (A row
        that is stored late at a lesser position is published twice, which does no harm.)"""
        version = await self._free(self._capture.reserve, self._token, 1)
        while True:
            if self._publisher.reached >= version:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _compare_all(self, reader: LogReader, request: str) -> None:
        parts: list[Part] = []
        seen: dict[str, int] = dict.fromkeys(self.datasets, 0)
        async for part in read_parts(reader, request, self.datasets, self._patience_seconds):
            if parts and parts[0].dataset != part.dataset:
                await self._compare(parts, is_first=seen[parts[0].dataset] == 0)
                seen[parts[0].dataset] += len(parts)
                parts = []
            parts.append(part)
            is_last = seen[part.dataset] + len(parts) == part.partitions
            if is_last or sum(len(p.held) for p in parts) >= self._held_keys:
                await self._compare(parts, is_first=seen[part.dataset] == 0)
                seen[part.dataset] += len(parts)
                parts = []

    async def _compare(self, parts: list[Part], *, is_first: bool) -> None:
        """One walk over the rows of a dataset whose keys lie in these partitions."""
        dataset, count = parts[0].dataset, parts[0].partitions
        publication = self._publisher.publications.get(dataset)
        if publication is None:  # the contract has just taken it away
            self.datasets -= {dataset}
            return
        places = {part.partition for part in parts}
        held: dict[bytes, Held] = {}
        for part in parts:
            held |= part.held
            part.held.clear()
        highest = max((h.version for h in held.values()), default=0)
        if highest > (await self._capture.state()).version:
            # `out` and `control` did not tell of it: they were made again, or are of a copy.
            await self._free(self._capture.lift, self._token, 0, highest)
            self.lifted += 1
        live = sum(1 for one in held.values() if one.digest or len(one.places) > 1)
        version = await self._free(self._capture.reserve, self._token, max(1, live))
        parked = frozenset(raw for name, raw in self._publisher.parked if name == dataset)
        comparison = Comparison(publication, held, parked)
        moved: list[RawKey] = []
        after: RawKey | None = None
        while chunk := await self._free(self._capture.rows_after, dataset, after, _ROWS):
            after = chunk[-1].raw
            for start in range(0, len(chunk), _STRETCH):
                some = chunk[start : start + _STRETCH]
                judged = zip(some, find_keys({dataset: publication}, some), strict=True)
                rows = [
                    (row, found)
                    for row, found in judged
                    if (
                        is_first
                        if (key := key_in(found)) is None
                        else partition_of(key, count) in places
                    )
                ]
                keys = [key for _, found in rows if (key := key_in(found)) is not None]
                differences = comparison.rows(rows, await self._known(dataset, keys))
                moved += differences.moved
                await self._act(publication, differences, version)
                await asyncio.sleep(0)
        # Enqueued some hundred at a time: the guard has to know at the first how many they are.
        left = comparison.left
        gone = sum(1 for key in left if held[key].digest)
        await self._move(dataset, moved, gone)
        for start in range(0, len(left), _ENQUEUED_ROWS):
            keys = left[start : start + _ENQUEUED_ROWS]
            found = comparison.rest(await self._known(dataset, keys), keys)
            version = await self._act(publication, found, version)
            # Those that were deleted before are told once more, which nobody expects.
            gone = max(0, gone - len(found.delete))
            self._publisher.removals.expect(dataset, gone)
        self._publisher.removals.expect(dataset, 0)
        await self._act(publication, Differences(enqueue=comparison.gone_holders()), version)

    async def _move(self, dataset: str, raws: Sequence[RawKey], gone: int) -> None:
        """Rows that the bus has elsewhere; so many deletes follow."""
        self._publisher.removals.expect(dataset, gone, len(raws))
        for start in range(0, len(raws), _ENQUEUED_ROWS):
            await self._room()
            some = raws[start : start + _ENQUEUED_ROWS]
            await self._free(self._capture.enqueue, dataset, some, _CAUSE, MOVED)
            self.published += len(some)
            self._publisher.removals.expect(dataset, gone, len(raws) - start - len(some))

    async def _known(self, dataset: str, keys: list[bytes]) -> dict[bytes, Any]:
        known = await self._free(self._capture.known, [(dataset, key) for key in keys])
        return {key: remembered for (_, key), remembered in known.items()}

    async def _act(self, publication: Publication, found: Differences, version: int) -> int:
        """Places first: the change that follows has to name them. Returns the next version that is
        free for a delete."""
        dataset = publication.dataset
        self.equal += found.equal
        places = {(dataset, key): named for key, named in found.places.items()}
        await self._free(self._publisher.remember, places)
        for start in range(0, len(found.enqueue), _ENQUEUED_ROWS):
            await self._room()
            raws = found.enqueue[start : start + _ENQUEUED_ROWS]
            await self._free(self._capture.enqueue, dataset, raws, _CAUSE, JOB)
            self.published += len(raws)
        if found.delete:
            await self._room()
            numbered = [(key, version + n) for n, key in enumerate(found.delete)]
            await self._free(
                self._capture.enqueue_deletes, self._token, dataset, numbered, _CAUSE, JOB
            )
            self.deleted += len(numbered)
        return version + len(found.delete)

    async def _room(self) -> None:
        while True:
            if await self._free(self._capture.backlog, self._backlog_rows) < self._backlog_rows:
                return
            await asyncio.sleep(_POLL_SECONDS)
