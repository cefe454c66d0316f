"""What reached a unit's inbox behind noted ends, up to somebody's snapshot: key -> version."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deptbus import names
from deptbus.change import Received
from deptbus.connection import Connection
from deptbus.errors import WireRefused
from deptbus.stream.log import LogReader, read_to_end
from deptbus.wire.guard import UNKNOWN_SCHEMA

if TYPE_CHECKING:
    from deptbus.operations.office import Office


@dataclass
class Behind:
    """What reached the inbox behind the noted ends: read as far as somebody's snapshot goes."""

    connection: Connection
    office: Office
    unit: str
    dataset: str
    noted: Sequence[int]
    _read: dict[int, list[tuple[int, bytes, int, int]]] = field(default_factory=dict)
    _sought: set[int] = field(default_factory=set)  # schemas that were looked for

    async def until(self, applied: Sequence[int], floors: Sequence[int]) -> dict[bytes, int]:
        """Key -> the highest version that was delivered and not refused, by partition."""
        ends = [max(end, *self._upto(n)) for n, end in enumerate(applied)]
        await self._read_on(ends)
        found: dict[bytes, int] = {}
        for partition, deliveries in self._read.items():
            for offset, key, version, policy in deliveries:
                if offset < applied[partition] and policy >= floors[partition]:
                    found[key] = max(version, found.get(key, 0))
        return found

    def _upto(self, partition: int) -> tuple[int, int]:
        known = self._read.get(partition)
        return self.noted[partition], known[-1][0] + 1 if known else 0

    async def _read_on(self, ends: Sequence[int]) -> None:
        starts = {n: max(self._upto(n)) for n, end in enumerate(ends) if max(self._upto(n)) < end}
        if not starts:
            return
        topic = names.in_topic(self.unit)
        async with LogReader(
            self.connection, topic, partitions=list(starts), from_offsets=starts
        ) as reader:
            for record in await reader.read_to_end():
                received = await self._decoded(record.key, record.value)
                if received is not None and received.dataset == self.dataset:
                    self._read.setdefault(record.partition, []).append(
                        (record.offset, received.key, received.version, received.policy)
                    )

    async def _decoded(self, key: bytes | None, value: bytes | None) -> Received | None:
        codecs = self.office.tools.library.codecs
        try:
            try:
                found = codecs.decode_inbox(key, value)
            except WireRefused as error:
                if error.reason != UNKNOWN_SCHEMA or not await self._learn(value):
                    return None  # the recipient passes over it as well
                found = codecs.decode_inbox(key, value)
        except WireRefused:
            return None
        return found if isinstance(found, Received) else None

    async def _learn(self, value: bytes | None) -> bool:
        """Schemas of projections that this process never made: each is on the bus before its first
        use. False when there is nothing to be learnt."""
        codecs = self.office.tools.library.codecs
        missing = codecs.missing_schema(value)
        if missing is None or missing in self._sought:
            return False
        self._sought.add(missing)
        for record in await read_to_end(self.connection, names.SCHEMAS):
            with suppress(WireRefused):  # what is no schema of ours is nobody's delivery
                codecs.add_schema(int.from_bytes(record.key or b"", "big"), record.value or b"")
        return True
