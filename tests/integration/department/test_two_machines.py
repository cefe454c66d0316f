"""The same department file run from two machines, each with a copy of the database: no fence within
a database knows of the other one. It is noticed on the bus, named, and mended by one command."""

from __future__ import annotations

import copy
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic
from fault_desks import SourceDesk, running, said, until
from inbox_feed import Feed, department_file, upsert
from structlog.testing import capture_logs

from deptbus.connection import Connection
from deptbus.contract.department import load_department
from deptbus.department import applied_beat, publisher, rivals
from deptbus.department.publisher import Publisher
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

ADD = "INSERT INTO people (身份证, area, 姓名, sex) VALUES ('{:018}', '330106109051', '{}', 1)"
STOPPED = "runs on another database"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(applied_beat, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(rivals, "LOOK_SECONDS", 0.3)


def copied(file: Path, to: Path) -> None:
    with closing(sqlite3.connect(file)) as have, closing(sqlite3.connect(to)) as made:
        have.backup(made)


def on_another_machine(desk: SourceDesk, folder: Path) -> SourceDesk:
    """The whole folder, carried there while its adapter runs."""
    other = copy.copy(desk)
    other.folder = folder / "elsewhere"
    other.folder.mkdir()
    other.file = other.folder / desk.file.name
    for name in ("department.yml", "key.secret"):
        shutil.copy(desk.folder / name, other.folder / name)
    copied(desk.file, other.file)
    other.department = load_department(other.folder / "department.yml")
    return other


async def announced(desk: SourceDesk) -> set[int]:
    codecs = Codecs(desk.contract)
    records = await read_to_end(desk.bus, out_topic(desk.unit))
    found = [codecs.decode_out(record.key, record.value) for record in records]
    return {one.incarnation.number for one in found if isinstance(one, Announcement)}


async def test_a_copy_that_takes_over_stops_the_first_and_a_resync_mends_it(
    broker: Connection, tmp_path: Path
) -> None:
    desk = await SourceDesk(broker, tmp_path).open()
    with capture_logs() as logs:
        async with running(broker, [desk]) as first:
            await desk.sql(ADD.format(1, "a"))
            await until(desk.is_published, "the first row")
            other = on_another_machine(desk, tmp_path)
            async with running(broker, [other]) as second:
                await until(lambda: first[0].ended, "the first stops")
                assert second[0].ended is None
                await other.sql(ADD.format(2, "typed there"))
                await until(other.is_published, "the other one publishes")
        (line,) = said(logs, "system_stopped", desk)
        assert STOPPED in line["reason"]
        assert "deptbus department resync" in line["reason"]
    # What was acked behind the other's announcement is refused there and forgotten here.
    assert (await desk.status()).gave_way > 0
    pulse = (await desk.status()).pulse
    assert pulse is not None
    assert STOPPED in pulse.reason
    await desk.sql(ADD.format(3, "typed here"))
    await desk.resync()
    assert sorted((await desk.table()).values()) == ["a", "typed here"]
    await until(desk.is_published, "the bus has what this database has")
    assert (await desk.status()).gave_way == 0


async def goes_on_beside_a_stale_copy(bus: Connection, desk: SourceDesk, folder: Path) -> None:
    """A copy that is behind is refused, and the one that goes on notices nothing."""
    async with running(bus, [desk]) as first:
        await desk.sql(ADD.format(1, "a"))
        await until(desk.is_published, "the first row")
        other = on_another_machine(desk, folder)
        await desk.sql(ADD.format(2, "b"))
        await until(desk.is_published, "what the copy has not")
        before = await announced(desk)
        async with running(bus, [other]) as second:
            await until(lambda: second[0].ended, "the copy is refused")
        assert "restored from a backup" in str(second[0].ended)
        assert await announced(desk) == before, "the copy has fenced the one that goes on"
        await desk.sql(ADD.format(3, "c"))
        await until(desk.is_published, "what was typed since")
        assert first[0].ended is None


async def test_a_stale_copy_is_refused_and_fences_nobody(
    broker: Connection, tmp_path: Path
) -> None:
    await goes_on_beside_a_stale_copy(broker, await SourceDesk(broker, tmp_path).open(), tmp_path)


async def test_planted_a_look_at_the_number_behind_the_announcement_only_is_caught(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Publisher._check_publication

    def late(self: Publisher, *words: Any) -> None:
        if self.presence._incarnation is not None:
            check(self, *words)

    monkeypatch.setattr(Publisher, "_check_publication", late)
    desk = await SourceDesk(broker, tmp_path).open()
    with pytest.raises(AssertionError, match="has fenced the one that goes on"):
        await goes_on_beside_a_stale_copy(broker, desk, tmp_path)


class Place:
    """A recipient on one machine."""

    def __init__(self, department: Any) -> None:
        self.department = department
        self.file = Path(department.file).parent / "own.db"

    def names(self) -> list[str]:
        with closing(sqlite3.connect(self.file)) as connection:
            try:
                return sorted(n for (n,) in connection.execute("SELECT name FROM people"))
            except sqlite3.OperationalError:  # made with the first delivery
                return []


async def test_of_two_copies_of_a_recipient_one_stops(broker: Connection, tmp_path: Path) -> None:
    feed = Feed(broker)
    feed.admin.create_topics([NewTopic(control_topic(feed.unit), 1, 1)])[
        control_topic(feed.unit)
    ].result(30)
    files = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        files.append(department_file(tmp_path / name, feed.unit, "sqlite:///own.db"))
    here, there = (Place(load_department(path)) for path in files)
    sqlite3.connect(here.file).close()
    with capture_logs() as logs:
        async with running(broker, [here]) as first:
            await feed.deliver([upsert(1, 1, name="a")])
            await until(lambda: here.names() == ["a"], "the first row")
            copied(here.file, there.file)
            async with running(broker, [there]) as second:
                await until(lambda: first[0].ended, "the first stops")
                await feed.deliver([upsert(2, 1, name="b")])
                await until(lambda: there.names() == ["a", "b"], "the other one goes on")
                assert second[0].ended is None
        (line,) = said(logs, "system_stopped", here)
        assert STOPPED in line["reason"]
    # The right one goes on where it stood; it needs no command.
    async with running(broker, [here]):
        await until(lambda: here.names() == ["a", "b"], "what it has missed")
