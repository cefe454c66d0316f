"""Checks of one dataset of topics.yml: owner, key, classes, checks, rules, and its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deptbus.contract.draft import DEPARTMENTS, TOPICS, Draft, schema_file
from deptbus.contract.model import Check, Dataset, Rule, Sharing
from deptbus.contract.record_schema import column_type, is_nullable
from deptbus.contract.territory import Level, is_division_code
from deptbus.contract.yaml_tree import Place
from deptbus.errors import Problem

_ORDER = list(Level)  # from the province down


def dataset_problems(draft: Draft, name: str) -> Iterator[Problem]:
    dataset = draft.contract.datasets[name]
    place = ("datasets", name)
    for setting in ("title", "title_zh"):
        if not getattr(dataset, setting).strip():
            yield from draft.problem(
                TOPICS, (*place, setting), f"`{setting}` is blank", "Write it for those who read it"
            )
    yield from _owner(draft, name, dataset)
    for n, parent in enumerate(dataset.derived_from):
        if parent not in draft.contract.datasets:
            yield from draft.problem(
                TOPICS,
                (*place, "derived_from", n),
                f"dataset `{parent}` is not known",
                "Correct the name, or add the dataset",
            )
    schema = draft.contract.schemas.get(f"{name}.v{dataset.schema_version}")
    file = schema_file(name, dataset.schema_version)
    if not draft.is_sound(TOPICS, (*place, "schema_version")):
        pass  # which schema is meant is not known
    elif schema is not None:
        fields = {f["name"]: f["type"] for f in schema.get("fields", ())}
        yield from _sharing(draft, name, dataset, fields)
        yield from _keys(draft, name, dataset, fields)
        yield from _checks(draft, name, dataset, fields)
        yield from _older_versions(draft, name, dataset)
    elif file not in draft.unread and "schemas" not in draft.unread:
        yield from draft.problem(
            TOPICS,
            (*place, "schema_version"),
            f"the schema in force, {file}, is missing",
            "Add the file, or correct schema_version",
        )
    yield from _rules(draft, name, dataset)


def _owner(draft: Draft, name: str, dataset: Dataset) -> Iterator[Problem]:
    place = ("datasets", name)
    lines_known = DEPARTMENTS not in draft.unread
    if lines_known and dataset.line not in draft.contract.lines:
        yield from draft.problem(
            TOPICS,
            (*place, "line"),
            f"line `{dataset.line}` is not known",
            "Add it to departments.yml, or correct the name",
        )
    yield from _list(draft, (*place, "levels"), dataset.levels, "level")
    if (
        lines_known
        and dataset.line in draft.contract.lines
        and dataset.levels
        and all(
            draft.is_sound(DEPARTMENTS, ("units", i, "unit"))
            for i in range(len(draft.contract.units))
        )
        and not any(
            draft.contract.may_publish(unit.unit, name)
            for unit in draft.contract.units
            if is_division_code(unit.territory)
        )
    ):
        yield from draft.problem(
            TOPICS,
            (*place, "levels"),
            f"no unit publishes `{name}`: none of line `{dataset.line}` stands at these levels",
            "Add the unit to departments.yml, or correct line and levels",
        )


def _sharing(
    draft: Draft, name: str, dataset: Dataset, fields: dict[str, Any]
) -> Iterator[Problem]:
    place = ("datasets", name, "sharing")
    for field in fields:
        if field not in dataset.sharing:
            yield from draft.problem(
                TOPICS,
                place,
                f"field `{field}` of the schema has no sharing class",
                f"Add `{field}: unconditional` or `{field}: conditional`",
            )
    for field, sharing in dataset.sharing.items():
        if sharing is Sharing.NOT_SHARED and field in fields:
            yield from draft.problem(
                TOPICS,
                (*place, field),
                f"field `{field}` is not_shared and stands in the schema",
                f"Remove it from {schema_file(name, dataset.schema_version)}",
            )
        if sharing is not Sharing.NOT_SHARED and field not in fields:
            yield from draft.problem(
                TOPICS,
                (*place, field),
                f"field `{field}` is not in the schema",
                f"Add it to {schema_file(name, dataset.schema_version)}, or remove it here",
            )


def _keys(draft: Draft, name: str, dataset: Dataset, fields: dict[str, Any]) -> Iterator[Problem]:
    place = ("datasets", name)
    yield from _list(draft, (*place, "key"), dataset.key, "field")
    parts: list[tuple[Place, str, str]] = [
        ((*place, "key", n), field, "the key") for n, field in enumerate(dataset.key)
    ]
    parts.append(((*place, "division"), dataset.division, "the division"))
    for where, field, what in parts:
        if field not in fields:
            yield from draft.problem(
                TOPICS,
                where,
                f"field `{field}` of {what} is not in the schema",
                "Name a field of the schema",
            )
        elif not _is_text(fields[field]) or is_nullable(fields[field]):
            yield from draft.problem(
                TOPICS,
                where,
                f"field `{field}` of {what} must be a string that is never null",
                'Make its type "string" in the schema',
            )
    if len(set(dataset.canonical)) < len(dataset.canonical):
        yield from draft.problem(
            TOPICS, (*place, "canonical"), "a form stands twice", "Name each form once"
        )


def _checks(draft: Draft, name: str, dataset: Dataset, fields: dict[str, Any]) -> Iterator[Problem]:
    for field, chosen in dataset.checks.items():
        where = ("datasets", name, "checks", field)
        if field not in fields:
            yield from draft.problem(
                TOPICS, where, f"field `{field}` is not in the schema", "Name a field of the schema"
            )
        elif not _is_text(fields[field]):
            yield from draft.problem(
                TOPICS,
                where,
                f"check `{chosen}` is for text, and `{field}` is none",
                "Remove the check, or make the field a string",
            )
        elif field == dataset.division and chosen is not Check.DIVISION:
            yield from draft.problem(
                TOPICS,
                where,
                f"`{field}` is the division and cannot be a {chosen}",
                "Use the check `division`",
            )


def _older_versions(draft: Draft, name: str, dataset: Dataset) -> Iterator[Problem]:
    """Key and division are in every version: records of each are on the bus."""
    for version in draft.contract.schema_versions(name):
        if version == dataset.schema_version:
            continue
        schema = draft.contract.record_schema(name, version)
        fields = {f["name"]: f["type"] for f in schema.get("fields", ())}
        for field in dict.fromkeys((*dataset.key, dataset.division)):
            usable = field in fields and _is_text(fields[field]) and not is_nullable(fields[field])
            if field and not usable:
                yield from draft.problem(
                    schema_file(name, version),
                    (),
                    f"field `{field}` of the key or the division is not a string of this version",
                    "Key and division stay the same in all versions; make a new dataset otherwise",
                )
        for field, sharing in dataset.sharing.items():
            newer = version > dataset.schema_version
            if newer and sharing is Sharing.NOT_SHARED and field in fields:
                yield from draft.problem(
                    schema_file(name, version),
                    ("fields", list(fields).index(field)),
                    f"field `{field}` is not_shared and stands in the schema",
                    "Remove it from the file",
                )


def _rules(draft: Draft, name: str, dataset: Dataset) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, rule in enumerate(dataset.receivers):
        place: Place = ("datasets", name, "receivers", i)
        if rule.rule in seen or not rule.rule.strip():
            yield from draft.problem(
                TOPICS,
                (*place, "rule"),
                f"rule `{rule.rule}` has no name of its own in `{name}`",
                "Name each rule; the name stands in deliveries",
            )
        seen.add(rule.rule)
        yield from _rule_lines(draft, place, dataset, rule)
        yield from _rule_levels(draft, place, dataset, rule)
        yield from _list(draft, (*place, "fields"), rule.fields, "field")
        if draft.is_sound(TOPICS, ("datasets", name, "sharing")):
            yield from _rule_fields(draft, place, dataset, rule)
        for earlier in dataset.receivers[:i]:
            yield from _overlap(draft, place, dataset, earlier, rule)


def _rule_lines(draft: Draft, place: Place, dataset: Dataset, rule: Rule) -> Iterator[Problem]:
    yield from _list(draft, (*place, "lines"), rule.lines, "line")
    sure = draft.is_sound(TOPICS, (*place, "direction")) and draft.is_sound(
        TOPICS, (*place[:2], "line")
    )
    for n, line in enumerate(rule.lines):
        where = (*place, "lines", n)
        if DEPARTMENTS not in draft.unread and line not in draft.contract.lines:
            yield from draft.problem(
                TOPICS,
                where,
                f"line `{line}` is not known",
                "Add it to departments.yml, or correct the name",
            )
        elif sure and rule.direction == "upward" and line != dataset.line:
            yield from draft.problem(
                TOPICS,
                where,
                f"`upward` follows the line `{dataset.line}` only, not `{line}`",
                "Remove the line; a unit of another line above needs a grant",
            )
        elif sure and rule.direction in ("horizontal", "return") and line == dataset.line:
            yield from draft.problem(
                TOPICS,
                where,
                f"`{rule.direction}` never reaches the own line `{line}`",
                "Remove the line, or make a rule `upward` or `downward`",
            )


def _rule_levels(draft: Draft, place: Place, dataset: Dataset, rule: Rule) -> Iterator[Problem]:
    if len(set(rule.levels)) < len(rule.levels):
        yield from draft.problem(
            TOPICS, (*place, "levels"), "a level stands twice", "Name each level once"
        )
    if not dataset.levels or not draft.is_sound(TOPICS, (*place, "direction")):
        return
    reached = reachable_levels(dataset, rule.direction)
    for n, level in enumerate(rule.levels):
        if level not in reached:
            yield from draft.problem(
                TOPICS,
                (*place, "levels", n),
                f"`{rule.direction}` from {', '.join(dataset.levels)} never reaches {level}",
                f"Use some of: {', '.join(reached) or 'none; remove the rule'}",
            )


def reachable_levels(dataset: Dataset, direction: str) -> list[Level]:
    """Levels that a rule of this direction can reach from the dataset's source units."""
    sources = [_ORDER.index(level) for level in dataset.levels]
    if direction == "horizontal":
        return list(dataset.levels)
    if direction == "upward":
        return [level for i, level in enumerate(_ORDER) if i < max(sources)]
    return [level for i, level in enumerate(_ORDER) if i > min(sources)]


def _rule_fields(draft: Draft, place: Place, dataset: Dataset, rule: Rule) -> Iterator[Problem]:
    for n, field in enumerate(rule.fields):
        sharing = dataset.sharing.get(field)
        if sharing is None:
            yield from draft.problem(
                TOPICS,
                (*place, "fields", n),
                f"field `{field}` is not known in `{place[1]}`",
                "Correct the name, or add it to sharing and to the schema",
            )
        elif sharing is Sharing.NOT_SHARED:
            yield from draft.problem(
                TOPICS,
                (*place, "fields", n),
                f"field `{field}` is not_shared: no rule can open it",
                "Remove it from the rule",
            )


def _overlap(
    draft: Draft, place: Place, dataset: Dataset, first: Rule, second: Rule
) -> Iterator[Problem]:
    """A unit gets one delivery at most, so two rules may not both be about it."""
    if first.direction != second.direction or not draft.is_sound(TOPICS, (*place, "direction")):
        return
    lines = [line for line in second.lines if line in first.lines]
    everywhere = reachable_levels(dataset, first.direction) if dataset.levels else []
    levels = [
        level for level in second.levels or everywhere if level in (first.levels or everywhere)
    ]
    if lines and levels:
        yield from draft.problem(
            TOPICS,
            place,
            f"rules `{first.rule}` and `{second.rule}` both reach line `{lines[0]}` "
            f"at level {levels[0]} in direction {first.direction}",
            "Give each line and level one rule for each direction",
        )


def _list(draft: Draft, place: Place, items: tuple[Any, ...], what: str) -> list[Problem]:
    if items and len(set(items)) == len(items):
        return []
    return draft.problem(
        TOPICS, place, f"`{place[-1]}` is empty or names one twice", f"Name each {what} once"
    )


def _is_text(field_type: Any) -> bool:
    kind = column_type(field_type)
    return kind == "string" or (isinstance(kind, dict) and kind == {"type": "string"})
