"""Odd tables in PostgreSQL: each is captured to the last row, or refused in one line."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from capture_suite import CAP, fold
from odd_tables import COMMON, POSTGRES, Odd

from deptbus.cluster.postgres import PostgresServer
from deptbus.department import fence
from deptbus.department.capture import Capture
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.connect import PostgresDatabase, target_of
from deptbus.department.layout import comma, quoted, quoted_table
from deptbus.errors import SourceRefused

pytestmark = pytest.mark.service

CASES = [*COMMON, *POSTGRES]


async def opened(url: str) -> PostgresCapture:
    target = target_of(url)
    return await PostgresCapture.open(
        await PostgresDatabase.open(target), await PostgresDatabase.open(target)
    )


async def table_of(
    c: asyncpg.Connection, odd: Odd
) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    layout = odd.layout
    width = len(layout.keys)
    columns = comma(f"{quoted(n)}::text" for n in (*layout.keys, *layout.columns))
    rows = await c.fetch(f"SELECT {columns} FROM {quoted_table(layout.table)}")
    return {tuple(row[:width]): tuple(row[width:]) for row in rows}


@pytest.mark.parametrize("odd", CASES, ids=[odd.name for odd in CASES])
async def test_each_odd_table_has_its_stated_outcome(
    each_postgres: PostgresServer, odd: Odd
) -> None:
    url = each_postgres.create_database(f"odd_{uuid.uuid4().hex[:16]}")
    async with aclosing_connection(url) as own:
        if own.get_server_version().major * 10000 < odd.from_version:
            return  # there is no such table in this version
        icu = "SELECT EXISTS (SELECT 1 FROM pg_collation WHERE collname LIKE '%-x-icu')"
        if odd.needs_icu and not await own.fetchval(icu):
            return
        for statement in odd.make:
            await own.execute(statement)
        if odd.refused == "row level security":
            url = await owned_by_no_superuser(own, url)
        capture = await opened(url)
        try:
            if odd.refused:
                with pytest.raises(SourceRefused, match=odd.refused):
                    await capture.install([odd.layout], CAP)
                return
            await capture.install([odd.layout], CAP)
            assert await capture.broken() == []
            token = (await fence.take_over(capture.database, 0, unit="u@33", system="main")).token
            await follow(capture, own, odd, token)
            assert (await capture.state()).gave_way == 0
        finally:
            await capture.close()


@asynccontextmanager
async def aclosing_connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def owned_by_no_superuser(own: asyncpg.Connection, url: str) -> str:
    """A superuser sees all rows; whoever installs is none."""
    await own.execute(
        "DO $$BEGIN IF to_regrole('plain_owner') IS NULL THEN CREATE ROLE plain_owner LOGIN; "
        "END IF; END$$; ALTER TABLE hidden OWNER TO plain_owner; "
        f'GRANT CREATE ON DATABASE "{url.rsplit("/", 1)[1]}" TO plain_owner'
    )
    return url.replace("postgres@", "plain_owner@")


async def follow(capture: Capture, own: asyncpg.Connection, odd: Odd, token: bytes) -> None:
    moved: dict[str, str] = {}
    for statements in odd.writes:
        async with own.transaction():
            for statement in statements:
                await own.execute(statement)
        await capture.look_again(token, CAP, ())
        rows = await capture.read(CAP)
        assert fold(rows) == await table_of(own, odd), statements
        moved = {r.raw[0]: r.was for r in rows if r.op == "u" and r.was is not None}
    assert odd.moved.items() <= moved.items()


async def test_a_partition_that_comes_after_install_is_told_and_captured_after_another(
    postgres_server: PostgresServer,
) -> None:
    """Directly written to before that, it is not: the planted lack of its triggers is seen."""
    (odd,) = (odd for odd in POSTGRES if odd.name.startswith("a partitioned table, written"))
    url = postgres_server.create_database(f"odd_{uuid.uuid4().hex[:16]}")
    async with aclosing_connection(url) as own:
        for statement in odd.make:
            await own.execute(statement)
        capture = await opened(url)
        try:
            await capture.install([odd.layout], CAP)
            await own.execute("CREATE TABLE parted_c PARTITION OF parted FOR VALUES IN ('c')")
            (broken,) = await capture.broken()
            assert (broken.is_blind, broken.is_partly) == (True, True)
            assert "partition parted_c of table parted" in broken.reason
            await own.execute("INSERT INTO parted (id, area) VALUES ('1', 'c')")
            assert fold(await capture.read(CAP)) == await table_of(own, odd)
            await own.execute("INSERT INTO parted_c (id, area) VALUES ('2', 'c')")
            assert fold(await capture.read(CAP)) != await table_of(own, odd)
            await capture.install([odd.layout], CAP)
            assert await capture.broken() == []
            await own.execute("UPDATE parted_c SET note = 'seen'")
            assert fold(await capture.read(CAP)) == await table_of(own, odd)
            # Emptied alone, it takes no record of another partition away.
            await own.execute("INSERT INTO parted (id, area) VALUES ('3', 'a')")
            await own.execute("TRUNCATE parted_c")
            assert fold(await capture.read(CAP)) == await table_of(own, odd) != {}
        finally:
            await capture.close()
