"""What `rights_of` tells people is what routing does, and a digest changes whenever that does."""

from __future__ import annotations

from datetime import datetime, timedelta

from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from routing_contracts import INSTANTS, PLACES, policies

from deptbus.change import Direction
from deptbus.contract.model import Policy, Sharing
from deptbus.operations.rights import (
    Flow,
    difference,
    next_boundary,
    rights_of,
    rule_digest,
    rule_digests,
)
from deptbus.routing import Router

_SLOW = settings(
    max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
Entitled = dict[tuple[str, str, str, str], object]


def _sources(policy: Policy) -> list[str]:
    return [u.unit for u in policy.contract.units if policy.contract.may_publish(u.unit, "person")]


def _entitled(policy: Policy, now: datetime) -> Entitled:
    """(unit, dataset, source, place) -> what routing gives there, for every such question."""
    router = Router(policy)
    return {
        (unit.unit, dataset, source, place): found
        for unit in policy.contract.units
        for dataset in policy.contract.datasets
        for source in _sources(policy)
        for place in PLACES
        if (found := router.entitlement(unit.unit, dataset, source, place, now))
    }


def _is_about(flow: Flow, dataset: str, source: str, place: str) -> bool:
    contains = flow.containing is None or (
        flow.containing.startswith(place) and flow.containing != place
    )
    return (
        flow.dataset == dataset
        and source in flow.source_units
        and place.startswith(flow.within or source.split("@")[1])
        and contains
    )


@_SLOW
@given(policies(), st.sampled_from(INSTANTS))
def test_flows_say_what_routing_does(policy: Policy, now: datetime) -> None:
    entitled = _entitled(policy, now)
    for unit in policy.contract.units:
        flows = rights_of(policy, unit.unit, now).receives
        for dataset in policy.contract.datasets:
            for source in _sources(policy):
                for place in PLACES:
                    if place.startswith(source.split("@")[1]):
                        here = [f for f in flows if _is_about(f, dataset, source, place)]
                        found = entitled.get((unit.unit, dataset, source, place))
                        _assert_same(policy, here, found, dataset)


def _assert_same(policy: Policy, here: list[Flow], found: object, dataset: str) -> None:
    by_rule = [f for f in here if f.direction is not Direction.GRANTED]
    counted = by_rule or here  # grants alone count where no rule reaches
    # Flows cover all released versions of the schema; an entitlement is of the one in force.
    in_force = set(policy.contract.field_names(dataset))
    fields = {name for flow in counted for name in flow.fields} & in_force
    if found is None:
        assert not fields
        return
    assert fields == set(found.fields)  # type: ignore[attr-defined]
    assert {f.direction for f in counted} == {found.direction}  # type: ignore[attr-defined]
    used = {f.grant for f in counted if f.grant and set(f.fields) & in_force}
    assert used == set(found.grants)  # type: ignore[attr-defined]
    if by_rule:
        assert {f.rule for f in counted} == {found.rule}  # type: ignore[attr-defined]
    else:
        assert found.rule in used or set(here[0].fields).isdisjoint(in_force)  # type: ignore[attr-defined]


@_SLOW
@given(policies(), st.sampled_from(INSTANTS))
def test_every_field_is_received_or_its_absence_explained(policy: Policy, now: datetime) -> None:
    for unit in policy.contract.units:
        rights = rights_of(policy, unit.unit, now)
        for name, dataset in policy.contract.datasets.items():
            received = {f for flow in rights.receives if flow.dataset == name for f in flow.fields}
            why = [w for w in rights.withheld if w.dataset == name]
            assert len(why) == len({w.field for w in why})
            assert received.isdisjoint(w.field for w in why)
            assert {*policy.contract.field_names(name), *dataset.sharing} <= received | {
                w.field for w in why
            }
            assert all(w.sentence for w in why)
            hidden = {w.field for w in why if w.reason == "not_shared"}
            assert hidden == {
                f
                for f in {*policy.contract.field_names(name), *dataset.sharing}
                if dataset.sharing.get(f, Sharing.NOT_SHARED) is Sharing.NOT_SHARED
            }


@_SLOW
@given(policies(1), policies(2))
def test_equal_digests_mean_equal_routing_for_the_life_of_both(old: Policy, new: Policy) -> None:
    """The second policy has the rules of the first, so that some digests are equal."""
    mixed = old.contract.model_copy(
        update={"grants": new.contract.grants, "units": new.contract.units}
    )
    for other in (new.model_copy(update={"contract": mixed}),):
        for now in (max(old.activated_at, new.activated_at), INSTANTS[8]):
            before, after = _entitled(old, now), _entitled(other, now)
            for unit in {u.unit for p in (old, other) for u in p.contract.units}:
                digests = rule_digest(old, unit), rule_digest(other, unit)
                for dataset in old.contract.datasets:
                    if digests[0].get(dataset) == digests[1].get(dataset):
                        assert _part(before, unit, dataset) == _part(after, unit, dataset)


def _part(entitled: Entitled, unit: str, dataset: str) -> Entitled:
    return {k: v for k, v in entitled.items() if k[:2] == (unit, dataset)}


@_SLOW
@given(policies())
def test_digests_and_differences_of_a_policy_with_itself(policy: Policy) -> None:
    again = Policy.model_validate_json(policy.model_dump_json())
    later = again.model_copy(update={"number": policy.number + 1})
    assert difference(policy, later) == []
    for unit in policy.contract.units:
        assert rule_digest(policy, unit.unit) == rule_digest(later, unit.unit)
    assert rule_digests(policy) == {
        u.unit: rule_digest(policy, u.unit) for u in policy.contract.units
    }


@_SLOW
@given(policies(1), policies(2))
def test_difference_names_who_gains_and_who_loses(old: Policy, new: Policy) -> None:
    changes = difference(old, new)
    gained = {(c.unit, c.dataset, c.direction, f) for c in changes for f in c.gained}
    lost = {(c.unit, c.dataset, c.direction, f) for c in changes for f in c.lost}
    before, after = _received(old), _received(new)
    assert gained == after - before
    assert lost == before - after
    back = difference(new, old)
    assert {(c.unit, c.dataset, c.direction, c.gained_scope) for c in changes} == {
        (c.unit, c.dataset, c.direction, c.lost_scope) for c in back
    }


def _received(policy: Policy) -> set[tuple[str, str, Direction, str]]:
    return {
        (unit.unit, flow.dataset, flow.direction, name)
        for unit in policy.contract.units
        for flow in rights_of(policy, unit.unit, policy.activated_at).receives
        for name in flow.fields
    }


@_SLOW
@given(policies())
def test_between_boundaries_nothing_widens_or_ends(policy: Policy) -> None:
    """Until the boundary a new policy of the same contract would route alike; at it, it may not."""
    boundary = next_boundary(policy, policy.activated_at)
    moment = timedelta(microseconds=1)
    for now in INSTANTS:
        if now < policy.activated_at or (boundary is not None and now >= boundary):
            continue
        anew = policy.model_copy(update={"activated_at": now})
        assert _entitled(policy, now) == _entitled(anew, now)
    if boundary is not None:
        assert boundary > policy.activated_at
        overdue = boundary + timedelta(days=40)
        assert next_boundary(policy, overdue) == overdue
        assert next_boundary(policy, boundary - moment) == boundary
