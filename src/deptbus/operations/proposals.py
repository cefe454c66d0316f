"""What people propose and others confirm, as `bus.jobs` tells it. Pure.

How a proposal stands (`state_of`), the first rule that fits:

1. The operations process has closed it: `done`, `refused`. Nothing opens it again.
2. Somebody declined it: `declined`. Whoever proposed it may, too.
3. The operations process is at it: `begun`.
4. Its time is over: `expired`.
5. It may be carried out (`may_be_carried`): `ready`. The contract in force does not ask for two
   people, or another one (`is_another`) has confirmed it.
6. `waiting` for another person.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from deptbus.contract.model import Contract, GuardedAct
from deptbus.operations.audit import Operator
from deptbus.wire.control import Proposal, ProposalCarried, ProposalDecided

PROPOSAL_RECORDS = (Proposal, ProposalDecided, ProposalCarried)


class State(StrEnum):
    WAITING = "waiting"
    READY = "ready"
    BEGUN = "begun"
    DONE = "done"
    REFUSED = "refused"
    DECLINED = "declined"
    EXPIRED = "expired"


OPEN = (State.WAITING, State.READY, State.BEGUN)


def asks_for_two(contract: Contract, act: GuardedAct, datasets: Collection[str]) -> bool:
    return contract.two_people is not None and contract.two_people.ask_for(act, datasets)


def is_another(first: Operator, second: Operator) -> bool:
    """Whether these are two people. A name is what somebody says; where the brokers prove users,
    two names under one of them are one person, but for the console, which lets people in under its
    own user and has proved their names itself."""
    if _plain(first.name) == _plain(second.name):
        return False
    if first.by_console and second.by_console:
        return True
    return not first.bus_user or first.bus_user != second.bus_user


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def proposer(proposal: Proposal) -> Operator:
    return Operator(proposal.operator, proposal.bus_user, proposal.by_console)


def decider(decided: ProposalDecided) -> Operator:
    return Operator(decided.operator, decided.bus_user, decided.by_console)


@dataclass
class Proposals:
    """Fed with the records of `bus.jobs` in their order."""

    proposals: dict[str, Proposal] = field(default_factory=dict)
    decided: dict[str, ProposalDecided] = field(default_factory=dict)
    carried: dict[str, ProposalCarried] = field(default_factory=dict)

    def take(self, record: Proposal | ProposalDecided | ProposalCarried) -> None:
        if isinstance(record, Proposal):
            self.proposals.setdefault(record.proposal, record)
        elif isinstance(record, ProposalDecided):
            self.decided[record.proposal] = record
        elif not self._is_closed(record.proposal):
            self.carried[record.proposal] = record

    def _is_closed(self, name: str) -> bool:
        carried = self.carried.get(name)
        return carried is not None and carried.state != "begun"

    def is_confirmed(self, name: str) -> bool:
        """Whether somebody else than who proposed it has confirmed it."""
        proposal, decided = self.proposals.get(name), self.decided.get(name)
        return (
            proposal is not None
            and decided is not None
            and decided.word == "confirmed"
            and is_another(proposer(proposal), decider(decided))
        )

    def may_be_carried(self, name: str, contract: Contract) -> bool:
        proposal = self.proposals[name]
        return not asks_for_two(contract, proposal.act, proposal.datasets) or self.is_confirmed(
            name
        )

    def state_of(self, name: str, contract: Contract, now_us: int) -> State:
        """Raises KeyError where there is none of this name. `contract`: the one in force."""
        proposal, decided, carried = (
            self.proposals[name],
            self.decided.get(name),
            self.carried.get(name),
        )
        if carried is not None and carried.state != "begun":
            return State(carried.state)
        if decided is not None and decided.word == "declined":
            return State.DECLINED
        if carried is not None:
            return State.BEGUN
        if now_us >= proposal.expires_at_us:
            return State.EXPIRED
        return State.READY if self.may_be_carried(name, contract) else State.WAITING


@dataclass(frozen=True, slots=True)
class ProposalStanding:
    """One proposal at one moment."""

    proposal: Proposal
    state: State
    decided: ProposalDecided | None
    told: str

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


def standings(proposals: Proposals, contract: Contract, now_us: int) -> list[ProposalStanding]:
    """All of them, the latest first."""
    return [
        ProposalStanding(
            proposal,
            proposals.state_of(name, contract, now_us),
            proposals.decided.get(name),
            proposals.carried[name].told if name in proposals.carried else "",
        )
        for name, proposal in sorted(
            proposals.proposals.items(), key=lambda item: (-item[1].proposed_at_us, item[0])
        )
    ]
