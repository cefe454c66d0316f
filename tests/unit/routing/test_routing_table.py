"""Every cell of the table of directions, by name."""

from __future__ import annotations

import pytest
from routing_county import (
    CITY,
    COUNTY,
    NOW,
    OTHER_COUNTY,
    OTHER_TOWN,
    OTHER_VILLAGE,
    PROVINCE,
    TOWN,
    VILLAGE,
    policy,
    rules,
    upsert,
)

from deptbus.change import DeliveryOp, Direction
from deptbus.contract.model import Rule
from deptbus.contract.territory import Level
from deptbus.routing import Router

# name, source unit, receiving unit, place of the record, direction
CELLS = [
    ("same territory, other line", "police@330106", f"housing@{COUNTY}", VILLAGE, "horizontal"),
    ("same territory, any place", "police@330106", f"housing@{COUNTY}", COUNTY, "horizontal"),
    ("the source itself", "police@330106", f"police@{COUNTY}", VILLAGE, None),
    ("parent of the same line", "police@330106", f"police@{CITY}", VILLAGE, "upward"),
    ("ancestor of the same line", "police@330106", f"police@{PROVINCE}", COUNTY, "upward"),
    ("parent of another line", "police@330106", f"housing@{CITY}", VILLAGE, None),
    ("ancestor of another line", "police@330106", f"housing@{PROVINCE}", COUNTY, None),
    ("below, same line, its own place", "police@330106", f"police@{TOWN}", TOWN, "downward"),
    ("below, same line, within its place", "police@330106", f"police@{TOWN}", VILLAGE, "downward"),
    ("below, same line, place above it", "police@330106", f"police@{VILLAGE}", TOWN, "downward"),
    ("below, same line, whole territory", "police@330106", f"police@{TOWN}", COUNTY, "downward"),
    ("below, same line, another town", "police@330106", f"police@{OTHER_TOWN}", TOWN, None),
    ("below, same line, village beside", "police@330106", f"police@{OTHER_VILLAGE}", VILLAGE, None),
    ("below, other line, notice to town", "police@330106", f"grid@{VILLAGE}", TOWN, "downward"),
    ("below, other line, notice to all", "police@330106", f"grid@{TOWN}", COUNTY, "downward"),
    ("below, other line, its own place", "police@330106", f"grid@{TOWN}", TOWN, "return"),
    ("below, other line, within its place", "police@330106", f"grid@{TOWN}", VILLAGE, "return"),
    ("below, other line, another town", "police@330106", f"grid@{OTHER_TOWN}", TOWN, None),
    ("below, other line, village beside", "police@330106", f"grid@{OTHER_VILLAGE}", VILLAGE, None),
    ("two levels below, whole city", "police@3301", f"grid@{TOWN}", CITY, "downward"),
    ("two levels below, its own place", "police@3301", f"grid@{TOWN}", VILLAGE, "return"),
    ("county below, same line", "police@3301", f"police@{COUNTY}", VILLAGE, "downward"),
    ("county below, other county's place", "police@3301", f"police@{COUNTY}", OTHER_COUNTY, None),
    ("stranger of the same line", "police@330106", f"police@{OTHER_COUNTY}", VILLAGE, None),
    ("stranger of another line", "police@330106", f"housing@{OTHER_COUNTY}", VILLAGE, None),
]


@pytest.mark.parametrize(("name", "source", "unit", "place", "direction"), CELLS, ids=lambda c: c)
def test_cell(name: str, source: str, unit: str, place: str, direction: str | None) -> None:
    """With a rule of every direction open to every line, the table alone decides."""
    delivered = {d.unit: d for d in Router(policy()).route(upsert(place, source=source), NOW)}
    if direction is None:
        assert unit not in delivered
    else:
        assert delivered[unit].op is DeliveryOp.UPSERT
        assert delivered[unit].direction is Direction(direction)
        assert delivered[unit].rule == direction
        assert delivered[unit].fields == ("id", "name")


@pytest.mark.parametrize(("name", "source", "unit", "place", "direction"), CELLS, ids=lambda c: c)
def test_cell_without_its_rule(
    name: str, source: str, unit: str, place: str, direction: str | None
) -> None:
    """The table gives a right only where topics.yml has a rule of that very direction."""
    others = tuple(r for r in rules() if r.direction != direction)
    router = Router(policy(receivers=others))
    assert router.route_for(upsert(place, source=source), unit, NOW) is None


def test_a_unit_gets_one_delivery_at_most_and_they_are_sorted() -> None:
    units = [d.unit for d in Router(policy()).route(upsert(TOWN, VILLAGE, OTHER_TOWN, COUNTY), NOW)]
    assert units == sorted(set(units))
    assert len(units) > 10


def _horizontal_rule(**values: object) -> Rule:
    return Rule.model_validate(
        {"rule": "r", "direction": "horizontal", "lines": ("housing",), "fields": ("id",)} | values
    )


def test_a_rule_names_lines() -> None:
    delivered = Router(policy(receivers=(_horizontal_rule(),))).route(upsert(TOWN), NOW)
    assert [d.unit for d in delivered] == ["housing@330106"]


@pytest.mark.parametrize(
    ("levels", "units"),
    [
        ((), ["police@33", "police@3301"]),
        ((Level.PREFECTURE,), ["police@3301"]),
        ((Level.PROVINCE,), ["police@33"]),
        ((Level.TOWNSHIP,), []),
    ],
    ids=["no level named", "prefecture", "province", "a level that the direction never reaches"],
)
def test_a_rule_names_levels_of_the_receiver(levels: tuple[Level, ...], units: list[str]) -> None:
    rule = _horizontal_rule(direction="upward", lines=("police",), levels=levels)
    delivered = Router(policy(receivers=(rule,))).route(upsert(TOWN), NOW)
    assert [d.unit for d in delivered] == units


def test_the_first_rule_that_matches_counts() -> None:
    first, second = _horizontal_rule(), _horizontal_rule(rule="s", fields=("id", "name"))
    (delivery,) = Router(policy(receivers=(first, second))).route(upsert(TOWN), NOW)
    assert (delivery.rule, delivery.fields) == ("r", ("id",))
    (delivery,) = Router(policy(receivers=(second, first))).route(upsert(TOWN), NOW)
    assert (delivery.rule, delivery.fields) == ("s", ("id", "name"))


def test_fields_come_in_the_order_of_the_schema_that_the_record_is_written_in() -> None:
    rule = _horizontal_rule(fields=("name", "place", "id"))
    two = policy(receivers=(rule,), fields={1: ("id", "name"), 2: ("place", "name", "id")})
    old, new = (Router(two).route(upsert(TOWN, schema_version=v), NOW)[0] for v in (1, 2))
    assert old.fields == ("id", "name")
    assert new.fields == ("place", "name", "id")


@pytest.mark.parametrize(
    "change",
    [
        upsert(TOWN, source="housing@330106"),
        upsert(VILLAGE, source="police@330106109"),
        upsert(TOWN, source="nobody@330106"),
        upsert(OTHER_COUNTY),
        upsert("33010610"),
        upsert(TOWN, schema_version=9),
    ],
    ids=[
        "line that may not publish",
        "level that may not publish",
        "unknown unit",
        "place outside the source's territory",
        "not a division code",
        "unknown schema version",
    ],
)
def test_what_intake_refuses_is_routed_to_nobody(change: object) -> None:
    assert Router(policy()).route(change, NOW) == ()  # type: ignore[arg-type]
