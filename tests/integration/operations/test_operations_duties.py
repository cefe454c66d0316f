"""The other duties of operations on a real broker: keeper, leadership, resend, activation."""

from __future__ import annotations

import asyncio

import pytest
from office_bus import (
    GRID,
    HOUSING,
    SOURCE,
    Agent,
    Recipient,
    contract,
    key_of_person,
    person,
    until,
)

from deptbus import names
from deptbus.errors import ContractUnreadable, DeptbusError
from deptbus.operations.activation import follow_jobs, propose, put_in_force
from deptbus.operations.audit import RESEND, Operator, read_acts
from deptbus.operations.groups import Groups
from deptbus.operations.leader import GROUP, Leadership
from deptbus.operations.office import open_office
from deptbus.operations.resend import request_resend
from deptbus.stream.log import Outgoing, Sender, read_to_end
from deptbus.wire.control import ResendRequest, decode_control
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service

ME = Operator("test")


async def last_versions(bus) -> dict[bytes, int]:
    """Key -> the version that lies last, which is what compaction would keep."""
    return {c.key: c.version for c in await bus.changes()}


async def test_the_keeper_puts_the_highest_version_last_again(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n, 5) for n in range(50)))
        await bus.write(*(person(bus.codecs, n, 4) for n in range(0, 50, 5)))  # a late send
        assert set((await last_versions(bus)).values()) == {4, 5}
        async with bus.office():
            await until(lambda: _all_five(bus), "the keeper's run")
            lie = len(await bus.changes())
        assert lie == 50 + 10 + 10
        # Run again, it finds nothing to do.
        async with open_office(bus.connection) as office:
            kept = await office.keeper.keep("person")
        assert [k.appended for k in kept] == [0, 0, 0, 0]
        assert len(await bus.changes()) == lie


async def _all_five(bus) -> bool:
    return set((await last_versions(bus)).values()) == {5}


async def test_the_keeper_leaves_out_what_is_no_change(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        first, second = person(bus.codecs, 1, 2), person(bus.codecs, 1, 1)
        await bus.write(first)
        place = partition_of(first.key, 4)
        await bus.sender.send([Outgoing("data.person", place, first.key, b"\x00junk")])
        await bus.write(second)
        async with open_office(bus.connection) as office:
            kept = await office.keeper.keep("person")
        assert sum(k.appended for k in kept) == 1


async def test_one_of_two_leads_and_the_other_takes_over(new_bus):
    async with new_bus() as bus, Groups(bus.connection) as groups:
        assert not await groups.has_members(GROUP)
        async with Leadership(bus.connection) as first:
            await first.gained.wait()
            assert await groups.has_members(GROUP)
            async with Leadership(bus.connection) as second:
                await until(
                    lambda: first.gained.is_set() + second.gained.is_set() == 1, "one leader"
                )
            await first.gained.wait()
            assert second.lost.is_set()
        assert first.lost.is_set()


async def test_a_resend_is_asked_of_the_source_in_the_place_of_the_key(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        key = key_of_person(3)
        name = await request_resend(
            bus.connection, policy, SOURCE, "person", key, by=ME, reason="lost"
        )
        (record,) = await read_to_end(bus.connection, names.in_topic(SOURCE))
        assert record.partition == partition_of(key, 4)
        assert decode_control(record.value) == ResendRequest(name, "person", key, "lost")
        await request_resend(bus.connection, policy, SOURCE, "person", None, by=ME, reason="all")
        records = await read_to_end(bus.connection, names.in_topic(SOURCE))
        assert sorted(r.partition for r in records) == sorted([partition_of(key, 4), 0])
        acts = await read_acts(bus.connection)
        assert [(a.operator, a.verb, a.reason, a.unit, a.dataset, a.key) for a in acts] == [
            ("test", RESEND, "lost", SOURCE, "person", key),
            ("test", RESEND, "all", SOURCE, "person", None),
        ]


async def test_a_resend_is_not_asked_of_a_unit_that_does_not_publish(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        with pytest.raises(DeptbusError, match="housing@330106 does not publish person"):
            await request_resend(bus.connection, policy, HOUSING, "person", None, by=ME, reason="")


async def test_an_activation_does_the_jobs_itself_where_no_operations_process_runs(new_bus):
    async with new_bus() as bus:
        proposal = await propose(bus.connection, contract(), "test")
        assert proposal.old is None
        assert {c.unit for c in proposal.changes} == {HOUSING, GRID}
        await put_in_force(bus.connection, proposal)
        agent = Agent(bus, "a", proposal.new)
        async with agent.alive(), asyncio.timeout(30):
            states = [state async for state in follow_jobs(bus.connection)]
        assert states[0].due == (GRID, HOUSING)
        assert states[-1].due == ()
        assert (await propose(bus.connection, contract(), "test")).is_in_force
        (act,) = await read_acts(bus.connection)
        assert (act.operator, act.verb) == ("test", "contract_activate")
        assert act.subjects[0] == "policy 1"


async def test_an_activation_leaves_the_jobs_to_the_operations_process(new_bus):
    async with new_bus() as bus:
        await bus.write(*(person(bus.codecs, n) for n in range(1000)))
        policy = await bus.activate(contract())
        agent = Agent(bus, "a", policy)
        async with (
            agent.alive(),
            Recipient(bus, HOUSING).running(),
            Recipient(bus, GRID).running(),
            open_office(bus.connection) as office,
            asyncio.timeout(60),
        ):
            leading = asyncio.create_task(office.run_as_leader())
            async for state in follow_jobs(bus.connection):
                last = state
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
        assert last.due == ()


async def test_two_activations_at_once_make_one_policy_of_one_number(new_bus):
    async with new_bus() as bus:
        one = await propose(bus.connection, contract(), "one")
        other = await propose(bus.connection, contract(housing=()), "other")
        await put_in_force(bus.connection, one)
        with pytest.raises(DeptbusError, match="cannot follow"):
            await put_in_force(bus.connection, other)


async def test_a_schema_that_was_released_may_not_be_edited(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        edited = contract()
        edited.schemas["person.v1"]["fields"][2]["type"] = "long"
        with pytest.raises(DeptbusError, match=r"person\.v1"):
            await propose(bus.connection, edited, "test")


async def test_operations_on_a_bus_without_a_contract_say_so(new_bus):
    async with new_bus() as bus:
        with pytest.raises(ContractUnreadable, match="no contract is in force"):
            async with open_office(bus.connection):
                pass
        async with Sender(bus.connection) as sender:
            assert await sender.partitions(names.JOBS) == 1
