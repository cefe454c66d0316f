"""Why a unit does not receive a field: one reason for each, the nearest to a right first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from deptbus.change import Direction
from deptbus.contract.model import Dataset, Grant, Policy, Rule, Sharing, Unit
from deptbus.contract.territory import covers, level_of, strictly_covers
from deptbus.routing import direction_of, first_instant, grants_of, last_instant, rule_for


class WhyNot(StrEnum):
    NOT_SHARED = "not_shared"  # never leaves its source
    OWN_RECORD = "own_record"  # the unit is itself the only source near enough
    GRANT_ENDED = "grant_ended"
    GRANT_NOT_STARTED = "grant_not_started"
    GRANT_ELSEWHERE = "grant_elsewhere"  # live, but nobody publishes about its territory
    NO_GRANT = "conditional_without_grant"
    NOT_IN_RULE = "not_in_rule"
    WRONG_LEVEL = "wrong_level"
    WRONG_LINE = "wrong_line"
    OUTSIDE_TERRITORY = "outside_territory"


@dataclass(frozen=True, slots=True)
class Withheld:
    dataset: str
    field: str
    reason: WhyNot
    sentence: str  # the reason for people, without the field's name
    detail: str = ""  # the name in that sentence, of a rule, grant, line or level, by itself


def explain(
    policy: Policy, unit: Unit, name: str, now: datetime, received: set[str]
) -> Iterator[Withheld]:
    """One Withheld for each field of the dataset that is not among `received`."""
    dataset = policy.contract.datasets[name]
    names = dict.fromkeys((*policy.contract.field_names(name), *dataset.sharing))
    relation = _relation(policy, unit, name, dataset)
    for field in names:
        if field not in received:
            yield Withheld(name, field, *_reason(policy, unit, name, field, now, relation))


@dataclass(frozen=True, slots=True)
class _Relation:
    """How the unit stands to the dataset: the rules that reach it, or why none does."""

    rules: tuple[Rule, ...]
    reason: WhyNot
    sentence: str
    detail: str = ""


_Said = tuple[WhyNot, str, str]  # reason, sentence, detail


def _reason(
    policy: Policy, unit: Unit, name: str, field: str, now: datetime, relation: _Relation
) -> _Said:
    dataset = policy.contract.datasets[name]
    sharing = dataset.sharing.get(field, Sharing.NOT_SHARED)
    if sharing is Sharing.NOT_SHARED:
        return WhyNot.NOT_SHARED, "it is never shared (class not_shared)", ""
    of_grants = _by_grants(policy, unit, name, field, now)
    if of_grants is not None:
        return of_grants
    if not relation.rules:
        return relation.reason, relation.sentence, relation.detail
    listing = [rule.rule for rule in relation.rules if field in rule.fields]
    if listing:
        sentence = f"rule {listing[0]} opens it only with a live grant to this unit"
        return WhyNot.NO_GRANT, sentence, listing[0]
    names = list(dict.fromkeys(rule.rule for rule in relation.rules))
    every = ", ".join(names)
    if len(names) == 1:
        return WhyNot.NOT_IN_RULE, f"rule {every} does not list it", every
    return WhyNot.NOT_IN_RULE, f"none of the rules {every} lists it", every


def _by_grants(policy: Policy, unit: Unit, name: str, field: str, now: datetime) -> _Said | None:
    """Why a grant that lists this field does not bring it; None when there is no such grant."""
    listing = [
        g
        for g in policy.contract.grants
        if (g.unit, g.dataset) == (unit.unit, name) and field in g.fields
    ]
    if not listing:
        return None
    live = [g for g in grants_of(policy) if g in listing and now <= last_instant(g)]
    if live:
        where = f"grant {live[0].grant} is about {live[0].territory}, where no unit publishes it"
        return WhyNot.GRANT_ELSEWHERE, where, live[0].grant
    coming = [g for g in listing if first_instant(g) > policy.activated_at and g.until >= g.starts]
    if coming:
        first = min(coming, key=lambda g: g.starts)
        return WhyNot.GRANT_NOT_STARTED, _coming(first, now), first.grant
    last = max(listing, key=lambda g: g.until)
    return WhyNot.GRANT_ENDED, f"grant {last.grant} ended on {last.until.isoformat()}", last.grant


def _coming(grant: Grant, now: datetime) -> str:
    if first_instant(grant) > now:
        return f"grant {grant.grant} starts on {grant.starts.isoformat()}"
    return f"grant {grant.grant} takes effect with the next policy number"


def _relation(policy: Policy, unit: Unit, name: str, dataset: Dataset) -> _Relation:
    contract = policy.contract
    sources = [u for u in contract.units if u != unit and contract.may_publish(u.unit, name)]
    near = [s for s in sources if _is_near(s, unit)]
    asked = [(s, place) for s in near for place in (s.territory, unit.territory)]
    directions = [direction_of(s, unit, place) for s, place in asked if covers(s.territory, place)]
    found = {d: rule_for(dataset, d, unit) for d in dict.fromkeys(directions)}
    rules = tuple(rule for rule in found.values() if rule is not None)
    if not near:
        if contract.may_publish(unit.unit, name):
            return _Relation((), WhyNot.OWN_RECORD, "the unit itself is the source")
        sentence = f"no unit that publishes {name} lies at, above or below {unit.territory}"
        return _Relation((), WhyNot.OUTSIDE_TERRITORY, sentence, unit.territory)
    level = level_of(unit.territory)
    for rule in dataset.receivers:
        if rule.direction in found and unit.line in rule.lines:
            sentence = f"rule {rule.rule} does not reach the level {level.value}"
            return _Relation(rules, WhyNot.WRONG_LEVEL, sentence, rule.rule)
    return _Relation(rules, WhyNot.WRONG_LINE, _wrong_line(unit, dataset, set(found)), unit.line)


def _wrong_line(unit: Unit, dataset: Dataset, directions: set[Direction | None]) -> str:
    reached = ", ".join(sorted(d.value for d in directions if d is not None))
    if not reached:
        return f"upwards it goes within the line {dataset.line} only; this takes a grant"
    return f"no rule of the direction {reached} names the line {unit.line}"


def _is_near(source: Unit, unit: Unit) -> bool:
    return covers(source.territory, unit.territory) or strictly_covers(
        unit.territory, source.territory
    )
