"""Makes the next policy number when a grant starts or ends; the contract's content stays the same.

Agents stop delivering under a grant at its last second by themselves. The next number is what makes
recipients clear what they hold by it (a job follows), and what lets a grant that starts widen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import BusRefused, BusUnreachable, ContractUnreadable, DeptbusError
from deptbus.operations.rights import next_boundary
from deptbus.routing import grants_of
from deptbus.stream.policies import PolicyFollower, append_policy

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_BACKOFF_SECONDS = 5.0


def crossed(policy: Policy, now: datetime) -> Policy | None:
    """The policy that follows when a grant of the contract has started or ended since `policy` was
    activated, else None. Pure."""
    boundary = next_boundary(policy, now)
    if boundary is None or boundary > now:
        return None
    following = Policy(
        number=policy.number + 1,
        activated_at=now,
        activated_by="",
        contract=policy.contract,
        holds=policy.holds,
    )
    before = {g.grant for g in grants_of(policy)}
    after = {g.grant for g in grants_of(following)}
    ended = [f"grant ended: {name}" for name in sorted(before - after)]
    started = [f"grant started: {name}" for name in sorted(after - before)]
    by = "; ".join(ended + started) or "grants passed by"
    return following.model_copy(update={"activated_by": by})


async def keep_boundaries(
    connection: Connection, policies: PolicyFollower, now: Callable[[], datetime]
) -> None:
    """Watches the clock until cancelled. Two that do this do no harm: a number counts once."""
    while True:
        try:
            following = crossed(policies.current(), now())
            if following is not None:
                await append_policy(connection, following)
                log.info("boundary_crossed", policy=following.number, by=following.activated_by)
                await policies.at_least(following.number)
        except (ContractUnreadable, BusUnreachable):
            pass  # no contract yet, or not known now: the followers have told it
        except BusRefused as error:
            log.error("boundary_refused", error=error.what)
            await asyncio.sleep(_BACKOFF_SECONDS)
        except DeptbusError as error:  # another was quicker; its number will be read
            log.info("boundary_left_to_another", error=error.what)
        await asyncio.sleep(_LOOK_SECONDS)
