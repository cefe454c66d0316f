"""The table of section 5 of the design, and the rules of topics.yml that it is asked with."""

from __future__ import annotations

from deptbus.change import Direction
from deptbus.contract.model import Dataset, Rule, Unit
from deptbus.contract.territory import (
    covers,
    is_division_code,
    level_of,
    parent_of,
    strictly_covers,
)


def direction_of(source: Unit, unit: Unit, place: str) -> Direction | None:
    """The table of section 5 for a record about `place`, a place within the source's territory."""
    if unit.unit == source.unit:
        return None
    same_line = unit.line == source.line
    if unit.territory == source.territory:
        return Direction.HORIZONTAL
    if strictly_covers(unit.territory, source.territory):
        return Direction.UPWARD if same_line else None
    if not strictly_covers(source.territory, unit.territory):
        return None
    if strictly_covers(place, unit.territory):
        return Direction.DOWNWARD
    if covers(unit.territory, place):
        return Direction.DOWNWARD if same_line else Direction.RETURN
    return None


def rule_for(dataset: Dataset, direction: Direction | None, unit: Unit) -> Rule | None:
    """The first rule of topics.yml that names this direction and the unit's line and level."""
    for rule in dataset.receivers:
        if (
            direction is not None
            and rule.direction == direction
            and unit.line in rule.lines
            and (not rule.levels or level_of(unit.territory) in rule.levels)
        ):
            return rule
    return None


def ancestors(code: str) -> list[str]:
    """All codes above a territory, the nearest first."""
    found = []
    parent = parent_of(code)
    while parent is not None:
        found.append(parent)
        parent = parent_of(parent)
    return found


def is_within(territory: str, place: str) -> bool:
    """True when `place` is a division code and lies within `territory` (equality included)."""
    return is_division_code(place) and covers(territory, place)
