"""The bundled contract is what the project says that it is."""

from __future__ import annotations

from datetime import date

import pytest

from deptbus.contract.advice import advise
from deptbus.contract.bundled import bundled
from deptbus.contract.check import check
from deptbus.contract.draft import Draft
from deptbus.contract.load import load, read
from deptbus.contract.model import Contract, Sharing
from deptbus.contract.record_schema import record_name
from deptbus.contract.territory import Level, level_of, strictly_covers

TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load(bundled())


def test_it_is_right_also_without_its_files(contract: Contract) -> None:
    assert check(Draft(contract)) == []


def test_its_size_and_its_places(contract: Contract) -> None:
    assert len(contract.lines) >= 6
    assert 18 <= len(contract.units) <= 24
    territories = {unit.territory for unit in contract.units}
    assert {"33", "3301", "330105", "330106"} < territories
    assert {level_of(t) for t in territories} == set(Level)
    assert contract.territories["330106109"] == "三墩镇"


def test_its_datasets_and_who_publishes_them(contract: Contract) -> None:
    sources = {
        name: {u.unit for u in contract.units if contract.may_publish(u.unit, name)}
        for name in contract.datasets
    }
    assert sources["resident"] == {"public_security@330106", "public_security@330105"}
    assert sources["policy_notice"] == {
        "government_office@330106",
        "government_office@3301",
        "government_office@33",
    }
    assert all(level_of(u.partition("@")[2]) is Level.VILLAGE for u in sources["grid_incident"])
    assert set(sources) == {
        "resident",
        "household",
        "housing_unit",
        "enterprise",
        "grid_incident",
        "policy_notice",
    }
    assert all(sources.values())


def test_it_uses_all_four_rule_directions_and_all_three_classes(contract: Contract) -> None:
    rules = [rule for dataset in contract.datasets.values() for rule in dataset.receivers]
    assert {rule.direction for rule in rules} == {"horizontal", "upward", "downward", "return"}
    classes = {s for dataset in contract.datasets.values() for s in dataset.sharing.values()}
    assert classes == set(Sharing)


def test_its_grants_live_ended_and_across_line_and_territory(contract: Contract) -> None:
    ended = [g for g in contract.grants if g.until < TODAY]
    live = [g for g in contract.grants if g.starts <= TODAY <= g.until]
    assert ended
    assert all(g.until >= date(2027, 12, 31) for g in live)
    conditional = [
        g
        for g in live
        for field in g.fields
        if contract.datasets[g.dataset].sharing[field] is Sharing.CONDITIONAL
    ]
    assert conditional
    across = [
        g
        for g in live
        if contract.unit_by_name[g.unit].line != contract.datasets[g.dataset].line
        and strictly_covers(contract.unit_by_name[g.unit].territory, "330106")
    ]
    assert across


def test_its_hints_are_the_ones_that_it_means(contract: Contract) -> None:
    draft, _ = read(bundled())
    assert [p.what for p in advise(draft, TODAY)] == [
        "grant `job_subsidy_2025` has ended",
        "conditional field `employer` is in rule `resident_welfare`, "
        "and none of its units holds a grant for it",
    ]


def test_every_field_has_a_doc_and_types_are_rich(contract: Contract) -> None:
    seen = set()
    for name in contract.datasets:
        schema = contract.record_schema(name)
        assert schema["name"] == record_name(name)
        assert schema["doc"]
        for field in schema["fields"]:
            assert field["doc"], (name, field["name"])
            kind = field["type"][1] if isinstance(field["type"], list) else field["type"]
            seen.add(kind if isinstance(kind, str) else kind.get("logicalType", kind["type"]))
    assert seen == {"string", "int", "date", "decimal", "enum", "timestamp-micros"}
