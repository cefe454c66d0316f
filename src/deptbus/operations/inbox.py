"""Sends a job's deliveries into one inbox, no more at a time than the recipient can take."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from deptbus.errors import BusUnreachable
from deptbus.operations.breather import Breather
from deptbus.operations.window import Window
from deptbus.stream.log import Outgoing

log = structlog.get_logger(__name__)

# How soon the recipient's progress is looked at again: quickly while it moves, seldom while not.
_LOOK_SECONDS = (0.01, 1.0)
_TELL_SECONDS = 10.0


class CanSend(Protocol):
    async def send(self, records: Sequence[Outgoing]) -> list[int]: ...


class CanTellCommitted(Protocol):
    async def committed(self, group: str, places: Sequence[tuple[str, int]]) -> dict[int, int]: ...


class Inbox:
    """One recipient's inbox, seen from one job.

    `groups`: the consumer groups of the recipient's systems, whose commits say what is applied.
    Rules: what waits for any of them waits; a group that never committed is a system that never
    ran, and does not hold up the others; when none ever committed, nothing is applied yet. With no
    groups at all (a unit that left the contract) nobody can be held up, and there is no limit.
    With a `breather` the recipient is given rests as well, when it is slow or live changes wait.
    """

    def __init__(
        self,
        topic: str,
        sender: CanSend,
        offsets: CanTellCommitted,
        groups: Sequence[str],
        *,
        breather: Breather | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topic = topic
        self._breather = breather
        self._sender = sender
        self._offsets = offsets
        self._groups = tuple(groups)
        self._clock = clock
        self._window = Window(clock())
        self._waiting: dict[int, deque[int]] = defaultdict(deque)  # partition -> offsets of ours
        self._pause = _LOOK_SECONDS[0]

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Write records (each with its partition); raises BusUnreachable, BusRefused."""
        offsets = await self._sender.send(records)
        if not self._groups:
            return
        for record, offset in zip(records, offsets, strict=True):
            assert record.partition is not None
            self._waiting[record.partition].append(offset)
        self._window.sent(len(records), self._clock())
        if self._breather is not None:
            self._breather.sent(len(records), self._clock())
        self._pause = _LOOK_SECONDS[0]

    async def room(self, wanted: int, patience_seconds: float | None) -> int:
        """How many of `wanted` may be sent now, waiting for a worthwhile number of them.

        None as patience: waits as long as it takes. 0: no room within the patience.
        """
        if not self._groups:
            return wanted
        begun = told = self._clock()
        while True:
            enough = min(wanted, max(1, self._window.size // 4))
            if self._window.room < enough or not self._is_rested():
                await self._look()
            if self._window.room >= enough and self._is_rested():
                return min(wanted, self._window.room)
            now = self._clock()
            if patience_seconds is not None and now - begun >= patience_seconds:
                return 0
            if now - told >= _TELL_SECONDS:
                log.info("recipient_awaited", topic=self.topic, waiting=self._window.waiting)
                told = now + 9 * _TELL_SECONDS
            await asyncio.sleep(self._pause)

    def _is_rested(self) -> bool:
        breather = self._breather
        return breather is None or breather.is_rested(self._window.waiting, self._clock())

    async def _look(self) -> None:
        """Ask what is applied, and let the window know."""
        places = [(self.topic, partition) for partition in self._waiting]
        applied: dict[int, int] = {}
        try:
            for group in self._groups:
                for partition, offset in (await self._offsets.committed(group, places)).items():
                    applied[partition] = min(offset, applied.get(partition, offset))
        except BusUnreachable:
            return  # not known now; the next look tells
        count = 0
        for partition, offset in applied.items():
            ours = self._waiting[partition]
            while ours and ours[0] < offset:
                ours.popleft()
                count += 1
        self._window.applied(count, self._clock())
        if self._breather is not None:
            await self._breather.looked(self._window.waiting, self._clock)
        self._pause = _LOOK_SECONDS[0] if count else min(self._pause * 1.5, _LOOK_SECONDS[1])
