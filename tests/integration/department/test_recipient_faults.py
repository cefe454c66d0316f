"""What goes wrong with a recipient's database or inbox while its adapter runs: it goes on by itself
when the cause is gone, or says what a person must do, and its neighbours notice nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fault_desks import running, said, until
from inbox_feed import Feed, department_file, upsert
from small_disk import small_disk
from structlog.testing import capture_logs

from deptbus.cluster.postgres import PostgresServer
from deptbus.connection import Connection
from deptbus.contract.department import load_department
from deptbus.department import fence

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]


@pytest.fixture
def server(service_folder: Path) -> Iterator[PostgresServer]:
    with PostgresServer(service_folder / "recipient-faults-postgres") as made:
        yield made


class Desk:
    """A unit that receives `person` into `people`, and its inbox."""

    def __init__(self, bus: Connection, folder: Path, url: str | None = None) -> None:
        self.feed, self.url = Feed(bus), url
        self.folder = folder / self.feed.unit
        self.folder.mkdir()
        self.file = self.folder / "own.db"
        if url is None:
            sqlite3.connect(self.file).close()
        path = department_file(self.folder, self.feed.unit, url or "sqlite:///own.db")
        self.department = load_department(path)

    async def sql(self, *statements: str) -> list[Any]:
        if self.url is None:
            with closing(sqlite3.connect(self.file, timeout=30)) as connection:
                found: list[Any] = []
                for statement in statements:
                    found = connection.execute(statement).fetchall()
                    connection.commit()
                return found
        connection = await asyncpg.connect(self.url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return [tuple(row) for row in await connection.fetch(statements[-1])]
        finally:
            await connection.close()

    async def names(self) -> dict[str, str]:
        with suppress(sqlite3.OperationalError, asyncpg.UndefinedTableError):
            return dict(await self.sql("SELECT id, name FROM people"))
        return {}

    async def has(self, name: str, rows: int) -> bool:
        return sorted((await self.names()).values()) == [name] * rows


@asynccontextmanager
async def with_neighbour(bus: Connection, desk: Desk, folder: Path) -> AsyncIterator[list[Any]]:
    """Both run in one process; at the end the neighbour's rows came and it never said a word."""
    neighbour = Desk(bus, folder)
    with capture_logs() as logs:
        async with running(bus, [desk, neighbour]):
            yield logs
            await neighbour.feed.deliver([upsert(n, 1, name="n") for n in range(5)])
            await until(lambda: neighbour.has("n", 5), "the neighbour's rows")
    for event in ("applying_stopped", "system_waits", "system_stopped"):
        assert said(logs, event, neighbour) == []


async def test_a_file_replaced_by_an_older_copy_is_taken_over(
    broker: Connection, tmp_path: Path
) -> None:
    """A copy bears the token of an older adapter: that is no younger one, and nobody has to act."""
    desk = Desk(broker, tmp_path)
    await goes_on_with_an_older_copy(broker, desk, tmp_path)


async def goes_on_with_an_older_copy(bus: Connection, desk: Desk, folder: Path) -> None:
    async with running(bus, [desk]):
        await desk.feed.deliver([upsert(n, 1, name="a") for n in range(3)])
        await until(lambda: desk.has("a", 3), "the first rows")
    copy = desk.folder / "copy.db"
    with closing(sqlite3.connect(desk.file)) as have, closing(sqlite3.connect(copy)) as backup:
        have.backup(backup)
    async with with_neighbour(bus, desk, folder) as logs:  # a younger adapter, another token
        await desk.feed.deliver([upsert(n, 2, name="b") for n in range(3)])
        await until(lambda: desk.has("b", 3), "newer rows")
        for end in ("-wal", "-shm"):
            (desk.folder / f"own.db{end}").unlink(missing_ok=True)
        shutil.move(copy, desk.file)
        await until(lambda: desk.has("b", 3), "what the copy has not", 20)
        assert said(logs, "system_stopped", desk) == []
        assert len(said(logs, "database_was_replaced", desk)) == 1


async def test_a_backup_put_back_under_a_running_adapter_is_gone_on_with(
    broker: Connection, tmp_path: Path
) -> None:
    """Of the same incarnation, by way of SQL: neither token nor file tell."""
    desk = Desk(broker, tmp_path)
    async with with_neighbour(broker, desk, tmp_path) as logs:
        await desk.feed.deliver([upsert(n, 1, name="a") for n in range(3)])
        await until(lambda: desk.has("a", 3), "the first rows")
        backup = desk.folder / "backup.db"
        _copy_by_sql(desk.file, backup)
        await desk.feed.deliver([upsert(n, 2, name="b") for n in range(3)])
        await until(lambda: desk.has("b", 3), "newer rows")
        _copy_by_sql(backup, desk.file)
        assert await desk.has("a", 3)
        await desk.feed.deliver([upsert(0, 3, name="c")])

        async def is_whole() -> bool:
            return sorted((await desk.names()).values()) == ["b", "b", "c"]

        await until(is_whole, "what the backup has not")
        assert said(logs, "system_stopped", desk) == []
        (line,) = said(logs, "applying_stopped", desk)
        assert "put back under a running adapter" in line["error"]


def _copy_by_sql(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as have, closing(sqlite3.connect(target)) as copy:
        have.backup(copy)


async def test_planted_taking_a_copy_for_a_younger_adapter_is_caught(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(fence, "is_restored", never)
    with pytest.raises(AssertionError, match="what the copy has not"):
        await goes_on_with_an_older_copy(broker, Desk(broker, tmp_path), tmp_path)


async def test_an_inbox_made_again_under_a_running_adapter(
    broker: Connection, tmp_path: Path
) -> None:
    """Shorter than it was: the client would begin it anew without a word."""
    desk = Desk(broker, tmp_path)
    async with with_neighbour(broker, desk, tmp_path) as logs:
        await desk.feed.deliver([upsert(n, 1, name="a") for n in range(9)])
        await until(lambda: desk.has("a", 9), "the first rows")
        desk.feed.drop_topic()
        await until(lambda: _made(desk), "the topic is made again")
        await until(lambda: said(logs, "system_stopped", desk), "it says so")
        (line,) = said(logs, "system_stopped", desk)
        assert "rebuilt topic" in line["reason"]
        assert "deptbus department rejoin" in line["reason"]


def _made(desk: Desk) -> bool:
    with suppress(Exception):  # marked for deletion still
        desk.feed.make_topic()
    return desk.feed.topic in desk.feed.admin.list_topics(timeout=10).topics


async def test_a_received_table_is_altered(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path
) -> None:
    desk = Desk(broker, tmp_path, postgres())
    async with with_neighbour(broker, desk, tmp_path) as logs:
        await desk.feed.deliver([upsert(n, 1, name="a") for n in range(300)])
        await until(lambda: desk.has("a", 300), "the first rows")
        await desk.sql("ALTER TABLE people RENAME COLUMN name TO other", "SELECT 1")
        await desk.feed.deliver([upsert(n, 2, name="b") for n in range(300)])
        await until(lambda: said(logs, "applying_stopped", desk), "a word")
        await desk.sql("ALTER TABLE people RENAME COLUMN other TO name", "SELECT 1")
        await until(lambda: desk.has("b", 300), "what waited")
        await desk.sql(
            "ALTER TABLE people ALTER COLUMN name TYPE varchar(50)",
            "ALTER TABLE people ADD COLUMN remark text",
            "SELECT 1",
        )
        await desk.feed.deliver([upsert(n, 3, name="c") for n in range(300)])
        await until(lambda: desk.has("c", 300), "what came after it")
    lines = [str(line["error"]) for line in said(logs, "applying_stopped", desk)]
    assert all("column" in line or "altered" in line for line in lines), lines


async def test_a_recipients_disk_is_full(
    broker: Connection, server: PostgresServer, tmp_path: Path
) -> None:
    desk = Desk(broker, tmp_path, server.create_database("recipient_full"))
    with small_disk(server, 4) as folder:
        async with with_neighbour(broker, desk, tmp_path) as logs:
            await desk.feed.deliver([upsert(1, 1, name="a")])
            await until(lambda: desk.has("a", 1), "the first row")
            await desk.sql(f"CREATE TABLESPACE small LOCATION '{folder}'", "SELECT 1")
            await desk.sql("ALTER TABLE people SET TABLESPACE small", "SELECT 1")
            await desk.sql("CREATE TABLE filler (t text) TABLESPACE small", "SELECT 1")
            with suppress(asyncpg.DiskFullError):
                while True:
                    await desk.sql(
                        "INSERT INTO filler SELECT repeat('x', 2000) FROM generate_series(1, 20)",
                        "SELECT 1",
                    )
            await desk.feed.deliver([upsert(n, 2, name="b" * 200) for n in range(800)])
            await until(lambda: said(logs, "applying_stopped", desk), "a word")
            line = said(logs, "applying_stopped", desk)[0]
            assert "disk full" in line["error"]
            assert "Make room" in line["error"]
            await desk.sql("DROP TABLE filler", "SELECT 1")
            await until(lambda: desk.has("b" * 200, 800), "what waited")
        await desk.sql(
            "ALTER TABLE people SET TABLESPACE pg_default", "DROP TABLESPACE small", "SELECT 1"
        )
