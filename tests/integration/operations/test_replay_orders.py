"""Orders of people, carried out on a real bus: the keys that were named, and no others."""

from __future__ import annotations

import pytest
from office_bus import (
    GRID,
    HOUSING,
    Agent,
    Recipient,
    contract,
    copy_of,
    entitled,
    key_of_person,
    make_again,
    person,
    until,
)
from office_orders import WANG, closed, deliveries_behind, order_keys

from deptbus import names
from deptbus.change import Cause
from deptbus.errors import DeptbusError
from deptbus.operations.audit import JOB_ENDED, REPAIR_ORDER, read_acts
from deptbus.operations.hold import hold, resume
from deptbus.operations.replay_desk import read_orders
from deptbus.stream.log import end_offsets

pytestmark = pytest.mark.service


async def test_exactly_the_keys_that_were_ordered_are_sent_again(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(200)))
        await bus.write(*(person(bus.codecs, n, 2) for n in range(0, 200, 3)))
        async with (
            Agent(bus, "a", policy).alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(HOUSING, 1)
            before = await end_offsets(bus.connection, names.in_topic(HOUSING))
            wanted = [key_of_person(n) for n in (3, 4, 5, 6, 999)]
            job = await order_keys(bus, HOUSING, wanted, "repair")
            await closed(bus, job)
        found = await deliveries_behind(bus, HOUSING, before)
        assert {d.key: d.version for d in found} == {
            key_of_person(n): 2 if n % 3 == 0 else 1 for n in (3, 4, 5, 6)
        }
        assert {(d.cause, d.job) for d in found} == {(Cause.REPAIR, job)}
        progress = (await read_orders(bus.connection)).progress[job]
        assert (progress.state, progress.sent, progress.withdrawn) == ("done", 4, 0)
        assert (await copy_of(bus, HOUSING)).table() == await entitled(bus, HOUSING, policy)
        acts = [a for a in await read_acts(bus.connection) if a.verb in (REPAIR_ORDER, JOB_ENDED)]
        assert [(a.verb, a.operator, a.reason) for a in acts] == [
            (REPAIR_ORDER, "wang", "their disk"),
            (JOB_ENDED, "wang", "their disk"),
        ]
        assert {"outcome done", "sent 4"} <= set(acts[1].subjects)


async def test_of_two_orders_for_one_recipient_the_second_is_refused(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        await order_keys(bus, HOUSING, [key_of_person(1)])
        with pytest.raises(DeptbusError, match="still open"):
            await order_keys(bus, HOUSING, [key_of_person(2)])
        await order_keys(bus, GRID, [key_of_person(1)])


async def test_an_order_whose_canonical_topic_was_made_again_is_refused(new_bus):
    """Its offsets and keys were of another topic."""
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(20)))
        async with Agent(bus, "a", policy).alive(), Recipient(bus, HOUSING).running():
            async with bus.office(keeper_interval_hours=None):
                await bus.job_done(HOUSING, 1)
            job = await order_keys(bus, HOUSING, [key_of_person(1)])
            await make_again(bus, "data.person")
            async with bus.office(keeper_interval_hours=None):
                await closed(bus, job)
        progress = (await read_orders(bus.connection)).progress[job]
        assert (progress.state, progress.sent) == ("refused", 0)
        assert "made again" in progress.problem


async def test_what_a_policy_makes_due_goes_first_and_a_hold_is_waited_for(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(20)))
        agent = Agent(bus, "a", policy)
        async with agent.alive(), Recipient(bus, HOUSING).running():
            async with bus.office(keeper_interval_hours=None):
                await bus.job_done(HOUSING, 1)
            job = await order_keys(bus, HOUSING, [key_of_person(n) for n in range(20)])
            await hold(bus.connection, HOUSING, "", WANG, "their database moves")
            async with bus.office(keeper_interval_hours=None):

                async def says_why() -> bool:
                    progress = (await read_orders(bus.connection)).progress.get(job)
                    return progress is not None and "held by wang" in progress.problem

                await until(says_why, "it says why it waits")
                assert (await read_orders(bus.connection)).progress[job].sent == 0
                await agent.adopt(await resume(bus.connection, HOUSING, "", WANG, "it has moved"))
                await closed(bus, job)
        found = await deliveries_behind(bus, HOUSING, [0] * 4)
        jobs = [delivery.job for delivery in found]
        assert jobs.count(job) == jobs.count(f"{HOUSING}/3") == 20
        assert set({delivery.key: delivery.job for delivery in found}.values()) == {job}
