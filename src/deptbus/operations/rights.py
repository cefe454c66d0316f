"""Who gets what, and why not the rest: the rights of a unit, and how two policies differ. Pure.

Nothing is decided here: the table, the rules and the grants are asked through `deptbus.routing`.
This module arranges the answers by source unit and places, so that people can read them, jobs can
tell whether a recipient's rights changed, and `contract activate` can say who gains and loses what.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta

from deptbus.change import Direction
from deptbus.contract.model import Dataset, Grant, Policy, Rule, Sharing, Unit
from deptbus.contract.territory import covers, strictly_covers
from deptbus.operations.withheld import Withheld, explain
from deptbus.routing import direction_of, first_instant, grants_of, last_instant, rule_for
from deptbus.routing.table import ancestors


@dataclass(frozen=True, slots=True)
class Flow:
    """Fields that a unit receives of a dataset, from which source units, about which places.

    `within` bounds the places (None: all that the source unit publishes about). `containing`
    narrows them to places that strictly contain that one: notices to a whole area. A flow of
    direction `granted` counts only where no rule reaches the unit.
    """

    dataset: str
    direction: Direction
    rule: str  # of topics.yml, or the grant's name where no rule reaches
    grant: str | None  # the grant that opens these fields; None: the rule alone does
    until: str | None  # ISO date on which that grant ends
    fields: tuple[str, ...]  # in the order of the schema
    within: str | None
    containing: str | None
    source_units: tuple[str, ...]  # sorted

    @property
    def places(self) -> str:
        """The places in words."""
        bounds = [f"within {self.within}"] if self.within else []
        if self.containing:
            bounds.append(f"areas that contain {self.containing}")
        return ", ".join(bounds) or "everywhere that the source publishes about"


@dataclass(frozen=True, slots=True)
class Rights:
    unit: str
    publishes: tuple[str, ...]
    receives: tuple[Flow, ...]
    withheld: tuple[Withheld, ...]  # every field of every dataset that no flow brings


@dataclass(frozen=True, slots=True)
class RightsChange:
    """How one unit's rights to one dataset in one direction differ between two policies.

    `gained` and `lost` are fields. Scopes are said in words ("name, phone from housing@330106,
    within 330106005") and concern fields that the unit has under both policies.
    """

    unit: str
    dataset: str
    direction: Direction
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    gained_scope: tuple[str, ...] = ()
    lost_scope: tuple[str, ...] = ()


def rights_of(policy: Policy, unit: str, now: datetime) -> Rights:
    """All rights of a unit at an instant. KeyError when the contract does not know the unit."""
    contract = policy.contract
    known = contract.unit_by_name[unit]
    found: list[Flow] = []
    withheld: list[Withheld] = []
    for name in contract.datasets:
        flows = _flows(known, _Sources(policy, name), now)
        found += flows
        withheld += explain(policy, known, name, now, {f for flow in flows for f in flow.fields})
    return Rights(unit, contract.published_by(unit), tuple(found), tuple(withheld))


def flows_of(policy: Policy, dataset: str, now: datetime) -> dict[str, tuple[Flow, ...]]:
    """Unit -> what it receives of one dataset at an instant; units that receive nothing of it are
    absent. KeyError when the contract does not know the dataset."""
    sources = _Sources(policy, dataset)
    found = ((unit.unit, _flows(unit, sources, now)) for unit in policy.contract.units)
    return {unit: flows for unit, flows in found if flows}


def rule_digest(policy: Policy, unit: str) -> dict[str, str]:
    """Dataset -> digest of all that decides what the unit receives of it under this policy number.

    Equal digests of two policies: the same changes bring the unit the same deliveries, so nothing
    need be delivered anew. The end of each grant is part of it, because rights shrink within a
    policy. A dataset of which the unit receives nothing is absent.
    """
    return _digests(policy, unit, _all_sources(policy))


def rule_digests(policy: Policy) -> dict[str, dict[str, str]]:
    """`rule_digest` of every unit of the contract, for less than the sum."""
    sources = _all_sources(policy)
    return {u.unit: _digests(policy, u.unit, sources) for u in policy.contract.units}


def _digests(policy: Policy, unit: str, all_sources: list[_Sources]) -> dict[str, str]:
    digests = {}
    for name, flows in _flows_of(unit, all_sources).items():
        version = policy.contract.datasets[name].schema_version
        said = [unit, name, version, [asdict(flow) for flow in flows]]
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
        digests[name] = hashlib.sha256(text.encode()).hexdigest()
    return digests


def difference(old: Policy | None, new: Policy) -> list[RightsChange]:
    """Who newly receives or loses what, by the rights that each policy had at its activation."""
    units = sorted({u.unit for p in (old, new) if p for u in p.contract.units})
    sources_before, sources_after = _all_sources(old), _all_sources(new)
    changes: list[RightsChange] = []
    for unit in units:
        before, after = _flows_of(unit, sources_before), _flows_of(unit, sources_after)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                changes += _compare(unit, name, before.get(name, ()), after.get(name, ()))
    return changes


def next_boundary(policy: Policy, now: datetime) -> datetime | None:
    """When the next policy number is due because a grant starts or ends; `now` when it is overdue.

    None: no grant will start or end.
    """
    live = {g.grant for g in grants_of(policy)}
    instants = []
    for grant in policy.contract.grants:
        if grant.grant in live and grant.until < date.max:
            instants.append(last_instant(grant) + timedelta(microseconds=1))
        elif first_instant(grant) > policy.activated_at and grant.starts <= grant.until:
            instants.append(first_instant(grant))
    return max(min(instants), now) if instants else None


# -- flows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Base:
    """Places about which one rule reaches the unit from one source unit."""

    direction: Direction
    rule: Rule
    within: str | None
    containing: str | None


class _Sources:
    """The units that publish a dataset, by territory."""

    def __init__(self, policy: Policy, dataset: str) -> None:
        self.policy, self.dataset = policy, dataset
        self.published = _published(policy, dataset)
        self._at: dict[str, list[Unit]] = defaultdict(list)
        for unit in policy.contract.units:
            if policy.contract.may_publish(unit.unit, dataset):
                self._at[unit.territory].append(unit)
        self._territories = sorted(self._at)

    def around(self, territory: str) -> Iterator[Unit]:
        """Those at this territory, above it, and below it."""
        for code in (territory, *ancestors(territory)):
            yield from self._at.get(code, ())
        start = bisect_left(self._territories, territory)
        for code in self._territories[start:]:
            if not covers(territory, code):
                break
            if code != territory:
                yield from self._at[code]


def _flows(unit: Unit, sources: _Sources, now: datetime) -> tuple[Flow, ...]:
    policy, name = sources.policy, sources.dataset
    grants = [
        g
        for g in grants_of(policy)
        if (g.unit, g.dataset) == (unit.unit, name) and now <= last_instant(g)
    ]
    territories = {unit.territory, *(g.territory for g in grants)}
    related = {s.unit: s for t in territories for s in sources.around(t) if s.unit != unit.unit}
    merged: dict[Flow, list[str]] = defaultdict(list)
    # In the order of names, so that one content has one digest.
    for source in sorted(related):
        for flow in _flows_from(related[source], unit, sources, grants):
            merged[flow].append(source)
    return tuple(replace(flow, source_units=tuple(units)) for flow, units in merged.items())


def _flows_from(source: Unit, unit: Unit, sources: _Sources, grants: list[Grant]) -> Iterator[Flow]:
    name, names = sources.dataset, sources.published
    dataset = sources.policy.contract.datasets[name]
    bases = list(_bases(source, unit, dataset))
    for base in bases:
        free = tuple(f for f in names if f in _free(base.rule, dataset))
        bounds = base.within, base.containing
        if free:
            yield Flow(name, base.direction, base.rule.rule, None, None, free, *bounds, ())
        for grant in grants:
            added = tuple(f for f in names if f in grant.fields and f not in free)
            narrowed = _narrowed(base, grant.territory, source.territory)
            if added and narrowed:
                until = grant.until.isoformat()
                rule = base.rule.rule
                yield Flow(name, base.direction, rule, grant.grant, until, added, *narrowed, ())
    for grant in grants:
        added = tuple(f for f in names if f in grant.fields)
        whole = covers(grant.territory, source.territory)
        if added and (whole or covers(source.territory, grant.territory)):
            within = None if whole else grant.territory
            if not any(_is_all_of(base, within) for base in bases):
                until, granted = grant.until.isoformat(), Direction.GRANTED
                yield Flow(name, granted, grant.grant, grant.grant, until, added, within, None, ())


def _bases(source: Unit, unit: Unit, dataset: Dataset) -> Iterator[_Base]:
    """Where rules reach: the table answers alike for all places of each of these bounds."""
    bounds: list[tuple[str, str | None, str | None]]  # a place to ask about, within, containing
    if strictly_covers(source.territory, unit.territory):
        bounds = [
            (unit.territory, unit.territory, None),
            (source.territory, None, unit.territory),
        ]
    else:
        bounds = [(source.territory, None, None)]
    for place, within, containing in bounds:
        direction = direction_of(source, unit, place)
        rule = rule_for(dataset, direction, unit)
        if rule is not None and direction is not None:
            yield _Base(direction, rule, within, containing)


def _narrowed(base: _Base, bound: str, whole: str) -> tuple[str | None, str | None] | None:
    """The bounds of `base` within a grant's territory; None when nothing is left."""
    if base.containing is not None:
        if not strictly_covers(bound, base.containing):
            return None
        return (None if covers(bound, whole) else bound), base.containing
    here = base.within or whole
    if covers(bound, here):
        return base.within, None
    return (bound, None) if covers(here, bound) else None


def _is_all_of(base: _Base, within: str | None) -> bool:
    """True when a rule reaches every place of these bounds, so that no grant speaks alone there."""
    if base.containing is not None:
        return False
    return base.within is None or (within is not None and covers(base.within, within))


def _free(rule: Rule, dataset: Dataset) -> set[str]:
    return {f for f in rule.fields if dataset.sharing.get(f) is Sharing.UNCONDITIONAL}


def _published(policy: Policy, name: str) -> tuple[str, ...]:
    """Fields that may be shared at all: in the order of the version in force, older ones behind."""
    contract = policy.contract
    dataset = contract.datasets[name]
    versions = [dataset.schema_version, *reversed(contract.schema_versions(name))]
    names = dict.fromkeys(f for v in versions for f in contract.field_names(name, v))
    return tuple(
        f for f in names if dataset.sharing.get(f) in (Sharing.UNCONDITIONAL, Sharing.CONDITIONAL)
    )


# -- differences ----------------------------------------------------------------------------------


def _all_sources(policy: Policy | None) -> list[_Sources]:
    return [_Sources(policy, name) for name in policy.contract.datasets] if policy else []


def _flows_of(unit: str, all_sources: list[_Sources]) -> dict[str, tuple[Flow, ...]]:
    found = {}
    for sources in all_sources:
        known = sources.policy.contract.unit_by_name.get(unit)
        if known and (flows := _flows(known, sources, sources.policy.activated_at)):
            found[sources.dataset] = flows
    return found


def _compare(
    unit: str, dataset: str, before: tuple[Flow, ...], after: tuple[Flow, ...]
) -> Iterator[RightsChange]:
    for direction in Direction:
        old, new = _scopes(before, direction), _scopes(after, direction)
        gained = tuple(f for f in new if f not in old)
        lost = tuple(f for f in old if f not in new)
        both = [f for f in new if f in old]
        wider = _worded({f: new[f] - old[f] for f in both})
        narrower = _worded({f: old[f] - new[f] for f in both})
        if gained or lost or wider or narrower:
            yield RightsChange(unit, dataset, direction, gained, lost, wider, narrower)


def _worded(scopes: dict[str, set[str]]) -> tuple[str, ...]:
    """Fields by scope, in words: in the order of scopes and, within one, of the fields."""
    fields: dict[str, list[str]] = defaultdict(list)
    for name in sorted(scopes):
        for scope in scopes[name]:
            fields[scope].append(name)
    return tuple(f"{', '.join(names)} {scope}" for scope, names in sorted(fields.items()))


def _scopes(flows: tuple[Flow, ...], direction: Direction) -> dict[str, set[str]]:
    """Field -> where from and about which places, in words."""
    found: dict[str, set[str]] = defaultdict(set)
    for flow in flows:
        if flow.direction == direction:
            for name in flow.fields:
                found[name] |= {f"from {source}, {flow.places}" for source in flow.source_units}
    return found
