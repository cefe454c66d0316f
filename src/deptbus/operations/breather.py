"""Gives a recipient rests while a person's job sends to it: measures, and asks `pace` how long."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from deptbus.errors import BusUnreachable
from deptbus.operations.groups import Groups
from deptbus.operations.logs import CanonicalLogs
from deptbus.operations.pace import Pace, Unread
from deptbus.operations.verdicts import Limits

log = structlog.get_logger(__name__)

PROMISE_SECONDS = Limits().promise_seconds
LIVE_LOOK_SECONDS = 1.0


class CanTellAge(Protocol):
    async def age(self, now: float) -> float | None: ...


class LiveLag:
    """How long the oldest unread record of an inbox has waited there, over all its readers."""

    def __init__(
        self, topic: str, readers: Sequence[str], groups: Groups, logs: CanonicalLogs
    ) -> None:
        self._topic, self._readers = topic, tuple(readers)
        self._groups, self._logs = groups, logs
        self._unread = Unread(PROMISE_SECONDS)

    async def age(self, now: float) -> float | None:
        """None: nobody can tell."""
        try:
            # Committed before ends: what comes in between waits, and is not overlooked.
            committed: dict[int, int] = {}
            spans = await self._logs.spans_of(self._topic)
            places = [(self._topic, number) for number in range(len(spans))]
            for reader in self._readers:
                for partition, offset in (await self._groups.committed(reader, places)).items():
                    committed[partition] = min(offset, committed.get(partition, offset))
        except BusUnreachable:
            return None
        self._unread.seen({number: span.end for number, span in enumerate(spans)}, now)
        return self._unread.age(committed, now)


class Breather:
    """Told of every send and every look; says whether the recipient may be sent more."""

    def __init__(self, live: CanTellAge, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        now = clock()
        self._pace = Pace(now, PROMISE_SECONDS)
        # Sends that are not applied: how many were sent in all by then, and when.
        self._sends: deque[tuple[int, float]] = deque()
        self._sent = 0
        self._busy_at: float | None = None  # since when something of ours waits all along
        self._rested_at = self._looked_at = now
        self._live_at = float("-inf")

    @property
    def share(self) -> float:
        return self._pace.share

    def sent(self, count: int, now: float) -> None:
        self._sent += count
        self._sends.append((self._sent, now))
        if self._busy_at is None:
            self._busy_at = now

    def is_rested(self, waiting: int, now: float) -> bool:
        """At a full share there are no rests; else all that was sent is applied first."""
        return self._pace.share == 1.0 or (waiting == 0 and now >= self._rested_at)

    async def looked(self, waiting: int, clock: Callable[[], float]) -> None:
        """`waiting`: so many of ours are not applied yet."""
        now, before = clock(), self._pace.share
        while self._sends and self._sends[0][0] <= self._sent - waiting:
            # Its commit came between the look before and this one. By the earlier of the two it is
            # slow for certain: that we look seldom makes no recipient slow.
            self._pace.committed(self._looked_at - self._sends.popleft()[1], now)
        if self._sends:
            self._pace.committed(now - self._sends[0][1], now)
        if waiting == 0 and self._busy_at is not None:
            self._rested_at = now + self._pace.rest(now - self._busy_at)
            self._busy_at = None
        if now - self._live_at >= LIVE_LOOK_SECONDS:
            self._live_at = now
            self._pace.live_lag(await self._live.age(now), now)
        self._looked_at = now
        if self._pace.share < before:
            log.info("recipient_given_rest", share=round(self._pace.share, 3))
