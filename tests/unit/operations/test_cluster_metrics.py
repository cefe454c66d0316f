"""The cluster's figures for Prometheus: the same as of `deptbus lag`, and unknown is never 0."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from deptbus.contract.model import Hold
from deptbus.metrics.catalogue import BY_NAME, Teller
from deptbus.metrics.endpoint import text_of
from deptbus.operations import cluster_metrics
from deptbus.operations.cluster_metrics import ClusterCollector, ClusterReport
from deptbus.operations.freshness import Fresh, Freshness
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag import Lag, PartitionState, Place, Seen
from deptbus.operations.lag_report import partition_row, unit_row
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.observer import Picture
from deptbus.operations.offset_requests import Cluster, Group, Topic
from deptbus.operations.proofs import ProofRow, ProofState, Subject
from deptbus.operations.quarantine import Case
from deptbus.operations.stages import BUS, Stage, StageReport, unit_report
from deptbus.operations.verdicts import Track, Verdict
from deptbus.wire.control import ProofOutcome, QuarantineNote, Resolution

NOW = 1_800_000_000.0
HOUSING, POLICE = "housing@330106", "public_security@330106"
INBOX, ADAPTER = "in.housing-330106", "deptbus.adapter.housing-330106.main"
PERSONAL = "330106199003071234"

# Where it is, what is seen, what is known of it.
TRACKS = {
    Place(ADAPTER, INBOX, 0): (Seen(4, 2, 9), Lag(PartitionState.OK, 5, 300.0, waits=True)),
    Place(ADAPTER, INBOX, 1): (Seen(4, 2, 9), Lag(PartitionState.UNREACHABLE, reason="away")),
    Place(ADAPTER, INBOX, 2): (Seen(4, 2, 9), Lag(PartitionState.PHANTOM, 0, 0.0, waits=False)),
    Place(ADAPTER, INBOX, 3): (Seen(None, 2, 9), Lag(PartitionState.NEVER_COMMITTED, waits=True)),
    Place("theirs", "orders", 0): (
        Seen(1, 3, 9),
        Lag(PartitionState.LOST, 6, 60.0, gone=2, waits=True),
    ),
    Place("others", "orders", 0): (Seen(9, 3, 9), Lag(PartitionState.OK, 0, 0.0, waits=False)),
}


def stage(unit: str, verdict: Verdict | None, at: Stage, **words: Any) -> StageReport:
    given: dict[str, Any] = {"lag_records": 5, "lag_seconds": 300.0, "since": NOW - 300}
    return StageReport(unit, at, f"Li Wei, {PERSONAL}", verdict, **(given | words))


STAGES = (
    stage(BUS, Verdict.OK, Stage.ROUTING, lag_records=0, lag_seconds=0.0),
    stage(HOUSING, Verdict.STALLED, Stage.APPLY, margin_seconds=7200.0),
    stage(POLICE, None, Stage.APPLY, lag_records=None, lag_seconds=None, margin_seconds=None),
    stage(POLICE, Verdict.OK, Stage.OUTBOX, parked=3, closed_until=NOW + 60),
    stage("new@330106", Verdict.BEHIND, Stage.APPLY, has_lived=False),
)


def lag_report(**words: Any) -> LagReport:
    tracks = {
        place: Track(NOW, seen, lag, Verdict.STALLED if lag.waits else Verdict.OK, NOW)
        for place, (seen, lag) in TRACKS.items()
    }
    groups: dict[str, Group | str] = {
        ADAPTER: Group("Empty", ""),
        "theirs": Group("Stable", "consumer"),
        "others": "coordinator_away",
    }
    topics = {INBOX: Topic("id", False, (1, -1, 1, 1)), "orders": Topic("id", False, (2,))}
    cluster, members = Cluster((1, 2), topics), {ADAPTER: 0, "theirs": 3}
    picture = Picture(NOW, cluster, groups, True, tracks, members)
    units = {s.unit: unit_report([t for t in STAGES if t.unit == s.unit]) for s in STAGES}
    given: dict[str, Any] = {"has_contract": True, "policy": 7}
    return LagReport(NOW, picture, tuple(units.values()), STAGES, **(given | words))


def scrape(report: ClusterReport | None) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values in the order of the list) -> number."""
    registry = CollectorRegistry()
    registry.register(ClusterCollector(lambda: report))
    text = text_of(registry)[0].decode()
    assert PERSONAL not in text
    assert "Li Wei" not in text
    return {
        (s.name, tuple(s.labels[label] for label in BY_NAME[s.name].labels)): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


@pytest.fixture
def told() -> dict[tuple[str, tuple[str, ...]], float]:
    return scrape(ClusterReport(lag_report()))


def of(told: dict[Any, float], name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for (found, labels), value in told.items() if found == name}


def test_partitions_have_the_figures_of_lag_and_what_is_unknown_is_absent(told: Any) -> None:
    rows = [partition_row(p, t) for p, t in lag_report().picture.tracks.items()]
    expected = {
        (row["group"], row["topic"], str(row["partition"])): float(row["lag_records"])
        for row in rows
        if row["lag_records"] is not None and row["state"] != "unreachable"
    }
    assert of(told, "kafka_consumergroup_lag") == expected
    assert (ADAPTER, INBOX, "1") not in expected
    committed = {
        (row["group"], row["topic"], str(row["partition"])): float(row["committed"])
        for row in rows
        if row["committed"] is not None
    }
    assert of(told, "kafka_consumergroup_current_offset") == committed
    assert of(told, "kafka_topic_partition_current_offset") == {
        (row["topic"], str(row["partition"])): float(row["end"]) for row in rows if row["end"]
    }


def test_a_state_stands_beside_every_partition(told: Any) -> None:
    assert of(told, "deptbus_partition_state") == {
        (*map(str, place), lag.state.value): 1.0 for place, (_, lag) in TRACKS.items()
    }


def test_units_have_the_figures_of_lag(told: Any) -> None:
    for report in STAGES:
        row, labels = unit_row(report), (report.unit, report.stage.value)
        verdict = row["verdict"] or "UNKNOWN"
        assert of(told, "deptbus_unit_verdict")[*labels, verdict] == 1
        assert of(told, "deptbus_unit_lag_records").get(labels) == row["lag_records"]
        assert of(told, "deptbus_unit_lag_seconds").get(labels) == row["lag_seconds"]
    assert len(of(told, "deptbus_unit_verdict")) == len(STAGES)
    margins = of(told, "deptbus_unit_margin_seconds")
    assert margins[HOUSING, "apply"] == 7200.0
    assert margins[BUS, "routing"] == float("inf")
    assert (POLICE, "apply") not in margins
    assert of(told, "deptbus_unit_opens_timestamp_seconds") == {(POLICE, "outbox"): NOW + 60}
    assert of(told, "deptbus_unit_parked_rows")[POLICE, "outbox"] == 3
    assert of(told, "deptbus_unit_joined")["new@330106", "apply"] == 0
    assert of(told, "deptbus_unit_joined")[HOUSING, "apply"] == 1


def test_groups_topics_and_the_look(told: Any) -> None:
    assert of(told, "kafka_consumergroup_members") == {(ADAPTER,): 0, ("theirs",): 3}
    assert of(told, "kafka_topic_partitions") == {(INBOX,): 4, ("orders",): 1}
    assert (INBOX, "1") not in of(told, "kafka_topic_partition_leader")
    assert told["kafka_brokers", ()] == 2
    assert told["deptbus_policy_number", ()] == 7
    assert told["deptbus_look_timestamp_seconds", ()] == NOW
    assert of(told, "deptbus_look_state") == {("whole",): 1}


def test_after_a_look_that_failed_there_is_a_state_and_no_number() -> None:
    assert scrape(None) == {("deptbus_look_state", ("unreachable",)): 1}


def test_freshness_and_holds() -> None:
    def row(dataset: str, said: Freshness) -> FreshnessRow:
        return FreshnessRow(HOUSING, dataset, f"Li Wei, {PERSONAL}", 24.0, said)

    rows = [
        row("resident", Freshness(Fresh.LATE, NOW - 60, NOW - 5)),
        row("household", Freshness(None, None, None)),
    ]
    since = datetime(2027, 1, 14, tzinfo=UTC)
    hold = Hold(dataset="resident", reason="r", held_by=f"Li Wei {PERSONAL}", held_at=since)
    told = scrape(ClusterReport(lag_report(holds=(hold,)), rows))
    assert of(told, "deptbus_freshness") == {
        (HOUSING, "resident", "late"): 1,
        (HOUSING, "household", "unknown"): 1,
    }
    refreshed = of(told, "deptbus_freshness_refresh_timestamp_seconds")
    assert refreshed == {(HOUSING, "resident"): NOW - 60}
    assert of(told, "deptbus_freshness_due_timestamp_seconds") == {(HOUSING, "resident"): NOW - 5}
    begun = of(told, "deptbus_hold_begun_timestamp_seconds")
    assert begun == {("", "resident"): since.timestamp()}


def case(reason: str, offset: int, **words: Any) -> Case:
    place = {"topic": "out.housing-330106", "partition": 0, "offset": offset}
    note = QuarantineNote(
        **place, last_offset=offset, reason=reason, owner=PERSONAL, unit=HOUSING,
        dataset="resident", key=bytes(16), version=1, noted_at_us=1,
    )  # fmt: skip
    return Case(note, **words)


def test_quarantine_counts_what_is_open_and_a_reason_without_cases_is_0() -> None:
    dismissed = Resolution(
        topic="out.housing-330106", partition=0, offset=3, outcome="dismissed", act="a",
        operator=PERSONAL, reason="r", request="", datasets=(), key=None, resolved_at_us=2,
    )  # fmt: skip
    cases = [
        case("fenced", 1),
        case("fenced", 2, superseded=True),
        case("fenced", 3, resolution=dismissed),
        case(PERSONAL, 4),
    ]
    opened = of(scrape(ClusterReport(lag_report(), None, cases)), "deptbus_quarantine_open")
    assert opened["fenced",] == 1
    assert opened["other",] == 1
    assert opened["bad_division",] == 0
    assert {reason for (reason,) in opened} == cluster_metrics.REASONS


def proof(dataset: str, state: ProofState, differences: int | None) -> ProofRow:
    """`differences` None: it was never proved."""
    outcome = None
    if differences is not None:
        outcome = ProofOutcome(
            HOUSING, dataset, "copy", "equal", 7, int(NOW) * 1_000_000, False, 10,
            ("held", "missing"), (60, differences), PERSONAL, b"",
        )  # fmt: skip
    return ProofRow(Subject(HOUSING, dataset, "copy"), state, outcome)


def test_proofs_have_a_state_each_and_figures_where_there_was_one(told: Any) -> None:
    rows = [
        proof("resident", ProofState.DIFFERENT, 3),
        proof("household", ProofState.LATE, None),
    ]
    seen = scrape(ClusterReport(lag_report(), proofs=rows))
    assert of(seen, "deptbus_proof_state") == {
        (HOUSING, "resident", "copy", "different"): 1,
        (HOUSING, "household", "copy", "late"): 1,
    }
    assert of(seen, "deptbus_proof_timestamp_seconds") == {(HOUSING, "resident", "copy"): int(NOW)}
    assert of(seen, "deptbus_proof_differences") == {(HOUSING, "resident", "copy"): 3}
    for name in ("state", "timestamp_seconds", "differences"):  # they could not be read
        assert of(told, f"deptbus_proof_{name}") == {}


def test_quarantine_that_could_not_be_read_has_no_number(told: Any) -> None:
    assert of(told, "deptbus_quarantine_open") == {}


def test_the_monitor_tells_all_that_the_list_gives_it(told: Any) -> None:
    rows = [FreshnessRow(HOUSING, "resident", "", 24.0, Freshness(Fresh.FRESH, NOW, NOW))]
    hold = Hold(unit=HOUSING, reason="r", held_by="b", held_at=datetime(2027, 1, 14, tzinfo=UTC))
    proofs = [proof("resident", ProofState.EQUAL, 0)]
    full = scrape(ClusterReport(lag_report(holds=(hold,)), rows, [case("fenced", 1)], proofs))
    by_monitor = {name for name, m in BY_NAME.items() if Teller.MONITOR in m.tellers}
    others = {name for name in by_monitor if name.startswith("deptbus_alarm")}  # of another teller
    assert {name for name, _ in full} == by_monitor - {"deptbus_build_info"} - others


# --- planted bugs: each is what an exporter commonly does -----------------------------------------


def test_planted_unknown_lag_told_as_0_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_metrics, "waiting_records", lambda track: track.lag.records or 0)
    with pytest.raises(AssertionError):
        test_partitions_have_the_figures_of_lag_and_what_is_unknown_is_absent(
            scrape(ClusterReport(lag_report()))
        )


def test_planted_phantom_lag_told_as_offsets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_offsets(track: Track) -> int | None:
        seen = track.seen
        return None if seen is None or seen.committed is None else seen.end - seen.committed

    monkeypatch.setattr(cluster_metrics, "waiting_records", by_offsets)
    with pytest.raises(AssertionError):
        test_partitions_have_the_figures_of_lag_and_what_is_unknown_is_absent(
            scrape(ClusterReport(lag_report()))
        )


def test_planted_owner_as_a_label_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = BY_NAME["deptbus_unit_verdict"]
    leaky = replace(unit, labels=(*unit.labels, "owner"))
    monkeypatch.setattr(
        "deptbus.metrics.families.BY_NAME", MappingProxyType({**BY_NAME, unit.name: leaky})
    )
    real = cluster_metrics.Families.tell_state

    def with_owner(self: Any, name: str, labels: Any) -> None:
        owner = [STAGES[0].owner] if name == unit.name else []
        real(self, name, [*labels, *owner])

    monkeypatch.setattr(cluster_metrics.Families, "tell_state", with_owner)
    with pytest.raises(AssertionError):
        scrape(ClusterReport(lag_report()))
