"""Cuts what a source publishes at one exact place, between two turns of its publisher.

1. All that was sent is acked, and its outbox rows are forgotten; nothing is on its way.
2. Whoever asked looks at the database (it opens a snapshot on a connection of its own).
3. A marker of kind `cut` goes through every partition of `out`; when all are acked, publishing
   goes on.

So a change that the snapshot has lies before the marker, or waits in the outbox that the snapshot
has too; and no change lies before the marker that the snapshot has not. Where 2 or 3 fails there is
no cut: a marker that was stored all the same bears a moment that nobody is told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from deptbus.department.presence import Presence
from deptbus.errors import BusUnreachable, DatabaseBusy, DeptbusError
from deptbus.wire.control import Marker

T = TypeVar("T")

LOOK_SECONDS = 3.0  # publishing waits for it
MARKER_SECONDS = 5.0


class Cuts:
    """`make` by whoever wants one, from any task; `make_all` by the publisher, between two turns;
    `give_up` when it ends."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._wishes: list[_Wish] = []
        self._has_ended = False

    @property
    def are_wanted(self) -> bool:
        return bool(self._wishes)

    async def make(self, name: str, look: Callable[[], Awaitable[T]]) -> tuple[Marker, T]:
        """The marker and what `look` gave, once publishing goes on. May take long where much waits
        in the outbox: give it a time-out. Raises what `look` raises, DatabaseBusy when that takes
        too long, BusUnreachable and BusRefused when the markers do not get through."""
        if self._has_ended:
            raise BusUnreachable("publishing has stopped")
        wish = _Wish(name, look)
        self._wishes.append(wish)
        found: tuple[Marker, T] = await wish.done
        return found

    async def make_all(self) -> None:
        """Never raises for a wish: who wished is told. What is cut short is left to `give_up`."""
        while self._wishes:
            wish = self._wishes[0]
            if not wish.done.done():  # else nobody waits for it any more
                try:
                    made = await self._make(wish)
                except DeptbusError as error:
                    if not wish.done.done():
                        wish.done.set_exception(error)
                else:
                    if not wish.done.done():
                        wish.done.set_result(made)
            del self._wishes[0]

    async def _make(self, wish: _Wish) -> tuple[Marker, Any]:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                seen = await wish.look()
        except TimeoutError:
            raise DatabaseBusy("the database opens no snapshot in time") from None
        marker = await self._presence.cut(wish.name, "cut", deadline_seconds=MARKER_SECONDS)
        return marker, seen

    def give_up(self) -> None:
        self._has_ended = True
        for wish in self._wishes:
            if not wish.done.done():
                wish.done.set_exception(BusUnreachable("publishing has stopped"))
        self._wishes = []


class _Wish:
    def __init__(self, name: str, look: Callable[[], Awaitable[Any]]) -> None:
        self.name, self.look = name, look
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
