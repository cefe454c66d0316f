"""Notices another adapter of the same system that works on another database: on a copy, when the
department's file is run from two machines.

The token in the database fences two adapters of one database, and cannot know of a second one. Two
copies meet on the bus only. Of a source the greater incarnation counts there (what the lesser sends
behind its announcement is refused), so the lesser has to stop before it forgets more rows whose
changes nobody takes in. Of a recipient both would apply, but commit for one group, and answer every
question twice.

1. Who sees a greater incarnation stops, if its own database still bears its own token: otherwise it
   is the ordinary successor, whom the fence tells of.
2. Of a source an announcement says it; of a system that only receives, signs of life in two looks
   one after the other: a single one may be the last of an adapter whose database was restored.
3. It costs nothing while nobody else writes: `control.<unit>` is read only where offsets lie
   between those of this process's own writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog

from deptbus.change import Incarnation
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, SourceRefused, WireRefused
from deptbus.names import control_topic
from deptbus.stream.log import LogRecord, Sender, read_to_end
from deptbus.wire.control import AppliedBeat, Heartbeat, Incarnated, check_key, decode_control

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.5  # a little more than between two signs of life, so that each look has one


def greater_than(
    mine: Incarnation, records: Iterable[LogRecord], unit: str, system: str
) -> tuple[Incarnation | None, bool]:
    """Pure: the greatest incarnation of this system above `mine` that these control records tell
    of, and whether it is a source's: announced, and no mere sign of life."""
    greatest, is_announced = None, False
    for record in records:
        try:
            control = decode_control(record.value)
            check_key(record.key, control)
        except WireRefused:
            continue  # told by whoever reads it to its end
        if not isinstance(control, Incarnated | Heartbeat | AppliedBeat):
            continue
        if (control.unit, control.system) != (unit, system) or control.incarnation <= mine:
            continue
        if isinstance(control, Incarnated) and not control.offsets:
            continue  # not announced yet: it may be refused before
        is_announced = is_announced or not isinstance(control, AppliedBeat)
        greatest = max(greatest or control.incarnation, control.incarnation)
    return greatest, is_announced


class Rivals:
    """Of one incarnation of one system, made before it says its first word. `is_ours`: whether the
    own database still bears its token; `stopping`: what has to be made durable before it stops."""

    def __init__(
        self,
        connection: Connection,
        sender: Sender,
        unit: str,
        system: str,
        *,
        is_ours: Callable[[], Awaitable[bool]],
        stopping: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._connection = connection
        self._unit, self._system = unit, system
        self._is_ours, self._stopping = is_ours, stopping
        # Held from here on: it has to see what is written around our own first word.
        self._writes = sender.watch((control_topic(unit), 0))
        self._unread: int | None = None  # the first offset of others that is not read yet
        self._suspect: Incarnation | None = None

    async def watch(self, mine: Incarnation) -> None:
        """Raises SourceRefused when there is one: a person has to say which of the two is right."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(BusUnreachable, BusRefused):  # whoever publishes or applies says it
                await self._look(mine)

    async def _look(self, mine: Incarnation) -> None:
        others = self._writes.others()
        if others is not None and (self._unread is None or others.start < self._unread):
            self._unread = others.start
        if self._unread is None:
            self._suspect = None
            return
        records = await read_to_end(
            self._connection, control_topic(self._unit), from_offsets={0: self._unread}
        )
        self._unread = None
        found, is_announced = greater_than(mine, records, self._unit, self._system)
        before, self._suspect = self._suspect, found
        if found is None or not (is_announced or found == before) or not await self._is_ours():
            return
        log.error(
            "another_database_of_this_system",
            unit=self._unit,
            system=self._system,
            incarnation=mine.number,
            other_incarnation=found.number,
        )
        if self._stopping is not None:
            await self._stopping()
        raise SourceRefused(
            f"{self._unit}/{self._system}: another adapter of this system runs on another database "
            "(a copy?) and has taken over on the bus",
            mend="Stop the wrong one of the two; where the right one publishes, run `deptbus "
            "department resync` there",
        )
