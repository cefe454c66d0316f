"""What a unit told of its saved entries, held against its inbox on a real broker."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from office_bus import HOUSING, Agent, Bus, contract, person

from deptbus import names
from deptbus.change import Cause, Incarnation
from deptbus.operations.recount import day_of_ms
from deptbus.operations.saved_desk import read_saved, recount_unit
from deptbus.routing import Router
from deptbus.stream.log import Outgoing
from deptbus.wire.control import AppliedDay, encode_control, key_of
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service

ME = Incarnation(1, b"\1" * 8)


async def tell(bus: Bus, live: int) -> None:
    now = time.time()
    day = day_of_ms(int(now * 1000))
    told = AppliedDay(HOUSING, "main", ME, day, ("person",), (live,), (live,), (0,), int(now * 1e6))
    topic = names.control_topic(HOUSING)
    await bus.sender.send([Outgoing(topic, 0, key_of(told), encode_control(told))])


async def saved(bus: Bus, *words: str) -> tuple[int, dict[str, Any]]:
    argv = [sys.executable, "-m", "deptbus.cli.main", "saved", "-o", "json", *words]
    process = await asyncio.create_subprocess_exec(
        *argv, "--bootstrap", bus.connection.bootstrap, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(said)


async def test_redeliveries_and_jobs_are_no_entries_and_who_counts_them_is_found_out(
    new_bus: Callable[[], Bus],
) -> None:
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        agent = Agent(bus, "a", policy)
        people = [person(bus.codecs, n, v) for v in (1, 2) for n in range(10)]
        await bus.write(*people)
        await agent.route()
        agent.routed = {}  # a worker that was killed sends again
        await agent.route()
        job = [
            (change, d)
            for change in people[10:]
            for d in Router(policy).route(change, policy.activated_at)
            if d.unit == HOUSING
        ]
        for change, d in job:
            (value,) = bus.codecs.encode_deliveries(
                change, [d], policy.number + 1, cause=Cause.REPLAY, job="a job"
            )
            place = partition_of(change.key, 4)
            await bus.sender.send([Outgoing(names.in_topic(HOUSING), place, change.key, value)])

        await tell(bus, 20)
        rows = (await read_saved(bus.connection)).rows
        assert [(row.unit, row.live) for row in rows] == [(HOUSING, 20)]
        (row,) = await recount_unit(bus.connection, HOUSING, rows)
        assert (row.delivered, row.repeated, row.first_seen) == (20, 20, 10)
        assert (row.unchanged, row.fields, row.told) == (0, 60, 20)
        assert not row.is_too_much
        code, document = await saved(bus, "--unit", HOUSING, "--recount")
        assert (code, document["entries"], len(document["recount"])) == (0, 20, 1)

        await tell(bus, 21)  # the planted mistake: one that came twice is counted twice
        code, document = await saved(bus, "--unit", HOUSING, "--recount")
        assert code == 1
        assert document["recount"][0]["is_too_much"]
        code, document = await saved(bus)
        assert (code, document["entries"]) == (0, 21)
