"""Resync on a real broker: what differs is published, what is gone is deleted, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import TopicPartition
from source_bus import PostgresSource, SqliteSource, until
from source_world import PLACES, TABLE

from deptbus.change import Cause, Change, ChangeOp
from deptbus.connection import Connection
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.comparison import Comparison, Differences
from deptbus.department.resync import resync
from deptbus.errors import BusRefused, BusUnreachable, SourceRefused
from deptbus.names import data_topic, in_topic, out_topic
from deptbus.operations.inventory import MARKER_MISSING, Wait
from deptbus.stream.log import Outgoing, Sender, end_offsets, read_to_end
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service


@pytest.fixture
async def source(broker: Connection, tmp_path: Path) -> SqliteSource:
    made = await asyncio.to_thread(SqliteSource, broker, tmp_path)
    await made.install()
    return made


@pytest.fixture
async def postgres_source(
    broker: Connection, postgres: Callable[[], str]
) -> AsyncIterator[PostgresSource]:
    url = postgres()
    desk = await asyncpg.connect(url)
    await desk.execute(TABLE)
    made = await asyncio.to_thread(PostgresSource, broker, url, desk)
    await made.install()
    yield made
    await desk.close()


def table(source: SqliteSource) -> dict[str, str]:
    with sqlite3.connect(source.path) as connection:
        found = dict(connection.execute("SELECT 身份证, 姓名 FROM people"))
    connection.close()
    return found


def new(before: list[Change], after: list[Change]) -> list[Change]:
    """What was published since."""
    known = {(c.key, c.version) for c in before}
    return [c for c in after if (c.key, c.version) not in known]


def back_up(source: SqliteSource) -> Path:
    connection = sqlite3.connect(source.path, timeout=10)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    backup = source.path.with_suffix(".backup")
    shutil.copy(source.path, backup)
    return backup


def restore(backup: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, path)


async def test_only_what_differs_is_published(source: SqliteSource) -> None:
    async with source.bus():
        async with source.running():
            source.do(*[source.person(n, "same") for n in range(40)])
            await source.arrived()
        source.unseen(
            "DELETE FROM people WHERE 身份证 IN ('3', '4')",
            "UPDATE people SET 姓名 = 'other' WHERE 身份证 = '7'",
            source.person(50, "missed"),
        )
        before = await source.out()
        done = await source.resync()
        assert (done.published, done.deleted, done.equal) == (2, 2, 37)
        assert done.is_complete
        since = new(before, await source.out())
        assert len(since) == 4
        assert {c.cause for c in since} == {Cause.RESEND}
        await source.arrived()
        assert source.named(await source.canonical()) == table(source)
        assert await source.gave_way() == 0
        # Once more there is nothing to do.
        again = await source.resync()
        assert (again.published, again.deleted, again.equal) == (0, 0, 39)


async def test_restored_backup(source: SqliteSource) -> None:
    async with source.bus():
        async with source.running():
            source.do(source.person(1, "old"), source.person(2, "old"), source.person(3, "old"))
            source.do(*[source.person(n, "old") for n in (6, 7, 9)])
            await source.arrived()
        backup = back_up(source)
        async with source.running():
            source.do(source.person(1, "lost", PLACES[1]), source.person(4, "lost"))
            source.do(*[source.person(n, "lost", PLACES[1]) for n in (6, 7)])
            source.do("DELETE FROM people WHERE 身份证 = '3'")
            # There and back again: the bus has what the backup has, and knows one place more.
            source.do(f"UPDATE people SET area = '{PLACES[2]}' WHERE 身份证 = '9'")
            await source.drained()
            source.do(f"UPDATE people SET area = '{PLACES[0]}' WHERE 身份证 = '9'")
            await source.arrived()
        restore(backup, source.path)
        source.do(*[source.person(n, "typed since") for n in (2, 5, 6)])
        source.do("DELETE FROM people WHERE 身份证 = '7'")
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="restored from a backup"):
                await publisher.start()
        before = await source.state()
        done = await source.resync()
        # 4 goes, and 7 once more; 2 and 5, which waited, are equal; 9 would be, but for its place.
        assert (done.published, done.deleted, done.equal) == (4, 2, 2)
        names = {"1": "old", "2": "typed since", "3": "old", "5": "typed since", "9": "old"}
        names["6"] = "typed since"
        await source.arrived()
        assert source.named(await source.canonical()) == names == table(source)
        after = await source.state()
        # Whoever got it at the place that the backup does not know is told that it left there.
        # That is also of those whose newer state waited in the outbox, and went out before anybody
        # knew of that place.
        there = [key for key, change in before.items() if change.division == PLACES[1]]
        assert len(there) == 3
        for key in there:
            assert PLACES[1] in (after[key].division, *after[key].former_divisions)
        (gone,) = [after[key] for key in there if after[key].record is None]
        assert gone.op is ChangeOp.DELETE
        assert (await source.resync()).equal == len(names), "once is enough"
        async with source.running():
            source.do("DELETE FROM people WHERE 身份证 = '9'", source.person(6))
            await source.arrived()
        gone = max(await source.out(), key=lambda c: (c.op is ChangeOp.DELETE, c.version))
        assert set(gone.former_divisions) == {PLACES[2]}
        assert gone.division == PLACES[0]


async def test_keys_older_than_the_outbox_keeps(source: SqliteSource) -> None:
    """What `out` has lost to retention lies in the canonical topic all the same."""
    async with source.bus():
        async with source.running():
            source.do(*[source.person(n) for n in range(20)])
            await source.arrived()
        ends = await end_offsets(source.connection, out_topic(source.unit))
        places = [TopicPartition(out_topic(source.unit), p, end) for p, end in enumerate(ends)]
        for deleted in source.admin.delete_records(places).values():
            deleted.result(30)
        source.unseen("DELETE FROM people WHERE 身份证 IN ('1', '2', '3')")
        done = await source.resync()
        assert (done.published, done.deleted, done.equal) == (0, 3, 17)
        assert len(await source.out()) == 3


async def test_capture_that_gave_way(source: SqliteSource) -> None:
    async with source.bus():
        await source.install(cap_rows=5)
        async with source.running():
            source.do(source.person(1), source.person(2))
            await source.arrived()
        source.do(*[source.person(n) for n in range(10, 20)])
        source.do("DELETE FROM people WHERE 身份证 = '1'")
        assert await source.gave_way() > 0
        await source.install()
        assert (await source.resync()).is_complete
        await source.arrived()
        assert source.named(await source.canonical()) == table(source)
        assert await source.gave_way() == 0


async def test_capture_that_gives_way_again_meanwhile(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missed behind the walk is asked for again: the flag stays."""
    rows_after = SqliteCapture.rows_after

    async def missed(self: SqliteCapture, *asked: Any) -> Any:
        found = await rows_after(self, *asked)
        if not found:
            source.unseen(source.person(99, "missed behind the walk"))
        return found

    async with source.bus():
        source.do(source.person(1))
        source.unseen(source.person(2))
        with monkeypatch.context() as patch:
            patch.setattr(SqliteCapture, "rows_after", missed)
            done = await source.resync()
        assert done.missed_again
        assert not done.is_complete
        assert await source.gave_way() == 1
        assert "99" not in await source.names()
        assert (await source.resync()).is_complete
        assert await source.gave_way() == 0
        assert "99" in await source.names()


async def test_a_resync_that_is_killed_is_asked_for_and_run_again(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with source.bus():
        async with source.running():
            source.do(*[source.person(n) for n in range(30)])
            await source.arrived()
        source.unseen("DELETE FROM people WHERE CAST(身份证 AS INTEGER) < 10", source.person(40))
        for method in ("lift", "reserve", "enqueue", "enqueue_deletes", "is_pending", "forgive"):

            async def killed(*_: Any) -> Any:
                raise RuntimeError("killed here")

            with monkeypatch.context() as patch:
                patch.setattr(SqliteCapture, method, killed)
                with pytest.raises(RuntimeError):
                    await source.resync()
            assert await source.gave_way() > 0, method
        done = await source.resync()
        assert done.is_complete
        # What was published by then is equal.
        assert (done.published, done.deleted, done.equal) == (0, 0, 21)
        assert await source.gave_way() == 0
        await source.arrived()
        assert source.named(await source.canonical()) == table(source)


async def test_what_intake_has_not_taken_in_yet_is_waited_for(source: SqliteSource) -> None:
    """A change that lies in `out` and not in the canonical topic would come after the comparison:
    the marker is behind it."""
    async with source.intake(), source.running():
        source.do(source.person(1, "old"))
        await source.arrived()
    backup = back_up(source)
    async with source.running():
        source.do(source.person(1, "lost"))  # intake stands still
        await source.drained()
    restore(backup, source.path)
    async with source.operations(sign_seconds=0.1):
        task = asyncio.create_task(source.resync())

        async def is_being_told() -> bool:
            return sum(await end_offsets(source.connection, in_topic(source.unit))) >= 3

        await until(is_being_told)
        async with source.intake():
            done = await asyncio.wait_for(task, 60)
            assert done.published == 1
            await source.arrived()
            assert source.named(await source.canonical()) == {"1": "old"}


async def test_live_changes_flow_meanwhile(source: SqliteSource) -> None:
    async with source.bus():
        async with source.running():
            source.do(*[source.person(n) for n in range(300)])
            await source.arrived()
        source.unseen("UPDATE people SET 姓名 = 'unseen'")

        async def write() -> None:
            for number in range(200):
                source.do(source.person(number, f"live {number}"))
                if number % 3 == 0:
                    source.do(f"DELETE FROM people WHERE 身份证 = '{299 - number // 3}'")
                await asyncio.sleep(0.001)

        writing = asyncio.create_task(write())
        done = await source.resync()
        await writing
        assert done.is_complete
        async with source.running():
            await source.arrived()
        assert source.named(await source.canonical()) == table(source)


async def test_no_operations(source: SqliteSource) -> None:
    source.unseen(source.person(1))
    async with source.intake():
        with pytest.raises(BusUnreachable, match="operations did not tell") as told:
            await source.resync(patience_seconds=1.0)
        assert "deptbus operations run" in str(told.value.mend)
        assert await source.gave_way() > 0


async def test_no_worker(source: SqliteSource) -> None:
    source.unseen(source.person(1))
    async with source.operations(marker_seconds=0.5):
        with pytest.raises(BusRefused, match=MARKER_MISSING):
            await source.resync()
        assert await source.gave_way() > 0


@asynccontextmanager
async def traffic(source: SqliteSource) -> AsyncIterator[None]:
    """What others publish into every partition of the canonical topic, all the while: here bytes
    that lie there already, which change nothing."""
    lies = (await read_to_end(source.connection, data_topic("person")))[-1]

    async def flow() -> None:
        async with Sender(source.connection) as sender:
            while True:
                again = [Outgoing(lies.topic, p, lies.key, lies.value) for p in range(4)]
                await sender.send(again)
                await asyncio.sleep(0.02)

    flowing = asyncio.create_task(flow())
    try:
        yield
    finally:
        flowing.cancel()
        with suppress(asyncio.CancelledError):
            await flowing


async def test_traffic_of_others_is_no_sign_that_a_marker_comes(source: SqliteSource) -> None:
    await _resync_under_traffic(source, seconds=60)


async def _resync_under_traffic(source: SqliteSource, seconds: float) -> None:
    async with source.intake(), source.running():
        source.do(source.person(1))
        await source.arrived()
    async with source.operations(marker_seconds=0.5), traffic(source):
        with pytest.raises(BusRefused, match=MARKER_MISSING):
            await asyncio.wait_for(source.resync(), seconds)


async def test_planted_bug_whatever_comes_is_a_sign(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def any_sign(self: Wait, offset: int) -> None:
        self._until = self._clock() + self._seconds

    monkeypatch.setattr(Wait, "read", any_sign)
    with pytest.raises(TimeoutError):
        await _resync_under_traffic(source, seconds=8)


async def test_resync_on_a_rebuilt_bus(source: SqliteSource) -> None:
    source.do(source.person(1), "UPDATE deptbus_published SET publication = 7")
    async with source.bus():
        await source.resync()
        assert set(await source.names()) == {"1"}
        async with source.publisher() as publisher:
            await publisher.start()


async def test_planted_bug_a_resync_that_does_not_delete(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Comparison, *_: Any) -> Differences:
        return Differences()

    async with source.bus():
        async with source.running():
            source.do(source.person(1), source.person(2))
            await source.arrived()
        source.unseen("DELETE FROM people WHERE 身份证 = '1'")
        monkeypatch.setattr(Comparison, "rest", nothing)
        await source.resync()
        await source.arrived()
        assert source.named(await source.canonical()) != table(source), "the test cannot fail"


async def test_planted_bug_the_flag_is_cleared_whatever_was_missed(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgive = SqliteCapture.forgive

    async def forgive_all(self: SqliteCapture, token: bytes, _: int) -> None:
        await forgive(self, token, (await self.state()).gave_way)

    monkeypatch.setattr(SqliteCapture, "forgive", forgive_all)
    with pytest.raises(AssertionError):
        await test_capture_that_gives_way_again_meanwhile(source, monkeypatch)


async def test_planted_bug_equal_rows_are_published_again(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deptbus.department import speakers

    monkeypatch.setattr(speakers, "record_digest", lambda *_: b"another one")
    with pytest.raises(AssertionError):
        await test_only_what_differs_is_published(source)


async def test_planted_bug_no_marker_is_waited_for(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deptbus.operations.inventory import Answer, Holdings

    async def at_once(self: Answer, dataset: str, partition: int) -> Holdings:
        holdings = Holdings(source.unit)
        for change in await source.canonical():
            if partition_of(change.key, 4) == partition:
                holdings.add(change)
        return holdings

    monkeypatch.setattr(Answer, "_fold", at_once)
    with pytest.raises(AssertionError):
        await test_what_intake_has_not_taken_in_yet_is_waited_for(source)


# --- PostgreSQL -----------------------------------------------------------------------------------


def many(count: int) -> str:
    return (
        f"INSERT INTO people SELECT n::text, '{PLACES[0]}', 'n' || n, 1, NULL, NULL, 'canary' "
        f"FROM generate_series(0, {count - 1}) AS n"
    )


async def test_postgres_only_what_differs(postgres_source: PostgresSource) -> None:
    source = postgres_source
    async with source.bus():
        async with source.running():
            await source.desk.execute(many(2500))
            await source.desk.execute(
                f"UPDATE people SET area = '{PLACES[1]}', born = '1990-01-02' WHERE 身份证 = '5'"
            )
            await source.arrived()
        await source.unseen(
            "DELETE FROM people WHERE 身份证::int >= 2000",
            "UPDATE people SET 姓名 = 'other' WHERE 身份证::int < 10",
            f"INSERT INTO people VALUES ('9999', '{PLACES[0]}', 'missed', 2, NULL, NULL, '')",
        )
        before = await source.out()
        done = await source.resync()
        assert (done.published, done.deleted, done.equal) == (11, 500, 1990)
        assert done.is_complete
        assert len(new(before, await source.out())) == 511
        await source.arrived()
        rows = await source.desk.fetch("SELECT 身份证, 姓名 FROM people")
        assert source.named(await source.canonical()) == {r[0]: r[1] for r in rows}


async def test_postgres_renumbers_what_commits_late(postgres_source: PostgresSource) -> None:
    """A transaction that drew its version before the lift, and commits after it, is not left below
    what the bus knows."""
    source = postgres_source
    async with source.bus():
        async with source.running():
            await source.desk.execute(many(3))
            await source.arrived()
        # As after a backup: the database's numbers are behind.
        await source.desk.execute(
            "SELECT setval('deptbus.position', 1); UPDATE deptbus.published SET publication = 0"
        )
        late = await asyncpg.connect(source.url)
        transaction = late.transaction()
        await transaction.start()
        await late.execute("UPDATE people SET 姓名 = 'late' WHERE 身份证 = '1'")
        task = asyncio.create_task(source.resync())

        async def is_lifted() -> bool:
            return bool(await source.desk.fetchval("SELECT last_value >= 6 FROM deptbus.position"))

        await until(is_lifted)
        await source.desk.execute("UPDATE people SET 姓名 = 'meanwhile' WHERE 身份证 = '2'")
        assert not task.done()
        await transaction.commit()
        assert (await asyncio.wait_for(task, 60)).is_complete
        await late.close()
        async with source.running():
            await source.arrived()
        names = {"0": "n0", "1": "late", "2": "meanwhile"}
        assert source.named(await source.canonical()) == names


async def test_postgres_a_locked_row_is_come_back_to(postgres_source: PostgresSource) -> None:
    source = postgres_source
    async with source.bus():
        async with source.running():
            await source.desk.execute(many(5))
            await source.arrived()
        await source.unseen("UPDATE people SET 姓名 = 'unseen'")
        busy = await asyncpg.connect(source.url)
        transaction = busy.transaction()
        async with source.publisher() as publisher:
            capture = publisher.capture
            rows_after = capture.rows_after

            async def lock_first(dataset: str, after: Any, limit: int) -> Any:
                if after is None:
                    await transaction.start()
                    await busy.execute("SELECT 1 FROM people WHERE 身份证 = '2' FOR UPDATE")
                return await rows_after(dataset, after, limit)

            capture.rows_after = lock_first  # type: ignore[method-assign]
            task = asyncio.create_task(
                resync(source.connection, source.department, "main", publisher)
            )

            async def others_are_there() -> bool:
                return list((await source.names()).values()).count("unseen") == 4

            await until(others_are_there)
            assert not task.done()
            await transaction.rollback()
            assert (await asyncio.wait_for(task, 60)).published == 5
        await busy.close()
        assert set((await source.names()).values()) == {"unseen"}
