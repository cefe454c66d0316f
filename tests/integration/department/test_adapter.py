"""The adapter as a process: both sides of two systems, signals, a second start, what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewTopic
from inbox_feed import Feed, upsert
from recipient_contract import CODECS, CONTRACT, SOURCE, UNIT

from deptbus.change import Cause, Change
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection
from deptbus.contract.department import load_department
from deptbus.contract.model import Policy
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import layouts_of
from deptbus.department.recipient_status import recipient_status, rejoin
from deptbus.names import CONTRACT as CONTRACT_TOPIC
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import Outgoing, read_to_end
from deptbus.stream.policies import append_policy
from deptbus.wire.control import (
    AppliedBeat,
    ResendRequest,
    decode_control,
    encode_control,
    key_of,
)

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

_RUN = """
import sys
from pathlib import Path
from deptbus.connection import find_connection
from deptbus.department.adapter import run_adapter
from deptbus.errors import DeptbusError
from deptbus.logs import set_up_logging
set_up_logging(service=True)
try:
    run_adapter(find_connection(), [Path(p) for p in sys.argv[1:]])
except DeptbusError as error:
    print(f"ended: {error}", file=sys.stderr)
    sys.exit(int(error.exit_code))
"""


@pytest.fixture(scope="module")
def bus(broker: Connection, service_folder: Path) -> Iterator[Connection]:
    """A bus of its own: the contract in force is one a bus."""
    server = EmbeddedBroker(service_folder / "adapter-broker")
    connection = server.start()
    yield connection
    server.stop()


class Town:
    """The police publish persons; housing receives them and publishes nothing."""

    def __init__(self, bus: Connection, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.police = self._department(
            SOURCE, "police", {"publishes": {"house": _OWN_HOUSES}, "receives": {"person": _PEOPLE}}
        )
        self.housing = self._department(UNIT, "housing", {"receives": {"person": _PEOPLE}})
        self.feeds = {u: Feed(bus, u) for u in (SOURCE, UNIT)}
        self.processes: list[subprocess.Popen[str]] = []

    def _department(self, unit: str, name: str, words: dict[str, Any]) -> Path:
        place = self.folder / name
        place.mkdir()
        with closing(sqlite3.connect(place / "own.db")) as connection:
            connection.execute("CREATE TABLE own_houses (id TEXT PRIMARY KEY, address TEXT)")
        (place / "key.secret").write_text("ab" * 32, encoding="ascii")
        path = place / "department.yml"
        system = {"database": "sqlite:///own.db"} | words
        path.write_text(json.dumps({"unit": unit, "systems": {"main": system}}), encoding="utf-8")
        return path

    def start(self, *configs: Path) -> subprocess.Popen[str]:
        ready = self.folder / f"ready-{len(self.processes)}"
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, *map(str, configs)],
            env=os.environ | self.bus.environment() | {"DEPTBUS_READY_FILE": str(ready)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        _until(lambda: ready.exists() or process.poll() is not None)
        return process

    def rows(self, name: str, sql: str = "SELECT id, name FROM people ORDER BY id") -> list[Any]:
        with closing(sqlite3.connect(self.folder / name / "own.db", timeout=5)) as connection:
            try:
                found = connection.execute(sql).fetchall()
                connection.commit()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise
            return found


_PEOPLE = {"table": "people", "columns": {"id": "id", "name": "name"}}
_OWN_HOUSES = {"table": "own_houses", "columns": {"id": "id", "address": "address"}}


@pytest.fixture
async def town(bus: Connection, tmp_path: Path) -> Any:
    town = Town(bus, tmp_path)
    feed = town.feeds[UNIT]
    feed.drop_topic()
    feed.make_topic()
    for name in (CONTRACT_TOPIC, out_topic(SOURCE), control_topic(SOURCE), control_topic(UNIT)):
        parts = 2 if name.startswith("out.") else 1
        for future in feed.admin.create_topics([NewTopic(name, parts, 1)]).values():
            with suppress(KafkaException):  # there already
                future.result(30)
    if not await read_to_end(bus, CONTRACT_TOPIC):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        policy = Policy(number=1, activated_at=now, activated_by="test", contract=CONTRACT)
        await append_policy(bus, policy)
    yield town
    for process in town.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


async def _install(town: Town) -> None:
    department = load_department(town.police)
    system = department.systems["main"]
    database = await SqliteDatabase.open(target_of(system.database))
    capture = SqliteCapture(database)
    await capture.install(layouts_of(system.publishes, CONTRACT), 1000)
    await capture.close()


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_both_sides_of_two_departments_in_one_process(town: Town) -> None:
    await _install(town)
    process = town.start(town.police, town.housing)
    for feed in town.feeds.values():
        await feed.deliver([upsert(1)])
    _until(lambda: town.rows("police") == town.rows("housing") == [("id000001", "李雷")])
    town.rows("police", "INSERT INTO own_houses VALUES ('330106109051', '文三路')")
    (change,) = await _published(town, 1)
    request = ResendRequest("r1", "house", change.key, "asked")
    topic = town.feeds[SOURCE].topic
    await town.feeds[SOURCE].raw(Outgoing(topic, 0, key_of(request), encode_control(request)))
    assert [c.cause for c in await _published(town, 2)] == [Cause.LIVE, Cause.RESEND]
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 5


async def _published(town: Town, count: int) -> list[Change]:
    """What the police sent, once it is so much."""
    deadline = time.monotonic() + 30
    while True:
        records = await read_to_end(town.bus, out_topic(SOURCE))
        found = [CODECS.decode_out(r.key, r.value) for r in records]
        changes = [c for c in found if isinstance(c, Change)]
        if len(changes) >= count:
            return changes
        assert time.monotonic() < deadline


async def test_a_recipient_tells_that_it_lives_and_when_it_applied(town: Town) -> None:
    began_us = time.time_ns() // 1000
    town.start(town.housing)
    first = await _beat(town, lambda beat: beat.at_us > began_us)
    assert first.applied_at_us is None
    await town.feeds[UNIT].deliver([upsert(1)])
    beat = await _beat(town, lambda beat: (beat.applied_at_us or 0) > began_us)
    assert beat.applied_at_us is not None
    assert beat.at_us - 30_000_000 < beat.applied_at_us <= beat.at_us
    later = await _beat(town, lambda again: again.at_us > beat.at_us)  # with nothing to apply
    assert later.applied_at_us == beat.applied_at_us


async def test_a_recipient_tells_what_it_parked_and_why(town: Town) -> None:
    town.rows("housing", "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (name < 'M'))")
    town.start(town.housing)
    began_us = time.time_ns() // 1000
    await town.feeds[UNIT].deliver([upsert(1), upsert(2)])
    beat = await _beat(town, lambda beat: beat.at_us > began_us and bool(beat.parked))
    assert (beat.parked, beat.parked_datasets, beat.parked_rows) == (2, ("person",), (2,))
    assert "CHECK" in beat.parked_reasons[0]
    assert "李雷" not in beat.parked_reasons[0]


async def _beat(town: Town, condition: Callable[[AppliedBeat], bool]) -> AppliedBeat:
    """Housing's last one, once it is as wanted."""
    deadline = time.monotonic() + 30
    while True:
        records = await read_to_end(town.bus, control_topic(UNIT))
        beats = [b for r in records if isinstance(b := decode_control(r.value), AppliedBeat)]
        if beats and condition(beats[-1]):
            return beats[-1]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_the_older_of_two_is_fenced_says_so_and_ends(town: Town) -> None:
    older = town.start(town.housing)
    await town.feeds[UNIT].deliver([upsert(1)])
    _until(lambda: len(town.rows("housing")) == 1)
    younger = town.start(town.housing)
    _, said = older.communicate(timeout=20)
    assert older.returncode == 2
    assert "ended: a younger adapter of this system has taken over" in said
    assert "Traceback" not in said
    await town.feeds[UNIT].deliver([upsert(2)])
    _until(lambda: len(town.rows("housing")) == 2)
    assert younger.poll() is None


async def test_one_system_that_must_stop_leaves_the_other_alone(town: Town) -> None:
    await _install(town)
    (town.folder / "police" / "key.secret").write_text("zz", encoding="ascii")
    process = town.start(town.police, town.housing)
    await town.feeds[UNIT].deliver([upsert(3)])
    _until(lambda: len(town.rows("housing")) == 1)
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.count("system_stopped") == 1
    assert "is not a key secret" in said


async def test_status_and_rejoin_after_a_rebuilt_topic(town: Town) -> None:
    process = town.start(town.housing)
    feed = town.feeds[UNIT]
    await feed.deliver([upsert(1), upsert(2)])
    _until(lambda: len(town.rows("housing")) == 2)
    process.terminate()
    process.wait(20)
    department = load_department(town.housing)
    (status,) = await recipient_status(department, "main")
    assert (status.dataset, status.rows, status.today) == ("person", 2, {"applied": 2})
    feed.drop_topic()
    feed.make_topic()
    process = town.start(town.housing)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "rebuilt topic" in said
    assert "rejoin" in said
    await rejoin(department, "main")
    town.start(town.housing)
    await feed.deliver([upsert(1, 1, name="old"), upsert(2, 2, name="new")])
    _until(lambda: town.rows("housing") == [("id000001", "李雷"), ("id000002", "new")])
