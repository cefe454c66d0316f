"""The cluster's figures for Prometheus: those of `deptbus lag`, `freshness` and `quarantine`.

A state is never turned into a number. What could not be seen has no sample, and a state says so:
`deptbus_partition_state{state="unreachable"}`, `deptbus_unit_verdict{verdict="UNKNOWN"}`,
`deptbus_freshness{state="unknown"}`; after a look that failed as a whole all figures are absent
beside `deptbus_look_state{state="unreachable"}`. Lag that is only transaction markers is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from deptbus.metrics.families import Families
from deptbus.operations.freshness_report import FreshnessRow
from deptbus.operations.lag import PartitionState, Place
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.proofs import ProofRow, differences_of
from deptbus.operations.quarantine import UNRESOLVED, Case
from deptbus.operations.stages import Stage, StageReport, unit_report
from deptbus.operations.verdicts import Track
from deptbus.stream.quarantine import REASONS as STREAM_REASONS
from deptbus.wire.guard import REASONS as WIRE_REASONS

UNKNOWN_VERDICT, UNKNOWN_STATE, OTHER_REASON = "UNKNOWN", "unknown", "other"
REASONS = frozenset(STREAM_REASONS | WIRE_REASONS) | {OTHER_REASON}
_PARKING = (Stage.OUTBOX, Stage.APPLY)


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """What was seen at one look. None: that part could not be told."""

    lag: LagReport
    freshness: Sequence[FreshnessRow] | None = None
    quarantine: Sequence[Case] | None = None
    proofs: Sequence[ProofRow] | None = None


class ClusterCollector(Collector):
    """`report`: the last look's, None when it failed or there was none yet. Called at each scrape,
    from whichever thread serves it; asks the bus nothing."""

    def __init__(self, report: Callable[[], ClusterReport | None]) -> None:
        self._report = report

    def describe(self) -> Iterable[Family]:
        """Nothing is asked when it is registered."""
        return ()

    def collect(self) -> Iterator[Family]:
        told = Families()
        report = self._report()
        if report is None:
            told.tell_state("deptbus_look_state", ["unreachable"])
        else:
            _tell_look(told, report.lag)
            _tell_units(told, report.lag)
            _tell_partitions(told, report.lag)
            _tell_groups(told, report.lag)
            _tell_freshness(told, report.freshness or ())
            _tell_proofs(told, report.proofs or ())
            if report.quarantine is not None:
                _tell_quarantine(told, report.quarantine)
        yield from told


def _tell_look(told: Families, lag: LagReport) -> None:
    cluster = lag.picture.cluster
    told.tell_state("deptbus_look_state", ["whole" if lag.picture.is_whole else "partial"])
    told.tell("deptbus_look_timestamp_seconds", [], lag.at)
    told.tell("deptbus_policy_number", [], lag.policy)
    told.tell("kafka_brokers", [], len(cluster.brokers))
    for hold in lag.holds:
        since = hold.held_at.timestamp()
        told.tell("deptbus_hold_begun_timestamp_seconds", hold.target, since)
    for name, topic in cluster.topics.items():
        told.tell("kafka_topic_partitions", [name], len(topic.leaders))
        for partition, leader in enumerate(topic.leaders):
            known = leader if leader >= 0 else None
            told.tell("kafka_topic_partition_leader", [name, str(partition)], known)


def _tell_units(told: Families, lag: LagReport) -> None:
    """A unit with several systems has several reports of a stage: the worst speaks, as in
    `deptbus lag`."""
    by_stage: dict[tuple[str, Stage], list[StageReport]] = {}
    for report in lag.stages:
        by_stage.setdefault((report.unit, report.stage), []).append(report)
    for (unit, stage), reports in by_stage.items():
        worst = unit_report(reports)
        labels = (unit, stage.value)
        verdict = str(worst.verdict) if worst.verdict is not None else UNKNOWN_VERDICT
        told.tell_state("deptbus_unit_verdict", [*labels, verdict])
        told.tell("deptbus_unit_joined", labels, int(any(r.has_lived for r in reports)))
        told.tell("deptbus_unit_lag_records", labels, worst.lag_records)
        told.tell("deptbus_unit_lag_seconds", labels, worst.lag_seconds)
        told.tell("deptbus_unit_margin_seconds", labels, worst.margin_seconds)
        told.tell("deptbus_unit_opens_timestamp_seconds", labels, worst.closed_until)
        if stage in _PARKING:
            rows = [r.parked for r in reports]
            known = None if None in rows else sum(filter(None, rows))
            told.tell("deptbus_unit_parked_rows", labels, known)


def _tell_partitions(told: Families, lag: LagReport) -> None:
    seen_spots: set[tuple[str, int]] = set()  # several groups may read one partition
    for place, track in lag.picture.tracks.items():
        labels = (place.group, place.topic, str(place.partition))
        state = track.lag.state
        told.tell_state("deptbus_partition_state", [*labels, state.value])
        told.tell("kafka_consumergroup_lag", labels, waiting_records(track))
        if state is PartitionState.UNREACHABLE or track.seen is None:
            continue  # what was seen before is not so now
        told.tell("kafka_consumergroup_current_offset", labels, track.seen.committed)
        spot = place.topic, place.partition
        if spot not in seen_spots:
            seen_spots.add(spot)
            _tell_spot(told, place, track)


def _tell_spot(told: Families, place: Place, track: Track) -> None:
    labels = (place.topic, str(place.partition))
    assert track.seen is not None
    told.tell("kafka_topic_partition_current_offset", labels, track.seen.end)
    told.tell("kafka_topic_partition_oldest_offset", labels, track.seen.start)


def waiting_records(track: Track) -> int | None:
    """Records that wait; 0 where it is known that none does, None where nobody can tell."""
    if track.lag.state is PartitionState.UNREACHABLE:
        return None
    return 0 if track.lag.waits is False else track.lag.records


def _tell_groups(told: Families, lag: LagReport) -> None:
    for group, members in lag.picture.members.items():
        told.tell("kafka_consumergroup_members", [group], members)


def _tell_freshness(told: Families, rows: Iterable[FreshnessRow]) -> None:
    for row in rows:
        labels, said = (row.unit, row.dataset), row.said
        state = said.state.value if said.state is not None else UNKNOWN_STATE
        told.tell_state("deptbus_freshness", [*labels, state])
        told.tell("deptbus_freshness_refresh_timestamp_seconds", labels, said.last)
        told.tell("deptbus_freshness_due_timestamp_seconds", labels, said.due)


def _tell_proofs(told: Families, rows: Iterable[ProofRow]) -> None:
    for row in rows:
        told.tell_state("deptbus_proof_state", [*row.subject, row.state.value])
        if row.outcome is not None:
            at = row.outcome.proved_at_us / 1e6
            told.tell("deptbus_proof_timestamp_seconds", row.subject, at)
            told.tell("deptbus_proof_differences", row.subject, differences_of(row.outcome))


def _tell_quarantine(told: Families, cases: Iterable[Case]) -> None:
    """Every reason has a number: where quarantine was read, one without cases has none, and a first
    case is a growth. A note's reason that this version does not know is no label."""
    counts = Counter(
        case.note.reason if case.note.reason in REASONS else OTHER_REASON
        for case in cases
        if case.state in UNRESOLVED
    )
    for reason in sorted(REASONS):
        told.tell("deptbus_quarantine_open", [reason], counts[reason])
