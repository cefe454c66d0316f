"""Deliveries held and let go on, on a real bus whose processes are killed: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager

import pytest
from office_bus import (
    GRID,
    HOUSING,
    Agent,
    Bus,
    Recipient,
    contract,
    copy_of,
    entitled,
    moved,
    person,
    until,
)
from test_operations_cli import run, start

from deptbus import names
from deptbus.change import Change, Reason
from deptbus.operations.audit import Operator, read_acts
from deptbus.operations.hold import hold, resume
from deptbus.stream.log import end_offsets
from deptbus.stream.policies import read_policies

pytestmark = pytest.mark.service

WANG = Operator("wang")
TOWN = "330106109051"


class Process:
    """One `deptbus` that stays, which is killed and started again."""

    def __init__(self, bus: Bus, *arguments: str) -> None:
        self._bus, self._arguments = bus, arguments
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task | None = None

    async def start(self) -> None:
        self._process = await start(self._bus, *self._arguments)
        self._draining = asyncio.create_task(self._process.communicate())

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        if self._draining is not None:
            await self._draining


@asynccontextmanager
async def running(bus: Bus, *arguments: str):
    process = Process(bus, *arguments)
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


def removed(bus: Bus, change: Change) -> Change:
    """What was moved to the town is deleted there, and names where it was before."""
    number, formers = int(_number(bus, change)), (change.division,)
    return person(bus.codecs, number, 3, place=TOWN, formers=formers, reason=Reason.REMOVED)


def _number(bus: Bus, change: Change) -> str:
    return bus.codecs.record_codec("person", 1).decode(change.record)["id"]


async def inbox_end(bus: Bus, unit: str) -> int:
    return sum(await end_offsets(bus.connection, names.in_topic(unit)))


async def is_equal(bus: Bus, unit: str) -> bool:
    policy = (await read_policies(bus.connection)).current()
    return (await copy_of(bus, unit)).table() == await entitled(bus, unit, policy)


async def equal(bus: Bus, *units: str) -> None:
    for unit in units:
        await until(lambda unit=unit: is_equal(bus, unit), f"an equal copy at {unit}")


async def test_nothing_is_lost_over_a_hold_with_workers_and_operations_killed(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        changes = [person(bus.codecs, n) for n in range(300)]
        await bus.write(*changes)
        async with (
            running(bus, "worker") as worker,
            running(bus, "operations", "run") as operations,
            Recipient(bus, HOUSING).running(),
            Recipient(bus, GRID).running(),
        ):
            await bus.job_done(HOUSING, 1)
            await equal(bus, HOUSING, GRID)

            words = ("--unit", HOUSING, "--reason", "their database moves", "--operator", "wang")
            code, out, err = await run(bus, "hold", *words)
            assert (code, err) == (0, "")
            assert "policy 2 holds deliveries to housing@330106" in out
            assert "every running worker holds" in out
            code, _, err = await run(bus, "hold", *words)
            assert (code, "held already" in err) == (1, True)
            held_at = await inbox_end(bus, HOUSING)

            # Changed, moved, deleted and new, while the leader is killed.
            await bus.write(*moved(changes[:50], bus.codecs, TOWN))
            await equal(bus, GRID)
            await operations.kill()
            await bus.write(*(removed(bus, change) for change in changes[:10]))
            await operations.start()
            await bus.write(*(person(bus.codecs, n) for n in range(300, 600)))
            await equal(bus, GRID)
            assert await inbox_end(bus, HOUSING) == held_at
            assert not await is_equal(bus, HOUSING)
            code, out, _ = await run(bus, "hold", "--list", "-o", "json")
            (listed,) = json.loads(out)["holds"]
            assert (code, listed["unit"], listed["held_by"]) == (1, HOUSING, "wang")

            policy = await resume(bus.connection, HOUSING, "", WANG, "it has moved")
            await until(lambda: _begun(bus, held_at), "the first of what was kept back")
            await operations.kill()
            await worker.kill()
            await bus.write(*(person(bus.codecs, n) for n in range(600, 650)))
            await worker.start()
            await operations.start()
            await bus.job_done(HOUSING, policy.number)
            await equal(bus, HOUSING, GRID)
        acts = await read_acts(bus.connection)
        assert [(a.verb, a.unit, a.operator) for a in acts] == [
            ("hold", HOUSING, "wang"),
            ("resume", HOUSING, "wang"),
        ]


async def _begun(bus: Bus, held_at: int) -> bool:
    return await inbox_end(bus, HOUSING) > held_at


async def test_a_held_dataset_stays_held_under_another_contract(new_bus):
    async with new_bus() as bus:
        first = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(60)))
        agent = Agent(bus, "a", first)
        async with (
            agent.alive(),
            bus.office(),
            Recipient(bus, HOUSING).running(),
            Recipient(bus, GRID).running(),
        ):
            await bus.job_done(HOUSING, 1)
            await bus.job_done(GRID, 1)
            await agent.route()
            held = await hold(bus.connection, "", "person", WANG, "suspect")
            await agent.adopt(held)
            ends = [await inbox_end(bus, u) for u in (HOUSING, GRID)]
            await bus.write(*(person(bus.codecs, n, 2) for n in range(30)))
            wider = contract(housing=("id", "place", "name", "phone"), grid=())
            other = held.model_copy(update={"number": 3, "contract": wider})
            await agent.adopt(await _activated(bus, other))
            await agent.route()
            free = await resume(bus.connection, "", "person", WANG, "it was right")
            assert [await inbox_end(bus, u) for u in (HOUSING, GRID)] == ends
            await agent.adopt(free)
            await bus.job_done(HOUSING, free.number)
            await bus.job_done(GRID, free.number)
            await equal(bus, HOUSING, GRID)
        table = (await copy_of(bus, HOUSING)).table()
        assert {row["phone"] for row in table.values()} >= {"p1v2", "p31v1"}
        assert (await copy_of(bus, GRID)).table() == {}  # its right ended under the hold


async def _activated(bus: Bus, policy):
    from deptbus.operations.activation import propose, put_in_force

    proposal = await propose(bus.connection, policy.contract, "test")
    assert proposal.new.holds == policy.holds
    await put_in_force(bus.connection, proposal)
    return proposal.new
