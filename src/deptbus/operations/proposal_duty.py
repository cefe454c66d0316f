"""Carries out what was proposed and may be done: a duty of the leading operations process.

1. A replay's plan is checked again and ordered; its job has progress of its own from then on.
2. For a repair the same legs are proved anew, as many differences as were known of are mended at
   the most, and they are proved once more; what that came to is kept with its certificate.
3. Nothing durable is here but the proposal's own progress: killed anywhere, whoever leads next does
   it again, which changes nothing that was done.
4. What cannot be done yet (another order of the recipient is open, a table cannot be proved now) is
   tried again until the proposal's time is over. What may not be done is closed with the reason.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Literal

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import GuardedAct
from deptbus.errors import BusUnreachable, DeptbusError
from deptbus.operations.nightly import Key
from deptbus.operations.office import Duty, Office
from deptbus.operations.outcomes import keep_results
from deptbus.operations.proposal_desk import RepairTerms
from deptbus.operations.proposals import State, proposer
from deptbus.operations.reconcile import Reconciled, Scope, reconcile
from deptbus.operations.reconcile_repair import Wishes, repair
from deptbus.operations.replay_apply import apply_plan
from deptbus.operations.replay_plan import plan_of
from deptbus.operations.replay_planner import open_desk
from deptbus.stream.log import Outgoing
from deptbus.wire.control import Proposal, ProposalCarried, encode_control, key_of

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
AGAIN_SECONDS = 10.0


class _NotYet(Exception):
    """It cannot be done now; the text says why."""


def proposals_carried(connection: Connection, key: Key | None) -> Duty:
    """`key` None: outcomes of repairs have no certificate."""
    return lambda office: Carrier(connection, office, key).run()


class Carrier:
    """`run` until cancelled; one replay and one repair at a time."""

    def __init__(self, connection: Connection, office: Office, key: Key | None) -> None:
        self._connection, self._office, self._key = connection, office, key
        self._tried: dict[str, float] = {}  # when, of those that could not be done yet

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            # A repair may take long, and no replay waits for it.
            both.create_task(self._for_ever("replay"))
            both.create_task(self._for_ever("repair"))

    async def _for_ever(self, act: GuardedAct) -> None:
        told = ""
        while True:
            try:
                while await self.carry_next(act):
                    told = ""
            except DeptbusError as error:
                if error.what != told:
                    told = error.what
                    log.warning("proposals_interrupted", error=told)
            await asyncio.sleep(_LOOK_SECONDS)

    async def carry_next(self, act: GuardedAct) -> bool:
        """Carries out the oldest one that may be; False when there is none."""
        if not self._due(act):
            return False
        board = self._office.jobs
        await board.refresh()  # what was seen may be over by now
        proposal = next(iter(self._due(act)), None)
        if proposal is None:
            return False
        if proposal.proposal not in self._office.jobs.proposals.carried:
            await self._tell(proposal, "begun", "")
        try:
            self._check_alone(proposal)
            told = await (
                self._replay(proposal) if proposal.act == "replay" else self._repair(proposal)
            )
        except _NotYet as waits:
            await self._wait(proposal, str(waits))
        except BusUnreachable:
            raise
        except DeptbusError as error:
            log.warning("proposal_refused", proposal=proposal.proposal, error=error.what)
            await self._tell(proposal, "refused", error.what)
        else:
            log.info("proposal_carried", proposal=proposal.proposal)
            await self._tell(proposal, "done", told)
        await board.refresh()
        return True

    def _check_alone(self, proposal: Proposal) -> None:
        for order in self._office.jobs.orders.open_of(proposal.unit):
            if order.job != proposal.proposal:  # its own: then it was ordered before
                raise _NotYet(f"job {order.job} of {proposal.unit} is still open")

    async def _wait(self, proposal: Proposal, why: str) -> None:
        """Rule 4."""
        if time.time_ns() // 1000 >= proposal.expires_at_us:
            await self._tell(proposal, "refused", why)
            return
        self._tried[proposal.proposal] = time.monotonic()
        carried = self._office.jobs.proposals.carried.get(proposal.proposal)
        if carried is None or carried.told != why:
            await self._tell(proposal, "begun", why)

    def _due(self, act: GuardedAct) -> list[Proposal]:
        proposals = self._office.jobs.proposals
        contract = self._office.policies.current().contract
        now_us, lately = time.time_ns() // 1000, time.monotonic() - AGAIN_SECONDS
        due = [
            proposal
            for name, proposal in proposals.proposals.items()
            if proposal.act == act
            and self._tried.get(name, lately) <= lately
            and proposals.state_of(name, contract, now_us) in (State.READY, State.BEGUN)
        ]
        return sorted(due, key=lambda p: (p.proposed_at_us, p.proposal))

    async def _replay(self, proposal: Proposal) -> str:
        plan = plan_of(proposal.content, Path(proposal.proposal))
        async with open_desk(self._connection) as desk:
            job, _ = await apply_plan(desk, plan, proposer(proposal))
        return f"job {job}"

    async def _repair(self, proposal: Proposal) -> str:
        terms, by = RepairTerms.model_validate_json(proposal.content), proposer(proposal)
        told = []
        for dataset in proposal.datasets:
            scope = Scope(proposal.unit, dataset, terms.leg, terms.deep)
            found = await reconcile(self._office, self._connection, scope)
            _check_told(found)
            if found.differences > terms.most:
                raise DeptbusError(
                    f"{found.differences} differences of {dataset} by now, and {terms.most} were "
                    "proposed to be mended",
                    mend="Look at them, and propose it anew",
                )
            if found.differences:
                wishes = Wishes(
                    proposal.reason, terms.max_delete, overwrite_local=terms.overwrite_local
                )
                await repair(
                    self._office, self._connection, found, wishes, by, proposal=proposal.proposal
                )
                found = await reconcile(self._office, self._connection, scope)
                _check_told(found)
            await self._keep(proposal, found)
            told.append(f"{dataset}: {found.differences} differences left")
        return "; ".join(told)

    async def _keep(self, proposal: Proposal, found: Reconciled) -> None:
        from deptbus.operations.reconcile_certificate import certify  # not needed to start

        signed = b""
        if self._key is not None:
            key = await asyncio.to_thread(self._key)
            signed = await certify(
                self._office, self._connection, proposal.unit, found, proposer(proposal), key
            )
        await keep_results(
            self._office, found.results, operator=proposal.operator, certificate=signed
        )

    async def _tell(
        self, proposal: Proposal, state: Literal["begun", "done", "refused"], told: str
    ) -> None:
        said = ProposalCarried(proposal.proposal, state, told, time.time_ns() // 1000)
        await self._office.tools.sender.send(
            [Outgoing(names.JOBS, 0, key_of(said), encode_control(said))]
        )


def _check_told(found: Reconciled) -> None:
    for result in found.untold:
        raise _NotYet(f"could not tell of {result.dataset}: {result.could_not_tell}")
