"""What a contract allows but hardly means: parts that do nothing today. Never an error."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from deptbus.contract.draft import DEPARTMENTS, GRANTS, TOPICS, Draft, schema_file
from deptbus.contract.model import Dataset, Grant, Rule, Sharing, Unit
from deptbus.contract.opening import opening_of
from deptbus.contract.territory import covers, level_of, strictly_covers
from deptbus.contract.yaml_tree import Place
from deptbus.errors import Problem


def advise(draft: Draft, today: date) -> list[Problem]:
    """Hints about a contract that passed its checks. `today` is the day in China."""
    return [
        *_grants(draft, today),
        *_rules(draft, today),
        *_units(draft),
        *_duties(draft),
        *_closings(draft, today),
        *_withdrawn(draft),
    ]


def may_receive(draft: Draft, unit: Unit, dataset: str) -> bool:
    """Could a rule or a grant, live or not, ever bring this dataset to this unit?"""
    contract = draft.contract
    named = any(g.unit == unit.unit and g.dataset == dataset for g in contract.grants)
    rules = contract.datasets[dataset].receivers
    return named or any(_reaches(draft, dataset, rule, unit) for rule in rules)


def receivable_fields(draft: Draft, unit: Unit, dataset: str) -> set[str]:
    """Fields that some rule or grant, live or not, names for this unit.

    A conditional field that only a rule names is not among them.
    """
    contract = draft.contract
    sharing = contract.datasets[dataset].sharing
    found = {
        field
        for rule in contract.datasets[dataset].receivers
        if _reaches(draft, dataset, rule, unit)
        for field in rule.fields
        if sharing.get(field) is Sharing.UNCONDITIONAL
    }
    for grant in contract.grants:
        if grant.unit == unit.unit and grant.dataset == dataset:
            found |= set(grant.fields)
    return found


def _grants(draft: Draft, today: date) -> Iterator[Problem]:
    contract = draft.contract
    for i, grant in enumerate(contract.grants):
        if grant.until < today:
            yield _hint(
                draft,
                GRANTS,
                ("grants", i, "until"),
                f"grant `{grant.grant}` has ended",
                "Nothing flows by it; a new agreement needs a new date",
            )
        if not any(
            covers(grant.territory, u.territory) or covers(u.territory, grant.territory)
            for u in contract.units
            if contract.may_publish(u.unit, grant.dataset)
        ):
            yield _hint(
                draft,
                GRANTS,
                ("grants", i, "territory"),
                f"no unit publishes `{grant.dataset}` about `{grant.territory}`",
                "Correct the territory",
            )


def _rules(draft: Draft, today: date) -> Iterator[Problem]:
    contract = draft.contract
    for name, dataset in contract.datasets.items():
        for i, rule in enumerate(dataset.receivers):
            place: Place = ("datasets", name, "receivers", i)
            reached = [u for u in contract.units if _reaches(draft, name, rule, u)]
            if not reached:
                yield _hint(
                    draft,
                    TOPICS,
                    place,
                    f"rule `{rule.rule}` reaches no unit of departments.yml",
                    "Add the units, or remove the rule",
                )
                continue
            granted = {
                field
                for grant in contract.grants
                if grant.dataset == name and grant.until >= today and _is_of(grant, reached)
                for field in grant.fields
            }
            for n, field in enumerate(rule.fields):
                if _is_conditional(dataset, field) and field not in granted:
                    yield _hint(
                        draft,
                        TOPICS,
                        (*place, "fields", n),
                        f"conditional field `{field}` is in rule `{rule.rule}`, "
                        "and none of its units holds a grant for it",
                        "It does not flow; add a grant, or leave the field out",
                    )


def _units(draft: Draft) -> Iterator[Problem]:
    contract = draft.contract
    for i, unit in enumerate(contract.units):
        if contract.published_by(unit.unit):
            continue
        if not any(may_receive(draft, unit, name) for name in contract.datasets):
            yield _hint(
                draft,
                DEPARTMENTS,
                ("units", i),
                f"unit `{unit.unit}` neither publishes nor receives anything",
                "Name its line in a rule, give it a grant, or remove it",
            )


def _duties(draft: Draft) -> Iterator[Problem]:
    """Who names some contacts means to name all: an alarm without one rings nobody."""
    contract = draft.contract
    nameless = [i for i, unit in enumerate(contract.units) if unit.duty is None]
    if contract.office is None and len(nameless) == len(contract.units):
        return
    if contract.office is None:
        yield _hint(
            draft,
            DEPARTMENTS,
            (),
            "the data office has no duty contact, and what concerns the bus itself is its matter",
            "Add `office: {name: ..., phone: ...}`",
        )
    if nameless:
        first = contract.units[nameless[0]].unit
        others = f" and {len(nameless) - 1} more" if len(nameless) > 1 else ""
        yield _hint(
            draft,
            DEPARTMENTS,
            ("units", nameless[0]),
            f"unit `{first}`{others} has no duty contact: alarms name its owner without a number",
            "Add `duty: {name: ..., phone: ...}` to it",
        )


def _closings(draft: Draft, today: date) -> Iterator[Problem]:
    """An inbox has to outlast the longest time for which its unit switches off."""
    contract = draft.contract
    hours = max((d.retention_hours for d in contract.datasets.values()), default=0)
    for i, unit in enumerate(contract.units):
        closed = opening_of(unit, contract).longest_closed_seconds(today) / 3600
        if closed > hours:
            yield _hint(
                draft,
                DEPARTMENTS,
                ("units", i, "service_hours"),
                f"unit `{unit.unit}` is closed for {closed:.0f} hours at a time, and inboxes keep "
                f"what comes for {hours}",
                "Raise `retention_hours` of a dataset above that, or let its adapter run through",
            )


def _withdrawn(draft: Draft) -> Iterator[Problem]:
    """Fields that became not_shared still stand in records written under an older schema."""
    contract = draft.contract
    for name, dataset in contract.datasets.items():
        for version in contract.schema_versions(name):
            if version >= dataset.schema_version:
                continue
            for i, field in enumerate(contract.field_names(name, version)):
                if dataset.sharing.get(field) is Sharing.NOT_SHARED:
                    yield _hint(
                        draft,
                        schema_file(name, version),
                        ("fields", i),
                        f"field `{field}` is not_shared now, and records written under "
                        f"version {version} hold it",
                        "Have the source publish them anew (a snapshot), then it is gone",
                    )


def _reaches(draft: Draft, dataset: str, rule: Rule, unit: Unit) -> bool:
    """May this rule bring anything to this unit, whatever place a record is about?"""
    if unit.line not in rule.lines:
        return False
    if rule.levels and level_of(unit.territory) not in rule.levels:
        return False
    contract = draft.contract
    own_line = contract.datasets[dataset].line == unit.line
    for source in contract.units:
        if source.unit == unit.unit or not contract.may_publish(source.unit, dataset):
            continue
        if _relates(rule, own_line, source.territory, unit.territory):
            return True
    return False


def _relates(rule: Rule, own_line: bool, source: str, territory: str) -> bool:
    """Section 5 of the design, with the record's place left open."""
    match rule.direction:
        case "horizontal":
            return source == territory
        case "upward":
            return own_line and strictly_covers(territory, source)
        case "downward":
            return strictly_covers(source, territory)
        case "return":
            return not own_line and strictly_covers(source, territory)


def _is_conditional(dataset: Dataset, field: str) -> bool:
    return dataset.sharing.get(field) is Sharing.CONDITIONAL


def _is_of(grant: Grant, units: list[Unit]) -> bool:
    return any(unit.unit == grant.unit for unit in units)


def _hint(draft: Draft, file: str, place: Place, what: str, mend: str) -> Problem:
    tree = draft.trees.get(file)
    return tree.problem(place, what, mend) if tree is not None else Problem(file, 0, what, mend)
