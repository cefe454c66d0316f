"""Sheets of units and datasets say what routing does, and why the rest does not come."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from routing_county import COUNTY, NOW, TOWN, VILLAGE, grant, policy, rules

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Hold, Policy, Sharing
from deptbus.operations.catalogue import dataset_sheet, dataset_sheets, type_in_words
from deptbus.operations.picture import NotReceived, Receives, UnitSheet
from deptbus.operations.rights import flows_of, rights_of
from deptbus.operations.unit_sheet import HELD, unit_sheet, unit_sheets
from deptbus.routing import entitlement

HOUSING, POLICE, STRANGER = "housing@330106", "police@330106", "housing@3301"


@pytest.fixture(scope="module")
def county() -> Policy:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    return Policy(number=1, activated_at=at, activated_by="test", contract=load(bundled()))


def _why(sheet: UnitSheet, field: str) -> NotReceived:
    (found,) = [n for n in sheet.not_received if field in n.fields and n.why != HELD]
    return found


def test_a_recipient_sees_rule_fields_sources_and_places() -> None:
    sheet = unit_sheet(policy(), HOUSING, NOW)
    (line,) = [r for r in sheet.receives if r.direction == "horizontal"]
    assert line == Receives(
        "person", "horizontal", "horizontal", (), ("id", "name"),
        ("place", "phone", "salary", "religion"), (POLICE,),
    )  # fmt: skip
    village = unit_sheet(policy(), f"grid@{VILLAGE}", NOW)
    assert {(r.direction, r.within, r.containing) for r in village.receives} == {
        ("return", VILLAGE, ""),
        ("downward", "", VILLAGE),
    }


def test_what_a_grant_opens_stands_with_the_rule_that_it_widens() -> None:
    until = date(2026, 8, 31)
    granted = policy(grants=(grant("visits", HOUSING, ("phone",), until=until),))
    (line,) = [r for r in unit_sheet(granted, HOUSING, NOW).receives if POLICE in r.sources]
    assert (line.rule, line.grants, line.until) == ("horizontal", ("visits",), "2026-08-31")
    assert line.fields == ("id", "name", "phone")


def test_a_line_by_grant_alone_names_no_rule() -> None:
    alone = policy(receivers=(), grants=(grant("visits", HOUSING, ("phone",)),))
    lines = unit_sheet(alone, HOUSING, NOW).receives
    assert {s for line in lines for s in line.sources} == {POLICE, "police@3301"}
    assert {(r.direction, r.rule, r.grants) for r in lines} == {("granted", "", ("visits",))}


@pytest.mark.parametrize(
    ("unit", "field", "more", "why", "detail", "is_all"),
    [
        (HOUSING, "religion", {}, "not_shared", "", False),
        (HOUSING, "salary", {}, "not_in_rule", "downward, return, horizontal", False),
        (HOUSING, "phone", {}, "conditional_without_grant", "downward", False),
        (STRANGER, "id", {"receivers": rules(lines=("police",))}, "wrong_line", "housing", True),
        (f"grid@{TOWN}", "id", {"receivers": ()}, "wrong_line", "grid", True),
        (
            HOUSING,
            "phone",
            {"grants": (grant("past", HOUSING, ("phone",), until=date(2026, 5, 1)),)},
            "grant_ended",
            "past",
            False,
        ),
    ],
)
def test_what_does_not_come_has_its_reason(
    unit: str, field: str, more: dict[str, Any], why: str, detail: str, is_all: bool
) -> None:
    found = _why(unit_sheet(policy(**more), unit, NOW), field)
    assert (found.why, found.detail, found.is_all) == (why, detail, is_all)
    assert found.sentence


def test_a_hold_is_told_and_the_rights_stay() -> None:
    hold = Hold(dataset="person", reason="doubted", held_by="office", held_at=NOW)
    held = policy().model_copy(update={"holds": (hold,)})
    sheet = unit_sheet(held, HOUSING, NOW)
    assert [r.fields for r in sheet.receives if POLICE in r.sources] == [("id", "name")]
    (told,) = [n for n in sheet.not_received if n.why == HELD]
    assert (told.dataset, told.fields, told.detail) == ("person", ("id", "name"), "doubted")
    elsewhere = policy().model_copy(update={"holds": (hold.model_copy(update={"dataset": "x"}),)})
    assert not [n for n in unit_sheet(elsewhere, HOUSING, NOW).not_received if n.why == HELD]


def test_every_field_is_received_or_has_one_reason(county: Policy) -> None:
    for sheet in unit_sheets(county, NOW):
        for name, dataset in county.contract.datasets.items():
            every = {*county.contract.field_names(name), *dataset.sharing}
            received = {f for r in sheet.receives if r.dataset == name for f in r.fields}
            withheld = [f for n in sheet.not_received if n.dataset == name for f in n.fields]
            assert sorted([*received, *withheld]) == sorted(every), (sheet.unit, name)


def test_sheets_of_datasets_say_what_routing_gives(county: Policy) -> None:
    """Of every source and place of the county: a unit that routing gives something to is listed as
    a recipient of those fields."""
    places = list(county.contract.territories)
    for sheet in dataset_sheets(county, NOW):
        listed = {(r.unit, r.direction): set(r.fields) for r in sheet.recipients}
        given: dict[tuple[str, str], set[str]] = {}
        for source in sheet.sources:
            for unit in county.contract.units:
                for place in places:
                    right = entitlement(county, unit.unit, sheet.dataset, source, place, NOW)
                    if right is not None:
                        key = unit.unit, right.direction.value
                        given.setdefault(key, set()).update(right.fields)
        assert listed == given, sheet.dataset


def test_who_publishes_sees_its_recipients(county: Policy) -> None:
    sheet = unit_sheet(county, "public_security@330105", NOW)
    by_dataset = {p.dataset: p for p in sheet.publishes}
    assert set(by_dataset) == {"resident", "household"}
    # The other district's departments receive nothing of it.
    assert by_dataset["resident"].recipients == ("health@3301", "public_security@3301")
    assert "religion" not in by_dataset["resident"].fields


def test_the_catalogue_names_never_shared_fields_and_gives_them_no_type(county: Policy) -> None:
    sheet = dataset_sheet(county, "resident", NOW)
    fields = {f.name: f for f in sheet.fields}
    assert fields["religion"].sharing == Sharing.NOT_SHARED
    assert fields["religion"].type == ""
    assert fields["birth_date"].type == "date"
    assert fields["resident_id"].is_key
    assert fields["phone"].sharing == Sharing.CONDITIONAL
    assert (sheet.versions, sheet.version, sheet.freshness_hours) == ((1,), 1, 24)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("string", "string"),
        (["null", "string"], "string or null"),
        (["null", {"type": "int", "logicalType": "date"}], "date or null"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, "decimal(9, 2)"),
        ({"type": "enum", "name": "Sex", "symbols": ["male", "female"]}, "one of male, female"),
        ({"type": "array", "items": {"type": "string"}}, "list of string"),
        ({"type": "map", "values": "long"}, "long by name"),
        ({"type": "fixed", "name": "F", "size": 16}, "16 bytes"),
        ({"type": "record", "name": "R", "fields": []}, "record"),
        ({"type": "long", "logicalType": "timestamp-micros"}, "time"),
    ],
)
def test_types_in_words(schema: Any, words: str) -> None:
    assert type_in_words(schema) == words


def test_flows_of_a_dataset_are_those_of_the_units(county: Policy) -> None:
    found = flows_of(county, "resident", NOW)
    for unit in county.contract.units:
        mine = [f for f in rights_of(county, unit.unit, NOW).receives if f.dataset == "resident"]
        assert list(found.get(unit.unit, ())) == mine


def test_unknown_units_and_datasets_are_told(county: Policy) -> None:
    with pytest.raises(KeyError):
        unit_sheet(county, f"police@{COUNTY}", NOW)
    with pytest.raises(KeyError):
        dataset_sheet(county, "nothing", NOW)
