"""How proposals stand, and who counts as another person."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract, TwoPeople
from deptbus.operations import proposals as module
from deptbus.operations.audit import Operator
from deptbus.operations.proposals import Proposals, State, is_another, standings
from deptbus.wire.control import Proposal, ProposalCarried, ProposalDecided

UNIT = "housing@330106"
NAME = "mend-1"
NOW, EXPIRES = 1_000, 2_000
WANG, LI = Operator("wang"), Operator("li")


def contract(*acts: Any) -> Contract:
    two = TwoPeople(acts=acts) if acts else None
    return load(bundled()).model_copy(update={"two_people": two})


GUARDED, FREE = contract("repair"), contract()


def proposal(by: Operator = WANG) -> Proposal:
    return Proposal(
        NAME, "repair", UNIT, ("resident",), "{}", by.name, by.bus_user, by.by_console, "why", NOW,
        EXPIRES,
    )  # fmt: skip


def said(word: Any, by: Operator) -> ProposalDecided:
    return ProposalDecided(NAME, word, by.name, by.bus_user, by.by_console, "why", NOW + 1)


def carried(state: Any) -> ProposalCarried:
    return ProposalCarried(NAME, state, "told", NOW + 2)


def state(*records: Any, under: Contract = GUARDED, now_us: int = NOW + 10) -> State:
    known = Proposals()
    for record in records:
        known.take(record)
    return known.state_of(NAME, under, now_us)


def test_one_person_alone_carries_nothing() -> None:
    assert state(proposal()) is State.WAITING
    for himself in (Operator("wang"), Operator(" WANG "), Operator("wang", "other")):
        assert state(proposal(), said("confirmed", himself)) is State.WAITING


def test_another_person_lets_it_go() -> None:
    assert state(proposal(), said("confirmed", LI)) is State.READY
    assert state(proposal(), said("declined", LI)) is State.DECLINED
    assert state(proposal(), said("declined", Operator("wang"))) is State.DECLINED


def test_where_one_may_nobody_is_waited_for() -> None:
    assert state(proposal(), under=FREE) is State.READY
    assert state(proposal(), under=contract("replay")) is State.READY


def test_its_time_is_over() -> None:
    assert state(proposal(), now_us=EXPIRES) is State.EXPIRED
    assert state(proposal(), said("confirmed", LI), now_us=EXPIRES) is State.EXPIRED
    begun = (proposal(), said("confirmed", LI), carried("begun"))
    assert state(*begun, now_us=EXPIRES) is State.BEGUN
    assert state(proposal(), carried("done"), now_us=EXPIRES) is State.DONE


def test_what_is_closed_is_not_opened_again() -> None:
    for closing in ("done", "refused"):
        later = (carried("begun"), said("confirmed", LI), said("declined", LI), proposal(LI))
        assert state(proposal(), carried(closing), *later) is State(closing)


def test_it_stands_alike_in_every_order() -> None:
    """Compaction may leave the records in any."""
    for order in itertools.permutations((proposal(), said("confirmed", LI))):
        assert state(*order) is State.READY


@pytest.mark.parametrize(
    ("first", "second", "are_two"),
    [
        (Operator("wang"), Operator("li"), True),
        (Operator("wang"), Operator("Wang"), False),
        # Where the brokers prove users, a second name of the first one is the first one.
        (Operator("wang", "wang"), Operator("li", "wang"), False),
        (Operator("wang", "wang"), Operator("li", "li"), True),
        # The console acts under its own user, and has asked both for their passwords.
        (Operator("wang", "console", True), Operator("li", "console", True), True),
        (Operator("wang", "console", True), Operator("wang", "console", True), False),
        (Operator("wang", "wang"), Operator("li", "console", True), True),
        (Operator("wang", "console", True), Operator("li", "console"), False),
    ],
)
def test_two_people(first: Operator, second: Operator, are_two: bool) -> None:
    assert is_another(first, second) is are_two


def test_planted_bug_one_person_confirms_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_another", lambda first, second: True)
    with pytest.raises(AssertionError):
        test_one_person_alone_carries_nothing()


def test_planted_bug_whoever_declines_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Proposals.take

    def deaf(self: Proposals, record: Any) -> None:
        if not (isinstance(record, ProposalDecided) and record.word == "declined"):
            take(self, record)

    monkeypatch.setattr(Proposals, "take", deaf)
    with pytest.raises(AssertionError):
        test_another_person_lets_it_go()


def test_the_latest_is_shown_first() -> None:
    known = Proposals()
    known.take(proposal())
    known.take(carried("done"))
    (one,) = standings(known, GUARDED, NOW)
    assert (one.state, one.told, one.is_open) == (State.DONE, "told", False)
