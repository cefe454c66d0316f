"""Makes good what capture missed, by itself, while the adapter runs: nobody has to notice and type.

A resync of differences only (`resync.make_up`) as soon as capture has given way and can capture
again. What the bus or the data office cannot answer now is asked for later, ever less often; so is
a next one that is due at once, because a walk over whole tables is not to be the department's
machine's only work while its outbox is full.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from deptbus.connection import Connection
from deptbus.contract.department import Department
from deptbus.department.publisher import Publisher
from deptbus.department.resync import make_up
from deptbus.errors import BusRefused, BusUnreachable, DatabaseBusy

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = (5.0, 600.0)  # before the next try
_ROOM_PERCENT = 50  # of the outbox: with less, what is missed is missed again


async def make_up_by_itself(
    connection: Connection, department: Department, system: str, publisher: Publisher
) -> None:
    """Runs beside `publisher.run` for as long. Raises what ends a publisher."""
    pause = _PAUSE_SECONDS[0]
    who = log.bind(unit=department.unit, system=system)
    cap = department.systems[system].outbox_cap_rows
    while True:
        if not await _is_due(publisher, cap):
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        began = time.monotonic()
        who.info("making_up_begun")
        try:
            done = await make_up(connection, department, system, publisher)
            is_done, why = done.is_complete, "capture gave way again, or a dataset is held"
        except (BusRefused, BusUnreachable, DatabaseBusy) as error:
            is_done, why = False, str(error)
        if is_done:
            pause = _PAUSE_SECONDS[0]
            continue
        who.warning("making_up_again_later", reason=why, seconds=pause)
        await asyncio.sleep(max(pause, time.monotonic() - began))
        pause = min(pause * 2, _PAUSE_SECONDS[1])


async def _is_due(publisher: Publisher, cap: int) -> bool:
    """Capture gave way, sees every table again, and has room."""
    if not publisher.has_missed:
        return False
    half = max(1, cap * _ROOM_PERCENT // 100)
    try:
        # What the publisher last saw may have been made up since.
        if (await publisher.capture.state()).gave_way == 0:
            return False
        return await publisher.capture.backlog(half) < half
    except DatabaseBusy:
        return False
