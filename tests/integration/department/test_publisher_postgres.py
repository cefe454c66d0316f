"""The publisher on a real broker and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from source_bus import PostgresSource as Source
from source_bus import until
from source_world import PLACES, PUBLISH, TABLE

from deptbus.connection import Connection
from deptbus.department.layout import layout_of
from deptbus.department.opening import open_capture
from deptbus.department.pulse import Publishing, Pulse, read_postgres, write_postgres
from deptbus.errors import DatabaseUnavailable, Fenced
from deptbus.names import out_topic
from deptbus.stream.log import read_to_end

pytestmark = pytest.mark.service


@pytest.fixture
async def source(broker: Connection, postgres: Callable[[], str]) -> AsyncIterator[Source]:
    url = postgres()
    desk = await asyncpg.connect(url)
    made = await asyncio.to_thread(Source, broker, url, desk)
    await desk.execute(TABLE)
    capture = await open_capture(made.department, "main")
    await capture.install([layout_of("person", PUBLISH, made.contract)], 100_000)
    await capture.close()
    yield made
    await desk.close()


def many(count: int) -> str:
    return (
        f"INSERT INTO people SELECT n, '{PLACES[0]}', 'n' || n, 1, '1990-01-02', NULL, 'x' "
        f"FROM generate_series(0, {count - 1}) n"
    )


async def test_bulk_and_single_changes(source: Source) -> None:
    async with source.running():
        await source.desk.execute(many(5000))
        await source.desk.execute("UPDATE people SET 姓名 = 'b' WHERE 身份证::int % 2 = 0")
        await source.desk.execute("DELETE FROM people WHERE 身份证::int >= 2500")
        for n in range(20):
            await source.desk.execute(f"UPDATE people SET 姓名 = 'c{n}' WHERE 身份证 = '1'")
            await source.drained()
        expected = {str(n): "b" if n % 2 == 0 else f"n{n}" for n in range(2500)} | {"1": "c19"}
        assert await source.names() == expected


async def test_parked_moved_truncated(source: Source) -> None:
    async with source.running() as publisher:
        await source.desk.execute(many(10))
        await source.desk.execute("UPDATE people SET sex = 9 WHERE 身份证 = '1'")
        await source.desk.execute(f"UPDATE people SET area = '{PLACES[1]}' WHERE 身份证 = '2'")
        await source.drained()
        assert dict((await publisher.capture.status()).parked) == {"unknown_code": 1}
        places = await source.desk.fetchval("SELECT places FROM deptbus.places")
        assert places == f"{PLACES[0]},{PLACES[1]}"
        await source.desk.execute("TRUNCATE people")
        await source.drained()
        assert await source.names() == {}
        assert dict((await publisher.capture.status()).parked) == {}


async def test_a_snapshot_and_a_key_that_is_gone(source: Source) -> None:
    async with source.running() as publisher:
        await source.desk.execute(many(3))
        await source.drained()
        records = await read_to_end(source.connection, out_topic(source.unit))
        key = next(r.key for r in records if r.key is not None)
        await source.desk.execute("DELETE FROM people")
        await source.drained()
        await publisher.chores.enqueue_resend("person", key, "request")
        await publisher.chores.enqueue_resend("person", None, "all")

        async def is_worked_off() -> bool:
            status = await publisher.capture.status()
            return status.wanted == 0 and all(s.done for s in status.snapshots)

        await until(is_worked_off)
        await source.drained()
        assert await source.names() == {}


async def test_a_younger_adapter_takes_over_from_one_that_holds_the_row(
    source: Source,
) -> None:
    """The older one was stopped inside a transaction: its connection is ended."""
    async with source.publisher() as old:
        await old.start()
        stuck = await asyncpg.connect(
            source.url, server_settings={"application_name": _older_name(source.unit)}
        )
        transaction = stuck.transaction()
        await transaction.start()
        await stuck.execute("SELECT 1 FROM deptbus.adapter FOR SHARE")
        async with source.running() as new:
            assert new.incarnation > old.incarnation
            await source.desk.execute(many(1))
            with pytest.raises(Fenced):
                await old.run()
            await source.drained()
        stuck.terminate()


async def test_two_adapters_that_make_the_table_of_their_signs_do_not_collide(
    source: Source,
) -> None:
    """Two that start at once: the second finds the table that the first has not committed yet."""
    said = Pulse(Publishing.GOING_ON, None, {}, 1, 1)
    first, second = [await asyncpg.connect(source.url) for _ in range(2)]
    await first.execute("DROP TABLE IF EXISTS deptbus.pulse")
    transaction = first.transaction()
    await transaction.start()
    await write_postgres(first, None, said)
    writing = asyncio.create_task(write_postgres(second, None, said))

    async def waits() -> bool:
        blocked = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
        return bool(await source.desk.fetchval(blocked, second.get_server_pid()))

    await until(waits)
    await transaction.commit()
    await writing
    assert await read_postgres(second) is not None
    await first.close()
    await second.close()


async def test_a_server_that_goes_away_is_said(source: Source) -> None:
    async with source.publisher() as publisher:
        await publisher.start()
        task = asyncio.create_task(publisher.run())
        await source.desk.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await source.desk.execute(many(1))
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(task, 30)


def _older_name(unit: str) -> str:
    from deptbus.department.connect import application_prefix

    return f"{application_prefix(unit, 'main')}older"
