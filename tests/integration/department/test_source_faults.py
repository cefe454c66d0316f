"""What goes wrong with a source's database while its adapter runs: the department's own writes
neither fail nor wait for it, nothing is lost, one line says what to do, and neighbours go on."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fault_desks import Clerk, SourceDesk, running, said, until
from small_disk import small_disk
from structlog.testing import capture_logs

from deptbus.cluster.postgres import PostgresServer
from deptbus.connection import Connection
from deptbus.department import publisher
from deptbus.department.presence import Presence

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

# Of one commit on a machine that is busy with other tests; a wait for the bus is longer by far.
PROMPT_SECONDS = 1.0
LOCKED_SECONDS = 6.0
ADD = "INSERT INTO people (身份证, area, 姓名, sex) VALUES ('{:018}', '330106109051', '{}', 1)"
COLUMNS = "身份证 TEXT PRIMARY KEY, area TEXT, 姓名 TEXT, sex INTEGER, born TEXT, firm TEXT, "
REBUILD = (
    f"BEGIN; CREATE TABLE fresh ({COLUMNS} religion TEXT, remark TEXT); "
    "INSERT INTO fresh SELECT *, NULL FROM people; DROP TABLE people; "
    "ALTER TABLE fresh RENAME TO people; COMMIT"
)


@pytest.fixture
def server(service_folder: Path) -> Iterator[PostgresServer]:
    """A server of one's own, to be stopped."""
    with PostgresServer(service_folder / "source-faults-postgres") as made:
        yield made


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(publisher, "LOOK_SECONDS", 0.3)


@asynccontextmanager
async def locked(desk: SourceDesk, statement: str) -> AsyncIterator[None]:
    """A transaction of the department's own program that stays open behind a statement."""
    if desk.url is None:
        with closing(sqlite3.connect(desk.file, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(statement)
            yield
            connection.execute("COMMIT")
        return
    connection = await asyncpg.connect(desk.url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(statement)
    yield
    await transaction.commit()
    await connection.close()


@pytest.mark.parametrize("how", ["sqlite", "postgres", "switched off"])
async def test_a_table_without_our_triggers_is_noticed(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path, how: str
) -> None:
    """A vendor's update rebuilds the table, a bulk load switches triggers off. Silence here would
    be a loss for good."""
    desk = await SourceDesk(broker, tmp_path, None if how == "sqlite" else postgres()).open()
    with capture_logs() as logs:
        async with running(broker, [desk]):
            await desk.sql(ADD.format(1, "a"))
            await until(desk.is_published, "the first row")
            if how == "sqlite":
                with closing(sqlite3.connect(desk.file, timeout=30)) as connection:
                    connection.executescript(REBUILD)
            else:
                rebuilt = how == "postgres"
                await desk.sql(REBUILD if rebuilt else "ALTER TABLE people DISABLE TRIGGER USER")
            await desk.sql("UPDATE people SET 姓名 = 'b'")
            await until(lambda: said(logs, "capture_broken", desk), "a word")
            (line,) = said(logs, "capture_broken", desk)
            assert "triggers on table people are gone or switched off" in line["reason"]
            assert "deptbus department install" in line["mend"]
            assert (await desk.status()).gave_way == 1
            assert len(said(logs, "resync_needed", desk)) == 1
            (note,) = [n for n in await desk.install() if "resync" in n]
            assert "was not captured" in note
            await desk.sql("UPDATE people SET 姓名 = 'c'")
            await until(desk.is_published, "what is captured again")
    assert len(said(logs, "capture_broken", desk)) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_renamed_column_fails_no_write_and_its_dataset_waits(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path, kind: str
) -> None:
    desk = await SourceDesk(broker, tmp_path, postgres() if kind == "postgres" else None).open()
    await desk.sql(ADD.format(1, "a"))
    with capture_logs() as logs:
        async with running(broker, [desk]):
            await until(desk.is_published, "the first row")
            await desk.sql("ALTER TABLE people RENAME COLUMN 姓名 TO name")
            await desk.sql("UPDATE people SET name = 'b'", "DELETE FROM people")
            await desk.sql(ADD.format(2, "c").replace("姓名", "name"))
            await until(lambda: said(logs, "capture_broken", desk), "a word")
            (line,) = said(logs, "capture_broken", desk)
            assert "table people has no column 姓名" in line["reason"]
            await desk.sql("ALTER TABLE people RENAME COLUMN name TO 姓名")
            await until(lambda: said(logs, "capture_mended", desk), "it is well again")
            if kind == "sqlite":
                # Its triggers go with the column's name: nothing was missed.
                assert (await desk.status()).gave_way == 0
                await until(desk.is_published, "what waited")
            else:
                assert (await desk.status()).gave_way > 0
                assert len(said(logs, "resync_needed", desk)) == 1
            await desk.sql(ADD.format(3, "d"))
            await until(lambda: _has(desk, "d"), "what came after it")


async def test_a_column_of_another_type_is_named_and_its_dataset_waits_alone(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path
) -> None:
    desk = await SourceDesk(broker, tmp_path, postgres()).open()
    neighbour = await SourceDesk(broker, tmp_path).open()
    await desk.sql(ADD.format(1, "a"))
    with capture_logs() as logs:
        async with running(broker, [desk, neighbour]):
            await until(desk.is_published, "the first row")
            await desk.sql("ALTER TABLE people ALTER COLUMN 姓名 TYPE char(40)")
            await until(lambda: said(logs, "capture_broken", desk), "a word")
            (line,) = said(logs, "capture_broken", desk)
            assert "column 姓名 of table people was text when capture" in line["reason"]
            await desk.sql(ADD.format(2, "b"))
            with Clerk(neighbour) as other:
                await other.wait_for(50)
            await until(neighbour.is_published, "the neighbour's")
            assert not await _has(desk, "b")
            (note,) = [n for n in await desk.install() if "resync" in n]
            assert "another type" in note
            await until(lambda: said(logs, "capture_mended", desk), "it is well again")
            await until(lambda: _has_two(desk), "what waited")
    assert other.failed == []


async def _has_two(desk: SourceDesk) -> bool:
    return len(await desk.published()) == 2


async def _has(desk: SourceDesk, name: str) -> bool:
    return name in (await desk.published()).values()


async def test_a_column_with_another_type_and_one_more_go_on(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path
) -> None:
    desk = await SourceDesk(broker, tmp_path, postgres()).open()
    with capture_logs() as logs:
        async with running(broker, [desk]):
            with Clerk(desk) as clerk:
                await clerk.wait_for(50)
                await desk.sql(
                    "ALTER TABLE people ADD COLUMN remark text NOT NULL DEFAULT 'x'",
                    "ALTER TABLE people ALTER COLUMN 姓名 TYPE varchar(40)",
                    "ALTER TABLE people ALTER COLUMN sex TYPE smallint",
                )
                await clerk.wait_for(100)
            await until(desk.is_published, "everything")
    # PostgreSQL itself tells the clerk's prepared statement that its table was altered.
    assert [f for f in clerk.failed if "cached" not in f] == []
    assert (await desk.status()).gave_way == 0
    assert said(logs, "system_waits", desk) == []


async def test_postgres_restarted_in_mid_batch(
    broker: Connection, server: PostgresServer, tmp_path: Path
) -> None:
    desk = await SourceDesk(broker, tmp_path, server.create_database("restarted")).open()
    neighbour = await SourceDesk(broker, tmp_path).open()
    with capture_logs() as logs:
        async with running(broker, [desk, neighbour]):
            with Clerk(desk, rows=400) as clerk, Clerk(neighbour) as other:
                await clerk.wait_for(200)
                for _ in range(2):
                    clerk.forgives = True
                    await asyncio.to_thread(server.stop)
                    await other.wait_for(100)
                    server.start()
                    await clerk.wait_for(100)
                    clerk.forgives = False
            await until(desk.is_published, "everything")
            await until(neighbour.is_published, "the neighbour's")
    assert other.failed == clerk.failed == []
    assert other.slowest < PROMPT_SECONDS
    assert (await desk.status()).gave_way == 0
    # One line for each time that it was away, and none of the neighbour's.
    assert 1 <= len(said(logs, "system_waits", desk)) <= 4, said(logs, "system_waits", desk)
    assert said(logs, "system_waits", neighbour) == []


async def _crowd(url: str, others: list[asyncpg.Connection]) -> None:
    """Takes every place that the server has left."""
    while True:
        try:
            others.append(await asyncpg.connect(url))
        except asyncpg.TooManyConnectionsError:
            return


async def test_out_of_connections(
    broker: Connection, server: PostgresServer, tmp_path: Path
) -> None:
    url = server.create_database("crowded")
    desk = await SourceDesk(broker, tmp_path, url).open()
    others: list[asyncpg.Connection] = []
    with capture_logs() as logs:
        async with running(broker, [desk]):
            with Clerk(desk) as clerk:
                await clerk.wait_for(50)
                await _crowd(url, others)
                # What it has goes on; who has to connect anew waits for a place.
                await clerk.wait_for(50)
                await others[0].execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'deptbus %'"
                )
                await _crowd(url, others)
                await until(lambda: said(logs, "system_waits", desk), "a word")
                await clerk.wait_for(50)
                for connection in others:
                    await connection.close()
                await clerk.wait_for(50)
            await until(desk.is_published, "everything")
    assert clerk.failed == []
    lines = [str(line["error"]) for line in said(logs, "system_waits", desk)]
    assert any("max_connections" in line for line in lines), lines


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "postgres row"])
async def test_a_lock_held_for_long_is_waited_for_in_place(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path, kind: str
) -> None:
    desk = await SourceDesk(broker, tmp_path, None if kind == "sqlite" else postgres()).open()
    neighbour = await SourceDesk(broker, tmp_path).open()
    await desk.sql(*(ADD.format(n, "a") for n in range(900, 903)))
    statement = {
        "sqlite": ADD.format(999, "z"),
        "postgres": "LOCK TABLE people IN ACCESS EXCLUSIVE MODE",
        "postgres row": "UPDATE people SET 姓名 = 'held' WHERE 身份证 LIKE '%900'",
    }[kind]
    with capture_logs() as logs:
        async with running(broker, [desk, neighbour]):
            await until(desk.is_published, "the first rows")
            with Clerk(neighbour) as other:
                # A delete is looked at again in the table before it is published.
                await desk.sql("DELETE FROM people WHERE 身份证 LIKE '%901'")
                async with locked(desk, statement):
                    if kind == "postgres row":
                        with Clerk(desk) as clerk:
                            await asyncio.sleep(LOCKED_SECONDS)
                        assert clerk.failed == []
                        assert clerk.slowest < PROMPT_SECONDS
                    else:
                        await asyncio.sleep(LOCKED_SECONDS)
                await until(desk.is_published, "everything")
            await until(neighbour.is_published, "the neighbour's")
    assert other.failed == []
    assert other.slowest < PROMPT_SECONDS
    assert other.written > 100
    # It stayed where it was: no new take-over, which the recipient's side of it would feel.
    assert said(logs, "system_waits", desk) == []
    assert len(said(logs, "publishing_waits_for_a_lock", desk)) <= 1


async def test_the_outboxs_disk_is_full(
    broker: Connection, server: PostgresServer, tmp_path: Path
) -> None:
    """The department's writes go through, what could not be captured is counted, and the resync
    that is asked for brings everything."""
    desk = await SourceDesk(broker, tmp_path, server.create_database("full")).open()
    with small_disk(server, 4) as folder, capture_logs() as logs:
        await desk.sql(
            f"CREATE TABLESPACE small LOCATION '{folder}'",
            "ALTER TABLE deptbus.outbox SET TABLESPACE small",
        )
        # Nobody publishes meanwhile: it fills up.
        filler = "repeat('x', 700)"
        await desk.sql(
            f"INSERT INTO people SELECT lpad(n::text, 18, '0'), '330106109051', {filler}, 1 "
            "FROM generate_series(1, 12000) n"
        )
        for n in range(5):
            await desk.sql(ADD.format(100_000 + n, "typed on a full disk"))
        assert (await desk.status()).gave_way > 0
        async with running(broker, [desk]):
            await until(lambda: said(logs, "resync_needed", desk), "it is said")
            with Clerk(desk) as clerk:
                await clerk.wait_for(50)
        assert clerk.failed == []
        assert clerk.slowest < PROMPT_SECONDS
        await desk.sql("ALTER TABLE deptbus.outbox SET TABLESPACE pg_default")
        await desk.sql("DROP TABLESPACE small")
        await desk.resync()
        await until(desk.is_published, "everything, after the resync")
        assert (await desk.status()).gave_way == 0


async def test_the_adapters_clock_is_set_back(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions are drawn by the database's counter: no clock decides which change is the newer."""
    desk = await SourceDesk(broker, tmp_path).open()
    async with running(broker, [desk]):
        with Clerk(desk, rows=5) as clerk:
            await clerk.wait_for(50)
            real = time.time_ns
            monkeypatch.setattr(time, "time_ns", lambda: real() - 86_400_000_000_000)
            await clerk.wait_for(50)
        await until(desk.is_published, "everything")
        before = clerk.written
    async with running(broker, [desk]):
        with Clerk(desk, rows=5, seed=2) as clerk:
            await clerk.wait_for(50)
        await until(desk.is_published, "everything after a restart")
    assert before >= 100


async def test_a_sqlite_folder_goes_away_and_comes_back(broker: Connection, tmp_path: Path) -> None:
    desk = await SourceDesk(broker, tmp_path).open()
    neighbour = await SourceDesk(broker, tmp_path).open()
    aside = tmp_path / "aside"
    with capture_logs() as logs:
        async with running(broker, [desk, neighbour]):
            with Clerk(desk) as clerk, Clerk(neighbour) as other:
                await clerk.wait_for(50)
                clerk.forgives = True
                desk.folder.rename(aside)
                await until(lambda: said(logs, "system_waits", desk), "a word")
                await other.wait_for(100)
                aside.rename(desk.folder)
                await clerk.wait_for(50)
            await until(desk.is_published, "everything")
            await until(neighbour.is_published, "the neighbour's")
    assert other.failed == []
    assert other.slowest < PROMPT_SECONDS
    lines = {str(line["error"]) for line in said(logs, "system_waits", desk)}
    assert any("replaced or removed" in line or "no such file" in line for line in lines), lines
    assert said(logs, "system_stopped", desk) == []


@pytest.mark.parametrize("table", ["outbox", "applying"])
async def test_writes_go_on_as_soon_as_a_table_of_ours_is_dropped_from_a_sqlite_file(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A trigger can neither look nor catch, so they fail until the adapter has taken the triggers
    away: whatever else it does now and then does not come to it here."""
    for name in ("publisher.HEARTBEAT_SECONDS", "publisher.LOOK_SECONDS", "chores._IDLE_SECONDS"):
        monkeypatch.setattr(f"deptbus.department.{name}", 100.0)
    desk = await SourceDesk(broker, tmp_path).open()
    numbers = iter(range(1, 10_000))
    refused: set[str] = set()

    async def is_written() -> bool:
        try:
            await desk.sql(ADD.format(next(numbers), "x"))
        except sqlite3.OperationalError as error:
            refused.add(str(error))
            return False
        return True

    with capture_logs() as logs:
        async with running(broker, [desk]):
            assert await is_written()
            await until(desk.is_published, "the first row")
            await desk.sql(f"DROP TABLE deptbus_{table}")
            await until(is_written, "writes go on", 10)
    assert refused <= {f"no such table: main.deptbus_{table}"}
    assert [line["event"] for line in logs].count("capture_torn") == 1
    await desk.install()
    assert await is_written()


async def test_a_database_restored_while_it_is_taken_over_is_taken_over_again(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It bears no younger adapter's token but an older one's: nobody has to act."""
    desk = await SourceDesk(broker, tmp_path).open()
    write, restored = Presence.write, asyncio.Event()

    async def restore(self: Presence, record: Any) -> None:
        await write(self, record)
        if not restored.is_set():
            restored.set()
            await desk.sql("UPDATE deptbus_adapter SET incarnation = 0, token = x''")

    monkeypatch.setattr(Presence, "write", restore)
    with capture_logs() as logs:
        async with running(broker, [desk]):
            await desk.sql(ADD.format(1, "a"))
            await until(desk.is_published, "the first row")
    assert len(said(logs, "database_was_replaced", desk)) == 1
    assert said(logs, "system_stopped", desk) == []


async def test_a_sqlite_file_is_replaced_by_an_older_copy(
    broker: Connection, tmp_path: Path
) -> None:
    """Its numbers lie behind the bus: it stops and names the command, which brings everything."""
    desk = await SourceDesk(broker, tmp_path).open()
    with capture_logs() as logs:
        async with running(broker, [desk]) as runs:
            await desk.sql(ADD.format(1, "old"))
            await until(desk.is_published, "the first row")
            with (
                closing(sqlite3.connect(desk.file)) as have,
                closing(sqlite3.connect(desk.folder / "copy.db")) as copy,
            ):
                have.backup(copy)
            await desk.sql("UPDATE people SET 姓名 = 'newer'", ADD.format(2, "gone with it"))
            await until(desk.is_published, "what the copy has not")
            for end in ("-wal", "-shm"):
                (desk.folder / f"own.db{end}").unlink(missing_ok=True)
            shutil.move(desk.folder / "copy.db", desk.file)
            await until(lambda: runs[0].ended, "it stops")
            (line,) = said(logs, "system_stopped", desk)
            assert "restored from a backup" in line["reason"]
            assert "deptbus department resync" in line["reason"]
    await desk.resync()
    assert await desk.table() == {"0" * 17 + "1": "old"}
    await until(desk.is_published, "the older state, under a newer version")
