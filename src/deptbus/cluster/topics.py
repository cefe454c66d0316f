"""Topics: which ones a contract needs, what is to be done for them, and doing it.

`plan` reads and decides, `apply` acts; applied twice, the second time does nothing. Nothing is ever
deleted, and the number of partitions of a topic that exists is never changed: keys would move.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from deptbus import names
from deptbus.cluster.admin import REQUEST_SECONDS, Admin
from deptbus.cluster.settings import MAX_MESSAGE_BYTES
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusUnreachable, DeptbusError, Exit

log = structlog.get_logger(__name__)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# Who folds `data` and who keeps the highest version last must meet every record before compaction
# may remove it (design, section 4).
MIN_COMPACTION_LAG_MS = 2 * DAY_MS
REPLICAS = 3  # where there are as many brokers; with two brokers two, with one one
CREATED_AT_ONCE = 40
APPEAR_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the contract wants it. `config` holds only the settings that we care about."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ConfigChange:
    topic: str
    setting: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A topic that stands in the way and that only a person can move."""

    topic: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` will do, and what it will not touch."""

    create: tuple[Topic, ...]
    change: tuple[ConfigChange, ...]
    refuse: tuple[Refusal, ...]
    notes: tuple[str, ...]
    replicas: int

    @property
    def is_empty(self) -> bool:
        return not (self.create or self.change or self.refuse)

    def lines(self) -> list[str]:
        """The plan for a reader, one line each."""
        return [
            *(f"create {t.name} ({t.partitions} partitions)" for t in self.create),
            *(f"change {c.topic}: {c.setting} {c.old} -> {c.new}" for c in self.change),
            *(f"refuse {r.topic}: {r.why}. {r.mend}" for r in self.refuse),
            *(f"note {note}" for note in self.notes),
        ]


def wanted_before_any_contract() -> tuple[Topic, ...]:
    """The topics that are the same under every contract: where a contract itself is read from."""
    return (
        _topic(names.CONTRACT, 1, _kept_for_ever()),
        _topic(names.SCHEMAS, 1, _compacted()),
        _topic(names.QUARANTINE, 1, _compacted()),
        _topic(names.AUDIT, 1, _kept_for_ever()),
        _topic(names.AGENTS, 1, _compacted_often()),
        _topic(names.JOBS, 1, _compacted_often()),
        _topic(names.ALARMS, 1, _compacted_often()),
        _topic(names.PROOFS, 1, _compacted_often()),
    )


def wanted(contract: Contract) -> tuple[Topic, ...]:
    """All topics of a bus under this contract, by name."""
    hours = max((d.retention_hours for d in contract.datasets.values()), default=168)
    topics = [*wanted_before_any_contract()]
    for dataset in contract.datasets:
        lag = {"min.compaction.lag.ms": str(MIN_COMPACTION_LAG_MS)}
        topics.append(_topic(names.data_topic(dataset), contract.partitions, _compacted() | lag))
    for unit in contract.units:
        published = [contract.datasets[d].retention_hours for d in contract.published_by(unit.unit)]
        out_hours = max(published, default=hours)
        topics += [
            _topic(names.out_topic(unit.unit), contract.partitions, _queue(out_hours)),
            # An inbox holds what anybody sends: the longest retention of all.
            _topic(names.in_topic(unit.unit), contract.partitions, _queue(hours)),
            _topic(names.control_topic(unit.unit), 1, _compacted_often()),
        ]
    return tuple(sorted(topics, key=lambda t: t.name))


def plan(connection: Connection, topics: Iterable[Topic]) -> Plan:
    """What is to be done so that `topics` exist as wanted. Changes nothing."""
    admin = Admin(connection)
    metadata = admin.metadata()
    there = {
        name: (len(t.partitions), min((len(p.replicas) for p in t.partitions.values()), default=0))
        for name, t in metadata.topics.items()
    }
    topics = tuple(topics)
    configs = _configs(admin, [t.name for t in topics if t.name in there])
    return decide(topics, there, configs, admin.brokers)


def decide(
    topics: Iterable[Topic],
    there: Mapping[str, tuple[int, int]],
    configs: Mapping[str, Mapping[str, str]],
    brokers: int,
) -> Plan:
    """Pure part of `plan`. `there`: name -> (partitions, replicas); `configs`: of wanted topics."""
    replicas = min(REPLICAS, brokers)
    create, change, refuse, notes = [], [], [], []
    by_metric_name = {_metric_name(name): name for name in there}
    wanted_names = set()
    for topic in topics:
        topic = _with_min_isr(topic, replicas)
        wanted_names.add(topic.name)
        if topic.name not in there:
            rival = by_metric_name.get(_metric_name(topic.name))
            if rival is None:
                create.append(topic)
            else:
                why = f"topic {rival} is in the way (Kafka does not tell `.` from `_` in names)"
                refuse.append(Refusal(topic.name, why, "Remove that topic"))
            continue
        partitions, copies = there[topic.name]
        if partitions != topic.partitions:
            why = f"it has {partitions} partitions, the contract says {topic.partitions}"
            mend = "Set `partitions` back: another number would move keys between partitions"
            refuse.append(Refusal(topic.name, why, mend))
            continue
        if copies < replicas:
            notes.append(f"{topic.name} has {copies} replicas, {replicas} are wanted: reassign it")
        now = configs[topic.name]
        change += [
            ConfigChange(topic.name, setting, now.get(setting, "unset"), value)
            for setting, value in topic.config.items()
            if now.get(setting) != value and not (setting == _MIN_ISR and copies < replicas)
        ]
    notes += [
        f"{name} belongs to no unit or dataset of this contract; it is kept"
        for name in sorted(there)
        if _is_ours(name) and name not in wanted_names
    ]
    return Plan(tuple(create), tuple(change), tuple(refuse), tuple(notes), replicas)


def apply(connection: Connection, todo: Plan) -> None:
    """Does what the plan says; returns when every new topic can be used. Idempotent.

    Raises DeptbusError, before anything is done, when the plan refuses something.
    """
    if todo.refuse:
        first = todo.refuse[0]
        error = DeptbusError(f"topic {first.topic}: {first.why}", mend=first.mend)
        error.exit_code = Exit.ANSWER_IS_NO
        raise error
    admin = Admin(connection)
    for start in range(0, len(todo.create), CREATED_AT_ONCE):
        _create(admin, todo.create[start : start + CREATED_AT_ONCE], todo.replicas)
    _wait_until_led(admin, {t.name for t in todo.create})
    _change(admin, todo.change)
    log.info("topics_applied", created=len(todo.create), changed=len(todo.change))


_MIN_ISR = "min.insync.replicas"


def _topic(name: str, partitions: int, config: dict[str, str]) -> Topic:
    return Topic(name, partitions, config | {"max.message.bytes": str(MAX_MESSAGE_BYTES)})


def _queue(hours: int) -> dict[str, str]:
    retention = hours * HOUR_MS
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention),
        # Whole segments are removed: short ones, so that little stays much longer than promised.
        "segment.ms": str(min(DAY_MS, max(HOUR_MS, retention // 7))),
    }


def _kept_for_ever() -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def _compacted() -> dict[str, str]:
    # The open segment is never compacted: close it daily, also on a quiet topic.
    return {"cleanup.policy": "compact", "segment.ms": str(DAY_MS)}


def _compacted_often() -> dict[str, str]:
    """For heartbeats and progress, which are read from the beginning at every start."""
    return {
        "cleanup.policy": "compact",
        "segment.ms": str(HOUR_MS // 6),
        "min.cleanable.dirty.ratio": "0.1",
    }


def _with_min_isr(topic: Topic, replicas: int) -> Topic:
    """Two of three must have a record before it is acked; with fewer brokers there is no choice."""
    config = dict(topic.config) | {_MIN_ISR: "2" if replicas >= REPLICAS else "1"}
    return Topic(topic.name, topic.partitions, config)


def _metric_name(topic: str) -> str:
    return topic.replace(".", "_")


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("out", "in", "control", "data", "bus") and "." in name


def _configs(admin: Admin, topics: list[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
    if not resources:
        return {}
    futures = admin.client.describe_configs(resources, request_timeout=REQUEST_SECONDS)
    return {
        resource.name: {entry.name: entry.value for entry in entries.values()}
        for resource, entries in admin.results(futures).items()
    }


def _create(admin: Admin, topics: Iterable[Topic], replicas: int) -> None:
    new = [NewTopic(t.name, t.partitions, replicas, config=dict(t.config)) for t in topics]
    futures = admin.client.create_topics(
        new, operation_timeout=REQUEST_SECONDS, request_timeout=REQUEST_SECONDS
    )
    with admin.translated():
        for future in futures.values():
            try:
                future.result(REQUEST_SECONDS)
            except KafkaException as error:
                # Another `apply` was quicker: what it made is what we want too.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise


def _wait_until_led(admin: Admin, topics: set[str]) -> None:
    """A topic that was just created has no leaders for an instant, and clients would see errors."""
    deadline = time.monotonic() + APPEAR_SECONDS
    while True:
        there = admin.metadata().topics
        late = {
            name
            for name in topics
            if name not in there
            or not there[name].partitions
            or any(p.leader < 0 for p in there[name].partitions.values())
        }
        if not late:
            return
        if time.monotonic() > deadline:
            raise BusUnreachable(
                f"topic {min(late)} has no leader {APPEAR_SECONDS:.0f} s after it was created",
                mend="Look whether the brokers are well, then apply again",
            )
        time.sleep(0.05)


def _change(admin: Admin, changes: tuple[ConfigChange, ...]) -> None:
    resources: dict[str, ConfigResource] = {}
    for change in changes:
        resource = resources.setdefault(
            change.topic, ConfigResource(ResourceType.TOPIC, change.topic)
        )
        resource.add_incremental_config(
            ConfigEntry(change.setting, change.new, incremental_operation=AlterConfigOpType.SET)
        )
    if resources:
        admin.results(
            admin.client.incremental_alter_configs(
                list(resources.values()), request_timeout=REQUEST_SECONDS
            )
        )
        _wait_until_set(admin, changes)


def _wait_until_set(admin: Admin, changes: tuple[ConfigChange, ...]) -> None:
    """The controller said yes; the broker that is asked learns of it a moment later."""
    deadline = time.monotonic() + APPEAR_SECONDS
    topics = sorted({change.topic for change in changes})
    while True:
        now = _configs(admin, topics)
        late = [change for change in changes if now[change.topic].get(change.setting) != change.new]
        if not late:
            return
        if time.monotonic() > deadline:
            raise BusUnreachable(
                f"{late[0].setting} of {late[0].topic} is not set after {APPEAR_SECONDS:.0f} s",
                mend="Look whether the brokers are well, then apply again",
            )
        time.sleep(0.05)
