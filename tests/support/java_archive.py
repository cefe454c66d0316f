"""Kafka's classes as a file that Java maps instead of reading, checking and linking them again.

The suite starts more than a hundred brokers, and half of what a start costs is that. The archive is
made once for a Java and a set of jars, from the classes that a broker has loaded by the time that
it has served a group; Java takes it where it fits, and does without it where it does not.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from filelock import FileLock

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.jars import cache_folder, ensure_jars
from deptbus.cluster.java import find_java
from deptbus.connection import Connection
from deptbus.errors import DeptbusError

OPTIONS = "JAVA_TOOL_OPTIONS"  # Java itself reads it, whoever starts it
_TOPIC = "archived"


def use_archive() -> None:
    """In this process's children, from now on. Where it cannot be made they do without it, which
    is said; what keeps a broker from being started the tests say themselves."""
    if OPTIONS in os.environ:
        return
    try:
        os.environ[OPTIONS] = f"-XX:SharedArchiveFile={_archive()}"
    except (DeptbusError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"without an archive of Kafka's classes: {error}\n")


def _archive() -> Path:
    java, jars = find_java(), ensure_jars()
    said = subprocess.run([java, "-version"], capture_output=True, check=True).stderr
    digest = hashlib.sha256(said + "\n".join(map(str, jars)).encode()).hexdigest()[:16]
    folder = cache_folder() / "java-archives"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest}.jsa"
    with FileLock(folder / ".lock"):
        if not file.exists():
            _make(file, java, os.pathsep.join(map(str, jars)))
    return file


def _make(file: Path, java: Path, class_path: str) -> None:
    with tempfile.TemporaryDirectory(prefix="deptbus-archive-") as folder:
        classes = Path(folder) / "classes"
        os.environ[OPTIONS] = f"-XX:DumpLoadedClassList={classes}"
        try:
            with EmbeddedBroker(Path(folder) / "broker") as broker:
                _serve(broker.connection)
        finally:
            del os.environ[OPTIONS]
        part = file.with_suffix(".part")
        argv = [java, "-XX:+UseSerialGC", "-Xshare:dump", f"-XX:SharedClassListFile={classes}"]
        argv += [f"-XX:SharedArchiveFile={part}", "-cp", class_path]
        subprocess.run(argv, capture_output=True, check=True)
        part.replace(file)


def _serve(connection: Connection) -> None:
    """A record to and fro, by a group: what every test asks of a broker."""
    words = connection.librdkafka()
    admin = AdminClient(words)
    admin.create_topics([NewTopic(_TOPIC, 4, 1)])[_TOPIC].result(30)
    producer = Producer(words | {"enable.idempotence": True, "compression.type": "zstd"})
    producer.produce(_TOPIC, b"value", b"key")
    producer.flush(30)
    more = {"group.id": _TOPIC, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer(words | more)
    consumer.subscribe([_TOPIC])
    try:
        if consumer.poll(30) is not None:
            consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    admin.delete_topics([_TOPIC])[_TOPIC].result(30)
