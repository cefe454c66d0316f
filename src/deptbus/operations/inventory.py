"""Tells a source what the canonical topics hold of its own keys: the answer to its resync.

A source that was restored, or missed some of its own changes, does not know what the bus has of it,
and reads nothing but its own topics. It sends a marker through its outbox and asks; here each
partition of its datasets is folded up to that marker (so that all it ever published before is in
the fold), and goes into its inbox, partition by partition, in bounded chunks. The end of each
partition carries a count, so that an answer with a hole is not taken for a whole one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import structlog

from deptbus.change import Change, ChangeOp
from deptbus.connection import Connection
from deptbus.errors import BusRefused
from deptbus.names import WORKER_GROUP, data_topic, in_topic, out_topic
from deptbus.operations.groups import Groups
from deptbus.operations.library import Library
from deptbus.stream.log import LogReader, Outgoing, Sender, end_offsets
from deptbus.wire.control import (
    Inventory,
    InventoryEnd,
    InventoryRequest,
    Marker,
    encode_control,
)
from deptbus.wire.digest import record_digest

log = structlog.get_logger(__name__)

# Of the source's inbox: one partition keeps the parts in their order.
ANSWER_PARTITION = 0
SIGN_SECONDS = 5.0  # at least so often the source hears of us
MARKER_SECONDS = 60.0  # a marker towards which nothing moves for so long will not come
CHUNK_KEYS = 1000
_CHUNK_PLACES_BYTES = 256 * 1024
_STRETCH = 500  # records folded before other tasks of the process come to their turn

MARKER_MISSING = "the marker did not come through: is a worker running?"
TOPIC_MISSING = "the canonical topic is missing"


class Holdings:
    """What one partition holds of one unit's keys: of each the highest version, and every place
    that any of its records names. Fed in the order of offsets; about 300 bytes a key."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        # key -> (highest version, digest of its record or b"", places with the present one last)
        self._keys: dict[bytes, tuple[int, bytes, tuple[str, ...]]] = {}
        self._places: dict[tuple[str, ...], tuple[str, ...]] = {}  # few, and each kept once

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, change: Change) -> None:
        if change.source_unit != self._unit:
            return
        named = (*change.former_divisions, change.division)
        known = self._keys.get(change.key)
        if known is not None and change.version < known[0]:
            # A late send: its places count, so that nobody is forgotten who ever had a copy.
            places = tuple(dict.fromkeys((*named, *known[2])))
            self._keys[change.key] = (*known[:2], self._kept(_last(places, known[2][-1])))
            return
        if known is not None and known[2] != named:
            named = _last(tuple(dict.fromkeys((*known[2], *named))), change.division)
        digest = b""
        if change.op is ChangeOp.UPSERT and change.record is not None:
            digest = record_digest(change.dataset, change.schema_version, change.record)
        self._keys[change.key] = (change.version, digest, self._kept(named))

    def _kept(self, places: tuple[str, ...]) -> tuple[str, ...]:
        return self._places.setdefault(places, places)

    def chunks(
        self, request: str, answer: str, dataset: str, partition: int
    ) -> Iterator[Inventory]:
        """All of it; what was given is forgotten."""
        while self._keys:
            keys: list[bytes] = []
            versions: list[int] = []
            digests: list[bytes] = []
            places: list[str] = []
            size = 0
            while self._keys and len(keys) < CHUNK_KEYS and size < _CHUNK_PLACES_BYTES:
                key, (version, digest, named) = self._keys.popitem()
                keys.append(key)
                versions.append(version)
                digests.append(digest)
                places.append(",".join(named))
                size += len(places[-1])
            yield Inventory(
                request,
                answer,
                dataset,
                partition,
                tuple(keys),
                tuple(versions),
                tuple(digests),
                tuple(places),
            )


def _last(places: tuple[str, ...], present: str) -> tuple[str, ...]:
    return (*(p for p in places if p != present), present)


@dataclass(frozen=True, slots=True)
class Shelves:
    """What answers need of the bus."""

    connection: Connection
    sender: Sender
    library: Library
    folding: asyncio.Lock  # one partition at a time bounds the memory
    marker_seconds: float = MARKER_SECONDS
    sign_seconds: float = SIGN_SECONDS


def is_marker_of(asked: InventoryRequest, marker: Marker) -> bool:
    """Whether a marker is the one that was sent for this request: both name one moment. What the
    same incarnation asked before had others, and the bus was another then."""
    return (marker.kind, marker.unit, marker.system, marker.incarnation, marker.sent_at_us) == (
        *("resync", asked.unit, asked.system, asked.incarnation),
        asked.sent_at_us,
    )


class _NoMarker(Exception):
    pass


class Wait:
    """How long a marker is waited for that a source has sent: it goes on while what lay in the
    partition at the beginning is being read, and then while intake comes nearer to the end that the
    outbox had. What others publish meanwhile is no sign: it comes for ever."""

    def __init__(
        self,
        lay: int,
        sent: int,
        taken_in: Callable[[], Awaitable[int]],
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`lay`, `sent`: ends of the partition and of the outbox's at the beginning; `taken_in`:
        up to where intake has committed the latter."""
        self._lay, self._sent, self._taken_in = lay, sent, taken_in
        self._seconds, self._clock = seconds, clock
        self._seen: int | None = None
        self._until = clock() + seconds

    def read(self, offset: int) -> None:
        """A record lay at this offset."""
        if offset < self._lay:
            self._until = self._clock() + self._seconds

    async def goes_on(self) -> bool:
        if self._seen is None:
            self._seen = await self._taken_in()
        if self._clock() < self._until:
            return True
        before, self._seen = self._seen, await self._taken_in()
        if self._seen <= before or before >= self._sent:
            return False
        self._until = self._clock() + self._seconds
        return True


class Answer:
    """One attempt to answer one request; an attempt that failed is made anew from its beginning."""

    def __init__(self, request: InventoryRequest, shelves: Shelves) -> None:
        self._request = request
        self._shelves = shelves
        self._answer = uuid.uuid4().hex[:12]
        self._topic = in_topic(request.unit)
        self._place = "", 0  # dataset and partition at work

    async def run(self) -> None:
        """Raises BusUnreachable, BusRefused (the source's inbox). Holds nothing durable."""
        signs = asyncio.create_task(self._give_signs())
        try:
            for dataset in self._request.datasets:
                await self._tell(dataset)
        finally:
            signs.cancel()
            with suppress(asyncio.CancelledError):
                await signs

    async def _give_signs(self) -> None:
        while True:
            await self._send(self._inventory())
            await asyncio.sleep(self._shelves.sign_seconds)

    async def _tell(self, dataset: str) -> None:
        keys = 0
        try:
            partitions = await self._shelves.sender.partitions(data_topic(dataset))
        except BusRefused:
            await self._end(dataset, 0, 0, 0, TOPIC_MISSING)
            return
        for partition in range(partitions):
            self._place = dataset, partition
            async with self._shelves.folding:
                try:
                    holdings = await self._fold(dataset, partition)
                except _NoMarker:
                    await self._end(dataset, partition, partitions, 0, MARKER_MISSING)
                    return
                count = len(holdings)
                for chunk in holdings.chunks(
                    self._request.request, self._answer, dataset, partition
                ):
                    await self._send(chunk)
            await self._end(dataset, partition, partitions, count, "")
            keys += count
        log.info("inventory_told", unit=self._request.unit, dataset=dataset, keys=keys)

    async def _fold(self, dataset: str, partition: int) -> Holdings:
        """One partition up to the request's marker, which may be still to come."""
        holdings = Holdings(self._request.unit)
        topic = data_topic(dataset)
        wait = await self._wait(topic, partition)
        async with LogReader(self._shelves.connection, topic, partitions=[partition]) as reader:
            while await wait.goes_on():
                records = await reader.poll(1.0)
                for number, record in enumerate(records, 1):
                    found = await self._shelves.library.read(record)
                    if isinstance(found, Change):
                        holdings.add(found)
                    elif found is not None and is_marker_of(self._request, found):
                        return holdings
                    if number % _STRETCH == 0:
                        await asyncio.sleep(0)
                if records:
                    wait.read(records[-1].offset)
        raise _NoMarker

    async def _wait(self, topic: str, partition: int) -> Wait:
        connection, out = self._shelves.connection, out_topic(self._request.unit)
        sent = await end_offsets(connection, out)
        place = partition % len(sent)  # an outbox may have a divisor of the partitions

        async def taken_in() -> int:
            async with Groups(connection) as groups:
                return (await groups.committed(WORKER_GROUP, [(out, place)])).get(place, 0)

        return Wait(
            (await end_offsets(connection, topic))[partition],
            sent[place],
            taken_in,
            self._shelves.marker_seconds,
            asyncio.get_running_loop().time,
        )

    async def _end(
        self, dataset: str, partition: int, partitions: int, keys: int, problem: str
    ) -> None:
        await self._send(
            InventoryEnd(
                self._request.request, self._answer, dataset, partition, partitions, keys, problem
            )
        )
        if problem:
            log.warning(
                "inventory_not_told", unit=self._request.unit, dataset=dataset, problem=problem
            )

    def _inventory(self) -> Inventory:
        return Inventory(self._request.request, self._answer, *self._place, (), (), (), ())

    async def _send(self, record: Inventory | InventoryEnd) -> None:
        await self._shelves.sender.send(
            [Outgoing(self._topic, ANSWER_PARTITION, None, encode_control(record))]
        )
