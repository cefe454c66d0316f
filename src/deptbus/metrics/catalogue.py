"""The list of all metrics: name, kind, labels, meaning, and which process tells it.

Nothing is told that is not in this list, and what others say of metrics is made from it or checked
against it. Rules of the list, which a test holds:

1. Base units (seconds, bytes), the unit last; counters end with `_total`.
2. A label is one of LABELS, each of which has few values that the contract, the code or the cluster
   bounds. Never a key, a value, or a person: that goes for owners and operators too.
3. What is not known is absent. A state is never a number; it is a STATE, which is 1 under the one
   label value that holds, and absent under all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    STATE = "state"  # to Prometheus a gauge


class Teller(StrEnum):
    """Which process tells it."""

    ADAPTER = "adapter"
    WORKER = "worker"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Metric:
    """`buckets`: upper bounds of a histogram, without +Inf."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    tellers: tuple[Teller, ...]
    buckets: tuple[float, ...] = ()


LABELS = {
    "component": "which process: `adapter`, `worker`, `monitor`",
    "consumergroup": "a consumer group of the cluster",
    "dataset": "a dataset of the contract",
    "direction": "`horizontal`, `upward`, `downward`, `return`, `granted`",
    "leg": "which part of a proof: `source` (table to bus) or `copy` (bus to copy)",
    "outcome": "what became of a delivery, as `deptbus department status` counts it; of a try to "
    "tell of an alarm: `delivered`, `failed`",
    "partition": "number of a partition",
    "reason": "why something is in quarantine or parked: a word of the code, never a text",
    "scope": "what alarms are about: `cluster`, `lag`, `parked`, `freshness`, `quarantine` or "
    "`group`",
    "stage": "`outbox`, `intake`, `routing`, `apply`",
    "state": "one word of a fixed set; it stands with the metric",
    "system": "a system of the unit, as its department names it",
    "topic": "a topic of the cluster",
    "unit": "a unit of the contract; `bus` for what serves them all",
    "verdict": "as `deptbus lag` gives it; `UNKNOWN` where nobody could tell",
    "version": "of deptbus",
    "way": "a way by which alarms reach people, as the monitor's settings name it",
}

_BATCH_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
# From the commit at the source to the commit at the recipient: a quiet bus needs milliseconds, a
# bureau that was closed for a holiday days.
_END_TO_END_SECONDS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0,
    28_800.0, 86_400.0, 259_200.0, 864_000.0,
)  # fmt: skip

_ADAPTER, _WORKER = (Teller.ADAPTER,), (Teller.WORKER,)
_SYSTEM = ("unit", "system")
_ALL = (Teller.ADAPTER, Teller.WORKER, Teller.MONITOR)
_MONITOR = (Teller.MONITOR,)
_LEG = ("unit", "dataset", "leg")
_GROUP = ("consumergroup", "topic", "partition")
_TOPIC = ("topic", "partition")

METRICS: tuple[Metric, ...] = (
    Metric("deptbus_build_info", Kind.STATE,
           "Which deptbus runs here.", ("component", "version"), _ALL),
    Metric("deptbus_policy_number", Kind.GAUGE,
           "Policy in force as this process knows it; absent where it cannot be read.", (), _ALL),

    # --- an adapter: each system of its departments -----------------------------------------------
    Metric("deptbus_system_state", Kind.STATE,
           "How a system's adapter is: `running`; `waiting` (database or bus is away, it tries "
           "again), `stopped` (a person has to mend it).", (*_SYSTEM, "state"), _ADAPTER),
    Metric("deptbus_outbox_rows", Kind.GAUGE,
           "Rows that wait in the outbox of the department's database, counted up to 10,000.",
           _SYSTEM, _ADAPTER),
    Metric("deptbus_outbox_oldest_age_seconds", Kind.GAUGE,
           "Age of the row that is published next; 0 where none waits.", _SYSTEM, _ADAPTER),
    Metric("deptbus_parked_rows", Kind.GAUGE,
           "Rows that wait for a person: of the source at `outbox`, of its copies at `apply`.",
           (*_SYSTEM, "stage"), _ADAPTER),
    Metric("deptbus_resync_needed", Kind.GAUGE,
           "1 where something was written that capture missed, else 0.", _SYSTEM, _ADAPTER),
    Metric("deptbus_published_changes_total", Kind.COUNTER,
           "Changes that the brokers have acked.", _SYSTEM, _ADAPTER),
    Metric("deptbus_deliveries_total", Kind.COUNTER,
           "Deliveries that were dealt with, by what became of them.",
           (*_SYSTEM, "dataset", "direction", "outcome"), _ADAPTER),
    Metric("deptbus_unreadable_deliveries_total", Kind.COUNTER,
           "Records of the inbox that were noted by their place because they are none of this bus.",
           (*_SYSTEM, "reason"), _ADAPTER),
    Metric("deptbus_apply_seconds", Kind.HISTOGRAM,
           "How long it took to apply a batch, in one transaction.",
           _SYSTEM, _ADAPTER, _BATCH_SECONDS),
    Metric("deptbus_last_apply_timestamp_seconds", Kind.GAUGE,
           "When something was last applied since the adapter began.", _SYSTEM, _ADAPTER),
    Metric("deptbus_end_to_end_seconds", Kind.HISTOGRAM,
           "From the commit at the source to the commit at the recipient, of changes as they "
           "happened: no first loads, no resends, nothing that was there already.",
           ("dataset", "direction"), _ADAPTER, _END_TO_END_SECONDS),

    # --- a worker ---------------------------------------------------------------------------------
    Metric("deptbus_taken_in_records_total", Kind.COUNTER,
           "Records of outboxes that went into a canonical topic.", ("dataset",), _WORKER),
    Metric("deptbus_routed_records_total", Kind.COUNTER,
           "Records of a canonical topic whose deliveries are all acked.", ("dataset",), _WORKER),
    Metric("deptbus_delivered_total", Kind.COUNTER,
           "Deliveries that an inbox has acked.", ("direction",), _WORKER),
    Metric("deptbus_withheld_total", Kind.COUNTER,
           "Deliveries that were not made because the data office holds them back.",
           ("dataset",), _WORKER),
    Metric("deptbus_quarantined_total", Kind.COUNTER,
           "Records that were noted in quarantine.", ("stage", "reason"), _WORKER),
    Metric("deptbus_route_seconds", Kind.HISTOGRAM,
           "How long it took to route a batch.", (), _WORKER, _BATCH_SECONDS),

    # --- the cluster: the figures of `deptbus lag`, `status`, `freshness`, `quarantine` -----------
    Metric("deptbus_look_state", Kind.STATE,
           "What the last look at the cluster was: `whole`, `partial` (a broker did not tell), "
           "`unreachable` (nothing could be told, and no other figure of the cluster is here).",
           ("state",), _MONITOR),
    Metric("deptbus_look_timestamp_seconds", Kind.GAUGE,
           "When the last look that told something began.", (), _MONITOR),
    Metric("deptbus_unit_verdict", Kind.STATE,
           "The verdict of one stage of a unit.", ("unit", "stage", "verdict"), _MONITOR),
    Metric("deptbus_unit_joined", Kind.GAUGE,
           "1 where the stage's reader ever gave a sign of life or committed something, else 0.",
           ("unit", "stage"), _MONITOR),
    Metric("deptbus_unit_lag_records", Kind.GAUGE,
           "Records, or rows of an outbox, that wait at a stage; 0 where only transaction markers "
           "do; absent where one of its partitions could not be seen.",
           ("unit", "stage"), _MONITOR),
    Metric("deptbus_unit_lag_seconds", Kind.GAUGE,
           "Age of the first record that waits at a stage; absent where it is not known.",
           ("unit", "stage"), _MONITOR),
    Metric("deptbus_unit_margin_seconds", Kind.GAUGE,
           "How long what waits at a stage may wait before retention or compaction takes it; +Inf "
           "where nothing is lost by waiting, absent where nobody can tell.",
           ("unit", "stage"), _MONITOR),
    Metric("deptbus_unit_parked_rows", Kind.GAUGE,
           "Rows that wait at a stage for a person.", ("unit", "stage"), _MONITOR),
    Metric("deptbus_unit_opens_timestamp_seconds", Kind.GAUGE,
           "When a unit that has switched off works again; only while it is closed.",
           ("unit", "stage"), _MONITOR),
    Metric("deptbus_freshness", Kind.STATE,
           "Whether a source unit keeps the promise of a dataset: `fresh`, `closed`, `late`, "
           "`silent`, `unknown`.", ("unit", "dataset", "state"), _MONITOR),
    Metric("deptbus_freshness_refresh_timestamp_seconds", Kind.GAUGE,
           "When a source unit last changed a dataset; absent where it is not known.",
           ("unit", "dataset"), _MONITOR),
    Metric("deptbus_freshness_due_timestamp_seconds", Kind.GAUGE,
           "When the promise of a dataset ends unless its source changes it.",
           ("unit", "dataset"), _MONITOR),
    Metric("deptbus_proof_state", Kind.STATE,
           "What the last proof of a source or copy came to: `equal`, `different`; `held` where "
           "all that differs is removals that the source holds; `late` where the contract has an "
           "hour for proofs and none was made for 36 hours; `unproved`. Absent where proofs could "
           "not be read, and where the unit keeps no such table.",
           (*_LEG, "state"), _MONITOR),
    Metric("deptbus_proof_timestamp_seconds", Kind.GAUGE,
           "When a source or copy was proved last; absent where it never was.", _LEG, _MONITOR),
    Metric("deptbus_proof_differences", Kind.GAUGE,
           "Differences that the last proof named, but for removals that the source holds.",
           _LEG, _MONITOR),
    Metric("deptbus_quarantine_open", Kind.GAUGE,
           "Cases of quarantine that nobody has resolved and no newer version has overtaken; all "
           "absent where quarantine could not be read.", ("reason",), _MONITOR),
    Metric("deptbus_hold_begun_timestamp_seconds", Kind.GAUGE,
           "Since when the data office keeps back deliveries to a unit, or of a dataset; the other "
           "label is empty.", ("unit", "dataset"), _MONITOR),

    # --- alarms -----------------------------------------------------------------------------------
    Metric("deptbus_alarms_open", Kind.GAUGE,
           "Alarms that were raised and are not over.", ("scope",), _MONITOR),
    Metric("deptbus_alarm_notices_pending", Kind.GAUGE,
           "Notices that have not arrived yet by a way.", ("way",), _MONITOR),
    Metric("deptbus_alarm_deliveries_total", Kind.COUNTER,
           "Tries to bring a notice to people.", ("way", "outcome"), _MONITOR),

    # --- any reader of the cluster, by the names of kafka_exporter --------------------------------
    Metric("deptbus_partition_state", Kind.STATE,
           "What is known of a consumer group in a partition: `ok`, `never_committed`, `lost`, "
           "`phantom`, `unreachable`.", (*_GROUP, "state"), _MONITOR),
    Metric("kafka_brokers", Kind.GAUGE,
           "Brokers that the cluster has.", (), _MONITOR),
    Metric("kafka_topic_partitions", Kind.GAUGE,
           "Partitions of a topic.", ("topic",), _MONITOR),
    Metric("kafka_topic_partition_leader", Kind.GAUGE,
           "Number of the broker that leads a partition; absent where none does.",
           _TOPIC, _MONITOR),
    Metric("kafka_topic_partition_current_offset", Kind.GAUGE,
           "Last stable offset of a partition that a consumer group reads.", _TOPIC, _MONITOR),
    Metric("kafka_topic_partition_oldest_offset", Kind.GAUGE,
           "Offset at which a partition that a consumer group reads begins.", _TOPIC, _MONITOR),
    Metric("kafka_consumergroup_current_offset", Kind.GAUGE,
           "Committed offset; absent where nothing is committed or nobody can tell.",
           _GROUP, _MONITOR),
    Metric("kafka_consumergroup_lag", Kind.GAUGE,
           "Records that wait for a consumer group; 0 where only transaction markers do; absent "
           "where nobody can tell.", _GROUP, _MONITOR),
    Metric("kafka_consumergroup_members", Kind.GAUGE,
           "Members of a consumer group; absent where nobody can tell.",
           ("consumergroup",), _MONITOR),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in METRICS}
