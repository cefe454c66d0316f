"""Where people propose, confirm and decline: what may not be done by one person alone.

Every act is in `bus.audit` before it has an effect. What may be carried out is carried out by the
operations process that leads (`proposal_duty.py`), whenever it runs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Contract, GuardedAct
from deptbus.errors import DeptbusError, WireRefused
from deptbus.operations import audit
from deptbus.operations.controls import read_controls
from deptbus.operations.proposals import (
    PROPOSAL_RECORDS,
    Proposals,
    State,
    asks_for_two,
    is_another,
    proposer,
)
from deptbus.operations.replay_desk import refused
from deptbus.operations.replay_plan import Plan
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import Proposal, ProposalDecided, encode_control, key_of

VALID_US = 24 * 3600 * 1_000_000
_VERBS = {"confirmed": audit.PROPOSAL_CONFIRM, "declined": audit.PROPOSAL_DECLINE}


class RepairTerms(BaseModel):
    """What a repair may do, as a proposal has it. `most`: so many differences were known of; where
    there are more by then, nothing is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    leg: Literal["source", "copy", "both"] = "both"
    deep: bool = False
    most: int = Field(ge=1)
    max_delete: int = Field(default=0, ge=0)
    overwrite_local: bool = False


async def read_proposals(connection: Connection) -> Proposals:
    """As the bus has them now. Raises BusUnreachable, BusRefused."""
    proposals = Proposals()
    for found in await read_controls(connection, names.JOBS):
        if isinstance(found, PROPOSAL_RECORDS):
            proposals.take(found)
    return proposals


async def propose_replay(
    connection: Connection, contract: Contract, plan: Plan, by: audit.Operator
) -> str:
    """Returns its name, that of the plan's job. A plan that was proposed before is not proposed
    again. Raises DeptbusError for one that is too large, or whose proposal was declined, expired or
    refused; BusUnreachable, BusRefused."""
    now_us = time.time_ns() // 1000
    expires_at_us = min(now_us + VALID_US, int(plan.expires_at.timestamp() * 1_000_000))
    return await _propose(
        connection,
        contract,
        Proposal(
            plan.job,
            "replay",
            plan.unit,
            plan.datasets,
            plan.as_file(),
            by.name,
            by.bus_user,
            by.by_console,
            plan.reason,
            now_us,
            expires_at_us,
        ),
        subjects=(f"plan {plan.sha256}", f"to send {plan.sent}"),
    )


async def propose_repair(
    connection: Connection,
    contract: Contract,
    unit: str,
    datasets: Collection[str],
    terms: RepairTerms,
    by: audit.Operator,
    reason: str,
) -> str:
    """Returns its name. Raises BusUnreachable, BusRefused."""
    now_us = time.time_ns() // 1000
    return await _propose(
        connection,
        contract,
        Proposal(
            f"mend-{uuid.uuid4().hex[:12]}",
            "repair",
            unit,
            tuple(sorted(datasets)),
            terms.model_dump_json(),
            by.name,
            by.bus_user,
            by.by_console,
            reason,
            now_us,
            now_us + VALID_US,
        ),
        subjects=(f"differences {terms.most}",),
    )


async def _propose(
    connection: Connection, contract: Contract, proposal: Proposal, subjects: tuple[str, ...]
) -> str:
    known, name = await read_proposals(connection), proposal.proposal
    if name in known.proposals:
        state = known.state_of(name, contract, proposal.proposed_at_us)
        if state in (State.DECLINED, State.EXPIRED, State.REFUSED):
            raise refused(f"proposal {name} is {state} already", "Plan anew, and propose that")
        return name
    try:
        value = encode_control(proposal)
    except WireRefused:
        raise DeptbusError(
            "the plan is too large to be proposed: it names too many keys",
            mend="Choose by time or by offsets, or plan fewer keys at once",
        ) from None
    dataset = proposal.datasets[0] if len(proposal.datasets) == 1 else ""
    async with Sender(connection) as sender:
        for act in audit.acts_of(
            audit.Operator(proposal.operator, proposal.bus_user, proposal.by_console),
            audit.PROPOSE,
            proposal.reason,
            unit=proposal.unit,
            dataset=dataset,
            subjects=(proposal.act, f"proposal {name}", *subjects),
        ):
            await audit.record(sender, act)
        await sender.send([Outgoing(names.JOBS, 0, key_of(proposal), value)])
    return name


async def decide(
    connection: Connection,
    contract: Contract,
    name: str,
    word: Literal["confirmed", "declined"],
    reason: str,
    by: audit.Operator,
) -> None:
    """Raises DeptbusError when there is none of this name, it is not open any more, or whoever
    confirms it is who proposed it; BusUnreachable, BusRefused. To confirm twice changes nothing."""
    proposals = await read_proposals(connection)
    proposal = proposals.proposals.get(name)
    if proposal is None:
        raise DeptbusError(f"there is no proposal {name}", mend="See `deptbus proposal ls`")
    now_us = time.time_ns() // 1000
    state = proposals.state_of(name, contract, now_us)
    if word == "confirmed" and proposals.is_confirmed(name) and state in (State.READY, State.BEGUN):
        return
    if state not in (State.WAITING, State.READY):
        raise refused(f"proposal {name} is {state} already", "Propose anew")
    if word == "confirmed" and not is_another(proposer(proposal), by):
        raise refused(
            f"{proposal.operator} proposed it, and another person has to confirm it",
            "Ask a colleague; where the bus proves its users, with a bus user of their own",
        )
    said = ProposalDecided(name, word, by.name, by.bus_user, by.by_console, reason, now_us)
    async with Sender(connection) as sender:
        for act in audit.acts_of(
            by, _VERBS[word], reason, unit=proposal.unit, subjects=(f"proposal {name}",)
        ):
            await audit.record(sender, act)
        await sender.send([Outgoing(names.JOBS, 0, key_of(said), encode_control(said))])


async def check_second(
    connection: Connection,
    contract: Contract,
    act: GuardedAct,
    datasets: Collection[str],
    *,
    proposal: str,
) -> Proposal | None:
    """Before anything is done: the proposal of this name, whose content the caller looks at; None
    where the contract asks for no second person. Raises DeptbusError (the answer is no) where it
    does, and no such proposal of all these datasets was confirmed by another than who made it;
    BusUnreachable, BusRefused."""
    if not asks_for_two(contract, act, datasets):
        return None
    proposals = await read_proposals(connection)
    found = proposals.proposals.get(proposal)
    state = None
    if found is not None and found.act == act and set(datasets) <= set(found.datasets):
        state = proposals.state_of(proposal, contract, time.time_ns() // 1000)
    if state not in (State.READY, State.BEGUN) or not proposals.is_confirmed(proposal):
        raise refused(
            f"grants.yml asks for two people before a {act} of {', '.join(sorted(datasets))}, and "
            "nobody else has confirmed it",
            "Propose it, and let another operator run `deptbus proposal confirm`",
        )
    return found
