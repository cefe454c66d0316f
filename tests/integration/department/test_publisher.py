"""The publisher on a real broker and a real SQLite file: crashes, zombies, backups."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from source_world import PLACES, PUBLISH, SECRET, TABLE, StandingPolicy, contract, department

from deptbus.change import Cause, Change, ChangeOp, Reason
from deptbus.connection import Connection
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import layout_of
from deptbus.department.publisher import Publisher
from deptbus.department.resync import resync
from deptbus.errors import DatabaseBusy, DeptbusError, Fenced, SourceRefused
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import Sender, read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Heartbeat, Incarnated, decode_control
from deptbus.wire.keys import fingerprint
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service

CAP = 100_000


class Source:
    """One unit of its own on the shared broker, with its database and its department's program."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection = connection
        self.unit = f"line{uuid.uuid4().hex[:12]}@330106"
        self.path = folder / "own.db"
        self.contract = contract(self.unit, agreed=fingerprint(SECRET))
        self.follower = StandingPolicy(self.contract)
        self.department = department(self.unit, f"sqlite:///{self.path}")
        self.codecs = Codecs(self.contract)
        admin = AdminClient({"bootstrap.servers": connection.bootstrap})
        topics = [
            NewTopic(out_topic(self.unit), 4, 1),
            NewTopic(control_topic(self.unit), 1, 1, config={"cleanup.policy": "compact"}),
        ]
        for future in admin.create_topics(topics).values():
            future.result(30)
        self.do(TABLE)

    def do(self, *statements: str) -> None:
        with sqlite3.connect(self.path, timeout=10) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    def person(self, number: Any, name: str = "李", place: str = PLACES[0], sex: int = 1) -> str:
        return (
            f"INSERT OR REPLACE INTO people VALUES ('{number}', '{place}', '{name}', {sex}, NULL, "
            "NULL, 'canary of religion')"
        )

    async def capture(self) -> SqliteCapture:
        return SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{self.path}")))

    async def install(self) -> None:
        capture = await self.capture()
        await capture.install([layout_of("person", PUBLISH, self.contract)], CAP)
        await capture.close()

    @asynccontextmanager
    async def publisher(self, secret: bytes = SECRET) -> AsyncIterator[Publisher]:
        """Not started."""
        capture = await self.capture()
        try:
            async with Sender(self.connection) as sender:
                yield Publisher(
                    self.connection,
                    self.department,
                    "main",
                    capture=capture,
                    sender=sender,
                    follower=self.follower,  # type: ignore[arg-type]
                    secret=secret,
                )
        finally:
            await capture.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        async with self.publisher() as publisher:
            await publisher.start()
            task = asyncio.create_task(publisher.run())
            try:
                yield publisher
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def out(self) -> list[Change]:
        found = []
        for record in await read_to_end(self.connection, out_topic(self.unit)):
            assert b"canary" not in (record.value or b"")
            change = self.codecs.decode_out(record.key, record.value)
            if isinstance(change, Change):
                assert record.partition == partition_of(change.key, 4)
                found.append(change)
        return found

    async def state(self) -> dict[bytes, Change]:
        """As everybody ends: the highest version of each key."""
        last: dict[bytes, Change] = {}
        for change in await self.out():
            if change.key not in last or change.version > last[change.key].version:
                last[change.key] = change
        return last

    async def names(self) -> dict[str, str]:
        """Natural key -> name, of what is there."""
        codec = self.codecs.record_codec("person", 1)
        live = [c for c in (await self.state()).values() if c.record is not None]
        values = [codec.decode(c.record) for c in live]  # type: ignore[arg-type]
        return {v["id"]: v["name"] for v in values}

    async def drained(self, poll_seconds: float = 0.02) -> None:
        await until(self._is_empty, poll_seconds=poll_seconds)

    async def _is_empty(self) -> bool:
        def count() -> int:
            with sqlite3.connect(self.path, timeout=10) as c:
                found = c.execute("SELECT count(*) FROM deptbus_outbox").fetchone()[0]
                found += c.execute("SELECT count(*) FROM deptbus_wanted").fetchone()[0]
            c.close()
            return int(found)

        return await asyncio.to_thread(count) == 0


async def until(
    condition: Callable[[], Awaitable[bool]], seconds: float = 30, poll_seconds: float = 0.02
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, "did not become true in time"
        await asyncio.sleep(poll_seconds)


@pytest.fixture
async def source(broker: Connection, tmp_path: Path) -> Source:
    made = await asyncio.to_thread(Source, broker, tmp_path)
    await made.install()
    return made


async def test_changes_reach_the_outbox_topic(source: Source) -> None:
    async with source.running() as publisher:
        source.do(source.person(1), source.person(2))
        source.do(f"UPDATE people SET area = '{PLACES[1]}' WHERE 身份证 = '1'")
        source.do("DELETE FROM people WHERE 身份证 = '2'")
        await source.drained()
        changes = await source.out()
        moved = next(c for c in changes if c.division == PLACES[1])
        assert moved.former_divisions == (PLACES[0],)
        gone = next(c for c in changes if c.op is ChangeOp.DELETE)
        assert (gone.reason, gone.division) == (Reason.REMOVED, PLACES[0])
        assert {c.incarnation for c in changes} == {publisher.incarnation}
        assert {(c.cause, c.policy, c.source_unit) for c in changes} == {
            (Cause.LIVE, 1, source.unit)
        }
        assert all(c.publication > 0 for c in changes)
        assert await source.names() == {"1": "李"}


async def test_a_take_over_is_announced_before_anything_is_published(source: Source) -> None:
    async with source.running() as publisher:
        source.do(source.person(1))
        await source.drained()
        first: dict[int, Any] = {}
        for record in await read_to_end(source.connection, out_topic(source.unit)):
            first.setdefault(record.partition, record)
        assert sorted(first) == [0, 1, 2, 3]
        assert all(isinstance(decode_control(r.value), Announcement) for r in first.values())
        controls = [
            decode_control(r.value)
            for r in await read_to_end(source.connection, control_topic(source.unit))
        ]
        incarnated = next(c for c in controls if isinstance(c, Incarnated))
        assert incarnated.offsets == tuple(first[p].offset for p in range(4))
        assert incarnated.incarnation == publisher.incarnation
        beat = next(c for c in controls if isinstance(c, Heartbeat))
        assert beat.fingerprint == fingerprint(SECRET)
        assert all(end > offset for end, offset in zip(beat.ends, incarnated.offsets, strict=True))


async def test_a_crash_between_send_and_delete_sends_again_at_the_same_versions(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.do(*[source.person(n) for n in range(50)])

    async def crash(self: SqliteCapture, token: bytes, positions: Any) -> None:
        raise RuntimeError("killed before the outbox rows were deleted")

    async with source.publisher() as publisher:
        await publisher.start()
        with monkeypatch.context() as patch:
            patch.setattr(SqliteCapture, "delete", crash)
            with pytest.raises(RuntimeError):
                await publisher.run()
    assert len(await source.out()) == 50
    async with source.running():
        await source.drained()
    changes = await source.out()
    assert len(changes) == 100
    assert len({(c.key, c.version) for c in changes}) == 50
    numbers: dict[Any, set[int]] = {}
    for change in changes:
        numbers.setdefault(change.key, set()).add(change.publication)
    assert all(len(n) == 2 for n in numbers.values())


async def test_the_planted_bug_of_deleting_before_the_ack_is_caught(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same crash, with an adapter that forgets first: changes are lost, and seen to be."""
    source.do(*[source.person(n) for n in range(50)])

    async def forget_then_die(self: Publisher, values: Any, publication: int) -> None:
        await self._capture.delete(self.incarnation.token, [change.version for change in values])
        raise RuntimeError("killed before the send")

    async with source.publisher() as publisher:
        await publisher.start()
        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "_send", forget_then_die)
            with pytest.raises(RuntimeError):
                await publisher.run()
    async with source.running():
        await source.drained()
    assert len(await source.names()) < 50


async def test_an_older_adapter_is_fenced_and_writes_nothing_more(source: Source) -> None:
    async with source.publisher() as old:
        await old.start()
        async with source.running() as new:
            assert new.incarnation > old.incarnation
            source.do(source.person(1))
            with pytest.raises(Fenced):
                await old.run()
            await source.drained()
            assert {c.incarnation for c in await source.out()} == {new.incarnation}


async def test_an_idle_older_adapter_notices_too(source: Source) -> None:
    async with source.publisher() as old:
        await old.start()
        async with source.running():
            with pytest.raises(Fenced):
                await asyncio.wait_for(old.run(), 20)


async def test_a_wrong_secret_is_refused_and_fences_nobody(source: Source) -> None:
    async with source.running() as right:
        async with source.publisher(b"x" * 32) as wrong:
            with pytest.raises(SourceRefused, match="wrong secret"):
                await wrong.start()
        source.follower.put(contract(source.unit))  # the contract names no fingerprint any more
        async with source.publisher(b"x" * 32) as wrong:
            with pytest.raises(SourceRefused, match="wrong secret"):
                await wrong.start()
        source.do(source.person(1))
        await source.drained()
        assert {c.incarnation for c in await source.out()} == {right.incarnation}


async def test_a_database_restored_from_a_backup_is_refused(source: Source) -> None:
    async with source.running():
        source.do(source.person(1))
        await source.drained()
    _checkpoint(source.path)
    backup = source.path.with_suffix(".backup")
    shutil.copy(source.path, backup)
    async with source.running():
        source.do(source.person(2))
        await source.drained()
    _restore(backup, source.path)
    # Whatever was typed since, more than was lost even.
    source.do(*[source.person(n) for n in range(10, 30)])
    for _ in range(2):
        async with source.publisher() as publisher:
            with pytest.raises(SourceRefused, match="restored from a backup"):
                await publisher.start()
    assert set(await source.names()) == {"1", "2"}


async def test_a_database_that_published_to_another_bus_is_refused(source: Source) -> None:
    source.do("UPDATE deptbus_published SET publication = 7")
    async with source.publisher() as publisher:
        with pytest.raises(SourceRefused, match="knows nothing of it"):
            await publisher.start()


async def test_without_capture_installed_it_says_so(source: Source) -> None:
    capture = await source.capture()
    await capture.uninstall()
    await capture.close()
    async with source.publisher() as publisher:
        with pytest.raises(SourceRefused, match="not installed"):
            await publisher.start()


async def test_a_refused_row_is_parked_and_its_neighbours_go_on(source: Source) -> None:
    async with source.running():
        source.do(source.person(1), source.person(2, sex=9), source.person(3, place="nowhere"))
        source.do(source.person(4))
        await source.drained()
        assert set(await source.names()) == {"1", "4"}
        capture = await source.capture()
        assert dict((await capture.status()).parked) == {"unknown_code": 1, "bad_division": 1}
        source.do("UPDATE people SET sex = 2 WHERE 身份证 = '2'")
        await source.drained()
        await until(lambda: _has(source, {"1", "2", "4"}))
        assert dict((await capture.status()).parked) == {"bad_division": 1}
        await capture.close()


async def test_a_row_that_was_mended_while_the_database_was_held_is_not_parked_any_more(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with source.running() as publisher:
        source.do(source.person(1, sex=9))
        await until(lambda: _parked(source, 1))
        prepare, refused = publisher.capture.prepare, asyncio.Event()

        async def busy_once(*args: Any, **more: Any) -> int:
            if refused.is_set():
                return await prepare(*args, **more)
            refused.set()
            raise DatabaseBusy("somebody holds it")

        monkeypatch.setattr(publisher.capture, "prepare", busy_once)
        source.do(source.person(1))
        await source.drained()
        assert refused.is_set()
        assert await source.names() == {"1": "李"}
        assert await _parked(source, 0)


async def test_a_contract_that_comes_into_force_is_followed_and_parked_rows_are_tried_again(
    source: Source,
) -> None:
    async with source.running():
        source.do(source.person(1, place="330106109054"))
        await until(lambda: _parked(source, 1))
        source.follower.put(
            contract(source.unit, agreed=fingerprint(SECRET), places=(*PLACES, "330106109054"))
        )
        await until(lambda: _parked(source, 0))
        await source.drained()
        (change,) = await source.out()
        assert (change.division, change.policy) == ("330106109054", 2)


async def test_a_unit_that_left_the_contract_publishes_nothing_and_goes_on(source: Source) -> None:
    """Were its adapter to end, what it received would never be withdrawn from it."""
    mine = contract(source.unit, agreed=fingerprint(SECRET))
    for again in (False, True):
        async with source.running() as publisher:
            if not again:
                source.follower.put(contract("other@330106"))
            await until(lambda: _holds(publisher))
            source.do(source.person(int(again)))
    assert await source.out() == []
    source.follower.put(mine)
    async with source.running():
        await source.drained()
    assert set(await source.names()) == {"0", "1"}


async def _holds(publisher: Publisher) -> bool:
    return not publisher.datasets


async def test_a_unit_that_no_contract_ever_had_is_refused(source: Source) -> None:
    source.follower = StandingPolicy(contract("other@330106"))
    async with source.publisher() as publisher:
        with pytest.raises(SourceRefused, match="no contract"):
            await publisher.start()


async def test_what_was_mended_while_no_adapter_ran_lets_parked_rows_go(source: Source) -> None:
    """The contract, or a code in department.yml: nothing in the row itself tells."""
    async with source.running():
        source.do(source.person(1, place="330106109054"))
        await until(lambda: _parked(source, 1))
    source.follower.put(
        contract(source.unit, agreed=fingerprint(SECRET), places=(*PLACES, "330106109054"))
    )
    async with source.running():
        await until(lambda: _parked(source, 0))
        await source.drained()
    (change,) = await source.out()
    assert (change.division, change.policy) == ("330106109054", 2)


async def test_a_duplicate_is_parked_and_takes_over_when_the_holder_goes(source: Source) -> None:
    async with source.running():
        source.do(source.person("abc", "first"))
        await source.drained()
        source.do(source.person("ABC ", "second"))
        await until(lambda: _parked(source, 1))
        assert await source.names() == {"abc": "first"}
        source.do("DELETE FROM people WHERE 身份证 = 'abc'")
        await until(lambda: _named(source, {"ABC ": "second"}))
        await until(lambda: _parked(source, 0))


async def test_existing_rows_and_resends(source: Source) -> None:
    capture = await source.capture()
    await capture.uninstall()
    source.do(*[source.person(n, f"n{n}") for n in range(200)])
    await source.install()
    async with source.running() as publisher:
        await capture.begin_snapshot("person", "snapshot", None)
        publisher.chores.wake()
        await until(lambda: _has(source, {str(n) for n in range(200)}))
        await source.drained()
        before = await source.state()
        key = next(iter(before))
        await publisher.chores.enqueue_resend("person", key, "request 1")
        await until(lambda: _version_above(source, key, before[key].version))
        again = (await source.state())[key]
        assert (again.cause, again.job, again.op) == (Cause.RESEND, "request 1", ChangeOp.UPSERT)
        source.do("DELETE FROM people")
        await source.drained()
        gone = (await source.state())[key]
        assert gone.op is ChangeOp.DELETE
        await publisher.chores.enqueue_resend("person", key)
        await until(lambda: _version_above(source, key, gone.version))
        assert (await source.state())[key].op is ChangeOp.DELETE
        await publisher.chores.enqueue_resend("person", b"never known to it")
        await source.drained()
    await capture.close()


async def test_bulk_and_order_of_versions(source: Source) -> None:
    async with source.running():
        source.do(*[source.person(n, "a") for n in range(3000)])
        source.do("UPDATE people SET 姓名 = 'b'")
        source.do("UPDATE people SET 姓名 = 'c' WHERE CAST(身份证 AS INTEGER) % 2 = 0")
        await source.drained()
        expected = {str(n): "c" if n % 2 == 0 else "b" for n in range(3000)}
        await until(lambda: _named(source, expected))
        last: dict[bytes, int] = {}
        for change in await source.out():
            assert change.version > last.get(change.key, 0)
            last[change.key] = change.version


async def test_a_commit_is_published_within_milliseconds(source: Source) -> None:
    async with source.running():
        source.do(source.person(0))
        await source.drained()
        loop = asyncio.get_running_loop()
        took = []
        for n in range(1, 31):
            begun = loop.time()
            await asyncio.to_thread(source.do, source.person(n))
            await source.drained(0.001)
            took.append(loop.time() - begun)
        assert sorted(took)[15] < 0.25  # a few milliseconds where the machine is not shared


async def _has(source: Source, keys: set[str]) -> bool:
    return set(await source.names()) == keys


async def _named(source: Source, expected: dict[str, str]) -> bool:
    return await source.names() == expected


async def _version_above(source: Source, key: bytes, version: int) -> bool:
    return (await source.state())[key].version > version


async def _parked(source: Source, count: int) -> bool:
    capture = await source.capture()
    try:
        return len(await capture.parked()) == count
    finally:
        await capture.close()


def _restore(backup: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, path)


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path, timeout=10)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def test_the_error_tree_holds() -> None:
    assert issubclass(Fenced, DeptbusError)
    assert issubclass(SourceRefused, DeptbusError)


async def test_resync_after_a_restored_backup(source: Source) -> None:
    async with source.running():
        source.do(source.person(1, "old"), source.person(2, "old"), source.person(3, "old"))
        await source.drained()
    _checkpoint(source.path)
    backup = source.path.with_suffix(".backup")
    shutil.copy(source.path, backup)
    async with source.running():
        source.do(source.person(1, "lost", PLACES[1]), source.person(4, "lost"))
        source.do("DELETE FROM people WHERE 身份证 = '3'")
        await source.drained()
    _restore(backup, source.path)
    source.do(source.person(2, "typed since"), source.person(5, "typed since"))
    before = await source.state()
    async with source.publisher() as publisher:
        done = await resync(source.connection, source.department, "main", publisher, source.codecs)
    assert (done.is_complete, done.gone) == (True, 1)
    names = {"1": "old", "2": "typed since", "3": "old", "5": "typed since"}
    assert await source.names() == names
    after = await source.state()
    assert all(after[key].version > before[key].version for key in before)
    # Whoever got it at the place that the backup does not know is told that it is gone from there.
    moved = next(c for c in after.values() if c.division == PLACES[0] and c.former_divisions)
    assert moved.former_divisions == (PLACES[1],)
    async with source.running():
        source.do(source.person(6))
        await source.drained()
        assert set(await source.names()) == {*names, "6"}


async def test_resync_after_capture_gave_way(source: Source) -> None:
    capture = await source.capture()
    try:
        await capture.install([layout_of("person", PUBLISH, source.contract)], 5)
        async with source.running():
            source.do(source.person(1), source.person(2))
            await source.drained()
        source.do(*[source.person(n) for n in range(10, 20)])
        source.do("DELETE FROM people WHERE 身份证 = '1'")
        assert (await capture.state()).gave_way > 0
        await capture.install([layout_of("person", PUBLISH, source.contract)], CAP)
        async with source.publisher() as publisher:
            await resync(source.connection, source.department, "main", publisher, source.codecs)
        assert set(await source.names()) == {"2", *map(str, range(10, 20))}
        assert (await capture.state()).gave_way == 0
    finally:
        await capture.close()


async def test_resync_on_a_rebuilt_bus(source: Source) -> None:
    source.do(source.person(1), "UPDATE deptbus_published SET publication = 7")
    async with source.publisher() as publisher:
        await resync(source.connection, source.department, "main", publisher, source.codecs)
    assert set(await source.names()) == {"1"}
    async with source.publisher() as publisher:
        await publisher.start()
