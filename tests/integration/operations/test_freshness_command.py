"""`deptbus freshness` on a real bus: late, silent, fresh, by what lies in the outbox."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace

import pytest
from office_bus import PARTITIONS, SOURCE, Bus, contract, person

from deptbus import names
from deptbus.change import Incarnation
from deptbus.stream.log import Outgoing
from deptbus.wire.control import Heartbeat, encode_control, key_of
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service


async def freshness(bus: Bus) -> tuple[int | None, dict]:
    async with asyncio.timeout(90):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deptbus.cli.main", "freshness", "-o", "json"),
            *("--bootstrap", bus.connection.bootstrap),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    (row,) = json.loads(out)["datasets"]
    assert (row["unit"], row["dataset"], row["owner"]) == (SOURCE, "person", "office")
    return process.returncode, row


async def publish(bus: Bus, at: float) -> None:
    change = replace(person(bus.codecs, 1), source_time_us=int(at * 1e6))
    place = partition_of(change.key, PARTITIONS)
    value = bus.codecs.encode_change(change)
    await bus.sender.send([Outgoing(names.out_topic(SOURCE), place, change.key, value)])


async def live(bus: Bus) -> None:
    me, at_us = Incarnation(1, b"\1" * 8), time.time_ns() // 1000
    beat = Heartbeat(SOURCE, "main", me, 1, 1, 1, (0,) * PARTITIONS, "f", False, 0, at_us, 0, None)
    record = Outgoing(names.control_topic(SOURCE), 0, key_of(beat), encode_control(beat))
    await bus.sender.send([record])


async def test_silent_late_and_fresh(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        code, row = await freshness(bus)
        assert (code, row["state"], row["last_refresh"]) == (1, "silent", None)
        await publish(bus, time.time() - 25 * 3600)
        await live(bus)
        code, row = await freshness(bus)
        assert (code, row["state"]) == (1, "late")
        assert row["due"] is not None
        await publish(bus, time.time())
        code, row = await freshness(bus)
        assert (code, row["state"]) == (0, "fresh")
