"""A planted bug: a policy is delivered anew without waiting for the agents.

The order of the steps is fixed, so that the real job passes and the bug is caught every time.
"""

from __future__ import annotations

import asyncio

import pytest
from office_bus import HOUSING, Agent, Bus, contract, copy_of, entitled, person, until

from deptbus.contract.model import Policy
from deptbus.operations.jobs import Job
from deptbus.operations.office import Settings, open_office

pytestmark = pytest.mark.service


class HastyJob(Job):
    """The bug: it takes the ends while an agent still routes by the old rule."""

    async def _wait_for_agents(self) -> None:
        return


async def run_schedule(bus: Bus, kind: type[Job]) -> Policy:
    """A change is routed by the old rule after the new policy is on the bus."""
    agent = Agent(bus, "a", await bus.activate(contract()))
    await bus.write(person(bus.codecs, 7, 1))
    await agent.route()
    policy = await bus.activate(contract(housing=("id", "place", "name", "phone")))
    async with agent.alive(), open_office(bus.connection, Settings()) as office:
        job = asyncio.create_task(kind(office.desk.due()[HOUSING], office.tools, None).run())
        # The job has come as far as it comes before the agent knows the policy.
        await until(lambda: f"{HOUSING}/2" in office.jobs.jobs, "the job's first report")
        if kind is HastyJob:
            await job
        await bus.write(person(bus.codecs, 7, 2))
        await agent.route()
        await agent.adopt(policy)
        await job
    return policy


async def test_a_job_waits_for_every_agent_before_it_takes_the_ends(new_bus):
    async with new_bus() as bus:
        policy = await run_schedule(bus, Job)
        copy = await copy_of(bus, HOUSING)
        assert copy.table() == await entitled(bus, HOUSING, policy)
        assert copy.table()["7"]["phone"] == "p7v2"


async def test_a_job_that_does_not_wait_is_caught(new_bus):
    async with new_bus() as bus:
        policy = await run_schedule(bus, HastyJob)
        copy = await copy_of(bus, HOUSING)
        assert copy.table() != await entitled(bus, HOUSING, policy)
