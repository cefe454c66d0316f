"""The three brokers of docker-compose.yml, run here without a container by their own start script.

Only host names, ports and the folders are replaced; users, rights and replication are the file's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compose import ROOT, brokers, compose, password_of
from confluent_kafka import Producer

from deptbus.cluster import rights, topics
from deptbus.cluster.admin import Admin
from deptbus.cluster.jars import ensure_jars
from deptbus.cluster.java import find_java
from deptbus.cluster.lifeline import bound
from deptbus.cluster.ports import LOOPBACK, free_port
from deptbus.connection import Connection
from deptbus.contract.load import load
from deptbus.errors import BusRefused, BusUnreachable

pytestmark = pytest.mark.service

START_SECONDS = 90.0
OUT = "out.housing-330106"


class Three:
    """The brokers as processes of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._home = folder / "kafka"
        self._addresses: dict[str, str] = {}
        for name in brokers():
            for port in (9092, 9093):
                taken = {int(a.partition(":")[2]) for a in self._addresses.values()}
                free = next(p for p in iter(free_port, 0) if p not in taken)
                self._addresses[f"{name}:{port}"] = f"{LOOPBACK}:{free}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def bootstrap(self) -> str:
        return ",".join(self._addresses[f"{name}:9092"] for name in brokers())

    def client(self, service: str) -> Connection:
        """As which a service of the file connects."""
        words = {
            name.removeprefix("DEPTBUS_").lower(): value
            for name, value in compose()["services"][service]["environment"].items()
            if name.startswith("DEPTBUS_")
        }
        return Connection(**{**words, "bootstrap": self.bootstrap})  # type: ignore[arg-type]

    def start(self) -> None:
        self._write_programs()
        for name, service in brokers().items():
            with (self._folder / f"{name}.out").open("wb") as output:
                self.processes[name] = subprocess.Popen(
                    bound(["/bin/bash", ROOT / "deploy" / "broker.sh"]),
                    env=self._environment(name, service),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        admin = self.client("topics")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if Admin(admin).brokers == 3:
                    return
            except (BusUnreachable, BusRefused):
                # Refused too: a broker answers before it has read its users.
                if time.monotonic() > deadline:
                    raise
            assert all(p.poll() is None for p in self.processes.values()), self._said()
            time.sleep(0.1)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(30)

    def _said(self) -> str:
        return "\n".join(p.read_text(errors="replace")[-1500:] for p in self._folder.glob("*.out"))

    def _environment(self, name: str, service: dict[str, Any]) -> dict[str, str]:
        words = {"PATH": os.environ["PATH"], "KAFKA_HOME": str(self._home)}
        for variable, text in service["environment"].items():
            value = str(text)
            for place, address in self._addresses.items():
                value = value.replace(place, address)
            if variable == "BROKER_LISTENERS":  # every address of a container: here the loopback's
                for port in (9092, 9093):
                    value = value.replace(f"://:{port}", f"://{self._addresses[f'{name}:{port}']}")
            words[variable] = value
        words["BROKER_LOG_DIRS"] = str(self._folder / name / "log")
        words["KAFKA_HEAP_OPTS"] = "-Xms128m -Xmx256m"
        return words

    def _write_programs(self) -> None:
        """The two programs of Kafka's distribution that the script calls, made of our jars."""
        java = f"{find_java()} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 $KAFKA_HEAP_OPTS"
        path = os.pathsep.join(map(str, ensure_jars()))
        (self._home / "bin").mkdir(parents=True)
        for program, main in (
            ("kafka-storage.sh", "kafka.tools.StorageTool"),
            ("kafka-server-start.sh", "kafka.Kafka"),
        ):
            file = self._home / "bin" / program
            file.write_text(f'#!/bin/sh\nexec {java} -cp "{path}" {main} "$@"\n')
            file.chmod(0o755)


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

    three.processes["kafka-2"].send_signal(signal.SIGKILL)
    three.processes["kafka-2"].wait(10)
    assert write(adapter, OUT, 100) == [None] * 100


def test_nobody_comes_in_without_a_password_or_with_a_wrong_one(three: Three) -> None:
    right = three.client("adapter")
    wrong = right.model_dump(exclude_none=True) | {"sasl_password": password_of("NOBODY")}
    with pytest.raises(BusRefused):
        Admin(Connection(**wrong))
    with pytest.raises(BusUnreachable):
        Admin(Connection(bootstrap=three.bootstrap))
