"""Intake and routing: real judgement and real deliveries between lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deptbus.contract.model import Policy
from deptbus.names import data_topic, out_topic
from deptbus.stream.delivery import HORIZONTAL, VERTICAL, Routed, route_batch
from deptbus.stream.fences import Fences
from deptbus.stream.intake import Judged, Outbox, judge_batch
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.stream.policies import LEASE_SECONDS
from deptbus.stream.reports import PoliciesAtWork

from .county import CODECS, DATASET, SOURCES
from .simulation import Instance, rest, step

if TYPE_CHECKING:
    from .world import World

_BATCH = 4


class Agent:
    """What one start of a worker's agent has in memory."""

    def __init__(self, world: World, me: Instance) -> None:
        self.world, self.me = world, me
        self.name = f"{me.name}-{world.chance.getrandbits(40)}"
        self.known = 0
        self.read_at = float("-inf")
        self.at_work = PoliciesAtWork()
        self.seen_at = world.clock  # when it last reported, and what
        self.seen_policy = 0
        self.refresh()
        world.agents.append(self)

    def refresh(self) -> None:
        """Read the contract to its end."""
        self.known = max(self.world.bus.policies)
        self.read_at = self.world.clock

    def report(self) -> None:
        if self.me.is_awake:
            self.seen_at = self.world.clock
            self.seen_policy = self.at_work.oldest(self.known)

    def policy(self) -> Policy:
        """The policy in force as far as this agent knows: never older than the lease."""
        if self.world.clock - self.read_at > LEASE_SECONDS or self.world.looks_for_policy():
            self.refresh()
        return self.world.bus.policies[self.known]

    def commit(self, topic: str, offset: int) -> None:
        """The broker refuses the commit of a member of an older generation."""
        if self.world.scheduler.is_present(self.me):
            self.world.bus.committed[self.me.name, topic] = offset

    @property
    def is_zombie(self) -> bool:
        return not self.world.scheduler.is_present(self.me)


async def take_in(world: World, me: Instance) -> None:
    """out.<unit> -> data.<dataset>."""
    agent = Agent(world, me)
    bus = world.bus
    outboxes: dict[str, Outbox] = {}
    records: list[LogRecord] = []
    while not agent.is_zombie:
        await (step() if records else rest())
        unit = world.chance.choice(SOURCES)
        topic = out_topic(unit)
        position = bus.committed[me.name, topic]
        records = bus.read(topic, position, world.chance.randint(1, _BATCH))
        policy = agent.policy()
        if not records:
            continue
        if unit not in outboxes:
            outboxes[unit] = Outbox(unit, topic, 0, Fences())
            outboxes[unit].fences.learn(bus.incarnated[unit], 0)
        outbox = outboxes[unit]

        is_newest = _judge(outbox, records, policy, False).names_newer
        if is_newest:
            agent.refresh()
            policy = bus.policies[agent.known]
        with agent.at_work.under(policy.number):
            judged = _judge(outbox, records, policy, is_newest)
            if judged.unannounced:
                await step()
                outbox.fences.learn(bus.incarnated[unit], 0)
                judged = _judge(outbox, records, policy, is_newest)
            accepted = [
                Outgoing(to, 0, key, value)
                for to, pairs in judged.accepted.items()
                for key, value in pairs
            ]
            for outgoing in [*accepted, *judged.refused]:
                await step()
                bus.append(outgoing)
        await step()
        agent.commit(topic, records[-1].offset + 1)


async def route(world: World, me: Instance) -> None:
    """data.<dataset> -> in.<unit>."""
    agent = Agent(world, me)
    bus, topic = world.bus, data_topic(DATASET)
    records: list[LogRecord] = []
    while not agent.is_zombie:
        await (step() if records else rest())
        position = bus.committed[me.name, topic]
        records = bus.read(topic, position, world.chance.randint(1, _BATCH))
        policy = agent.policy()
        if not records:
            continue
        routed = await _route(world, policy, records, False)
        is_newest = routed.names_newer
        if is_newest:
            agent.refresh()
            policy = bus.policies[agent.known]
        with agent.at_work.under(policy.number):
            routed = await _route(world, policy, records, is_newest)
            if world.bugs.ack_before_delivery:
                agent.commit(topic, records[-1].offset + 1)
            boxes = [
                [Outgoing(inbox, 0, key, value) for key, value in pairs]
                for agent_of in (HORIZONTAL, VERTICAL)
                for inbox, pairs in routed.deliveries[agent_of].items()
            ]
            world.chance.shuffle(boxes)  # inboxes are written side by side
            for outgoing in [o for box in boxes for o in box] + routed.refused:
                await step()
                bus.append(outgoing)
        await step()
        agent.commit(topic, records[-1].offset + 1)


def _judge(outbox: Outbox, records: list[LogRecord], policy: Policy, is_newest: bool) -> Judged:
    contract, number = policy.contract, policy.number
    return judge_batch(outbox, records, CODECS, contract, number, 0, is_newest=is_newest)


async def _route(world: World, policy: Policy, records: list[LogRecord], is_newest: bool) -> Routed:
    return await route_batch(
        data_topic(DATASET),
        0,
        records,
        carrier=world.bus.carrier(policy.number),
        codecs=CODECS,
        now=world.now,
        is_newest=is_newest,
    )
