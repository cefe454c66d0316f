"""SQLite connections end on the thread that uses them, whatever became of who asked for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.export import FolderExport

SECONDS = 10.0


async def until(condition: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


class Held:
    """Work of a thread that stands still until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def work(self, *_: Any) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        assert self.go.wait(SECONDS)
        with self._lock:
            self.at_once -= 1


async def given_up(task: asyncio.Task[Any], held: Held) -> None:
    """Cancels who awaits the work, which goes on."""
    await until(held.entered.is_set)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_close_that_nobody_awaits_to_its_end_closes_behind_what_runs(
    tmp_path: Path,
) -> None:
    database = await SqliteDatabase.open(target_of(f"sqlite:///{tmp_path / 'own.db'}"), create=True)
    held, used = Held(), []

    def work(connection: sqlite3.Connection) -> None:
        held.work()
        used.append(connection.execute("SELECT 1").fetchone())  # raises if it was closed meanwhile

    await given_up(asyncio.create_task(database.run(work)), held)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert database._connection is not None
    held.go.set()
    await until(lambda: database._connection is None)
    assert used == [(1,)]


async def test_an_opening_that_was_given_up_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, opened = Held(), []
    connect = SqliteDatabase._connect

    def slowly(database: SqliteDatabase, create: bool) -> None:
        connect(database, create)
        opened.append(database)
        held.work()

    monkeypatch.setattr(SqliteDatabase, "_connect", slowly)
    opening = asyncio.create_task(
        SqliteDatabase.open(target_of(f"sqlite:///{tmp_path / 'own.db'}"), create=True)
    )
    await given_up(opening, held)
    (database,) = opened
    assert database._connection is not None
    held.go.set()
    await until(lambda: database._connection is None)


async def test_two_threads_never_ask_the_watcher_at_once(tmp_path: Path) -> None:
    """A turn whose awaiter was cancelled reads on while the event loop waits for writes."""
    database = await SqliteDatabase.open(target_of(f"sqlite:///{tmp_path / 'own.db'}"), create=True)
    capture = SqliteCapture(database)
    held = Held()

    class Watcher:
        def execute(self, _: str) -> Any:
            held.work()
            return self

        def fetchone(self) -> tuple[int]:
            return (1,)

        def close(self) -> None:
            assert not held.at_once

    capture._watcher = Watcher()  # type: ignore[assignment]

    async def turn() -> int:
        return capture._data_version()

    await given_up(asyncio.create_task(capture.together(turn)), held)
    asking = asyncio.create_task(asyncio.to_thread(capture._data_version))
    await asyncio.sleep(0.05)  # time to come in, if it may
    held.go.set()
    assert await asking == 1
    await capture.close()
    assert held.most_at_once == 1


async def test_a_list_that_is_being_written_is_not_written_by_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an applier that stops was writing goes on in its thread; the last list comes behind."""
    held = Held()

    class Target:
        dataset = "resident"

    class Folder:
        folder, location = tmp_path, str(tmp_path / "own.db")

    monkeypatch.setattr(FolderExport, "_write", held.work)
    writer = FolderExport(Folder(), {"resident": Target()})  # type: ignore[arg-type, dict-item]
    await given_up(asyncio.create_task(writer.run()), held)
    last = asyncio.create_task(writer.finish())
    await asyncio.sleep(0.05)  # time to begin, if it may
    written = []
    monkeypatch.setattr(FolderExport, "_write", lambda *_: written.append(held.at_once))
    held.go.set()
    await last
    assert held.most_at_once == 1
    assert written == [0]  # again, because nobody heard how the first one ended
