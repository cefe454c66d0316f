"""Checks across the four files: do they agree with each other, and with the law of the bus?

Each check is a generator over one part of a Draft; `check` runs them all. What a department or a
dataset may do that is allowed but idle (a grant that has ended, a rule that reaches nobody) is
`contract.advice`, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deptbus.contract.dataset_check import dataset_problems
from deptbus.contract.draft import DEPARTMENTS, GRANTS, SCHEMAS, TOPICS, Draft, schema_file
from deptbus.contract.model import Grant, Sharing, Unit
from deptbus.contract.record_schema import lint_record
from deptbus.contract.schema_evolution import compatible
from deptbus.contract.territory import is_division_code, parent_of
from deptbus.errors import Problem
from deptbus.names import UNIT

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NAME_MEND = "Use 1 to 40 small letters, digits and _, a letter first"
# Kafka's limit for a topic's name is 249; `control.<line>-<territory>` stays far below it.
_SYSTEM = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def check(draft: Draft) -> list[Problem]:
    """Everything that is wrong across the parts of a contract; empty for a contract to act on."""
    problems: list[Problem] = []
    office = draft.contract.office
    if office is not None and not office.name.strip():
        problems += _blank(draft, DEPARTMENTS, ("office", "name"))
    for found in (_territories(draft), _lines(draft), _units(draft), _grants(draft)):
        problems += found
    problems += _two_people(draft)
    for name in draft.contract.datasets:
        problems += _name(draft, TOPICS, ("datasets", name), name, "dataset")
        problems += dataset_problems(draft, name)
    problems += _derivation(draft)
    problems += _schemas(draft)
    return problems


def _territories(draft: Draft) -> Iterator[Problem]:
    for code, name in draft.contract.territories.items():
        place = ("territories", code)
        if not is_division_code(code):
            yield from draft.problem(
                DEPARTMENTS,
                place,
                f"`{code}` is not a division code",
                "Codes have 2, 4, 6, 9 or 12 digits",
            )
            continue
        parent = parent_of(code)
        if parent is not None and parent not in draft.contract.territories:
            yield from draft.problem(
                DEPARTMENTS,
                place,
                f"the territory above `{code}` is missing",
                f'Add "{parent}" to territories',
            )
        if not name.strip():
            yield from draft.problem(
                DEPARTMENTS, place, f"`{code}` has no name", "Write its name behind the code"
            )


def _lines(draft: Draft) -> Iterator[Problem]:
    for name, line in draft.contract.lines.items():
        yield from _name(draft, DEPARTMENTS, ("lines", name), name, "line")
        for setting in ("title", "title_zh"):
            if not getattr(line, setting).strip():
                yield from _blank(draft, DEPARTMENTS, ("lines", name, setting))


def _units(draft: Draft) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for i, unit in enumerate(draft.contract.units):
        place = ("units", i)
        if unit.unit in seen and unit.unit:
            yield from draft.problem(
                DEPARTMENTS,
                (*place, "unit"),
                f"unit `{unit.unit}` stands twice",
                "Remove one of the two",
            )
        seen[unit.unit] = i
        yield from _unit_name(draft, i, unit)
        for setting in ("title", "title_zh", "owner"):
            if not getattr(unit, setting).strip():
                yield from _blank(draft, DEPARTMENTS, (*place, setting))
        if unit.duty is not None and not unit.duty.name.strip():
            yield from _blank(draft, DEPARTMENTS, (*place, "duty", "name"))
        if not unit.systems or len(set(unit.systems)) < len(unit.systems):
            yield from draft.problem(
                DEPARTMENTS,
                (*place, "systems"),
                "`systems` is empty or names one twice",
                "Name each system once, or leave `systems` out for [main]",
            )
        for n, system in enumerate(unit.systems):
            if not _SYSTEM.fullmatch(system):
                yield from draft.problem(
                    DEPARTMENTS,
                    (*place, "systems", n),
                    f"`{system}` is not a name of a system",
                    "Use small letters, digits, _ and -",
                )
        if unit.key_fingerprint is not None and not _FINGERPRINT.fullmatch(unit.key_fingerprint):
            yield from draft.problem(
                DEPARTMENTS,
                (*place, "key_fingerprint"),
                "`key_fingerprint` is not a fingerprint",
                "Copy the 32 characters that `deptbus department install` prints",
            )


def _unit_name(draft: Draft, i: int, unit: Unit) -> Iterator[Problem]:
    place = ("units", i, "unit")
    if not UNIT.fullmatch(unit.unit):
        yield from draft.problem(
            DEPARTMENTS,
            place,
            f"`{unit.unit}` is not a unit",
            "Write LINE@CODE, as in housing@330106",
        )
        return
    if unit.line not in draft.contract.lines and draft.is_sound(DEPARTMENTS, ("lines",)):
        yield from draft.problem(
            DEPARTMENTS,
            place,
            f"line `{unit.line}` of unit `{unit.unit}` is not known",
            "Add it to lines, or correct the unit",
        )
    if unit.territory not in draft.contract.territories and draft.is_sound(
        DEPARTMENTS, ("territories",)
    ):
        yield from draft.problem(
            DEPARTMENTS,
            place,
            f"territory `{unit.territory}` of unit `{unit.unit}` is not known",
            "Add it to territories, or correct the unit",
        )


def _grants(draft: Draft) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, grant in enumerate(draft.contract.grants):
        place = ("grants", i)
        yield from _name(draft, GRANTS, (*place, "grant"), grant.grant, "grant")
        if grant.grant in seen:
            yield from draft.problem(
                GRANTS,
                (*place, "grant"),
                f"grant `{grant.grant}` stands twice",
                "Give each grant its own name; it stands in deliveries and in the audit",
            )
        seen.add(grant.grant)
        yield from _grant_names(draft, i, grant)
        if not grant.purpose.strip():
            yield from _blank(draft, GRANTS, (*place, "purpose"))
        dated = all(draft.is_sound(GRANTS, (*place, day)) for day in ("starts", "until"))
        if dated and grant.until < grant.starts:
            yield from draft.problem(
                GRANTS,
                (*place, "until"),
                f"grant `{grant.grant}` ends before it starts",
                "Correct one of the two days",
            )


def _grant_names(draft: Draft, i: int, grant: Grant) -> Iterator[Problem]:
    contract, place = draft.contract, ("grants", i)
    if DEPARTMENTS not in draft.unread:
        if grant.unit not in contract.unit_by_name:
            yield from draft.problem(
                GRANTS,
                (*place, "unit"),
                f"unit `{grant.unit}` is not known",
                "Add it to departments.yml, or correct the name",
            )
        if grant.territory not in contract.territories:
            yield from draft.problem(
                GRANTS,
                (*place, "territory"),
                f"territory `{grant.territory}` is not known",
                "Add it to departments.yml, or correct the code",
            )
    if not grant.fields or len(set(grant.fields)) < len(grant.fields):
        yield from draft.problem(
            GRANTS,
            (*place, "fields"),
            "`fields` is empty or names one twice",
            "Name each field once",
        )
    if TOPICS in draft.unread:
        return
    dataset = contract.datasets.get(grant.dataset)
    if dataset is None:
        yield from draft.problem(
            GRANTS,
            (*place, "dataset"),
            f"dataset `{grant.dataset}` is not known",
            "Add it to topics.yml, or correct the name",
        )
        return
    if not draft.is_sound(TOPICS, ("datasets", grant.dataset, "sharing")):
        return
    for n, name in enumerate(grant.fields):
        sharing = dataset.sharing.get(name)
        if sharing is None:
            yield from draft.problem(
                GRANTS,
                (*place, "fields", n),
                f"field `{name}` is not known in `{grant.dataset}`",
                "Correct the name, or add it to sharing in topics.yml",
            )
        elif sharing is Sharing.NOT_SHARED:
            yield from draft.problem(
                GRANTS,
                (*place, "fields", n),
                f"field `{name}` of `{grant.dataset}` is not_shared: no grant can open it",
                "Remove it from the grant",
            )


def _two_people(draft: Draft) -> Iterator[Problem]:
    asked = draft.contract.two_people
    for n, name in enumerate(asked.datasets if asked is not None else ()):
        if name not in draft.contract.datasets and TOPICS not in draft.unread:
            yield from draft.problem(
                GRANTS,
                ("two_people", "datasets", n),
                f"there is no dataset `{name}`",
                "Name one of topics.yml, or leave `datasets` out for all",
            )


def _derivation(draft: Draft) -> Iterator[Problem]:
    """A dataset that is made from what it makes would go round for ever (design, section 4)."""
    datasets = draft.contract.datasets
    for name in datasets:
        seen: set[str] = set()
        waiting = list(datasets[name].derived_from)
        while waiting:
            parent = waiting.pop()
            if parent == name:
                yield from draft.problem(
                    TOPICS,
                    ("datasets", name, "derived_from"),
                    f"`{name}` is derived from itself, in a circle",
                    "Break the circle: one of its datasets is the source",
                )
                break
            if parent not in seen and parent in datasets:
                seen.add(parent)
                waiting += datasets[parent].derived_from


def _schemas(draft: Draft) -> Iterator[Problem]:
    contract = draft.contract
    for stem in contract.schemas:
        dataset, _, number = stem.rpartition(".v")
        file = schema_file(dataset, int(number))
        if dataset not in contract.datasets:
            if TOPICS not in draft.unread:
                yield from draft.problem(
                    file, (), f"no dataset `{dataset}` in topics.yml", "Add it, or remove the file"
                )
            continue
        for finding in lint_record(contract.schemas[stem], dataset):
            yield from draft.problem(file, finding.place, finding.what, finding.mend)
    if SCHEMAS not in draft.unread:
        for dataset in contract.datasets:
            yield from _versions(draft, dataset)


def _versions(draft: Draft, dataset: str) -> Iterator[Problem]:
    """Released versions are all there, and each reads everything that was written before it."""
    contract = draft.contract
    versions = contract.schema_versions(dataset)
    for number in range(1, max(versions, default=0)):
        file = schema_file(dataset, number)
        if number not in versions and file not in draft.unread:
            yield from draft.problem(
                schema_file(dataset, max(versions)),
                (),
                f"version {number} of `{dataset}` is missing",
                "Keep every released file: records written under it are still on the bus",
            )
    for newer in versions:
        for older in (v for v in versions if v < newer):
            old, new = (contract.record_schema(dataset, v) for v in (older, newer))
            for difference in compatible(old, new):
                field = difference.partition(":")[0]
                yield from draft.problem(
                    schema_file(dataset, newer),
                    _field_place(new, field),
                    f"cannot read version {older}: {difference}",
                    "Add a new field instead, and leave the old one",
                )


def _field_place(schema: dict[str, Any], name: str) -> tuple[str | int, ...]:
    for i, field in enumerate(schema.get("fields", ())):
        if field["name"] == name:
            return ("fields", i)
    return ()


def _name(
    draft: Draft, file: str, place: tuple[str | int, ...], name: str, kind: str
) -> list[Problem]:
    if NAME.fullmatch(name):
        return []
    return draft.problem(file, place, f"`{name}` is not a name of a {kind}", _NAME_MEND)


def _blank(draft: Draft, file: str, place: tuple[str | int, ...]) -> list[Problem]:
    return draft.problem(file, place, f"`{place[-1]}` is blank", "Write it for those who read it")
