"""The three brokers of docker-compose.yml: they take the contract, and outlive one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from compose import ROOT, password_of
from confluent_kafka import Producer
from three_brokers import Three

from deptbus.cluster import rights, topics
from deptbus.cluster.admin import Admin
from deptbus.connection import Connection
from deptbus.contract.load import load
from deptbus.errors import BusRefused, BusUnreachable

pytestmark = pytest.mark.service

OUT = "out.housing-330106"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    cluster = Three(tmp_path_factory.mktemp("three"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def write(connection: Connection, topic: str, count: int) -> list[int | None]:
    """Error codes of `count` records' deliveries, None for each that was acked by all."""
    outcome: list[int | None] = []
    words = {
        "acks": "all",
        "enable.idempotence": True,
        "log_level": 0,
        "message.timeout.ms": 40_000,
    }
    producer = Producer(connection.librdkafka() | words)
    for number in range(count):
        producer.produce(
            topic,
            str(number).encode(),
            on_delivery=lambda error, _: outcome.append(error.code() if error else None),
        )
    producer.flush(45)
    return outcome


def test_the_files_cluster_takes_the_contract_and_outlives_a_broker(three: Three) -> None:
    admin = three.client("topics")
    contract = load(ROOT)
    topics.apply(admin, topics.plan(admin, topics.wanted(contract)))
    # Each broker learns of topics and rights in its own time, and any of them may answer.
    until(lambda: topics.plan(admin, topics.wanted(contract)).is_empty)
    made = Admin(admin).metadata().topics[OUT].partitions.values()
    assert all(len(partition.replicas) == 3 for partition in made)
    rights.apply(admin, rights.plan(admin, rights.rights_for(contract)))
    until(lambda: rights.plan(admin, rights.rights_for(contract)).is_empty)

    adapter = three.client("adapter")
    own = {OUT, "in.housing-330106", "control.housing-330106", "bus.contract", "bus.schemas"}
    until(lambda: set(Admin(adapter).metadata().topics) == own)
    assert write(adapter, OUT, 100) == [None] * 100

    three.kill("kafka-2")
    assert write(adapter, OUT, 100) == [None] * 100


def test_nobody_comes_in_without_a_password_or_with_a_wrong_one(three: Three) -> None:
    right = three.client("adapter")
    wrong = right.model_dump(exclude_none=True) | {"sasl_password": password_of("NOBODY")}
    with pytest.raises(BusRefused):
        Admin(Connection(**wrong))
    with pytest.raises(BusUnreachable):
        Admin(Connection(bootstrap=three.bootstrap))
