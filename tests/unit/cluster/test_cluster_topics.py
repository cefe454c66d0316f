"""Topics: what a contract wants, and what is decided when the bus has something else."""

from __future__ import annotations

from typing import Any

import pytest

from deptbus.cluster.topics import Plan, Topic, decide, wanted
from deptbus.contract.model import Contract, Dataset, Unit


def make_contract(partitions: int = 4) -> Contract:
    def dataset(line: str, hours: int) -> Dataset:
        return Dataset(
            title="a",
            title_zh="b",
            line=line,
            levels=("county",),
            schema_version=1,
            key=("id",),
            division="division",
            sharing={},
            retention_hours=hours,
        )

    def unit(name: str) -> Unit:
        return Unit(unit=name, title="a", title_zh="b", owner="c")

    return Contract(
        territories={"330106": "Xihu"},
        lines={},
        units=(unit("housing@330106"), unit("civil_affairs@330106")),
        datasets={"housing_unit": dataset("housing", 24), "resident": dataset("police", 240)},
        grants=(),
        schemas={},
        partitions=partitions,
    )


def of(topics: tuple[Topic, ...], name: str) -> Topic:
    return next(topic for topic in topics if topic.name == name)


TOPICS = wanted(make_contract())
HERE = {topic.name: (topic.partitions, 1) for topic in TOPICS}
SET = {topic.name: {**topic.config, "min.insync.replicas": "1"} for topic in TOPICS}


def plan_of(
    here: dict[str, tuple[int, int]] | None = None,
    configs: dict[str, dict[str, str]] | None = None,
    brokers: int = 1,
) -> Plan:
    return decide(
        TOPICS, HERE if here is None else here, SET if configs is None else configs, brokers
    )


def test_a_contract_wants_these_topics_and_no_others() -> None:
    assert [topic.name for topic in TOPICS] == [
        "bus.agents",
        "bus.alarms",
        "bus.audit",
        "bus.contract",
        "bus.jobs",
        "bus.proofs",
        "bus.quarantine",
        "bus.schemas",
        "control.civil_affairs-330106",
        "control.housing-330106",
        "data.housing_unit",
        "data.resident",
        "in.civil_affairs-330106",
        "in.housing-330106",
        "out.civil_affairs-330106",
        "out.housing-330106",
    ]


@pytest.mark.parametrize(
    ("name", "partitions", "config"),
    [
        ("data.resident", 4, {"cleanup.policy": "compact", "min.compaction.lag.ms": "172800000"}),
        ("out.housing-330106", 4, {"cleanup.policy": "delete", "retention.ms": "86400000"}),
        ("in.housing-330106", 4, {"cleanup.policy": "delete", "retention.ms": "864000000"}),
        ("control.housing-330106", 1, {"cleanup.policy": "compact"}),
        ("bus.contract", 1, {"cleanup.policy": "delete", "retention.ms": "-1"}),
        ("bus.audit", 1, {"cleanup.policy": "delete", "retention.ms": "-1"}),
        ("bus.schemas", 1, {"cleanup.policy": "compact"}),
        ("bus.quarantine", 1, {"cleanup.policy": "compact"}),
    ],
)
def test_a_topic_has_the_settings_of_its_kind(
    name: str, partitions: int, config: dict[str, Any]
) -> None:
    topic = of(TOPICS, name)
    assert topic.partitions == partitions
    assert config.items() <= topic.config.items()
    assert topic.config["max.message.bytes"] == "2097152"


def test_on_an_empty_bus_everything_is_created() -> None:
    plan = plan_of(here={}, configs={})
    assert [t.name for t in plan.create] == [t.name for t in TOPICS]
    assert not plan.change
    assert not plan.refuse


def test_where_all_is_as_wanted_nothing_is_done() -> None:
    plan = plan_of()
    assert plan.is_empty
    assert plan.lines() == []


@pytest.mark.parametrize(
    ("brokers", "replicas", "min_isr"), [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (5, 3, "2")]
)
def test_replicas_and_min_isr_follow_from_the_number_of_brokers(
    brokers: int, replicas: int, min_isr: str
) -> None:
    plan = plan_of(here={}, configs={}, brokers=brokers)
    assert plan.replicas == replicas
    assert {t.config["min.insync.replicas"] for t in plan.create} == {min_isr}


def test_a_setting_that_differs_is_changed_and_others_are_left_alone() -> None:
    configs = {name: dict(config) for name, config in SET.items()}
    configs["out.housing-330106"]["retention.ms"] = "1"
    configs["out.housing-330106"]["compression.type"] = "zstd"
    plan = plan_of(configs=configs)
    assert [(c.topic, c.setting, c.old, c.new) for c in plan.change] == [
        ("out.housing-330106", "retention.ms", "1", "86400000")
    ]


@pytest.mark.parametrize("partitions", [1, 3, 5, 8])
def test_another_number_of_partitions_is_refused_never_changed(partitions: int) -> None:
    plan = plan_of(here={**HERE, "data.resident": (partitions, 1)})
    assert [r.topic for r in plan.refuse] == ["data.resident"]
    assert not plan.create
    assert not plan.change
    assert not plan.is_empty


def test_a_topic_in_the_way_of_a_new_name_is_refused() -> None:
    here = {name: shape for name, shape in HERE.items() if name != "data.housing_unit"}
    plan = plan_of(here={**here, "data.housing.unit": (1, 1)})
    assert [r.topic for r in plan.refuse] == ["data.housing_unit"]
    assert "data.housing.unit" in plan.refuse[0].why


def test_topics_of_nobody_are_noted_and_kept_and_those_of_others_are_not_even_noted() -> None:
    plan = plan_of(here={**HERE, "in.gone-330106": (4, 1), "their-topic": (1, 1), "in": (1, 1)})
    assert plan.is_empty
    assert plan.notes == (
        "in.gone-330106 belongs to no unit or dataset of this contract; it is kept",
    )


def test_a_bus_that_grew_to_three_brokers_is_told_to_reassign() -> None:
    plan = plan_of(brokers=3)
    assert any("data.resident has 1 replicas, 3 are wanted" in note for note in plan.notes)
    # Two in-sync replicas of a topic that has but one would stop every write to it.
    assert not plan.change
