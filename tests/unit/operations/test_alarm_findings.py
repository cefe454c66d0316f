"""What alarms are about: the subjects of a look, closed and unknown ones among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Contract, Duty
from deptbus.operations.alarms import Finding
from deptbus.operations.cluster_metrics import ClusterReport
from deptbus.operations.findings import SEVERITY, Found, Word, found_of
from deptbus.operations.freshness import Fresh, Freshness
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster, Group, Topic
from deptbus.operations.quarantine import Case
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport
from deptbus.operations.verdicts import Verdict
from deptbus.wire.control import QuarantineNote

NOW = 1_795_600_000.0  # a Wednesday, 17:46 in China
POLICE, HOUSING = "public_security@330106", "housing@330106"
DUTY = Duty(name="值班室", phone="8101")


@pytest.fixture(scope="module")
def contract() -> Contract:
    """The bundled one, whose housing has service hours."""
    whole = load(bundled())
    units = tuple(
        unit.model_copy(update={"service_hours": "08:30-17:30", "duty": DUTY})
        if unit.unit == HOUSING
        else unit
        for unit in whole.units
    )
    return whole.model_copy(update={"units": units})


def stage(unit: str, at: Stage, verdict: Verdict | None, **words: Any) -> StageReport:
    owner = words.pop("owner", OFFICE if at in (Stage.INTAKE, Stage.ROUTING) else f"of {unit}")
    return StageReport(unit, at, owner, verdict, 5, 300.0, NOW - 300, **words)


def look(contract: Contract | None, *stages: StageReport, **words: Any) -> Found:
    picture = Picture(NOW, Cluster((1,), {}), {}, words.pop("is_whole", True))
    lag = LagReport(NOW, picture, (), stages, contract is not None, contract=contract)
    return found_of(ClusterReport(lag, **words), "", NOW)


def bad(found: Found) -> dict[str, str]:
    return {f.subject: f.word for f in found.look.findings if f.severity and not f.is_closed}


def test_nobody_could_look() -> None:
    found = found_of(None, "no broker answers", NOW)
    assert bad(found) == {"cluster/bus": "UNREACHABLE"}
    assert found.look.scopes == {"cluster"}
    about = found.about["cluster/bus"]
    assert about.details == {"reason": "no broker answers"}
    assert about.runbook.endswith("#unreachable")


def test_a_stage_that_needs_a_person(contract: Contract) -> None:
    found = look(
        contract,
        stage(HOUSING, Stage.APPLY, Verdict.STOPPED),
        stage(POLICE, Stage.OUTBOX, Verdict.CATCHING_UP),
        stage(BUS, Stage.ROUTING, None),
    )
    assert bad(found) == {f"lag/{HOUSING}/apply": "STOPPED"}
    about = found.about[f"lag/{HOUSING}/apply"]
    assert (about.owner, about.duty) == (f"of {HOUSING}", DUTY)
    assert about.details == {
        "lag_records": 5,
        "lag_seconds": 300.0,
        "safe_until": "for_ever",
    }
    severities = {f.subject: f.severity for f in found.look.findings}
    assert severities["lag/bus/routing"] is None
    assert severities[f"lag/{POLICE}/outbox"] == 0
    assert found.look.scopes == {"cluster", "lag", "parked"}


def test_who_never_joined_is_no_subject(contract: Contract) -> None:
    never = stage(HOUSING, Stage.APPLY, Verdict.STOPPED, has_lived=False)
    assert bad(look(contract, never)) == {}


def test_a_worker_that_ends_is_one_alarm_for_all_outboxes(contract: Contract) -> None:
    found = look(
        contract,
        stage(POLICE, Stage.INTAKE, Verdict.STOPPED),
        stage(HOUSING, Stage.INTAKE, Verdict.BEHIND),
        stage("civil_affairs@330106", Stage.INTAKE, Verdict.OK),
    )
    assert bad(found) == {"lag/bus/intake": "STOPPED"}
    about = found.about["lag/bus/intake"]
    assert about.details is not None
    assert about.details["units"] == [HOUSING, POLICE]
    assert about.duty == contract.office
    assert about.unit == BUS


def test_closed_is_closed(contract: Contract) -> None:
    closed = stage(HOUSING, Stage.APPLY, Verdict.OK, closed_until=NOW + 3600)
    (_, finding) = look(contract, closed).look.findings
    assert finding == Finding(f"lag/{HOUSING}/apply", 0, "OK", True)


@pytest.mark.parametrize(("unit", "is_told"), [(HOUSING, False), (POLICE, True)])
def test_what_is_parked_or_in_quarantine_waits_for_who_is_closed(
    contract: Contract, unit: str, is_told: bool
) -> None:
    parked = stage(unit, Stage.APPLY, Verdict.OK, parked=3)
    note = QuarantineNote("out.x", 0, 1, 1, "malformed", "o", unit, "flat", None, None, 1)
    found = look(contract, parked, quarantine=[Case(note)])
    words = {f"parked/{unit}/apply": "PARKED", f"quarantine/{unit}": "QUARANTINED"}
    assert bad(found) == (words if is_told else {})
    assert found.about[f"quarantine/{unit}"].details == {"notes": 1, "reasons": {"malformed": 1}}


def test_freshness(contract: Contract) -> None:
    def row(dataset: str, state: Fresh | None) -> FreshnessRow:
        return FreshnessRow(POLICE, dataset, "o", 1.0, Freshness(state, NOW, NOW))

    states = {"a": Fresh.LATE, "b": Fresh.SILENT, "c": Fresh.CLOSED, "d": None, "e": Fresh.FRESH}
    rows = [row(*one) for one in states.items()]
    found = look(contract, stage(POLICE, Stage.OUTBOX, Verdict.OK), freshness=rows)
    severities = {f.subject.rpartition("/")[2]: f.severity for f in found.look.findings}
    assert severities == {
        "bus": 0,
        "outbox": 0,
        "a": SEVERITY[Word.LATE],
        "b": SEVERITY[Word.SILENT],
        "c": None,
        "d": None,
        "e": 0,
    }


def test_a_source_that_never_joined_keeps_no_promise(contract: Contract) -> None:
    row = FreshnessRow(POLICE, "a", "o", 1.0, Freshness(Fresh.SILENT, None, None))
    assert bad(look(contract, freshness=[row])) == {}


def test_a_part_that_does_not_answer(contract: Contract) -> None:
    silent = stage(HOUSING, Stage.APPLY, None, reason="coordinator_away")
    found = look(contract, silent)
    assert bad(found) == {"cluster/bus": "PARTIAL"}
    assert found.about["cluster/bus"].details == {"reason": "coordinator_away"}
    assert bad(look(contract, is_whole=False)) == {"cluster/bus": "PARTIAL"}
    old = stage(HOUSING, Stage.OUTBOX, None, reason="outbox_not_told")
    assert bad(look(contract, old)) == {}


def test_without_a_contract_there_are_groups_and_with_an_unreadable_one_nothing() -> None:
    picture = Picture(NOW, Cluster((1,), {}), {"theirs": Group("Empty", "")}, True)
    lag = LagReport(NOW, picture, (), (), has_contract=False)
    found = found_of(ClusterReport(lag), "", NOW)
    assert found.look.scopes == {"cluster", "group"}
    assert {f.subject for f in found.look.findings} == {"cluster/bus", "group/theirs"}
    there = Cluster((1,), {"bus.contract": Topic("id", False, (1,))})
    unread = replace(lag, picture=replace(picture, cluster=there))
    assert found_of(ClusterReport(unread), "", NOW).look.scopes == {"cluster"}
