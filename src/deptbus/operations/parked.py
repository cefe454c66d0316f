"""Rows that recipients could not write, as their adapters tell it: by unit, dataset and reason.

They lie in the departments' own databases; the bus knows how many and why, from the last sign of
life of each recipient's adapter. Adapters try them again by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.operations.offsets import Offsets
from deptbus.operations.stages import parked_of
from deptbus.operations.watch_signs import SignsWatch
from deptbus.stream.brokers import consumer_of
from deptbus.wire.control import AppliedBeat


class ParkedRows(NamedTuple):
    """`told_at_us`: when its adapter said so."""

    unit: str
    owner: str
    dataset: str
    reason: str
    rows: int
    told_at_us: int

    def is_of(self, unit: str, dataset: str, reason: str) -> bool:
        """Whether it is of all of these that are given."""
        return (
            unit in ("", self.unit)
            and dataset in ("", self.dataset)
            and reason in ("", self.reason)
        )


async def read_parked(connection: Connection, contract: Contract) -> list[ParkedRows]:
    """Of every unit, the most rows first. Raises BusUnreachable, BusRefused."""
    async with consumer_of(connection) as consumer:
        cluster = await Offsets(consumer._client).cluster()
    systems = [(unit.unit, system) for unit in contract.units for system in unit.systems]
    signs = SignsWatch(connection)
    try:
        await signs.read(systems, cluster, time.time())
        beats = [signs.of(system).recipient for system in systems]
    finally:
        await signs.stop()
    return parked_rows(contract, (beat for beat in beats if beat is not None))


def parked_rows(contract: Contract, beats: Iterable[AppliedBeat]) -> list[ParkedRows]:
    """Pure."""
    found = [
        ParkedRows(beat.unit, contract.unit_by_name[beat.unit].owner, *one, told_at_us=beat.at_us)
        for beat in beats
        for one in parked_of(beat)
    ]
    return sorted(found, key=lambda row: (-row.rows, row.unit, row.dataset, row.reason))
