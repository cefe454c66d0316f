"""Tells the bus how the rebuilds of a system are, in `control.<unit>`: what changes, until it is
there, and all of it at each start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog

from deptbus.department.rebuild import Rebuild
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import control_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import RebuildTold, encode_control, key_of

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 2.0


class RebuildBook:
    """What was last heard of each dataset's rebuild, and whether the bus knows it."""

    def __init__(self) -> None:
        self._now: dict[str, Rebuild] = {}
        self._told: dict[str, Rebuild] = {}
        self.news = asyncio.Event()

    def take(self, rebuilds: Iterable[Rebuild]) -> None:
        self._now = {rebuild.dataset: rebuild for rebuild in rebuilds}
        if self.untold():
            self.news.set()

    def untold(self) -> list[Rebuild]:
        return [rebuild for dataset, rebuild in self._now.items() if not self._knows(rebuild)]

    def tell(self, rebuilds: Iterable[Rebuild]) -> None:
        """These lie on the bus now."""
        self._told |= {rebuild.dataset: rebuild for rebuild in rebuilds}

    def _knows(self, rebuild: Rebuild) -> bool:
        told = self._told.get(rebuild.dataset)
        return told is not None and (told.job, told.state) == (rebuild.job, rebuild.state)


async def tell_rebuilds(sender: Sender, unit: str, system: str, book: RebuildBook) -> None:
    """Until cancelled. What cannot be told now is told later: it is said once."""
    said = False
    while True:
        await book.news.wait()
        book.news.clear()
        while rebuilds := book.untold():
            told = [_told(unit, system, rebuild) for rebuild in rebuilds]
            try:
                await sender.send(
                    [Outgoing(control_topic(unit), 0, key_of(r), encode_control(r)) for r in told]
                )
            except (BusUnreachable, BusRefused) as error:
                if not said:
                    log.warning("rebuild_not_told", unit=unit, system=system, error=error.what)
                said = True
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            said = False
            book.tell(rebuilds)


def _told(unit: str, system: str, rebuild: Rebuild) -> RebuildTold:
    return RebuildTold(
        unit,
        system,
        rebuild.dataset,
        rebuild.job,
        rebuild.state,
        rebuild.reason,
        tuple(rebuild.counts),
        tuple(rebuild.counts.values()),
        time.time_ns() // 1000,
    )
