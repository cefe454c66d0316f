"""The job of one order: brings one recipient the last state of the keys that a person chose.

1. The keys are those of the order: named, or with a record in its ranges. The state that is sent
   is the last one of each, as the canonical topic has it when the partition's turn comes.
2. What is sent, and whether at all, is decided by the policy in force at that moment, never by the
   one of the plan. It is asked before every send; when another came into force the job gives way,
   because a job of that policy may be due first, and goes on from where it was.
3. A key of which a newer state lies on the bus by then is left out: the agents deliver that one,
   and the recipient may have lost its right to the one before.
4. Progress is on the bus: partitions that are done, and in the one at work the offset below which
   all is acked. Offsets count in the canonical topics that the order names; when one of them was
   made again the order is refused.

Nothing here needs agents to be waited for, nor markers: while no job of a policy is due, what the
recipient may have is what it might have under every policy that an agent still works under.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Literal

import structlog

from deptbus import names
from deptbus.change import Cause
from deptbus.connection import Connection
from deptbus.operations import audit
from deptbus.operations.carrier import Carrier, Owed, Ready
from deptbus.operations.jobs import REPORT_SECONDS, Tools
from deptbus.operations.logs import CanonicalLogs, Chosen
from deptbus.operations.replay_orders import CANCELLED, PAUSED, DueOrder, Orders
from deptbus.stream.brokers import consumer_of
from deptbus.stream.identity import topic_ids
from deptbus.stream.log import LogReader, LogRecord, Outgoing
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.control import JobOrder, OrderedKeys, OrderProgress, encode_control, key_of

State = Literal["waiting", "sending", "paused", "done", "cancelled", "refused"]

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


class OrderRefused(Exception):
    """It cannot be carried out any more; the text says why."""


class _GaveWay(Exception):
    """Another policy came into force, or another leader has closed the order."""


class Newer:
    """The keys of one partition that have a newer state than a fold knows: what lies behind it."""

    def __init__(self, logs: CanonicalLogs, reader: LogReader) -> None:
        self._logs, self._reader = logs, reader
        self._keys: set[tuple[str, bytes]] = set()

    async def keys(self) -> set[tuple[str, bytes]]:
        """(source unit, key), up to the end of the partition at this moment."""
        for record in await self._reader.read_to_end():
            change = await self._logs.decode(record)
            if change is not None:
                self._keys.add((change.source_unit, change.key))
        return self._keys


class OrderedJob:
    """`run` it until it returns or raises, then look again what is wanted; or cancel it. A new one
    goes on where the progress on the bus stands."""

    def __init__(
        self, due: DueOrder, tools: Tools, orders: Orders, connection: Connection,
        policies: PolicyFollower,
    ) -> None:  # fmt: skip
        self.order: JobOrder = due.order
        self._wanted = due.wanted
        self._tools, self._orders = tools, orders
        self._connection, self._policies = connection, policies
        self._inbox = tools.calm_inbox_of(due.unit)
        self._reported_at = time.monotonic()
        now_us = _now_us()
        self.progress = orders.progress.get(due.job) or OrderProgress(
            job=due.job,
            unit=due.unit,
            policy=due.order.policy,
            state="waiting",
            problem="",
            done_partitions=(),
            place="",
            next_offset=0,
            sent=0,
            withdrawn=0,
            started_at_us=now_us,
            updated_at_us=now_us,
        )

    async def run(self) -> None:
        """Raises BusUnreachable, BusRefused, ContractUnreadable: run it again later."""
        if self._wanted == CANCELLED:
            await self._give_up("cancelled")
        elif self._wanted == PAUSED:
            await self._report("paused")
        else:
            try:
                await self._carry_out()
            except OrderRefused as refusal:
                await self._give_up("refused", str(refusal))
            except _GaveWay:
                log.info("order_gave_way", job=self.order.job)
            else:
                await self._close("done")

    # -- steps ------------------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        order = self.order
        policy = await self._policy()
        log.info("order_started", job=order.job, policy=policy, datasets=list(order.datasets))
        self.progress = replace(self.progress, policy=policy)
        if not self._orders.is_open(order.job):
            raise _GaveWay
        named = self._orders.keys_of(order)
        if named is None:
            raise OrderRefused("some of its keys are not on the bus any more")
        await self._report("sending")
        cause = Cause(order.cause)
        tools = self._tools
        owed = Owed(tools.library, tools.now, order.unit, policy, order.job, lambda _: cause)
        await self._check_topics()
        for dataset, partition in await self._places(named):
            await self._check_topics()
            await self._carry(dataset, partition, named.get(dataset), owed)

    async def _check_topics(self) -> None:
        """Raises OrderRefused when one is not that of the order."""
        order = self.order
        topics = [names.data_topic(dataset) for dataset in order.datasets]
        async with consumer_of(self._connection) as consumer:
            ids = await topic_ids(consumer._client, topics)
        for topic, noted in zip(topics, order.topic_ids, strict=True):
            if ids.get(topic) != noted:
                raise OrderRefused(f"{topic} is not there any more, or was made again since")

    async def _places(self, named: dict[str, frozenset[bytes]]) -> list[tuple[str, int]]:
        """What is left, in order."""
        order = self.order
        ranged = set(order.places)
        done = set(self.progress.done_partitions)
        found = []
        for dataset in order.datasets:
            for partition in range(len(await self._tools.logs.spans(dataset))):
                place = f"{dataset}/{partition}"
                if place not in done and (place in ranged or dataset in named):
                    found.append((dataset, partition))
        return found

    async def _carry(
        self, dataset: str, partition: int, keys: frozenset[bytes] | None, owed: Owed
    ) -> None:
        order, place = self.order, f"{dataset}/{partition}"
        if self.progress.place != place:
            self.progress = replace(self.progress, place=place, next_offset=0)
        chosen = await choose(self._tools.logs, order, dataset, partition, keys)
        async with AsyncExitStack() as stack:
            behind = LogReader(
                self._connection,
                names.data_topic(dataset),
                partitions=[partition],
                from_offsets={partition: chosen.winners.end},
            )
            newer = Newer(self._tools.logs, await stack.enter_async_context(behind))

            async def still_owed(ready: list[Ready]) -> list[Ready]:
                overtaken = await newer.keys()
                if self._policies.current().number != owed.policy:
                    raise _GaveWay
                return [r for r in ready if (r.source_unit, r.outgoing.key) not in overtaken]

            partitions = await self._tools.sender.partitions(self._inbox.topic)
            carrier = Carrier(self._tools, self._inbox, partitions, owed, self._count, still_owed)
            await carrier.carry(dataset, partition, chosen.winners, self.progress.next_offset)
        done = tuple(sorted({*self.progress.done_partitions, place}))
        self.progress = replace(self.progress, done_partitions=done, place="", next_offset=0)
        await self._report("sending")

    async def _policy(self) -> int:
        """The policy in force, once it lets the order be carried out. Raises ContractUnreadable,
        OrderRefused."""
        while True:
            policy = self._policies.current()
            if self.order.unit not in policy.contract.unit_by_name:
                raise OrderRefused(f"{self.order.unit} left the contract")
            holds = [h for d in self.order.datasets if (h := policy.hold_of(self.order.unit, d))]
            if not holds:
                return policy.number
            if not self.progress.problem:
                held = holds[0]
                words = f"deliveries of {held.dataset}" if held.dataset else "its deliveries"
                await self._report("waiting", f"{words} are held by {held.held_by}")
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS), self._policies.changed:
                    await self._policies.changed.wait()

    # -- progress ---------------------------------------------------------------------------------

    async def _count(self, sent: int, withdrawn: int, next_offset: int) -> None:
        self.progress = replace(
            self.progress,
            sent=self.progress.sent + sent,
            withdrawn=self.progress.withdrawn + withdrawn,
            next_offset=next_offset,
        )
        if time.monotonic() - self._reported_at > REPORT_SECONDS:
            await self._report("sending")

    async def _give_up(self, state: State, problem: str = "") -> None:
        """Close it before it is done."""
        await self._close(state, problem)

    def _outcome(self) -> tuple[str, ...]:
        """What else came of it, for the audit."""
        return ()

    async def _close(self, state: State, problem: str = "") -> None:
        """The act first: killed in between, it is written once more under the same name."""
        order = self.order
        outcome = (
            f"job {order.job}",
            f"plan {order.plan}" if order.plan else "no plan",
            f"outcome {state}" + (f": {problem}" if problem else ""),
            f"sent {self.progress.sent}",
            f"withdrawn {self.progress.withdrawn}",
            *self._outcome(),
        )
        by = audit.Operator(order.operator, order.bus_user)
        for act in audit.acts_of(
            by, audit.JOB_ENDED, order.reason, unit=order.unit, subjects=outcome
        ):
            await audit.record(self._tools.sender, replace(act, act=f"{order.job}/{state}"))
        await self._report(state, problem)
        await self._forget_keys()
        log.info("order_closed", job=order.job, state=state, sent=self.progress.sent)

    async def _forget_keys(self) -> None:
        """The topic is compacted: what nobody needs any more takes no room."""
        job = self.order.job
        parts = [
            OrderedKeys(job, n, self.order.datasets[0], ()) for n in range(self.order.key_parts)
        ]
        await self._tools.sender.send(
            [Outgoing(names.JOBS, 0, key_of(part), encode_control(part)) for part in parts]
        )

    async def _report(self, state: State, problem: str = "") -> None:
        progress = replace(self.progress, state=state, problem=problem, updated_at_us=_now_us())
        value = encode_control(progress)
        await self._tools.sender.send([Outgoing(names.JOBS, 0, key_of(progress), value)])
        self.progress = progress
        self._reported_at = time.monotonic()


def ranges(order: JobOrder) -> Iterator[tuple[str, tuple[int, int]]]:
    """`<dataset>/<partition>` and the first offset, the one behind the last."""
    for place, start, end in zip(order.places, order.starts, order.ends, strict=True):
        yield place, (start, end)


async def choose(
    logs: CanonicalLogs,
    order: JobOrder,
    dataset: str,
    partition: int,
    keys: frozenset[bytes] | None,
) -> Chosen:
    """What an order means of one partition, as it stands now."""
    start, end = dict(ranges(order)).get(f"{dataset}/{partition}", (0, 0))

    def wants(record: LogRecord) -> bool:
        return start <= record.offset < end or (keys is not None and record.key in keys)

    return await logs.choose(dataset, partition, wants)


def _now_us() -> int:
    return time.time_ns() // 1000
