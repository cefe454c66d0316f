"""Tells the bus that a recipient's adapter lives, and when it last applied something.

Its lag is seen from the bus, its life is not: it commits only when there was something to apply,
and where nothing comes an adapter that died looks like one that is idle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from deptbus.change import Incarnation
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import control_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import AppliedBeat, encode_control, key_of

log = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0


async def tell_that_it_lives(
    sender: Sender,
    unit: str,
    system: str,
    incarnation: Incarnation,
    applied_at_us: Callable[[], int | None],
) -> None:
    """Until cancelled. A beat that cannot be sent is no reason to stop applying: it is said once,
    and the next one is tried."""
    told = False
    while True:
        beat = AppliedBeat(unit, system, incarnation, applied_at_us(), time.time_ns() // 1000)
        record = Outgoing(control_topic(unit), 0, key_of(beat), encode_control(beat))
        try:
            await sender.send([record])
            told = False
        except (BusUnreachable, BusRefused) as error:
            if not told:
                log.warning("beat_not_sent", unit=unit, system=system, error=error.what)
            told = True
        await asyncio.sleep(BEAT_SECONDS)
