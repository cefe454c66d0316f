"""Orders of people, carried out on a real bus: the keys that were named, and no others."""

from __future__ import annotations

import pytest
from office_bus import (
    HOUSING,
    Agent,
    Recipient,
    contract,
    copy_of,
    entitled,
    key_of_person,
    person,
    until,
)

from deptbus import names
from deptbus.change import Cause
from deptbus.errors import DeptbusError
from deptbus.operations.audit import JOB_ENDED, REPAIR_ORDER, Operator, read_acts
from deptbus.operations.replay_desk import order_keys, read_orders
from deptbus.stream.log import end_offsets, read_to_end

pytestmark = pytest.mark.service

WANG = Operator("wang")


async def closed(bus, job: str) -> None:
    async def is_closed() -> bool:
        return not (await read_orders(bus.connection)).is_open(job)

    await until(is_closed, f"{job} is closed")


async def deliveries_behind(bus, unit: str, ends: list[int]) -> list:
    copy = await copy_of(bus, unit)
    records = await read_to_end(
        bus.connection, names.in_topic(unit), from_offsets=dict(enumerate(ends))
    )
    return [copy.codecs.decode_inbox(r.key, r.value) for r in records if r.key is not None]


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
            job = await order_keys(
                bus.connection, HOUSING, "person", wanted, "repair", "their disk", WANG
            )
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
        asked = (bus.connection, HOUSING, "person", [key_of_person(1)], "repair", "why", WANG)
        await order_keys(*asked)
        with pytest.raises(DeptbusError, match="still open"):
            await order_keys(*asked)
