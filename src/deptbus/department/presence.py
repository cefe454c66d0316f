"""What one incarnation of a source says of itself on the bus: that it publishes, how far, and cuts.

It also knows its two topics: which they are, and up to where `out` holds what this system sent.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import structlog

from deptbus.change import Incarnation
from deptbus.connection import Connection
from deptbus.department.bus_memory import (
    BusMemory,
    check_outbox,
    read_behind,
    read_control,
    read_outbox,
)
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import Outgoing, Sender, end_offsets
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import (
    Announcement,
    Heartbeat,
    Incarnated,
    InventoryRequest,
    Marker,
    OutboxSeen,
    encode_control,
    key_of,
)

log = structlog.get_logger(__name__)


class Presence:
    """`announce`, `recall`, `settle` at a take-over, in this order; the rest from then on.

    All raise BusUnreachable and BusRefused. `ends`: of `out`, by partition; all that was acked of
    what this system sent lies below.
    """

    def __init__(
        self, connection: Connection, unit: str, system: str, sender: Sender, fingerprint: str
    ) -> None:
        self._connection = connection
        self.unit, self.system = unit, system
        self._sender = sender
        self.fingerprint = fingerprint
        self.ends: list[int] = []
        self.outbox_id = ""
        self._control_id = ""
        self._incarnation: Incarnation | None = None
        self._announced: Sequence[int] = ()  # offsets of our announcements in `out`

    @property
    def incarnation(self) -> Incarnation:
        if self._incarnation is None:
            raise RuntimeError("nothing is announced yet")
        return self._incarnation

    # --- the take-over --------------------------------------------------------------------

    async def announce(
        self, incarnation: Incarnation, check: Callable[[], Awaitable[None]]
    ) -> None:
        """In every partition of `out`, then by the control record that names those places.

        The number is told before, and `check` (raises Fenced) is asked behind that: the database
        may be restored at any moment, and forgets who took it over. A successor that knew no better
        would take the same number, and the lesser token of the two would be fenced for ever.
        """
        self._incarnation, self._announced = incarnation, ()
        await self._write_incarnated()
        await check()
        topic = out_topic(self.unit)
        now_us = time.time_ns() // 1000
        announcements = [
            Outgoing(
                topic,
                partition,
                None,
                encode_control(
                    Announcement(self.unit, self.system, incarnation, partition, now_us)
                ),
            )
            for partition in range(await self._sender.partitions(topic))
        ]
        self._announced = await self._sender.send(announcements)
        await self._write_incarnated()
        self.ends = [offset + 1 for offset in self._announced]

    async def recall(self, codecs: Codecs) -> tuple[BusMemory, list[int]]:
        """What the bus knows of this system, and the first offset that is still kept in each
        partition of `out`. Before `announce` an adapter that lives may yet add to it."""
        self.outbox_id, begins = await read_outbox(self._connection, self.unit)
        memory = await read_control(self._connection, self.unit, self.system)
        if memory.outbox_id not in ("", self.outbox_id):
            memory = replace(memory, ends=())  # they counted records of another topic
        upto = None
        if self._announced:
            upto = {partition: end - 1 for partition, end in enumerate(self.ends)}
        return await read_behind(self._connection, self.unit, memory, codecs, upto), begins

    async def settle(self) -> None:
        """Notes which topics these are, for whoever comes after us."""
        control = control_topic(self.unit)
        self._control_id = (await self._sender.topic_ids([control])).get(control, "")
        await self._note_outbox()

    # --- while it publishes ---------------------------------------------------------------

    async def look_at_topics(
        self, check: Callable[[], Awaitable[None]], beat: Callable[[], Awaitable[None]]
    ) -> None:
        """Raises SourceRefused when `out` was made again: what was acked there and not yet taken in
        is lost, and only a resync finds it. A control topic that was made again is told anew what
        intake and our successor have to know, if `check` says that we still may."""
        out, control = out_topic(self.unit), control_topic(self.unit)
        ids = await self._sender.topic_ids([out, control])
        check_outbox(
            BusMemory(outbox_id=self.outbox_id),
            topic=out,
            topic_id=ids.get(out, self.outbox_id),  # not there now: what is sent says so
            begins=(),
        )
        if ids.get(control, self._control_id) != self._control_id:
            log.warning("control_topic_made_again", unit=self.unit, system=self.system)
            await check()
            await self._write_incarnated()
            await self._note_outbox()
            await beat()
            self._control_id = ids[control]

    async def outbox_ends(self) -> list[int]:
        return await end_offsets(self._connection, out_topic(self.unit))

    async def cut(
        self,
        name: str,
        kind: Literal["resync", "cut"],
        *,
        deadline_seconds: float | None = None,
    ) -> Marker:
        """A marker through every partition of `out`; returns it when all are acked. Where that
        fails some may be stored, now or later."""
        topic = out_topic(self.unit)
        now_us = time.time_ns() // 1000
        marker = Marker(name, kind, self.unit, self.system, self.incarnation, now_us)
        value = encode_control(marker)
        records = [Outgoing(topic, place, None, value) for place in range(len(self.ends))]
        await self._sender.send(records, deadline_seconds=deadline_seconds)
        return marker

    async def write(self, record: Incarnated | Heartbeat | OutboxSeen | InventoryRequest) -> None:
        value = encode_control(record)
        await self._sender.send([Outgoing(control_topic(self.unit), 0, key_of(record), value)])

    def stored(self, offsets: Mapping[tuple[str, int], Sequence[range]]) -> None:
        """So much more of ours lies in `out`."""
        for (_, place), found in offsets.items():
            self.ends[place] = max(self.ends[place], *(few.stop for few in found))

    async def _write_incarnated(self) -> None:
        who = self.unit, self.system, self.incarnation
        await self.write(Incarnated(*who, tuple(self._announced), self.fingerprint))

    async def _note_outbox(self) -> None:
        await self.write(OutboxSeen(self.unit, self.system, self.incarnation, self.outbox_id))
