"""What the contract in force gives each unit, and what not and why, as a page shows it. Pure.

Nothing is decided here: rights and reasons are those of `rights` and `withheld`, which ask routing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from deptbus.contract.model import Policy, Unit
from deptbus.operations.picture import NotReceived, Publishes, Receives, UnitSheet
from deptbus.operations.rights import Flow, Rights, flows_of, rights_of
from deptbus.operations.withheld import Withheld

HELD = "held"


def unit_sheets(policy: Policy, now: datetime) -> tuple[UnitSheet, ...]:
    """Of every unit, in the order of the contract."""
    return tuple(unit_sheet(policy, unit.unit, now) for unit in policy.contract.units)


def unit_sheet(policy: Policy, unit: str, now: datetime) -> UnitSheet:
    """Raises KeyError when the contract does not know the unit."""
    known = policy.contract.unit_by_name[unit]
    rights = rights_of(policy, unit, now)
    return UnitSheet(
        unit,
        known.line,
        known.territory,
        known.title,
        known.title_zh,
        known.owner,
        known.systems,
        tuple(_publishes(policy, known, dataset, now) for dataset in rights.publishes),
        _receives(rights),
        (*_held(policy, rights), *_not_received(rights)),
    )


def _publishes(policy: Policy, unit: Unit, dataset: str, now: datetime) -> Publishes:
    """A field that is not shared is in no published schema, so it is not among these."""
    recipients = (
        recipient
        for recipient, flows in flows_of(policy, dataset, now).items()
        if any(unit.unit in flow.source_units for flow in flows)
    )
    return Publishes(dataset, policy.contract.field_names(dataset), tuple(sorted(recipients)))


def _receives(rights: Rights) -> tuple[Receives, ...]:
    """One line for each dataset, direction, rule, sources and places: what grants add to a rule
    there stands with it."""
    withheld: dict[str, list[str]] = defaultdict(list)
    for one in rights.withheld:
        withheld[one.dataset].append(one.field)
    lines: dict[tuple[object, ...], list[Flow]] = defaultdict(list)
    for flow in rights.receives:
        where = flow.source_units, flow.within, flow.containing
        lines[flow.dataset, flow.direction, flow.rule, *where].append(flow)
    return tuple(_line(flows, withheld[flows[0].dataset]) for flows in lines.values())


def _line(flows: list[Flow], withheld: Iterable[str]) -> Receives:
    first = flows[0]
    grants = tuple(flow.grant for flow in flows if flow.grant is not None)
    return Receives(
        first.dataset,
        first.direction.value,
        "" if first.rule == first.grant else first.rule,
        grants,
        tuple(dict.fromkeys(name for flow in flows for name in flow.fields)),
        tuple(withheld),
        first.source_units,
        first.within or "",
        first.containing or "",
        min((flow.until for flow in flows if flow.until), default=""),
    )


def _held(policy: Policy, rights: Rights) -> Iterable[NotReceived]:
    """What it would have, were it not held back."""
    fields: dict[str, dict[str, None]] = defaultdict(dict)
    for flow in rights.receives:
        fields[flow.dataset].update(dict.fromkeys(flow.fields))
    for dataset, names in fields.items():
        hold = policy.hold_of(rights.unit, dataset)
        if hold is not None:
            sentence = f"the data office holds it back: {hold.reason}"
            yield NotReceived(dataset, tuple(names), HELD, sentence, hold.reason, is_all=True)


def _not_received(rights: Rights) -> Iterable[NotReceived]:
    received = {flow.dataset for flow in rights.receives}
    lines: dict[tuple[str, str, str], list[Withheld]] = defaultdict(list)
    for one in rights.withheld:
        lines[one.dataset, one.reason, one.sentence].append(one)
    for found in lines.values():
        first = found[0]
        yield NotReceived(
            first.dataset,
            tuple(one.field for one in found),
            first.reason.value,
            first.sentence,
            first.detail,
            is_all=first.dataset not in received,
        )
