"""A recipient restored from last night's backup, in either database: 1,000 deliveries came since
and 1,000 while it was away. It says so and applies them again; nobody has to act, and nothing is
stale.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import NewTopic
from fault_desks import running, said, until
from inbox_feed import upsert, withdrawal
from structlog.testing import capture_logs
from test_recipient_faults import Desk

from deptbus.connection import Connection
from deptbus.department.inbox import Inbox
from deptbus.names import control_topic

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

DELIVERIES = 1_000
PEOPLE = 300


class Bureau:
    """What its clerks should see, beside its desk and the hands of whoever looks after it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.wanted: dict[str, str] = {}
        self._versions = dict.fromkeys(range(PEOPLE), 0)
        self._draw = random.Random(7)
        control = control_topic(desk.feed.unit)
        desk.feed.admin.create_topics([NewTopic(control, 1, 1)])[control].result(30)

    async def deliver(self) -> None:
        some = []
        for number in range(DELIVERIES):
            who = self._draw.randrange(PEOPLE)
            self._versions[who] += 1
            if self._draw.random() < 0.2:
                some.append(withdrawal(who, self._versions[who]))
                self.wanted.pop(f"id{who:06}", None)
            else:
                name = f"n{number}v{self._versions[who]}"
                some.append(upsert(who, self._versions[who], name=name))
                self.wanted[f"id{who:06}"] = name
        await self.desk.feed.deliver(some)

    async def is_equal(self) -> bool:
        return await self.desk.names() == self.wanted

    async def copy(self, *, back: bool) -> None:
        if self.desk.url is None:
            pair = self.desk.file, self.desk.file.with_suffix(".backup")
            _copy_file(*(pair[::-1] if back else pair))
            return
        server, _, name = self.desk.url.rpartition("/")
        source, target = (f"{name}_backup", name) if back else (name, f"{name}_backup")
        hand = await asyncpg.connect(f"{server}/postgres")
        await hand.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)')
        await hand.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')
        await hand.close()


def _copy_file(source: Path, target: Path) -> None:
    for end in ("-wal", "-shm"):
        Path(f"{target}{end}").unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as have:
        have.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    shutil.copy(source, target)


@pytest.fixture(params=["sqlite", "postgres"])
def bureau(request: pytest.FixtureRequest, broker: Connection, tmp_path: Path) -> Bureau:
    url = None
    if request.param == "postgres":
        postgres: Callable[[], str] = request.getfixturevalue("postgres")
        url = postgres()
    return Bureau(Desk(broker, tmp_path, url))


async def comes_back(bureau: Bureau, bus: Connection, seconds: float = 30) -> None:
    async with running(bus, [bureau.desk]):
        await bureau.deliver()
        await until(bureau.is_equal, "the first load")
    await bureau.copy(back=False)
    async with running(bus, [bureau.desk]):
        await bureau.deliver()
        await until(bureau.is_equal, "what came behind the backup")
    await bureau.copy(back=True)
    await bureau.deliver()
    with capture_logs() as logs:
        async with running(bus, [bureau.desk]):
            await until(bureau.is_equal, "all of it again", seconds)
        assert said(logs, "system_stopped", bureau.desk) == []
        (line,) = said(logs, "recipient_was_restored", bureau.desk)
        assert line["deliveries"] == DELIVERIES
    with capture_logs() as logs:
        async with running(bus, [bureau.desk]):
            await bureau.deliver()
            await until(bureau.is_equal, "what comes now")
        assert said(logs, "recipient_was_restored", bureau.desk) == []


async def test_it_says_so_and_ends_equal(bureau: Bureau, broker: Connection) -> None:
    await comes_back(bureau, broker)


async def test_planted_trust_in_what_was_committed_for_lag_is_caught(
    bureau: Bureau, broker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on where the group stands, and not where SQL does, skips what the backup lacks."""
    seek = Inbox.seek

    async def forward(self: Inbox, positions, **words):  # type: ignore[no-untyped-def]
        assert self._committer is not None
        begins = await seek(self, positions, **words)
        committed = await self._committer.committed(self.topic, positions)
        for place in self._places:
            if place.partition in committed:
                self._open().seek(place, committed[place.partition])
        return begins

    monkeypatch.setattr(Inbox, "seek", forward)
    with pytest.raises(AssertionError, match="not in time: all of it again"):
        await comes_back(bureau, broker, seconds=6)
