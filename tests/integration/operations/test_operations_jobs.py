"""Jobs on a real broker: whatever a policy changes, the copy ends as the policy says."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from office_bus import (
    GRID,
    HOUSING,
    PLACES,
    SOURCE,
    Agent,
    Recipient,
    contract,
    copy_of,
    entitled,
    moved,
    person,
    salary_grant,
    until,
)

from deptbus.change import Cause, DeliveryOp, Reason

pytestmark = pytest.mark.service


async def test_a_first_activation_of_an_empty_bus_is_quick(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        async with Agent(bus, "a", policy).alive():
            started = asyncio.get_running_loop().time()
            async with bus.office(keeper_interval_hours=None):
                await bus.job_done(HOUSING, 1)
                await bus.job_done(GRID, 1)
            assert asyncio.get_running_loop().time() - started < 5
        copy = await copy_of(bus, HOUSING)
        assert copy.rows == {}
        assert copy.rule_since == {(number, "person"): 1 for number in range(4)}


async def test_a_recipient_that_joins_gets_exactly_what_it_may_have(new_bus):
    """5,000 keys, some at several versions, some gone, some moved away and back."""
    async with new_bus() as bus:
        first = await bus.activate(contract(housing=(), units=(SOURCE, GRID)))
        people = [person(bus.codecs, n) for n in range(5000)]
        await bus.write(*people)
        await bus.write(*(person(bus.codecs, n, 2) for n in range(0, 5000, 7)))
        await bus.write(
            *(person(bus.codecs, n, 3, reason=Reason.REMOVED) for n in range(0, 5000, 11))
        )
        away = moved(people[1:5000:13], bus.codecs, PLACES[2])
        await bus.write(*(c for c in away if c.key not in {p.key for p in people[0:5000:7]}))
        agent = Agent(bus, "a", first)
        async with (
            agent.alive(),
            Recipient(bus, GRID).running(),
            Recipient(bus, HOUSING).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(GRID, 1)
            policy = await bus.activate(contract())
            await agent.adopt(policy)
            await bus.job_done(HOUSING, 2)
        copy = await copy_of(bus, HOUSING)
        expected = await entitled(bus, HOUSING, policy)
        assert len(expected) > 4000
        assert copy.table() == expected
        assert {row.cause for row in copy.rows.values()} == {Cause.SNAPSHOT}
        assert {row.job for row in copy.rows.values()} == {f"{HOUSING}/2"}
        # The rule of the other recipient did not change: nothing was delivered to it anew.
        assert f"{GRID}/2" not in await bus.last_progress()


async def test_a_field_that_is_opened_is_delivered_anew(new_bus):
    async with new_bus() as bus:
        first = await bus.activate(contract())
        agent = Agent(bus, "a", first)
        await bus.write(*(person(bus.codecs, n) for n in range(300)))
        async with (
            agent.alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(HOUSING, 1)
            await agent.route()
            policy = await bus.activate(contract(housing=("id", "place", "name", "phone")))
            await agent.adopt(policy)
            await bus.job_done(HOUSING, 2)
        copy = await copy_of(bus, HOUSING)
        assert copy.table() == await entitled(bus, HOUSING, policy)
        assert copy.table()["7"]["phone"] == "p7v1"
        assert {row.cause for row in copy.rows.values()} == {Cause.REPLAY}


async def test_a_field_that_is_closed_is_delivered_anew_without_it(new_bus):
    async with new_bus() as bus:
        first = await bus.activate(contract())
        agent = Agent(bus, "a", first)
        await bus.write(*(person(bus.codecs, n) for n in range(300)))
        async with (
            agent.alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(HOUSING, 1)
            await agent.route()
            policy = await bus.activate(contract(housing=("id", "place")))
            await agent.adopt(policy)
            await bus.job_done(HOUSING, 2)
        copy = await copy_of(bus, HOUSING)
        assert copy.table() == await entitled(bus, HOUSING, policy)
        assert set(copy.table()["7"]) == {"id", "place"}


async def test_a_rule_that_is_taken_away_withdraws_what_it_ever_gave(new_bus):
    """Also of keys that moved away since, and none of keys that were never its own."""
    async with new_bus() as bus:
        first = await bus.activate(contract())
        agent = Agent(bus, "a", first)
        people = [person(bus.codecs, n) for n in range(300)]
        await bus.write(*people)
        async with (
            agent.alive(),
            Recipient(bus, GRID).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(GRID, 1)
            await agent.route()
            # Away from the town of GRID, unseen by any agent until the new policy.
            await bus.write(*moved(people[0:300:3], bus.codecs, PLACES[2]))
            policy = await bus.activate(contract(grid=()))
            await agent.adopt(policy)
            await bus.job_done(GRID, 2)
        copy = await copy_of(bus, GRID)
        assert copy.table() == {}
        withdrawn = {key for key, row in copy.rows.items() if row.op is DeliveryOp.WITHDRAW}
        assert withdrawn == {p.key for p in people if p.division != PLACES[2]}
        assert (await bus.last_progress())[f"{GRID}/2"].withdrawn == 200


async def test_a_recipient_that_leaves_the_contract_keeps_nothing(new_bus):
    async with new_bus() as bus:
        first = await bus.activate(contract())
        agent = Agent(bus, "a", first)
        await bus.write(*(person(bus.codecs, n) for n in range(300)))
        async with agent.alive(), bus.office(keeper_interval_hours=None):
            async with Recipient(bus, HOUSING).running():
                await bus.job_done(HOUSING, 1)
            await agent.route()
            policy = await bus.activate(contract(units=(SOURCE, GRID)))
            await agent.adopt(policy)
            await bus.job_done(HOUSING, 2)  # nobody applies it: who left holds nobody up
        copy = await copy_of(bus, HOUSING)
        assert copy.table() == {}
        assert len(copy.rows) == 300


async def test_the_end_of_a_grant_makes_the_next_policy_and_clears_its_field(new_bus):
    day = date(2026, 6, 30)
    clock = [datetime(2026, 6, 15, tzinfo=UTC)]
    async with new_bus() as bus:
        granted = contract(grants=(salary_grant(day),))
        first = await bus.activate(granted, clock[0])
        agent = Agent(bus, "a", first)
        await bus.write(*(person(bus.codecs, n) for n in range(300)))
        async with (
            agent.alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(keeper_interval_hours=None, now=lambda: clock[0]) as office,
        ):
            await bus.job_done(HOUSING, 1)
            assert "salary" in (await copy_of(bus, HOUSING)).table()["7"]
            # The last second of the grant, in China's time, is still its own.
            clock[0] = datetime(2026, 6, 30, 15, 59, 59, tzinfo=UTC)
            await asyncio.sleep(1.5)
            assert HOUSING not in office.desk.due()
            clock[0] += timedelta(seconds=1)
            await until(lambda: HOUSING in office.desk.due(), "the job of the next policy")
            second = office.policies.current()
            assert (second.number, second.contract) == (2, granted)
            assert second.activated_by == "grant ended: salaries"
            await agent.adopt(second)
            await bus.job_done(HOUSING, 2)
        copy = await copy_of(bus, HOUSING)
        assert set(copy.table()["7"]) == {"id", "place", "name"}
        assert copy.table() == await entitled(bus, HOUSING, second, clock[0])
        assert f"{GRID}/2" not in await bus.last_progress()


async def test_a_job_that_is_killed_while_it_sends_goes_on_and_ends_right(new_bus):
    """Killed again and again, with live changes in between; no partition that is done is sent
    again."""
    async with new_bus() as bus:
        first = await bus.activate(contract(housing=()))
        agent = Agent(bus, "a", first)
        await bus.write(*(person(bus.codecs, n) for n in range(3000)))
        async with agent.alive(), Recipient(bus, GRID).running():
            async with bus.office(keeper_interval_hours=None):
                await bus.job_done(GRID, 1)
            await agent.route()
            policy = await bus.activate(contract())
            await agent.adopt(policy)
            kills = 0
            async with Recipient(bus, HOUSING, seconds_a_record=0.0003).running():
                while not await bus.is_done(HOUSING, 2):
                    async with bus.office(keeper_interval_hours=None):
                        await asyncio.sleep(0.7)
                    kills += 1
                    await bus.write(person(bus.codecs, kills, 10 + kills))
                    await agent.route()
        assert kills >= 2
        copy = await copy_of(bus, HOUSING)
        assert copy.table() == await entitled(bus, HOUSING, policy)
        assert len(copy.table()) == 3000


async def test_a_recipient_that_is_down_makes_its_own_job_wait_and_no_other(new_bus):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(2000)))
        agent = Agent(bus, "a", policy)
        async with agent.alive(), bus.office(keeper_interval_hours=None, jobs_at_once=1):
            async with Recipient(bus, GRID).running():
                await bus.job_done(GRID, 1)
            progress = (await bus.last_progress())[f"{HOUSING}/1"]
            assert progress.state == "sending"
            assert len((await copy_of(bus, HOUSING)).rows) <= 200
            async with Recipient(bus, HOUSING).running():
                await bus.job_done(HOUSING, 1)
        assert (await copy_of(bus, HOUSING)).table() == await entitled(bus, HOUSING, policy)


async def test_a_newer_policy_supersedes_a_job_that_waits(new_bus):
    async with new_bus() as bus:
        first = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(1000)))
        agent = Agent(bus, "a", first)
        async with agent.alive(), bus.office(keeper_interval_hours=None) as office:
            await until(lambda: f"{HOUSING}/1" in office.jobs.jobs, "the first job")
            second = await bus.activate(contract(housing=("id", "place", "phone")))
            await agent.adopt(second)
            async with Recipient(bus, HOUSING).running():
                await bus.job_done(HOUSING, 2)
        assert (await copy_of(bus, HOUSING)).table() == await entitled(bus, HOUSING, second)
        assert (await bus.last_progress())[f"{HOUSING}/1"].state != "done"
