"""What all agents of one worker share: the policy in force, codecs, senders, and how they wait.

An environment error (bus unreachable or refusing, contract unreadable) stops the batch that met it,
says so once, and is tried again with back-off until it is over or the worker stops; the batch is
not acked meanwhile. Everything else that is raised is our own bug and ends the process.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from deptbus.connection import Connection
from deptbus.contract.model import Contract, Policy
from deptbus.errors import (
    BusRefused,
    BusUnreachable,
    ContractUnreadable,
    DeptbusError,
    WireRefused,
)
from deptbus.metrics.counts import Counts
from deptbus.names import AGENTS, data_topic, out_topic
from deptbus.routing import Router
from deptbus.stream.batches import Batch
from deptbus.stream.delivery import Carrier
from deptbus.stream.log import Sender
from deptbus.stream.policies import LEASE_SECONDS, PolicyFollower, tell_policy
from deptbus.stream.reports import PoliciesAtWork, Reporter, topics_digest
from deptbus.stream.schemas import write_schemas
from deptbus.wire.codecs import Codecs

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_BACKOFF_SECONDS = (0.1, 5.0)
# Below the lease: what is still unsent when the lease is stale must not go out any more.
DELIVERY_SECONDS = 8.0
ENVIRONMENT = (BusUnreachable, BusRefused, ContractUnreadable)
START_AGAIN = 3  # exit code: the set of topics changed


class Stopping(Exception):
    """Ends the work on a batch without an ack; it is done again by whoever takes over."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a batch is worked on with, under one policy."""

    policy: Policy
    router: Router
    carrier: Carrier


def outboxes(contract: Contract) -> list[str]:
    return [out_topic(unit.unit) for unit in contract.units]


def canonical_topics(contract: Contract) -> list[str]:
    return [data_topic(dataset) for dataset in contract.datasets]


class Desk:
    """`start` before the agents, `stop` after them. `contract`: where the app's topics are from."""

    def __init__(
        self, connection: Connection, contract: Contract, counts: Counts | None = None
    ) -> None:
        self.connection = connection
        self.counts = counts if counts is not None else Counts()
        self.topics_digest = topics_digest([*outboxes(contract), *canonical_topics(contract)])
        self.codecs = Codecs(contract)
        self.policies = PolicyFollower(connection)
        self.at_work = PoliciesAtWork()
        self.senders: dict[str, Sender] = {}
        self.agent = f"worker-{uuid.uuid4().hex[:12]}"
        self.stopping = asyncio.Event()
        self.ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._bench: Bench | None = None
        self._schemas: dict[int, str] = {}
        self._reporter = Reporter(
            self.sender("notes"), self.agent, self._state, self.at_work.changed
        )
        self._watcher: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------

    def sender(self, name: str) -> Sender:
        """A producer for each agent: one that is poisoned or slow holds up no other."""
        return self.senders.setdefault(name, Sender(self.connection))

    async def start(self) -> None:
        """Raises BusUnreachable, BusRefused, ContractUnreadable."""
        await self.policies.start()
        for sender in self.senders.values():
            await sender.start()
        # First the report, then the contract once more, then work (see Reporter).
        await self._reporter.start()
        await self.policies.refresh()
        self.bench()
        self._watcher = asyncio.create_task(self._watch_policy())

    async def stop(self) -> None:
        self.stopping.set()
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._reporter.stop()
        for sender in self.senders.values():
            await sender.stop()
        await self.policies.stop()

    async def _watch_policy(self) -> None:
        """Learn a new policy while nothing flows too: it is reported, and may change the topics."""
        while True:
            number = self._bench.policy.number if self._bench else 0
            try:
                await self.policies.at_least(number + 1, deadline_seconds=3600.0)
                self.bench()
            except ContractUnreadable as error:
                log.debug("policy_not_learnt", error=error.what)
                await asyncio.sleep(1.0)

    # -- policy -----------------------------------------------------------------------------------

    def bench(self) -> Bench:
        """What to work with now. Raises ContractUnreadable: work on nothing."""
        policy = self.policies.current()
        if self._reporter.age_seconds > LEASE_SECONDS:
            raise ContractUnreadable(
                f"the bus has not heard of this worker for {LEASE_SECONDS:.0f} s",
                mend=f"Has this user the right to write {AGENTS}?",
            )
        if self.policies.read_at < self._reporter.heard_since:
            raise ContractUnreadable("the contract has to be read again first")
        if self._bench is None or self._bench.policy.number != policy.number:
            self._bench = self._make_bench(policy)
            self.at_work.changed.set()
        return self._bench

    async def newest_bench(self) -> Bench:
        """`bench`, after reading the contract to its end."""
        await self.policies.refresh()
        return self.bench()

    def _make_bench(self, policy: Policy) -> Bench:
        try:
            self.codecs.add_contract(policy.contract)
        except WireRefused as error:
            raise ContractUnreadable(
                f"policy {policy.number} cannot be used: {error.what}"
            ) from error
        contract = policy.contract
        digest = topics_digest([*outboxes(contract), *canonical_topics(contract)])
        if digest != self.topics_digest:
            self.end(START_AGAIN)
        router = Router(policy)
        return Bench(policy, router, Carrier(router, self.codecs))

    def _state(self) -> tuple[int, str]:
        tell_policy(self.counts, self.policies)
        policy = self._bench.policy if self._bench is not None else self.policies.current()
        return self.at_work.oldest(policy.number), self.topics_digest

    def end(self, code: int) -> None:
        """Ask the process to stop cleanly and leave with this code."""
        if not self.ending.done():
            log.info("worker_ending", exit_code=code)
            self.ending.set_result(code)

    # -- work -------------------------------------------------------------------------------------

    async def flush_schemas(self) -> None:
        """Every schema that was made here is on the bus before a record that uses it is sent, also
        when another batch made it a moment ago."""
        self._schemas |= self.codecs.take_new_schemas()
        writing = dict(self._schemas)
        if writing:
            await write_schemas(self.sender("notes"), writing)
            for schema_id in writing:
                self._schemas.pop(schema_id, None)

    async def persist(self, batch: Batch, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """`attempt` again and again until the environment lets it succeed; raises Stopping when the
        worker stops first, or the partition was revoked and somebody else may do the batch."""
        pause = _BACKOFF_SECONDS[0]
        told = ""
        while True:
            batch.touch()
            if self.stopping.is_set() or batch.is_forgotten:
                raise Stopping
            try:
                result = await attempt()
            except ENVIRONMENT as error:
                if error.what != told:
                    told = error.what
                    _tell("partition_stopped", batch, error)
            else:
                if told:
                    _tell("partition_resumed", batch, None)
                return result
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.stopping.wait()
            pause = min(pause * 2, _BACKOFF_SECONDS[1])


def _tell(event: str, batch: Batch, error: DeptbusError | None) -> None:
    fields = {"topic": batch.topic, "partition": batch.partition}
    if error is None:
        log.info(event, **fields)
    else:
        log.error(event, **fields, error=error.what, mend=error.mend)
