"""Holding deliveries back and letting them go on: to one unit, or of one dataset.

A hold is a policy: the contract in force stays as it is, under the next number, with the hold
beside it. So it is durable, reaches every agent as fast as a contract does and within the same
lease, and needs no state of its own:

1. Agents under that policy route nothing to whom it concerns (routing, rule 10), and ack as ever;
   nothing piles up, so neither retention nor anybody else waits for the hold to end. Changes are
   taken in meanwhile: the canonical topics stay true.
2. No job is due for what is held (`due.digests_under_holds`).
3. The policy that lifts it differs from every one before in that digest, so that a job is due: it
   waits for the agents, marks, folds and sends what the recipient may have by then, withdrawals of
   what it lost meanwhile included. Killed anywhere it is derived again.

What lies in an inbox already is still applied. Contracts come and go under a hold.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from deptbus.connection import Connection
from deptbus.contract.model import Hold, Policy
from deptbus.errors import DeptbusError, Exit
from deptbus.operations import audit
from deptbus.operations.board import AgentsBoard
from deptbus.stream.log import Sender
from deptbus.stream.policies import append_policy, read_policies

_LOOK_SECONDS = 0.2


def with_hold(
    policy: Policy, unit: str, dataset: str, reason: str, now: datetime, by: str
) -> Policy:
    """The next policy, with one more hold. Raises DeptbusError: held already, or unknown. Pure."""
    if unit and unit not in policy.contract.unit_by_name:
        raise DeptbusError(f"the contract has no unit {unit}", mend="See `deptbus contract show`")
    if dataset and dataset not in policy.contract.datasets:
        raise DeptbusError(
            f"the contract has no dataset {dataset}", mend="See `deptbus contract show`"
        )
    held = Hold(unit=unit, dataset=dataset, reason=reason, held_by=by, held_at=now)
    for known in policy.holds:
        if known.target == held.target:
            raise _refused(
                f"{unit or dataset} is held already, since {known.held_at:%Y-%m-%d %H:%M} UTC "
                f"by {known.held_by}: {known.reason}",
                "Let it go on with `deptbus resume`",
            )
    return _next(policy, (*policy.holds, held), f"hold of {unit or dataset} by {by}", now)


def without_hold(policy: Policy, unit: str, dataset: str, now: datetime, by: str) -> Policy:
    """The next policy, without this hold. Raises DeptbusError when there is none. Pure."""
    left = tuple(h for h in policy.holds if h.target != (unit, dataset))
    if left == policy.holds:
        raise _refused(f"{unit or dataset} is not held", "See `deptbus hold --list`")
    return _next(policy, left, f"resume of {unit or dataset} by {by}", now)


def _next(policy: Policy, holds: tuple[Hold, ...], by: str, now: datetime) -> Policy:
    return Policy(
        number=policy.number + 1,
        # Grants that have started stay started, by whichever clock.
        activated_at=max(now, policy.activated_at),
        activated_by=by,
        contract=policy.contract,
        holds=holds,
    )


def _refused(what: str, mend: str) -> DeptbusError:
    error = DeptbusError(what, mend=mend)
    error.exit_code = Exit.ANSWER_IS_NO
    return error


async def hold(
    connection: Connection, unit: str, dataset: str, operator: audit.Operator, reason: str
) -> Policy:
    """Puts the hold in force; agents follow within their lease. Raises as `with_hold`, and
    DeptbusError when an activation was quicker: nothing is held then."""
    policy = (await read_policies(connection)).current()
    following = with_hold(policy, unit, dataset, reason, datetime.now(UTC), operator.name)
    await _put(connection, following, audit.HOLD, unit, dataset, operator, reason)
    return following


async def resume(
    connection: Connection, unit: str, dataset: str, operator: audit.Operator, reason: str
) -> Policy:
    """Lifts the hold; what it kept back is sent by jobs. Raises as `without_hold` and `hold`."""
    policy = (await read_policies(connection)).current()
    following = without_hold(policy, unit, dataset, datetime.now(UTC), operator.name)
    await _put(connection, following, audit.RESUME, unit, dataset, operator, reason)
    return following


async def _put(
    connection: Connection,
    policy: Policy,
    verb: str,
    unit: str,
    dataset: str,
    operator: audit.Operator,
    reason: str,
) -> None:
    async with Sender(connection) as sender:
        subjects = (f"policy {policy.number}",)
        for act in audit.acts_of(
            operator, verb, reason, unit=unit, dataset=dataset, subjects=subjects
        ):
            await audit.record(sender, act)
    await append_policy(connection, policy)


async def agents_that_lag(
    connection: Connection, policy: int, *, seconds: float
) -> list[str] | None:
    """Live agents that have not taken up the policy within so many seconds; none: it is in effect.
    None when no agent is live, so that nothing flows at all."""
    board = AgentsBoard(connection)
    await board.start()
    try:
        deadline = time.monotonic() + seconds
        while True:
            await board.refresh()
            awaited = board.awaited(policy)
            if not awaited or time.monotonic() > deadline:
                return awaited
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await board.stop()
