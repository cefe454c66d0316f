"""The publisher on a real broker and a real SQLite file: crashes, zombies, backups."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from source_bus import SqliteSource as Source
from source_bus import until
from source_world import PLACES, SECRET, StandingPolicy, contract

from deptbus.change import Cause, ChangeOp, Reason
from deptbus.connection import Connection
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.presence import Presence
from deptbus.department.publisher import Publisher
from deptbus.errors import DatabaseBusy, DeptbusError, Fenced, SourceRefused
from deptbus.names import control_topic, out_topic
from deptbus.stream.log import read_to_end
from deptbus.wire.control import Announcement, Heartbeat, Incarnated, decode_control
from deptbus.wire.keys import fingerprint

pytestmark = pytest.mark.service


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
        told, incarnated = (c for c in controls if isinstance(c, Incarnated))
        assert (told.incarnation, told.offsets) == (incarnated.incarnation, ())
        assert incarnated.offsets == tuple(first[p].offset for p in range(4))
        assert incarnated.incarnation == publisher.incarnation
        beat = next(c for c in controls if isinstance(c, Heartbeat))
        assert beat.fingerprint == fingerprint(SECRET)
        assert beat.outbox_rows in (0, 1)
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


@pytest.mark.parametrize("typed", [0, 20])
async def test_a_backup_put_back_under_a_running_adapter_is_refused(
    source: Source, typed: int
) -> None:
    """Of the same incarnation, by way of SQL: neither token nor file tell."""
    backup = source.path.with_suffix(".backup")
    async with source.publisher() as publisher:
        await publisher.start()
        running = asyncio.create_task(publisher.run())
        source.do(source.person(1))
        await source.drained()
        _copy_by_sql(source.path, backup)
        source.do(source.person(2))
        await source.drained()
        _copy_by_sql(backup, source.path)
        if typed:
            source.do(*[source.person(n) for n in range(10, 10 + typed)])
        with pytest.raises(SourceRefused, match=r"restored from a backup.*department resync"):
            await asyncio.wait_for(running, 30)
    assert set(await source.names()) == {"1", "2"}


async def test_a_number_that_was_announced_is_never_taken_again(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind its announcements, and then the database forgets it: intake would fence every
    successor of the same number whose token is the lesser, and nobody would be told."""
    _checkpoint(source.path)
    backup = source.path.with_suffix(".backup")
    shutil.copy(source.path, backup)
    write = Presence.write

    async def crash(self: Presence, record: Any) -> None:
        if isinstance(record, Incarnated) and record.offsets:
            raise RuntimeError("killed before the places of the announcements were told")
        await write(self, record)

    async with source.publisher() as publisher:
        with monkeypatch.context() as patch:
            patch.setattr(Presence, "write", crash)
            with pytest.raises(RuntimeError):
                await publisher.start()
        lost = publisher.incarnation
    announced = await read_to_end(source.connection, out_topic(source.unit))
    found = {decode_control(r.value) for r in announced}
    assert {a.incarnation for a in found if isinstance(a, Announcement)} == {lost}
    _restore(backup, source.path)
    async with source.running() as successor:
        assert successor.incarnation.number > lost.number
        source.do(source.person(1))
        await source.drained()
        assert {c.incarnation for c in await source.out()} == {successor.incarnation}


async def test_who_lost_its_database_while_it_took_over_announces_nothing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Presence.write

    async def restored(self: Presence, record: Any) -> None:
        await write(self, record)
        source.do("UPDATE deptbus_adapter SET token = x'00'")

    async with source.publisher() as publisher:
        with monkeypatch.context() as patch:
            patch.setattr(Presence, "write", restored)
            with pytest.raises(Fenced):
                await publisher.start()
    assert await read_to_end(source.connection, out_topic(source.unit)) == []


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


async def test_a_unit_that_left_the_contract_publishes_nothing_and_goes_on(
    source: Source,
) -> None:
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


async def test_what_was_mended_while_no_adapter_ran_lets_parked_rows_go(
    source: Source,
) -> None:
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


async def test_a_duplicate_is_parked_and_takes_over_when_the_holder_goes(
    source: Source,
) -> None:
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


def _copy_by_sql(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as have, closing(sqlite3.connect(target)) as copy:
        have.backup(copy)


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path, timeout=10)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def test_the_error_tree_holds() -> None:
    assert issubclass(Fenced, DeptbusError)
    assert issubclass(SourceRefused, DeptbusError)
