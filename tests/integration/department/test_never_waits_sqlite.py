"""SQLite has one writer: beside an adapter at work the department's program, with the busy time-out
that `install` asks for, fails in no write and waits for few milliseconds."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from recipient_contract import person
from removal_suite import QuietSource, insert
from source_world import AGREED, PUBLISH, TABLE
from store_rooms import SqliteRoom
from structlog.testing import capture_logs

from deptbus.contract.department import HoldRemovals
from deptbus.department.layout import layout_of
from deptbus.department.store_sqlite import SqliteStore

ROWS = 500
WRITES = 400
MOST_MS = 50.0
_PAUSE_SECONDS = 0.002  # between two writes: a clerk, not a bulk


@dataclass
class Written:
    """Of each write how long the program waited for its turn; and those that failed."""

    waits_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return sorted(self.waits_ms)[len(self.waits_ms) * 99 // 100]


def _write(
    path: Path, statement: Callable[[int], str], seen: Written, stop: threading.Event
) -> None:
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        number = 0
        while not stop.is_set():
            number += 1
            began = time.monotonic()
            try:
                connection.execute("BEGIN IMMEDIATE")
                seen.waits_ms.append((time.monotonic() - began) * 1000)
                connection.execute(statement(number))
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                seen.failed.append(f"{type(error).__name__}: {error}")
            time.sleep(_PAUSE_SECONDS)


@asynccontextmanager
async def program(path: Path, statement: Callable[[int], str]) -> AsyncIterator[Written]:
    """It writes, row after row, until the block ends."""
    seen, stop = Written(), threading.Event()
    writing = asyncio.create_task(asyncio.to_thread(_write, path, statement, seen, stop))
    try:
        yield seen
    finally:
        stop.set()
        await writing


async def until_written(seen: Written, more: int) -> None:
    goal, until = len(seen.waits_ms) + more, time.monotonic() + 60
    while len(seen.waits_ms) < goal:
        assert time.monotonic() < until, seen.failed[:3]
        await asyncio.sleep(0.01)


def own(number: int) -> str:
    return f"UPDATE people SET 姓名 = '王{number}' WHERE 身份证 = '{number % ROWS:06}'"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "own.db"
    with closing(sqlite3.connect(made)) as connection, connection:
        connection.execute(TABLE)
        for n in range(ROWS):
            connection.execute(insert(n))
    return made


async def source_of(path: Path) -> QuietSource:
    return await QuietSource.open(f"sqlite:///{path}", HoldRemovals(percent=100))


async def test_a_source_beside_its_adapter_without_it_and_at_the_cap(path: Path) -> None:
    source = await source_of(path)
    async with program(path, own) as seen:
        until = time.monotonic() + 60
        while len(seen.waits_ms) < WRITES:
            assert time.monotonic() < until
            await source.capture.begin_snapshot("person", "snapshot", None)
            await source.capture.advance_snapshot("person", 1000)
            await source.drain()
        await until_written(seen, WRITES // 4)
        await source.capture.install([layout_of("person", PUBLISH, AGREED)], 5)
        await until_written(seen, WRITES // 4)
    assert not seen.failed, seen.failed[:3]
    assert seen.p99_ms < MOST_MS, sorted(seen.waits_ms)[-10:]
    assert (await source.capture.state()).gave_way > 0
    await source.close()


@pytest.mark.parametrize(
    "table", ["outbox", "published", "replaced", "layout", "applying", "touched"]
)
async def test_when_a_table_of_ours_is_dropped_the_adapter_takes_its_triggers_away(
    path: Path, table: str
) -> None:
    source = await source_of(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as hand:
        hand.execute(f"DROP TABLE deptbus_{table}")
        with capture_logs() as logs:
            assert await source.capture.layouts() == {}
        assert [entry["event"] for entry in logs] == ["capture_torn"]
        # SQLite compiles a trigger by the schema that a session knows; any statement that can be
        # run has it look again.
        hand.execute("SELECT count(*) FROM people").fetchall()
        hand.execute(own(1))
        hand.execute("DELETE FROM people")
    await source.capture.install([layout_of("person", PUBLISH, AGREED)], 100)
    assert list(await source.capture.layouts()) == ["person"]
    await source.close()


async def test_capture_is_paused_and_goes_on(path: Path) -> None:
    source = await source_of(path)
    async with program(path, own) as seen:
        await until_written(seen, 20)
        await source.capture.pause()
        before = (await source.capture.status()).outbox_rows
        await until_written(seen, 20)
        status = await source.capture.status()
        assert (status.outbox_rows, status.gave_way) == (before, 1)
        (broken,) = await source.capture.broken()
        assert broken.is_blind
        await source.capture.install([layout_of("person", PUBLISH, AGREED)], 1_000_000)
        await until_written(seen, 20)
        assert (await source.capture.status()).outbox_rows > before
    assert not seen.failed
    await source.close()


class TestSqliteRecipient(SqliteRoom):
    async def test_the_program_writes_the_rows_that_are_applied(self, database: Path) -> None:
        # The best of three: a machine that is busy with others stops the program too, while a
        # transaction of ours that lasts is met in each.
        p99s: list[float] = []
        while len(p99s) < 3 and min(p99s, default=MOST_MS) >= MOST_MS:
            seen = await self.meet(database, WRITES, len(p99s) + 1)
            assert not seen.failed, seen.failed[:3]
            p99s.append(seen.p99_ms)
        assert min(p99s) < MOST_MS, p99s

    async def meet(self, database: Path, writes: int, turn: int = 1) -> Written:
        store = await self.opened(database)
        await self.feed(store, *(person(n) for n in range(ROWS)))
        version = turn * 1_000_000

        def edit(number: int) -> str:
            return f"UPDATE people SET phone = '{number}' WHERE id = 'id{number % ROWS:06}'"

        async with program(database, edit) as seen, asyncio.timeout(60):
            while len(seen.waits_ms) < writes:
                limit = min(ROWS, store.batch_limit)
                await self.feed(store, *(person(n, version, name="韩") for n in range(limit)))
                version += 1
        await store.close()
        return seen

    async def test_planted_a_transaction_that_lasts_is_caught(
        self, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows = SqliteStore._write_rows

        def slowly(self: Any, *words: Any) -> None:
            write_rows(self, *words)
            time.sleep(0.08)

        monkeypatch.setattr(SqliteStore, "_write_rows", slowly)
        assert (await self.meet(database, 12)).p99_ms > MOST_MS
