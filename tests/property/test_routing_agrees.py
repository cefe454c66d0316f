"""Routing against a second, naive implementation, and bugs planted to show that this sees them."""

from __future__ import annotations

from dataclasses import replace

import naive_routing
import pytest
from effort import examples
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from routing_contracts import INSTANTS, PLACES, changes, gone, policies

from deptbus.change import Change, Delivery
from deptbus.contract.model import Grant, Policy, Sharing, Unit
from deptbus.routing import Router
from deptbus.routing.book import Book, Right

_SLOW = settings(
    max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Policy, list[tuple[Change, object]]]:
    """A policy, and several changes at several instants for one router to answer in this order."""
    policy = draw(policies())
    asked = draw(st.lists(changes(policy), min_size=1, max_size=2))
    instants = draw(st.lists(st.sampled_from(INSTANTS), min_size=1, max_size=3))
    return policy, [(change, now) for now in instants for change in asked]


def _plain(delivery: Delivery) -> tuple[object, ...]:
    return (
        delivery.unit,
        delivery.op.value,
        delivery.direction.value,
        delivery.rule,
        delivery.grants,
        delivery.fields,
    )


def _agrees(kind: type[Router], policy: Policy, asked: list) -> bool:
    router = kind(policy)
    return all(
        [_plain(d) for d in router.route(change, now)] == naive_routing.route(policy, change, now)
        for change, now in asked
    )


@_SLOW
@given(situations())
def test_routing_agrees_with_the_table(situation: tuple[Policy, list]) -> None:
    assert _agrees(Router, *situation)


@_SLOW
@given(situations())
def test_one_unit_asked_for_alone_gets_the_same(situation: tuple[Policy, list]) -> None:
    policy, asked = situation
    router = Router(policy)
    for change, now in asked:
        alone = [router.route_for(change, u.unit, now) for u in policy.contract.units]
        assert sorted((d for d in alone if d), key=lambda d: d.unit) == list(
            router.route(change, now)
        )


@_SLOW
@given(situations())
def test_recipients_are_those_whom_some_change_reaches(situation: tuple[Policy, list]) -> None:
    policy, asked = situation
    router = Router(policy)
    for change, now in asked:
        assert {d.unit for d in router.route(change, now)} <= router.recipients()


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies())
def test_recipients_are_all_who_are_entitled_somewhere(policy: Policy) -> None:
    router = Router(policy)
    sources = [u.unit for u in policy.contract.units if u.line == "police"]
    reached = {
        unit.unit
        for unit in policy.contract.units
        for dataset in policy.contract.datasets
        for source in sources
        for place in PLACES
        if router.withdrawal_for(gone(dataset, source, place), unit.unit)
    }
    assert router.recipients() == reached


# -- planted bugs ---------------------------------------------------------------------------------


class ProjectsByExcludeList(Router):
    """Everything that is not known to be conditional or never shared."""

    def _project(self, book: Book, right: Right, schema_version: int) -> tuple[str, ...]:
        sharing = book.dataset.sharing
        hidden = {f for f, s in sharing.items() if s is not Sharing.UNCONDITIONAL}
        opened = {f for _, fields in right.by_grant for f in fields}
        return tuple(f for f in book.versions[schema_version] if f not in hidden or f in opened)


class ForgetsToWithdraw(Router):
    """Asks the record's place alone, not the former ones."""

    def _withdrawal(self, book: Book, unit: Unit, change: Change) -> Delivery | None:
        return super()._withdrawal(book, unit, replace(change, former_divisions=()))


class UsesExpiredGrants(Router):
    def _is_live(self, grant: Grant, now: object) -> bool:
        return True


class CachesForEver(Router):
    """The decision of the first instant that was asked for is kept."""

    def _enter_span(self, now: object) -> None:
        pass


@pytest.mark.parametrize(
    "planted",
    [ProjectsByExcludeList, ForgetsToWithdraw, UsesExpiredGrants, CachesForEver],
    ids=lambda kind: kind.__name__,
)
def test_the_comparison_sees_a_planted_bug(planted: type[Router]) -> None:
    try:
        find(
            situations(),
            lambda situation: not _agrees(planted, *situation),
            settings=settings(
                max_examples=5000, deadline=None, database=None, phases=[Phase.generate]
            ),
        )
    except NoSuchExample:
        pytest.fail(f"{planted.__name__} went unseen")
