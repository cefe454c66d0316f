"""Kafka's own command line, as the judge of ours: its jars come by a lock of their own."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from deptbus.cluster.jars import Jar, ensure_jars
from deptbus.cluster.java import find_java
from deptbus.connection import Connection

LOCK = Path(__file__).with_name("kafka_tools.lock")
COMMAND = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"


class Row(NamedTuple):
    """None where the command prints a dash."""

    committed: int | None
    end: int | None
    lag: int | None


@cache
def _class_path() -> str:
    beyond = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            coordinate, size, digest = line.split()
            beyond.append(Jar(*coordinate.split(":"), int(size), digest))
    return os.pathsep.join(map(str, (*ensure_jars(), *ensure_jars(jars=beyond))))


def describe_groups(connection: Connection, *groups: str) -> dict[tuple[str, str, int], Row]:
    """(group, topic, partition) -> what Kafka's own command says of it."""
    words = [word for group in groups for word in ("--group", group)]
    out = _run(COMMAND, connection, "--describe", *words)
    found = {}
    for line in out.splitlines():
        cells = line.split()
        if len(cells) >= 6 and cells[0] in groups:
            group, topic, partition, *numbers = cells[:6]
            row = Row(*(None if n == "-" else int(n) for n in numbers))
            found[group, topic, int(partition)] = row
    return found


def offsets_at(connection: Connection, topic: str, time: str) -> dict[int, int]:
    """Partition -> offset, as Kafka's own GetOffsetShell tells it; `time`: milliseconds since 1970,
    `earliest` or `latest`. It leaves a partition out in which no record is as young."""
    out = _run(OFFSETS, connection, "--topic", topic, "--time", time)
    lines = (line.rsplit(":", 2) for line in out.splitlines() if line.startswith(f"{topic}:"))
    return {int(partition): int(offset) for _, partition, offset in lines}


def _run(command: str, connection: Connection, *words: str) -> str:
    java = [str(find_java()), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", _class_path()]
    done = subprocess.run(
        [*java, command, "--bootstrap-server", connection.bootstrap, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
