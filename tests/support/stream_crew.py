"""Workers as child processes, and what lies on the bus after them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from stream_town import HOUSING, PARTITIONS, POLICE

from deptbus.connection import Connection
from deptbus.names import WORKER_GROUP, data_topic, in_topic, out_topic
from deptbus.readiness import READY_FILE
from deptbus.stream.log import read_to_end
from deptbus.stream.schemas import SchemaFollower
from deptbus.stream.worker import worker_command
from deptbus.wire.codecs import Codecs
from tests.support.nursery import Forked, nursery

START_SECONDS = 60.0
# The client does not call them retriable: its own retries end before a busy broker is ready.
_COORDINATOR = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
)


class Worker:
    """One worker process; its log goes to a file."""

    def __init__(
        self, connection: Connection, folder: Path, name: str, argv: list[str] | None = None
    ) -> None:
        self.ready_file = folder / f"{name}.ready"
        self.log_file = folder / f"{name}.log"
        self.log_file.write_bytes(b"")
        env = {
            **os.environ,
            **connection.environment(),
            READY_FILE: str(self.ready_file),
            "PYTHONWARNINGS": "default",
        }
        program, *words = argv or worker_command(connection)
        self.process: subprocess.Popen[bytes] | Forked
        if program == sys.executable:
            self.process = nursery().start(words, env, self.log_file)
            return
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                [program, *words],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def wait_ready(self) -> Worker:
        until(lambda: self.ready_file.exists() or self.process.poll() is not None, START_SECONDS)
        assert self.process.poll() is None, self.log
        return self

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.process.kill()
        self.process.wait(30)

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()


class Crew:
    """All workers that a test starts; none survives it."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        self.workers: list[Worker] = []

    def start(self, argv: list[str] | None = None) -> Worker:
        worker = Worker(self._connection, self._folder, f"worker-{len(self.workers)}", argv)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time given"
        time.sleep(0.02)


def planted(name: str) -> list[str]:
    """The command of a worker with a bug, see stream_planted.py."""
    return [sys.executable, str(Path(__file__).with_name("stream_planted.py")), name]


def committed(connection: Connection, topic: str) -> dict[int, int]:
    """Partition -> committed offset of the workers' group; 0 where nothing is committed."""
    consumer = Consumer({**connection.librdkafka(), "group.id": WORKER_GROUP})
    deadline = time.monotonic() + START_SECONDS
    try:
        places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        while True:
            try:
                found = consumer.committed(places, timeout=20)
                break
            except KafkaException as error:
                # The group's coordinator may be on its way to another place, or not chosen yet.
                if not error.args[0].retriable() and error.args[0].code() not in _COORDINATOR:
                    raise
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
        return {place.partition: max(0, place.offset) for place in found}
    finally:
        consumer.close()


async def learn_schemas(connection: Connection, codecs: Codecs) -> None:
    """Every schema that is on the bus."""
    follower = SchemaFollower(connection, codecs)
    await follower.start()
    await follower.stop()


async def versions_in(connection: Connection, codecs: Codecs, topic: str) -> dict[bytes, list[int]]:
    """Key -> versions in the order in which they lie there; other kinds of records are left out."""
    await learn_schemas(connection, codecs)
    found: dict[bytes, list[int]] = defaultdict(list)
    for record in await read_to_end(connection, topic):
        decode = codecs.decode_inbox if topic.startswith("in.") else codecs.decode_out
        version = getattr(decode(record.key, record.value), "version", None)
        if version is not None and record.key is not None:
            found[record.key].append(version)
    return found


def check_order(versions: dict[bytes, list[int]], expected: dict[bytes, list[int]]) -> None:
    """Nothing is lost, first arrivals come in order, and what is sent again ends at the newest."""
    assert versions.keys() == expected.keys()
    for key, wanted in expected.items():
        found = versions[key]
        assert list(dict.fromkeys(found)) == wanted, "lost or out of order"
        assert found[-1] == wanted[-1], "the last one is not the newest"
        for before, after in itertools.pairwise(found):
            assert after <= before + 1, "a version was skipped after a repetition"


async def commits_ahead(connection: Connection, codecs: Codecs) -> list[str]:
    """Records that are committed and whose output is not there: must be none at any time.

    Offsets are read first: output that comes meanwhile cannot hide a commit that is ahead.
    """
    ahead = []
    for source, target in (
        (out_topic(POLICE), data_topic("resident")),
        (data_topic("resident"), in_topic(HOUSING)),
    ):
        offsets = committed(connection, source)
        output = await versions_in(connection, codecs, target)
        for record in await read_to_end(connection, source):
            if record.offset < offsets[record.partition] and record.key is not None:
                version = codecs.decode_change(record.key, record.value).version
                if version not in output.get(record.key, ()):
                    ahead.append(f"{source}/{record.partition}/{record.offset}")
    return ahead
