"""Why a unit does not get a field, and what a change of the contract means for whom."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from routing_county import NOW, OTHER_COUNTY, TOWN, VILLAGE, grant, policy, rules

from deptbus.change import Direction
from deptbus.contract.model import Grant, Policy, Rule
from deptbus.contract.territory import Level
from deptbus.operations.rights import difference, next_boundary, rights_of, rule_digest
from deptbus.operations.withheld import WhyNot
from deptbus.routing import CHINA

HOUSING, STRANGER, TOWN_GRID = "housing@330106", "housing@3301", f"grid@{TOWN}"


def _why(unit: str, field: str, *grants: Grant, **more: object) -> tuple[WhyNot, str]:
    rights = rights_of(policy(grants=grants, **more), unit, NOW)  # type: ignore[arg-type]
    (found,) = [w for w in rights.withheld if w.field == field]
    return found.reason, found.sentence


@pytest.mark.parametrize(
    ("unit", "field", "grants", "reason", "sentence"),
    [
        (HOUSING, "religion", (), WhyNot.NOT_SHARED, "it is never shared (class not_shared)"),
        (
            HOUSING,
            "phone",
            (),
            WhyNot.NO_GRANT,
            "rule horizontal opens it only with a live grant to this unit",
        ),
        (HOUSING, "place", (), WhyNot.NOT_IN_RULE, "rule horizontal does not list it"),
        (HOUSING, "salary", (), WhyNot.NOT_IN_RULE, "rule horizontal does not list it"),
        (
            HOUSING,
            "phone",
            (grant("g", HOUSING, ("phone",), until=date(2026, 5, 1)),),
            WhyNot.GRANT_ENDED,
            "grant g ended on 2026-05-01",
        ),
        (
            HOUSING,
            "phone",
            (grant("g", HOUSING, ("phone",), starts=date(2026, 7, 1)),),
            WhyNot.GRANT_NOT_STARTED,
            "grant g starts on 2026-07-01",
        ),
        (
            HOUSING,
            "phone",
            (grant("g", HOUSING, ("phone",), starts=date(2026, 6, 2)),),
            WhyNot.GRANT_NOT_STARTED,
            "grant g takes effect with the next policy number",
        ),
        (
            HOUSING,
            "phone",
            (grant("g", HOUSING, ("phone",), "330101"),),
            WhyNot.GRANT_ELSEWHERE,
            "grant g is about 330101, where no unit publishes it",
        ),
        (
            STRANGER,
            "id",
            (),
            WhyNot.WRONG_LINE,
            "no rule of the direction horizontal names the line housing",
        ),
        (
            "housing@33",
            "id",
            (),
            WhyNot.WRONG_LINE,
            "upwards it goes within the line police only; this takes a grant",
        ),
    ],
    ids=lambda value: value.value if isinstance(value, WhyNot) else "",
)
def test_why_not(
    unit: str, field: str, grants: tuple[Grant, ...], reason: WhyNot, sentence: str
) -> None:
    receivers = rules() if unit != STRANGER else rules(lines=("police", "grid"))
    county = (Level.COUNTY,) if unit == HOUSING else (Level.COUNTY, Level.PREFECTURE)
    assert _why(unit, field, *grants, receivers=receivers, levels=county) == (reason, sentence)


def test_why_not_by_level() -> None:
    only_villages = Rule(
        rule="home", direction="return", lines=("grid",), levels=(Level.VILLAGE,), fields=("id",)
    )
    reason, sentence = _why(TOWN_GRID, "id", receivers=(only_villages,))
    assert reason is WhyNot.WRONG_LEVEL
    assert sentence == "rule home does not reach the level township"
    assert _received(f"grid@{VILLAGE}", receivers=(only_villages,)) == {"id"}


def _without(*gone: str) -> Policy:
    whole = policy()
    units = tuple(u for u in whole.contract.units if u.unit not in gone)
    return whole.model_copy(update={"contract": whole.contract.model_copy(update={"units": units})})


def test_why_not_by_territory() -> None:
    """Only the county's police publish, and this unit lies in the county beside it."""
    neighbour = _without("police@3301", f"police@{OTHER_COUNTY}")
    withheld = rights_of(neighbour, f"housing@{OTHER_COUNTY}", NOW).withheld
    assert {w.field: w.reason for w in withheld}["id"] is WhyNot.OUTSIDE_TERRITORY


def test_why_not_when_the_unit_is_the_only_source_near() -> None:
    alone = _without("police@3301")
    rights = rights_of(alone, f"police@{OTHER_COUNTY}", NOW)
    assert rights.receives == ()
    assert {w.field: w.reason for w in rights.withheld}["id"] is WhyNot.OWN_RECORD


def test_why_not_names_every_rule_that_reaches_the_unit() -> None:
    reason, sentence = _why(TOWN_GRID, "place")
    assert reason is WhyNot.NOT_IN_RULE
    assert sentence == "none of the rules downward, return lists it"


def _received(unit: str, **more: object) -> set[str]:
    rights = rights_of(policy(**more), unit, NOW)  # type: ignore[arg-type]
    return {f for flow in rights.receives for f in flow.fields}


def test_rights_name_sources_places_and_grants() -> None:
    bounded = grant("g", TOWN_GRID, ("phone",), VILLAGE)
    rights = rights_of(policy(grants=(bounded,)), TOWN_GRID, NOW)
    sources = ("police@3301", "police@330106")
    said = {
        (f.direction.value, f.grant, f.fields, f.places): f.source_units for f in rights.receives
    }
    assert said == {
        ("return", None, ("id", "name"), f"within {TOWN}"): sources,
        ("downward", None, ("id", "name"), f"areas that contain {TOWN}"): sources,
        ("return", "g", ("phone",), f"within {VILLAGE}"): sources,
    }
    assert rights_of(policy(), "police@3301", NOW).publishes == ("person",)


def test_an_unknown_unit_has_no_digest_and_no_rights() -> None:
    assert rule_digest(policy(), "tax@330106") == {}
    with pytest.raises(KeyError):
        rights_of(policy(), "tax@330106", NOW)


# -- digests --------------------------------------------------------------------------------------

COUNTY_ONLY = (Level.COUNTY,)
GRANT = grant("g", HOUSING, ("phone",))


def _variant(*grants: Grant, **more: object) -> Policy:
    return policy(grants=grants, levels=COUNTY_ONLY, **more)  # type: ignore[arg-type]


BASE = _variant(GRANT)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (_variant(GRANT, number=9), True),
        (_variant(GRANT, grant("h", STRANGER, ("id",))), True),
        (_variant(GRANT.model_copy(update={"purpose": "x"})), True),
        (_variant(), False),
        (_variant(grant("h", HOUSING, ("phone",))), False),
        (_variant(grant("g", HOUSING, ("phone",), until=date(2027, 1, 1))), False),
        (_variant(grant("g", HOUSING, ("phone",), TOWN)), False),
        (_variant(GRANT, receivers=rules(fields=("id", "phone"))), False),
        (_variant(GRANT, fields={1: ("id", "name")}), False),
    ],
    ids=[
        "another number",
        "a grant to somebody else",
        "another purpose",
        "no grant",
        "another grant's name",
        "another end",
        "another territory",
        "another rule",
        "another schema",
    ],
)
def test_what_changes_a_digest(other: Policy, is_same: bool) -> None:
    assert (rule_digest(BASE, HOUSING) == rule_digest(other, HOUSING)) is is_same


def test_a_new_version_of_the_schema_changes_the_digest_though_its_fields_do_not() -> None:
    fields = ("id", "name")
    one, two = policy(fields={1: fields}), policy(fields={1: fields, 2: fields})
    assert rule_digest(one, HOUSING) != rule_digest(two, HOUSING)


def test_a_new_source_unit_changes_the_digest_of_those_whom_it_reaches() -> None:
    fewer, more = _without("police@3301"), policy()
    assert rule_digest(fewer, TOWN_GRID) != rule_digest(more, TOWN_GRID)
    assert rule_digest(fewer, "police@33") != rule_digest(more, "police@33")
    fewer, more = _without(f"police@{OTHER_COUNTY}"), policy()
    assert rule_digest(fewer, TOWN_GRID) == rule_digest(more, TOWN_GRID)


# -- differences ----------------------------------------------------------------------------------


def test_a_grant_that_ends_is_a_loss_of_its_fields() -> None:
    ended = BASE.model_copy(update={"activated_at": datetime(2027, 6, 1, tzinfo=UTC), "number": 2})
    (change,) = difference(BASE, ended)
    assert (change.unit, change.direction) == (HOUSING, Direction.HORIZONTAL)
    assert (change.gained, change.lost) == ((), ("phone",))


def test_a_grant_of_another_territory_is_a_change_of_scope() -> None:
    moved = _variant(grant("g", HOUSING, ("phone",), TOWN), number=2)
    (change,) = difference(BASE, moved)
    assert (change.gained, change.lost) == ((), ())
    assert change.gained_scope == (f"phone from police@330106, within {TOWN}",)
    everywhere = "phone from police@330106, everywhere that the source publishes about"
    assert change.lost_scope == (everywhere,)


def test_the_first_policy_is_all_gain() -> None:
    changes = difference(None, BASE)
    assert all(c.gained and not c.lost for c in changes)
    assert (HOUSING, ("id", "name", "phone")) in {(c.unit, c.gained) for c in changes}


# -- boundaries -----------------------------------------------------------------------------------


def test_the_next_policy_is_due_when_a_grant_starts_or_has_ended() -> None:
    coming = grant("h", STRANGER, ("id",), starts=date(2026, 7, 1), until=date(2026, 8, 1))
    assert next_boundary(policy(grants=(coming,)), NOW) == datetime(2026, 7, 1, tzinfo=CHINA)
    assert next_boundary(BASE, NOW) == datetime(2027, 1, 1, tzinfo=CHINA)
    assert next_boundary(policy(), NOW) is None


def test_a_grant_that_is_over_makes_nothing_due() -> None:
    over = grant("h", STRANGER, ("id",), until=date(2026, 5, 1))
    for_ever = grant("i", STRANGER, ("id",), until=date.max)
    assert next_boundary(policy(grants=(over, for_ever)), NOW) is None


def test_a_boundary_that_was_missed_is_due_now() -> None:
    late = datetime(2027, 3, 1, tzinfo=UTC)
    assert next_boundary(BASE, late) == late
