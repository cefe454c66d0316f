"""A commit in a SQLite file wakes whoever waits for it, told by the system or not."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from deptbus.department import capture_sqlite, sqlite_watch
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.sqlite_watch import end_watch, watch_database
from deptbus.errors import RowRefused

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def program(path: Path) -> sqlite3.Connection:
    """The department's own program, on the same file."""
    return sqlite3.connect(path, isolation_level=None)


async def opened(path: Path) -> SqliteDatabase:
    database = await SqliteDatabase.open(target_of(f"sqlite:///{path}"), create=True)
    await database.run(lambda c: c.execute("CREATE TABLE t (a)"))
    return database


async def woken(capture: SqliteCapture) -> bool:
    return await capture.wait(10.0)


async def attentive(database: SqliteDatabase) -> tuple[SqliteCapture, asyncio.Task[bool]]:
    """A capture that has seen all there is, and waits."""
    capture = SqliteCapture(database)
    capture._seen = capture._data_version()
    waiting = asyncio.create_task(woken(capture))
    await asyncio.sleep(0)
    return capture, waiting


@linux
async def test_a_write_to_the_database_or_its_log_is_told_and_none_to_other_files(
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.db"
    path.write_bytes(b"")
    watch = watch_database(path)
    other = watch_database(tmp_path / "other.db")
    assert watch.is_told
    (tmp_path / "own.db-wal").write_bytes(b"x")
    async with asyncio.timeout(5):
        await watch.written.wait()
    assert not other.written.is_set()
    watch.written.clear()
    (tmp_path / "other.db").write_bytes(b"x")
    async with asyncio.timeout(5):
        await other.written.wait()
    assert not watch.written.is_set()
    end_watch(watch)
    other.written.clear()
    (tmp_path / "other.db").write_bytes(b"y")  # the folder is still watched for the other
    async with asyncio.timeout(5):
        await other.written.wait()
    end_watch(other)


@linux
async def test_the_last_watch_leaves_no_file_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    watches = [watch_database(tmp_path / "one" / "own.db") for _ in range(2)]
    assert not any(w.is_told for w in watches)  # there is no such folder: not told, not raised
    watches = [watch_database(tmp_path / "own.db") for _ in range(3)]
    assert all(w.is_told for w in watches)
    for watch in watches:
        end_watch(watch)
    assert set(os.listdir("/proc/self/fd")) == before


@linux
async def test_when_writes_were_lost_everybody_looks(tmp_path: Path) -> None:
    watch = watch_database(tmp_path / "own.db")
    inotify = sqlite_watch._of_loop[asyncio.get_running_loop()]
    inotify._take(sqlite_watch._EVENT.pack(-1, sqlite_watch._IN_Q_OVERFLOW, 0, 0))
    assert watch.written.is_set()
    end_watch(watch)


@linux
async def test_a_commit_wakes_without_looking_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safety net is far away: it is the system that tells, each time anew."""
    monkeypatch.setattr(capture_sqlite, "_SAFETY_SECONDS", 60.0)
    database = await opened(tmp_path / "own.db")
    capture, waiting = await attentive(database)
    mine = program(tmp_path / "own.db")
    for number in range(5):
        began = time.monotonic()
        mine.execute("INSERT INTO t VALUES (?)", (number,))
        assert await waiting
        assert time.monotonic() - began < 5.0
        capture._seen = capture._data_version()
        waiting = asyncio.create_task(woken(capture))
        await asyncio.sleep(0)
    waiting.cancel()
    mine.close()
    await capture.close()


@linux
async def test_a_long_transaction_that_writes_early_wakes_when_it_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_sqlite, "_SAFETY_SECONDS", 60.0)
    database = await opened(tmp_path / "own.db")
    capture, waiting = await attentive(database)
    mine = program(tmp_path / "own.db")
    mine.execute("PRAGMA cache_size = 2")  # pages go to the log before the commit
    mine.execute("BEGIN")
    mine.executemany("INSERT INTO t VALUES (?)", [(b"x" * 2000,) for _ in range(200)])
    assert (tmp_path / "own.db-wal").stat().st_size > 100_000
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done  # nothing to be seen yet
    mine.execute("COMMIT")
    assert await waiting
    mine.close()
    await capture.close()


@pytest.mark.parametrize("why", ["no such function", "no more instances"])
async def test_where_the_system_does_not_tell_a_commit_wakes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    class Libc:
        def __getattr__(self, name: str) -> object:
            if why == "no such function":
                raise AttributeError(name)
            return lambda *_: -1

    monkeypatch.setattr(sqlite_watch.ctypes, "CDLL", lambda *_, **__: Libc())
    database = await opened(tmp_path / "own.db")
    capture, waiting = await attentive(database)
    mine = program(tmp_path / "own.db")
    mine.execute("INSERT INTO t VALUES (1)")
    assert await waiting
    assert capture._watch is not None
    assert not capture._watch.is_told
    mine.close()
    await capture.close()


async def test_together_is_one_visit_to_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await opened(tmp_path / "own.db")
    visits = []
    submit = database._thread.submit
    monkeypatch.setattr(
        database._thread, "submit", lambda *a, **k: visits.append(1) or submit(*a, **k)
    )

    async def work() -> int:
        await database.transaction(lambda c: c.execute("INSERT INTO t VALUES (1)"))
        await asyncio.sleep(0)
        await database.transaction(lambda c: c.execute("INSERT INTO t VALUES (2)"))
        return await database.run(lambda c: int(c.execute("SELECT sum(a) FROM t").fetchone()[0]))

    assert await database.together(work) == 3
    assert len(visits) == 1
    await database.close()


async def test_together_translates_rolls_back_and_refuses_to_wait_for_others(
    tmp_path: Path,
) -> None:
    database = await opened(tmp_path / "own.db")
    await database.run(lambda c: c.execute("CREATE UNIQUE INDEX u ON t (a)"))

    async def refused() -> None:
        await database.transaction(lambda c: c.execute("INSERT INTO t VALUES (1)"))
        await database.transaction(lambda c: c.executemany("INSERT INTO t VALUES (?)", [[2], [1]]))

    with pytest.raises(RowRefused):
        await database.together(refused)
    assert await database.run(lambda c: c.execute("SELECT a FROM t").fetchall()) == [(1,)]

    never = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        await never

    with pytest.raises(RuntimeError, match="something else"):
        await database.together(waits)
    await database.close()


async def test_what_is_not_durable_is_committed_and_the_next_is_durable_again(
    tmp_path: Path,
) -> None:
    database = await opened(tmp_path / "own.db")
    level = "PRAGMA synchronous"
    seen = await database.transaction(
        lambda c: (c.execute("INSERT INTO t VALUES (1)"), c.execute(level).fetchone()[0])[1],
        is_durable=False,
    )
    assert seen == 1
    assert await database.run(lambda c: c.execute(level).fetchone()[0]) == 2
    mine = program(tmp_path / "own.db")
    assert mine.execute("SELECT a FROM t").fetchall() == [(1,)]
    mine.close()
    await database.close()
