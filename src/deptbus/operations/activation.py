"""Activation: what a new contract changes, putting it in force, and waiting for its jobs.

Nothing here has to be completed for the rest to be right: once the policy is on the bus, its jobs
are derived from it (see `due`). So an activation may be killed anywhere and started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from deptbus.connection import Connection
from deptbus.contract.model import Contract, Policy
from deptbus.errors import DeptbusError, Exit, WireRefused
from deptbus.names import AGENTS, JOBS
from deptbus.operations import audit
from deptbus.operations.groups import Groups
from deptbus.operations.leader import GROUP
from deptbus.operations.office import Office, Settings, open_office
from deptbus.operations.rights import RightsChange, difference
from deptbus.stream.log import Sender, read_to_end
from deptbus.stream.policies import append_policy, read_policies
from deptbus.wire.control import AgentReport, JobProgress, decode_control

_LOOK_SECONDS = 0.1
# So long without a running operations process, and the activation does the jobs itself.
_LEADERLESS_SECONDS = 0.5

# The keeper's run over everything is not what somebody who activates should wait for.
WITHOUT_KEEPER = Settings(keeper_interval_hours=None)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A contract that would be the next policy. `old` is None on a bus that has none yet."""

    old: Policy | None
    new: Policy
    changes: tuple[RightsChange, ...]

    @property
    def is_lost(self) -> bool:
        """True when there were policies, and the bus has none of them any more."""
        return self.old is None and self.new.number > 1

    @property
    def is_in_force(self) -> bool:
        """True when the bus has this very contract already."""
        return self.old is not None and self.old.contract.digest == self.new.contract.digest


async def propose(
    connection: Connection, contract: Contract, activated_by: str, now: datetime | None = None
) -> Proposal:
    """Raises BusUnreachable, BusRefused (also: no topics yet), ContractUnreadable, and
    DeptbusError when a schema that was ever released was edited."""
    history = await read_policies(connection)
    for policy in history.policies.values():
        _check_released(policy, contract)
    old = history.current() if history.last else None
    last = history.last or await _last_at_work(connection)
    new = Policy(
        number=last + 1,
        activated_at=now or datetime.now(UTC),
        activated_by=activated_by,
        contract=contract,
        holds=old.holds if old is not None else (),  # a contract comes and goes under them
    )
    return Proposal(old, new, tuple(difference(old, new)))


async def _last_at_work(connection: Connection) -> int:
    """The greatest policy number that agents or jobs have told of; 0 on a fresh bus. A topic
    `bus.contract` that was made again knows no number, and one that came twice would be refused by
    whoever worked under it, recipients first of all."""
    found = [0]
    for topic in (AGENTS, JOBS):
        for record in await read_to_end(connection, topic):
            with suppress(WireRefused):
                told = decode_control(record.value)
                if isinstance(told, AgentReport | JobProgress):
                    found.append(told.policy)
    return max(found)


def _check_released(policy: Policy, contract: Contract) -> None:
    """Bytes that lie on the bus were written by these schemas: under one name there is one schema
    for ever."""
    for name, schema in policy.contract.schemas.items():
        if name in contract.schemas and contract.schemas[name] != schema:
            error = DeptbusError(
                f"schemas/{name}.avsc differs from the one that policy {policy.number} released",
                mend="Put the old file back, and release the change as the next version",
            )
            error.exit_code = Exit.ANSWER_IS_NO
            raise error


async def put_in_force(connection: Connection, proposal: Proposal, reason: str = "") -> None:
    """Appends the policy; its topics must exist. Raises DeptbusError when another was quicker."""
    new = proposal.new
    operator = audit.operator_of(connection, new.activated_by)
    subjects = (f"policy {new.number}", f"contract {new.contract.digest}")
    async with Sender(connection) as sender:
        for act in audit.acts_of(operator, audit.CONTRACT_ACTIVATE, reason, subjects=subjects):
            await audit.record(sender, act)
    await append_policy(connection, new)


@dataclass(frozen=True, slots=True)
class JobsState:
    """How far the jobs of all recipients are at one moment."""

    due: tuple[str, ...]  # units whose job is not completed, sorted
    progress: dict[str, JobProgress]  # unit -> the last report of its job that is due
    awaited_agents: tuple[str, ...] | None  # None: no agent is live, so nothing flows


async def follow_jobs(
    connection: Connection, settings: Settings = WITHOUT_KEEPER
) -> AsyncIterator[JobsState]:
    """Tells how the jobs stand, again and again, and ends when none is due.

    Where an operations process runs it does the jobs; where none does, this one does them.
    """
    async with open_office(connection, settings) as office, Groups(connection) as groups:
        clock = asyncio.get_running_loop().time
        alone_since: float | None = None
        leading: asyncio.Task[None] | None = None
        try:
            while True:
                await office.jobs.refresh()
                state = _state(office)
                yield state
                if not state.due:
                    return
                if leading is not None:
                    if leading.done():
                        leading.result()
                elif await groups.has_members(GROUP):
                    alone_since = None
                elif alone_since is None:
                    alone_since = clock()
                elif clock() - alone_since >= _LEADERLESS_SECONDS:
                    leading = asyncio.create_task(office.run_as_leader())
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            if leading is not None:
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)


def _state(office: Office) -> JobsState:
    due = office.desk.due()
    newest = max((job.policy for job in due.values()), default=0)
    awaited = office.agents.awaited(newest)
    found = {unit: office.jobs.jobs.get(job.job) for unit, job in due.items()}
    return JobsState(
        due=tuple(sorted(due)),
        progress={unit: progress for unit, progress in found.items() if progress is not None},
        awaited_agents=None if awaited is None else tuple(awaited),
    )
