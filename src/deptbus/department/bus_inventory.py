"""Reads, in the unit's own inbox, what operations tells of the unit's keys; part by part, whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from deptbus.department.comparison import Held
from deptbus.errors import BusRefused, BusUnreachable, WireRefused
from deptbus.stream.log import LogReader
from deptbus.wire.control import Inventory, InventoryEnd, decode_control, is_inventory

PATIENCE_SECONDS = 90.0  # operations gives a sign of life every 5 s, once it leads
_POLL_SECONDS = 0.5
_AGAIN = "Then run `deptbus department resync` again"


@dataclass(slots=True)
class Part:
    """One partition of a canonical topic: what it holds of this unit, by key."""

    dataset: str
    partition: int
    partitions: int = 0  # of the topic; known at its end
    held: dict[bytes, Held] = field(default_factory=dict)
    count: int = 0


class Parts:
    """Puts the parts of an answer together. Pure.

    A part is whole when its end comes with the count of all keys that were sent in one attempt. An
    attempt that a younger one broke off is forgotten, and what still comes of it is passed over.
    """

    def __init__(self, request: str) -> None:
        self._request = request
        self._answer = ""
        self._broken_off: set[str] = set()
        self._part: Part | None = None
        self._done: set[tuple[str, int]] = set()

    def take(self, record: Inventory | InventoryEnd) -> Part | None:
        """The part that is whole now. Raises BusRefused when operations says that it cannot tell,
        and for a part that is not whole: BusUnreachable."""
        if record.request != self._request or record.answer in self._broken_off:
            return None
        if record.answer != self._answer:
            self._broken_off.add(self._answer)
            self._answer, self._part = record.answer, None
        if isinstance(record, InventoryEnd) and record.problem:
            raise BusRefused(
                f"operations cannot tell what the bus has of {record.dataset}: {record.problem}",
                mend=f"Look to that. {_AGAIN}",
            )
        place = record.dataset, record.partition
        if place in self._done:
            return None  # told before, by an attempt that was broken off later
        part = self._part
        if part is None or (part.dataset, part.partition) != place:
            part = self._part = Part(*place)
        if isinstance(record, Inventory):
            part.count += len(record.keys)
            rows = zip(record.keys, record.versions, record.digests, record.places, strict=True)
            for key, version, digest, places in rows:
                part.held[key] = Held(version, digest, tuple(places.split(",")))
            return None
        if part.count != record.keys:
            raise BusUnreachable(
                f"operations told {part.count} keys of {record.dataset} and counted {record.keys}",
                mend=f"Is its inbox whole? {_AGAIN}",
            )
        part.partitions, self._part = record.partitions, None
        self._done.add(place)
        return part


async def read_parts(
    reader: LogReader, request: str, datasets: Collection[str], patience_seconds: float
) -> AsyncIterator[Part]:
    """Every partition of every dataset, once each. `reader` stands where the answer begins.

    Raises BusUnreachable when nobody gives a sign of life for so long, else as Parts.
    """
    parts, clock = Parts(request), asyncio.get_running_loop().time
    left = dict.fromkeys(datasets, -1)  # -1: nothing is known of its partitions yet
    heard = clock()
    while left:
        for record in await reader.poll(_POLL_SECONDS):
            if not is_inventory(record.value):
                continue
            try:
                said = decode_control(record.value)
            except WireRefused:
                continue  # its part will not be whole, and that is told
            if not isinstance(said, Inventory | InventoryEnd) or said.request != request:
                continue
            heard = clock()
            part = parts.take(said)
            if part is None:
                continue
            yield part
            heard = clock()
            before = left[part.dataset]
            left[part.dataset] = (part.partitions if before < 0 else before) - 1
            if left[part.dataset] == 0:
                del left[part.dataset]
        if left and clock() - heard > patience_seconds:
            raise BusUnreachable(
                f"operations did not tell what the bus has of this unit for {patience_seconds:.0f} "
                "s; nothing was forgiven",
                mend="Let `deptbus operations run` (or `deptbus up`) run beside the broker and a "
                f"worker. {_AGAIN}",
            )
