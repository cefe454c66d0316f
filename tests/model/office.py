"""The data office: activates contracts, and runs the jobs that are due (the steps of one job as in
`operations.jobs`, with what decides taken from the product).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deptbus.change import Cause, Change
from deptbus.contract.model import Policy
from deptbus.names import data_topic, in_topic
from deptbus.operations import hold
from deptbus.operations.board import SeenReport, agents_that_hold
from deptbus.operations.boundary import crossed
from deptbus.operations.due import DueJob, due_jobs, last_completed, older_policies
from deptbus.operations.fold import Fold
from deptbus.operations.replay_orders import DueOrder
from deptbus.routing import settle
from deptbus.stream.data import decode_data
from deptbus.stream.log import Outgoing
from deptbus.wire.control import AgentReport, JobProgress, PolicyMarker, encode_control

from . import replay
from .county import CODECS, CONTRACTS, DATASET, RECIPIENTS
from .simulation import Instance, rest, step

if TYPE_CHECKING:
    from .world import World


def activate(world: World) -> None:
    """A person puts another contract in force."""
    contract = world.chance.choice(CONTRACTS)
    world.bus.activate(
        Policy(
            number=1,
            activated_at=world.now,
            activated_by="office",
            contract=contract,
            holds=world.bus.newest.holds,
        )
    )


def hold_or_resume(world: World) -> None:
    """A person stops deliveries, or lets them go on."""
    policy, chance = world.bus.newest, world.chance
    if policy.holds and chance.random() < 0.6:
        unit, dataset = chance.choice(policy.holds).target
        world.bus.activate(hold.without_hold(policy, unit, dataset, world.now, "office"))
        return
    unit, dataset = ("", DATASET) if chance.random() < 0.3 else (chance.choice(RECIPIENTS), "")
    if unit not in policy.contract.unit_by_name and unit:
        return
    if all(held.target != (unit, dataset) for held in policy.holds):
        world.bus.activate(hold.with_hold(policy, unit, dataset, "a test", world.now, "office"))


def resume_all(world: World) -> None:
    for held in world.bus.newest.holds:
        policy = world.bus.newest
        world.bus.activate(hold.without_hold(policy, *held.target, world.now, "office"))


def pass_boundary(world: World) -> None:
    """A grant started or ended: the same contract again, under the next number."""
    following = crossed(world.bus.newest, world.now)
    if following is not None:
        world.bus.activate(following)


def due(world: World) -> dict[str, DueJob]:
    """Derived anew only when there is something new to derive it from."""
    bus = world.bus
    state = len(bus.policies), tuple(sorted(last_completed(bus.jobs.values()).items()))
    if world.due is None or world.due[0] != state:
        world.due = state, due_jobs(bus.policies, bus.digests, dict(state[1]))
    return world.due[1]


def complete_first_loads(world: World) -> None:
    """The first contract came before the first record: its jobs had nothing to do."""
    for job in due(world).values():
        done = (f"{dataset}/0" for dataset in job.datasets)
        world.bus.report(
            JobProgress(
                job.job, job.unit, job.policy, job.datasets, "done", tuple(done), 0, 0, 0, 0
            )
        )


async def run_jobs(world: World, me: Instance) -> None:
    """One leader's life; a frozen one that wakes is a second leader for a while."""
    jobs: dict[str, DueJob | DueOrder] = {}
    while True:
        await (step() if jobs else rest())
        jobs = {**world.bus.orders.due(), **due(world)}
        if jobs:
            job = jobs[world.chance.choice(sorted(jobs))]
            await (_run(world, job) if isinstance(job, DueJob) else replay.carry_out(world, job))


def _new_progress(job: DueJob) -> JobProgress:
    return JobProgress(job.job, job.unit, job.policy, job.datasets, "waiting", (), 0, 0, 0, 0)


async def _run(world: World, job: DueJob) -> None:
    bus = world.bus
    progress = bus.jobs.get(job.job)
    if progress is None or set(progress.datasets) != set(job.datasets):
        progress = JobProgress(
            job.job, job.unit, job.policy, job.datasets, "waiting", (), 0, 0, 0, 0
        )
    if not world.bugs.no_waiting_for_agents:
        while _awaited(world, job.policy) != []:
            await step()
    inbox = in_topic(job.unit)
    if progress.state != "sending":
        await step()
        marker = PolicyMarker(job.policy, job.datasets, job.job)
        bus.append(Outgoing(inbox, 0, None, encode_control(marker)))
        await step()
        progress = bus.report(progress, state="sending")
    for dataset in job.datasets:
        if f"{dataset}/0" not in progress.done_partitions:
            await _send(world, job, dataset, inbox)
            await step()
            done = tuple(sorted({*progress.done_partitions, f"{dataset}/0"}))
            progress = bus.report(progress, done_partitions=done)
    await step()
    bus.report(progress, state="done")


async def _send(world: World, job: DueJob, dataset: str, inbox: str) -> None:
    bus = world.bus
    await step()
    records = bus.read(data_topic(dataset), 0, bus.end(data_topic(dataset)))
    changes: dict[int, Change] = {}
    fold = Fold()
    for record in records:
        change = decode_data(CODECS, record.key, record.value)
        if isinstance(change, Change):
            changes[record.offset] = change
            fold.add(record.offset, change.source_unit, change.key, change.version)
    winners = fold.winners(0, bus.end(data_topic(dataset)))
    numbers = older_policies(job, dataset, bus.policies, bus.digests)
    older = [bus.router(number) for number in numbers]
    for offset, change in changes.items():
        if offset in winners:
            delivery = settle(change, job.unit, world.now, bus.router(job.policy), older)
            if delivery is not None:
                cause = Cause.SNAPSHOT if dataset in job.first_loads else Cause.REPLAY
                (value,) = CODECS.encode_deliveries(
                    change, [delivery], job.policy, cause=cause, job=job.job
                )
                await step()
                bus.append(Outgoing(inbox, 0, change.key, value))


async def keep(world: World, me: Instance) -> None:
    """The keeper: again and again one run over the whole canonical topic. What lay there when a run
    began may be compacted once it has ended."""
    bus, topic = world.bus, data_topic(DATASET)
    while True:
        await rest()
        end = bus.end(topic)
        if end == bus.kept or world.chance.random() < 0.5:
            continue
        records = bus.read(topic, 0, end)
        fold = Fold()
        for record in records:
            found = decode_data(CODECS, record.key, record.value)
            if isinstance(found, Change):
                fold.add(record.offset, found.source_unit, found.key, found.version)
        by_offset = {record.offset: record for record in records}
        for offset in fold.misplaced():
            await step()
            if not world.bugs.no_keeper:
                record = by_offset[offset]
                bus.append(Outgoing(topic, 0, record.key, record.value or b""))
        await step()
        bus.kept = max(bus.kept, end)


def compact(world: World) -> None:
    """The broker's cleaner, at any time that the compaction lag allows: everything that it reaches
    was there when some run of the keeper began that has ended."""
    if world.bus.kept:
        topic = data_topic(DATASET)
        kept = world.bus.kept
        world.bus.compact(topic, world.chance.choice((kept, world.chance.randint(1, kept))))
        world.compactions += 1


def _awaited(world: World, policy: int) -> list[str] | None:
    """As the board of agents tells: reports as old as their agents' last sign of life."""
    wall_us = int(world.clock * 1e6)
    reports = {
        agent.name: SeenReport(
            AgentReport(agent.name, agent.seen_policy, "", "running", wall_us), agent.seen_at
        )
        for agent in world.agents
    }
    return agents_that_hold(reports, policy, now=world.clock, wall_us=wall_us)
