"""The documents that `deptbus lag`, `groups` and `status` print: every field, every exit code."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from deptbus.cli import lag_view, status_view
from deptbus.cli.lag_view import duration, groups_table, lag_table
from deptbus.cli.status_view import status_screen
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.contract.model import Hold, Policy, Proofs
from deptbus.errors import Exit
from deptbus.operations.freshness import Fresh, Freshness
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag import Lag, PartitionState, Place, Seen
from deptbus.operations.lag_report import exit_code, groups_document, lag_document
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster, Group
from deptbus.operations.proofs import Proved, Subject, subjects_of
from deptbus.operations.quarantine import Case
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport, unit_report
from deptbus.operations.status import Beside, status_document, status_exit_code
from deptbus.operations.verdicts import Track, Verdict
from deptbus.wire.control import ProofOutcome, QuarantineNote, Resolution

NOW = 1_800_000_000.0
HOUSING, POLICE, NEW = "housing@330106", "public_security@330106", "health@330106"
LATE = Lag(PartitionState.OK, 5, 300.04, waits=True)
_NOTE = (None, None, 1)  # its key, version, and when it was noted
AWAY = Lag(PartitionState.UNREACHABLE, reason="not_leader_for_partition")
ADAPTER = "deptbus.adapter.housing-330106.main"


def stage(unit: str, verdict: Verdict | None, at: Stage = Stage.APPLY, **words: Any) -> StageReport:
    given: dict[str, Any] = {"lag_records": 5, "lag_seconds": 300.04, "since": NOW - 300}
    owner = words.pop("owner", f"office of {unit}")
    return StageReport(unit, at, owner, verdict, **(given | words))


def track(verdict: Verdict | None, lag: Lag, seen: Seen | None = None) -> Track:
    return Track(NOW, seen, lag, verdict, NOW)


def report(*stages: StageReport, is_whole: bool = True) -> LagReport:
    tracks = {
        Place(ADAPTER, "in.housing-330106", 1): track(Verdict.BEHIND, LATE, Seen(4, 2, 9)),
        Place(ADAPTER, "in.housing-330106", 0): track(None, AWAY, Seen(4, 2, 9)),
        Place("theirs", "orders", 0): track(
            Verdict.OK, Lag(PartitionState.OK, 0, 0.0, waits=False), Seen(9, 0, 9)
        ),
    }
    groups: dict[str, Group | str] = {
        ADAPTER: Group("Empty", ""),
        "theirs": Group("Stable", "consumer"),
        "idle": Group("Empty", "consumer"),
        "gone": "coordinator_away",
    }
    picture = Picture(NOW, Cluster((1,), {}), groups, is_whole, tracks)
    units = {s.unit: unit_report([t for t in stages if t.unit == s.unit]) for s in stages}
    return LagReport(NOW, picture, tuple(units.values()), stages, has_contract=True)


def test_a_units_row():
    grows = stage(HOUSING, Verdict.GROWING, expected_seconds=float("inf"), margin_seconds=7200.0)
    (row,) = lag_document(report(grows), unit=None, only_bad=False)["units"]
    advice = row.pop("advice")
    assert row == {
        "unit": HOUSING,
        "verdict": "GROWING",
        "stage": "apply",
        "lag_seconds": 300.0,
        "lag_records": 5,
        "owner": f"office of {HOUSING}",
        "since": "2027-01-15T07:55:00Z",
        "expected_seconds": "never",
        "margin_seconds": 7200.0,
        "closed_until": None,
    }
    assert HOUSING in advice
    assert advice.endswith("docs/operations.md#growing")


def test_partitions_rows_and_that_unknown_is_null():
    rows = lag_document(report(), unit=None, only_bad=False)["partitions"]
    assert [(r["group"], r["partition"]) for r in rows] == [
        (ADAPTER, 0),
        (ADAPTER, 1),
        ("theirs", 0),
    ]
    away, late, _ = rows
    assert {away[name] for name in ("committed", "start", "end", "lag_records", "lag_seconds")} == {
        None
    }
    assert (away["state"], away["verdict"]) == ("unreachable", None)
    assert away["reason"] == "not_leader_for_partition"
    assert (late["committed"], late["start"], late["end"]) == (4, 2, 9)
    assert (late["lag_records"], late["lag_seconds"], late["state"]) == (5, 300.0, "ok")


def test_one_unit_and_only_what_is_bad():
    whole = report(stage(HOUSING, Verdict.BEHIND), stage(POLICE, Verdict.OK))
    mine = lag_document(whole, unit=HOUSING, only_bad=False)
    assert {row["unit"] for row in mine["units"]} == {HOUSING}
    assert {row["group"] for row in mine["partitions"]} == {ADAPTER}
    bad = lag_document(whole, unit=None, only_bad=True)
    assert {row["unit"] for row in bad["units"]} == {HOUSING}
    assert len(bad["partitions"]) == 2


@pytest.mark.parametrize(
    ("verdicts", "is_whole", "code"),
    [
        ([Verdict.OK, Verdict.CATCHING_UP], True, Exit.DONE),
        ([], True, Exit.DONE),
        ([Verdict.OK, None], True, Exit.COULD_NOT),
        ([Verdict.OK], False, Exit.COULD_NOT),
        ([None, Verdict.BEHIND], False, Exit.ANSWER_IS_NO),
    ],
)
def test_exit_codes(verdicts, is_whole, code):
    assert exit_code(verdicts, is_whole=is_whole) is code


def test_groups():
    document = groups_document(report(is_whole=False))
    rows = {row["group"]: row for row in document["groups"]}
    assert list(rows) == [ADAPTER, "gone", "idle", "theirs"]
    assert rows[ADAPTER]["verdict"] == "BEHIND"
    assert rows[ADAPTER]["lag_records"] is None  # one of its partitions is not known
    assert rows["theirs"] == {
        "group": "theirs",
        "state": "Stable",
        "topics": ["orders"],
        "partitions": 1,
        "lag_records": 0,
        "lag_seconds": 0.0,
        "verdict": "OK",
        "reason": None,
    }
    assert rows["gone"]["reason"] == "coordinator_away"
    assert rows["gone"]["lag_records"] is None
    assert rows["gone"]["verdict"] is None
    assert document["is_whole"] is False


def test_status_names_owner_step_and_how_long_it_may_wait():
    stages = [
        stage(BUS, Verdict.OK, Stage.ROUTING, owner=OFFICE),
        stage(HOUSING, Verdict.STOPPED, margin_seconds=3600.0),
        stage(HOUSING, Verdict.STALLED, Stage.OUTBOX),
        stage(HOUSING, Verdict.LOST, Stage.INTAKE, owner=OFFICE, margin_seconds=None),
        stage(NEW, Verdict.STOPPED, has_lived=False, margin_seconds=86_400.0),
        stage(POLICE, Verdict.OK, Stage.OUTBOX, parked=3),
    ]
    document = status_document(report(*stages))
    assert status_exit_code(document) is Exit.ANSWER_IS_NO
    assert document["units"] == {"OK": 2, "LOST": 1, "STOPPED": 1}
    assert [(r["verdict"], r["owner"], r["safe_until"]) for r in document["red"]] == [
        ("LOST", OFFICE, None),
        ("STOPPED", f"office of {HOUSING}", "2027-01-15T09:00:00Z"),
    ]
    assert document["not_joined"] == [
        {"unit": NEW, "owner": f"office of {NEW}", "safe_until": "2027-01-16T08:00:00Z"}
    ]
    assert document["parked"] == [
        {
            "unit": POLICE,
            "stage": "outbox",
            "owner": f"office of {POLICE}",
            "rows": 3,
            "reasons": [],
        }
    ]


def test_status_that_is_well_and_one_that_nobody_could_tell():
    well = stage(HOUSING, Verdict.OK)
    assert status_document(report(well))["exit_code"] == 0
    held = Hold(unit=POLICE, reason="a test", held_by="wang", held_at=datetime.now(UTC))
    document = status_document(replace(report(well), holds=(held,)))
    assert (document["exit_code"], document["holds"][0]["unit"]) == (0, POLICE)
    assert status_document(report(well, stage(POLICE, None)))["exit_code"] == 2
    assert (
        status_document(
            report(well),
        )["red"]
        == []
    )
    assert status_document(report(well, is_whole=False))["exit_code"] == 2
    assert status_document(report(stage(HOUSING, Verdict.OK, parked=1)))["exit_code"] == 1


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    text = io.StringIO()
    wide = Console(file=text, width=200, highlight=False, soft_wrap=True)
    monkeypatch.setattr(lag_view, "_console", lambda: wide)
    monkeypatch.setattr(status_view, "Console", lambda **_: wide)
    return text


def test_what_people_see(screen):
    worst = stage(HOUSING, Verdict.STOPPED, margin_seconds=3600.0, lag_records=None)
    whole = report(worst, stage(NEW, Verdict.STOPPED, has_lived=False))
    lag_table(whole, lag_document(whole, unit=None, only_bad=False))
    groups_table(groups_document(whole))
    status_screen(status_document(whole))
    text = screen.getvalue()
    assert "deptbus department run --config FILE" in text
    assert f"ring office of {HOUSING}" in text
    assert "it is safe to wait until 2027-01-15" in text
    assert "5 min, ? records" in text
    assert "unreachable: not_leader_for_partition" in text
    assert f"never began  {NEW}" in text
    assert "None" not in text


def test_a_bad_day_is_one_screen(screen):
    many = [stage(f"housing@{330100 + n}", Verdict.STOPPED) for n in range(300)]
    status_screen(status_document(report(*many)))
    lines = screen.getvalue().splitlines()
    assert len(lines) <= 24
    assert "and 293 more" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.0, "0 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (7200, "2 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_is_late_and_what_was_not_accepted_is_on_the_screen(screen):
    outbox = stage(POLICE, Verdict.OK, Stage.OUTBOX, lag_records=0, lag_seconds=0.0)

    def row(unit: str, dataset: str, state: Fresh) -> FreshnessRow:
        return FreshnessRow(unit, dataset, "o", 1.0, Freshness(state, None, NOW))

    def case(offset: int, **words: Any) -> Case:
        note = QuarantineNote("out.x", 0, offset, offset, "malformed", "o", POLICE, "d", *_NOTE)
        return Case(note, **words)

    asked = Resolution("out.x", 0, 2, "resend_asked", "a", "o", "r", "q", ("d",), None, 1)
    rows = [
        row(POLICE, "d", Fresh.LATE),
        row(POLICE, "e", Fresh.FRESH),
        row(NEW, "f", Fresh.SILENT),
    ]
    cases = [case(1), case(2, resolution=asked), case(3, superseded=True)]
    document = status_document(report(outbox), Beside(rows, cases))
    assert [(late["unit"], late["dataset"]) for late in document["late"]] == [(POLICE, "d")]
    (notes,) = document["quarantine"]
    assert (notes["unit"], notes["open"], notes["resend_asked"]) == (POLICE, 1, 1)
    assert document["exit_code"] == 1
    assert status_document(report(outbox), Beside([], cases[1:]))["exit_code"] == 0
    assert status_document(report(outbox), Beside(rows[1:], []))["exit_code"] == 0
    assert status_document(report(outbox), Beside(None, []))["exit_code"] == 2
    status_screen(document)
    status_screen(status_document(report(outbox), Beside(None, None)))
    text = screen.getvalue()
    assert f"{POLICE}  d is late, since" in text
    assert "1 notes of quarantine are open, 1 asked to be resent" in text
    assert "whether sources keep their promises: ?" in text
    assert "what was not accepted: ?" in text


def test_copies_that_differ_and_proofs_that_are_late_are_on_the_screen(screen):
    """A copy that was proved equal is told by its age; what could not be read is nobody's fault."""
    policy = Policy(
        number=1,
        activated_at=datetime.fromtimestamp(NOW - 90 * 3600, UTC),
        activated_by="t",
        contract=load(bundled()).model_copy(update={"proofs": Proofs(at="02:30")}),
    )

    def outcome(dataset: str, hours: int, **counts: int) -> tuple[Subject, ProofOutcome]:
        at_us = int(NOW - hours * 3600) * 1_000_000
        verdict = "different" if counts else "equal"
        made = ProofOutcome(
            HOUSING, dataset, "copy", verdict, 1, at_us, False, 9, tuple(counts),
            tuple(counts.values()), "t", b"",
        )  # fmt: skip
        return Subject(HOUSING, dataset, "copy"), made

    mine = [s for s in subjects_of(policy) if (s.unit, s.leg) == (HOUSING, "copy")]
    assert len(mine) >= 2
    apply = stage(HOUSING, Verdict.OK, Stage.APPLY, lag_records=0, lag_seconds=0.0)

    def document(outcomes: dict[Subject, ProofOutcome]) -> dict[str, Any]:
        proved = Proved({1: policy}, outcomes)
        return status_document(report(apply), Beside([], [], proved))

    well = document(dict(outcome(one.dataset, 3) for one in mine))
    assert well["exit_code"] == 0
    status_screen(well)
    told = f"proved equal  {len(mine)} of {len(mine)} tables, the oldest 3 h ago"
    assert told in screen.getvalue()
    bad = document(dict([outcome(mine[0].dataset, 2, missing=3, stale=1)]))
    assert bad["exit_code"] == 1
    assert {row["state"] for row in bad["proofs"]} == {"different", "late"}
    status_screen(bad)
    said = f"{mine[0].dataset} as copy: 4 differences 2 h ago (3 missing, 1 stale)"
    assert said in screen.getvalue()
    assert f"--dataset {mine[0].dataset} --leg copy`" in screen.getvalue()
    assert f"{mine[1].dataset} as copy: was never proved" in screen.getvalue()
    assert status_document(report(apply), Beside([], [], None))["exit_code"] == 0
