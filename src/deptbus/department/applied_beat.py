"""Tells the bus that a recipient's adapter lives, and when it last applied something.

Its lag is seen from the bus, its life is not: it commits only when there was something to apply,
and where nothing comes an adapter that died looks like one that is idle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from deptbus.change import Incarnation
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import control_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import AppliedBeat, encode_control, key_of

log = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0
_REASONS = 20
_REASON_LETTERS = 160


async def tell_that_it_lives(
    sender: Sender,
    unit: str,
    system: str,
    incarnation: Incarnation,
    applied_at_us: Callable[[], int | None],
    parked: Callable[[], Mapping[tuple[str, str], int] | None],
) -> None:
    """Until cancelled. A beat that cannot be sent is no reason to stop applying: it is said once,
    and the next one is tried. `parked`: rows by dataset and reason; None: not known yet."""
    told = False
    while True:
        now_us = time.time_ns() // 1000
        beat = _with_parked(
            AppliedBeat(unit, system, incarnation, applied_at_us(), now_us), parked()
        )
        record = Outgoing(control_topic(unit), 0, key_of(beat), encode_control(beat))
        try:
            await sender.send([record])
            told = False
        except (BusUnreachable, BusRefused) as error:
            if not told:
                log.warning("beat_not_sent", unit=unit, system=system, error=error.what)
            told = True
        await asyncio.sleep(BEAT_SECONDS)


def _with_parked(beat: AppliedBeat, parked: Mapping[tuple[str, str], int] | None) -> AppliedBeat:
    """With the reasons that park the most rows: reasons name constraints and columns, no values."""
    if parked is None:
        return beat
    most = sorted(parked.items(), key=lambda item: (-item[1], item[0]))[:_REASONS]
    return replace(
        beat,
        parked=sum(parked.values()),
        parked_datasets=tuple(dataset for (dataset, _), _ in most),
        parked_reasons=tuple(reason[:_REASON_LETTERS] for (_, reason), _ in most),
        parked_rows=tuple(rows for _, rows in most),
    )
