"""The embedded broker: what it holds survives everything, and each trouble is one clear line."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deptbus.cluster import embedded
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.ports import LOOPBACK, free_port
from deptbus.connection import Connection
from deptbus.errors import DeptbusError

pytestmark = pytest.mark.service

TOPIC = "kept"


def write_one(connection: Connection, value: bytes) -> None:
    admin = AdminClient(connection.librdkafka())
    if TOPIC not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(10)
    producer = Producer(connection.librdkafka() | {"acks": "all"})
    producer.produce(TOPIC, value, partition=0)
    assert producer.flush(10) == 0


def read_all(connection: Connection, count: int) -> list[bytes]:
    words = {"group.id": "reader", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer(connection.librdkafka() | words)
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


def test_what_it_holds_survives_a_stop_a_change_of_port_and_a_kill(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    write_one(broker.start(), b"one")
    first_port = broker.port
    broker.stop()

    moved = EmbeddedBroker(tmp_path / "broker", free_port(not_this=first_port))
    connection = moved.start()
    assert moved.port != first_port
    write_one(connection, b"two")
    assert moved.pid is not None
    os.kill(moved.pid, signal.SIGKILL)
    moved.stop()

    with EmbeddedBroker(tmp_path / "broker") as again:
        assert again.port == moved.port  # that of last time
        assert read_all(again.connection, 2) == [b"one", b"two"]


def test_java_formats_a_folder_once_for_each_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    first, second = EmbeddedBroker(tmp_path / "first"), EmbeddedBroker(tmp_path / "second")
    first.prepare()
    first.release()
    monkeypatch.setattr(EmbeddedBroker, "_format_by_java", None)
    with second:
        write_one(second.connection, b"one")
        assert read_all(second.connection, 1) == [b"one"]
        of_second = _identity(tmp_path / "second")
    of_first = _identity(tmp_path / "first")
    assert of_first.keys() == of_second.keys()
    differ = {name for name, value in of_first.items() if of_second[name] != value}
    assert differ == {"cluster.id", "directory.id"}


def _identity(broker: Path) -> dict[str, str]:
    lines = (broker / "log" / "meta.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_a_second_broker_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    first, second = EmbeddedBroker(tmp_path), EmbeddedBroker(tmp_path)
    first.prepare()
    try:
        with pytest.raises(DeptbusError, match="a bus already runs on"):
            second.prepare()
    finally:
        first.release()
    second.prepare()
    second.release()


def test_a_port_that_is_taken_is_told_and_the_folder_is_let_go(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DeptbusError, match=f"port {port} is taken"):
            EmbeddedBroker(tmp_path, port).start()
    again = EmbeddedBroker(tmp_path)
    again.prepare()
    again.release()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeptbusError, match="Give a folder that you may write"):
        EmbeddedBroker(tmp_path / "file" / "broker").start()


def test_a_full_disk_is_told_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DeptbusError, match="no space left on the disk"):
        EmbeddedBroker(tmp_path).start()


def test_a_broker_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    broken = EmbeddedBroker(tmp_path, extra_settings={"num.io.threads": "none at all"})
    with pytest.raises(
        DeptbusError, match=r"the broker did not start; it said: .*num\.io\.threads"
    ):
        broken.start()
    with EmbeddedBroker(tmp_path) as mended:
        assert mended.is_ready()


PARENT = """
import sys, time
from pathlib import Path
from deptbus.cluster.embedded import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""


def test_the_broker_dies_with_a_parent_that_is_killed_and_starts_again(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as parent:
        pid = _last_number(parent)
        parent.kill()
        parent.wait(10)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid)
    with EmbeddedBroker(tmp_path) as again:
        assert again.is_ready()


def _last_number(parent: subprocess.Popen[bytes]) -> int:
    """The process id that the parent prints, behind lines of its log."""
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("the parent ended before its broker was ready")
