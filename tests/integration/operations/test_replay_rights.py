"""A replay goes by the rights of the moment, never by those of its plan: the inbox's bytes decide.

Each promise has a mistake beside it that somebody could make, and the same test finds it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import date
from typing import NamedTuple

import pytest
from office_bus import (
    GRID,
    HOUSING,
    PLACES,
    Agent,
    Bus,
    Recipient,
    contract,
    copy_of,
    entitled,
    key_of_person,
    moved,
    person,
    salary_grant,
    until,
)
from office_orders import WANG, closed, deliveries_behind, order_keys
from test_operations_held import running
from test_replay_command import applied, planned

from deptbus import names
from deptbus.change import DeliveryOp
from deptbus.contract.model import Contract
from deptbus.operations import replay_job
from deptbus.operations.hold import hold, resume
from deptbus.operations.office import Settings, open_office
from deptbus.operations.replay_desk import read_orders
from deptbus.operations.replay_job import OrderedJob
from deptbus.operations.replay_orders import DueOrder
from deptbus.stream.log import end_offsets, read_to_end
from deptbus.stream.policies import read_policies

pytestmark = pytest.mark.service

FOR_EVER = date(2099, 12, 31)
QUIET = Settings(keeper_interval_hours=None)


async def bytes_behind(bus: Bus, unit: str, ends: list[int]) -> bytes:
    records = await read_to_end(
        bus.connection, names.in_topic(unit), from_offsets=dict(enumerate(ends))
    )
    return b"".join(record.value for record in records)


class Narrowed(NamedTuple):
    """What a unit may have before and after; bytes that it may have still, and may no longer."""

    before: Contract
    after: Contract
    still: bytes
    no_longer: bytes
    told: str  # when a plan of before is applied


GRANT = salary_grant(FOR_EVER)
NARROWED = {
    "a grant is withdrawn": Narrowed(
        contract(grants=(GRANT,)), contract(), b"n7v1", b"s7v1", "lost salary"
    ),
    "a field is closed": Narrowed(
        contract(housing=("id", "place", "name", "phone")), contract(), b"n7v1", b"p7v1",
        "lost phone",
    ),
    # Person 7 lives in the town that the grant is left with, person 8 does not.
    "a territory is made smaller": Narrowed(
        contract(grants=(GRANT,)),
        contract(grants=(GRANT.model_copy(update={"territory": "330106109"}),)),
        b"s7v1", b"s8v1", "are not those that it was planned by",
    ),
}  # fmt: skip
narrowed = pytest.mark.parametrize("case", NARROWED.values(), ids=NARROWED)


@narrowed
async def test_a_plan_of_wider_rights_is_refused_and_nothing_is_sent(new_bus, tmp_path, case):
    async with new_bus() as bus:
        first = await bus.activate(case.before)
        await bus.write(*(person(bus.codecs, n) for n in range(20)))
        agent = Agent(bus, "a", first)
        async with agent.alive(), Recipient(bus, HOUSING).running(), bus.office():
            await bus.job_done(HOUSING, 1)
            plan = await planned(bus, tmp_path, "--all")
            await agent.adopt(await bus.activate(case.after))
            await bus.job_done(HOUSING, 2)
            before = await end_offsets(bus.connection, names.in_topic(HOUSING))
            code, _, err = await applied(bus, plan)
            assert (code, case.told in err) == (1, True), err
        assert await end_offsets(bus.connection, names.in_topic(HOUSING)) == before
        assert (await read_orders(bus.connection)).orders == {}


async def test_rights_of_others_refuse_no_plan_and_a_hold_does(new_bus, tmp_path):
    async with new_bus() as bus:
        granted = contract(grants=(GRANT,))
        first = await bus.activate(granted)
        await bus.write(*(person(bus.codecs, n) for n in range(20)))
        agent = Agent(bus, "a", first)
        async with agent.alive(), Recipient(bus, HOUSING).running(), bus.office():
            await bus.job_done(HOUSING, 1)
            plan = await planned(bus, tmp_path, "--all")
            assert plan["plan"]["expected"][0]["fields_sent"]["salary"] == 20
            other = granted.units[0].model_copy(update={"unit": "housing@330107"})
            wider = granted.model_copy(
                update={
                    "units": (*granted.units, other),
                    "territories": granted.territories | {"330107": "beside"},
                }
            )
            await agent.adopt(await bus.activate(wider))
            await hold(bus.connection, HOUSING, "", WANG, "their database moves")
            code, _, err = await applied(bus, plan)
            assert (code, "are held by wang" in err) == (1, True), err
            await resume(bus.connection, HOUSING, "", WANG, "it has moved")
            await agent.adopt((await read_policies(bus.connection)).current())
            code, done, err = await applied(bus, plan)
            assert (code, done["sent"]) == (0, 20), err


class PlansRights(OrderedJob):
    """Sends by the policy that the plan was made under: the mistake."""

    async def _policy(self) -> int:
        self._policies = _Pinned(self.order.policy)
        return self.order.policy


class _Pinned:
    def __init__(self, number: int) -> None:
        self.number = number

    def current(self):
        return self


async def _narrowed_after_apply(bus: Bus, case: Narrowed) -> bytes:
    """What comes into the inbox once the right is gone, of an order that was given before."""
    first = await bus.activate(case.before)
    await bus.write(*(person(bus.codecs, n) for n in range(50)))
    agent = Agent(bus, "a", first)
    async with agent.alive(), Recipient(bus, HOUSING).running():
        async with bus.office(keeper_interval_hours=None):
            await bus.job_done(HOUSING, 1)
        keys = [key_of_person(n) for n in range(50)]
        job = await order_keys(bus, HOUSING, keys)
        before = await end_offsets(bus.connection, names.in_topic(HOUSING))
        await agent.adopt(await bus.activate(case.after))
        async with bus.office(keeper_interval_hours=None):
            await bus.job_done(HOUSING, 2)
            await closed(bus, job)
    assert (await read_orders(bus.connection)).progress[job].sent == 50
    return await bytes_behind(bus, HOUSING, before)


@narrowed
async def test_what_a_right_opened_is_not_sent_once_it_is_gone(new_bus, case):
    async with new_bus() as bus:
        sent = await _narrowed_after_apply(bus, case)
    assert case.still in sent
    assert case.no_longer not in sent


@narrowed
async def test_rights_of_the_plan_are_found(new_bus, monkeypatch, case):
    monkeypatch.setattr("deptbus.operations.office.OrderedJob", PlansRights)
    async with new_bus() as bus:
        assert case.no_longer in await _narrowed_after_apply(bus, case)


# -- a record that leaves its place while the job is at work --------------------------------------


class LooksNotBehind(replay_job.Newer):
    async def keys(self):
        return set()


@asynccontextmanager
async def town_with_an_order(bus: Bus, count: int = 600):
    """The town's copy is loaded, and all of it is ordered again; nobody has begun yet."""
    policy = await bus.activate(contract())
    people = [person(bus.codecs, n, place=PLACES[0]) for n in range(count)]
    await bus.write(*people)
    agent = Agent(bus, "a", policy)
    async with agent.alive(), Recipient(bus, GRID).running():
        async with bus.office(keeper_interval_hours=None):
            await bus.job_done(GRID, 1)
        await agent.route()
        keys = [p.key for p in people]
        job = await order_keys(bus, GRID, keys)
        yield agent, people, job


async def _moved_in_the_midst(bus: Bus) -> list:
    """After its first send all records leave the town, and the agent delivers that."""
    async with town_with_an_order(bus) as (agent, people, job):
        before = await end_offsets(bus.connection, names.in_topic(GRID))

        class Interrupted(OrderedJob):
            async def _count(self, sent, withdrawn, next_offset) -> None:
                if not self.progress.sent:
                    await bus.write(*moved(people, bus.codecs, PLACES[2]))
                    await agent.route()
                await super()._count(sent, withdrawn, next_offset)

        async with open_office(bus.connection, QUIET) as office:
            order = office.jobs.orders.orders[job]
            due = DueOrder(order, "run")
            jobs = office.jobs.orders
            await Interrupted(due, office.tools, jobs, bus.connection, office.policies).run()
        return await deliveries_behind(bus, GRID, before)


def _sent_after_they_left(deliveries: list) -> int:
    left, wrong = set(), 0
    for delivery in deliveries:
        if delivery.op is DeliveryOp.WITHDRAW:
            left.add(delivery.key)
        elif delivery.key in left:
            wrong += 1
    return wrong


async def test_nothing_is_sent_of_a_record_that_left_the_territory_meanwhile(new_bus):
    async with new_bus() as bus:
        deliveries = await _moved_in_the_midst(bus)
        assert sum(d.op is DeliveryOp.WITHDRAW for d in deliveries) >= 600
        assert any(d.op is DeliveryOp.UPSERT for d in deliveries)
        assert _sent_after_they_left(deliveries) == 0
        assert (await copy_of(bus, GRID)).table() == {}


async def test_a_job_that_does_not_look_behind_its_fold_is_found(new_bus, monkeypatch):
    monkeypatch.setattr(replay_job, "Newer", LooksNotBehind)
    async with new_bus() as bus:
        assert _sent_after_they_left(await _moved_in_the_midst(bus)) > 0


# -- killed in the midst --------------------------------------------------------------------------


class SkipsOnResume(OrderedJob):
    """Tells the offset that it has read instead of the one below which all is acked."""

    async def _count(self, sent, withdrawn, next_offset) -> None:
        await super()._count(sent, withdrawn, next_offset + 40)


class _Killed(BaseException):
    pass


async def _resumed(bus: Bus, kind: type[OrderedJob]) -> set[bytes]:
    """The keys that came, when the job is killed once in each partition, in its midst."""
    async with town_with_an_order(bus) as (_, _, job):
        before = await end_offsets(bus.connection, names.in_topic(GRID))

        died: set[str] = set()

        class Dies(kind):
            async def _count(self, sent, withdrawn, next_offset) -> None:
                await super()._count(sent, withdrawn, next_offset)
                await self._report("sending")  # as after two seconds
                if self.progress.place not in died:
                    died.add(self.progress.place)
                    raise _Killed

        lives = 0
        while (await read_orders(bus.connection)).is_open(job):
            lives += 1
            async with open_office(bus.connection, QUIET) as office:
                jobs = office.jobs.orders
                due = DueOrder(jobs.orders[job], "run")
                try:
                    await Dies(due, office.tools, jobs, bus.connection, office.policies).run()
                except _Killed:
                    continue
        assert lives >= 4
        found = [d for d in await deliveries_behind(bus, GRID, before) if d.job == job]
        assert len(found) <= 600  # nothing twice: each life went on behind what was acked
        return {d.key for d in found}


async def test_it_goes_on_where_it_was_killed(new_bus):
    async with new_bus() as bus:
        assert len(await _resumed(bus, OrderedJob)) == 600


async def test_a_job_that_resumes_from_a_wrong_offset_is_found(new_bus):
    async with new_bus() as bus:
        assert len(await _resumed(bus, SkipsOnResume)) < 600


async def test_the_operations_process_is_killed_while_it_sends(new_bus):
    """SIGKILL, and live changes in between: the copy ends as entitled, the job is one."""
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(3000)))
        agent = Agent(bus, "a", policy)
        async with agent.alive():
            async with bus.office(keeper_interval_hours=None), Recipient(bus, HOUSING).running():
                await bus.job_done(HOUSING, 1)
            await agent.route()
            keys = [key_of_person(n) for n in range(3000)]
            job = await order_keys(bus, HOUSING, keys)
            slow = Recipient(bus, HOUSING, seconds_a_record=0.003)
            async with slow.running(), running(bus, "operations", "run") as operations:

                async def is_in_the_midst() -> bool:
                    progress = (await read_orders(bus.connection)).progress.get(job)
                    return progress is not None and 0 < progress.sent < 3000

                await until(is_in_the_midst, "something is sent")
                await operations.kill()
                await bus.write(*(person(bus.codecs, n, 2) for n in range(0, 3000, 50)))
                await agent.route()
                await operations.start()
                await closed(bus, job)
        assert (await read_orders(bus.connection)).progress[job].state == "done"
        assert (await copy_of(bus, HOUSING)).table() == await entitled(bus, HOUSING, policy)
        found = await deliveries_behind(bus, HOUSING, [0] * 4)
        assert {d.key for d in found if d.job == job} == set(keys)
