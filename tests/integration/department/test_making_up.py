"""What capture missed is made good without anybody's word, while the adapter runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from source_bus import SqliteSource, until
from source_world import PLACES
from structlog.testing import capture_logs

from deptbus.change import ChangeOp
from deptbus.connection import Connection
from deptbus.contract.department import HoldRemovals
from deptbus.department import making_up, publisher
from deptbus.department.making_up import make_up_by_itself
from deptbus.department.publisher import Publisher

pytestmark = pytest.mark.service


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(publisher, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(making_up, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(making_up, "_PAUSE_SECONDS", (0.5, 1.0))


@pytest.fixture
async def source(broker: Connection, tmp_path: Path) -> SqliteSource:
    made = await asyncio.to_thread(SqliteSource, broker, tmp_path)
    await made.install(cap_rows=20)
    return made


@asynccontextmanager
async def adapter(source: SqliteSource) -> AsyncIterator[Publisher]:
    async with source.running() as running:
        work = make_up_by_itself(source.connection, source.department, "main", running)
        task = asyncio.create_task(work)
        try:
            yield running
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def table(source: SqliteSource) -> dict[str, str]:
    with closing(sqlite3.connect(source.path)) as connection:
        return dict(connection.execute("SELECT 身份证, 姓名 FROM people"))


async def until_equal(source: SqliteSource) -> None:
    async def is_equal() -> bool:
        return await source.gave_way() == 0 and source.named(await source.canonical()) == table(
            source
        )

    await until(is_equal, poll_seconds=0.2)


async def test_what_went_beyond_the_cap_is_published_when_the_adapter_is_back(
    source: SqliteSource,
) -> None:
    async with source.bus():
        async with adapter(source):
            source.do(*(source.person(n, "old") for n in range(10)))
            await until_equal(source)
        for n in range(10, 60):  # nobody publishes meanwhile
            source.do(source.person(n, "new"))
        source.do("DELETE FROM people WHERE 身份证 IN ('1', '2')")
        source.do("UPDATE people SET 姓名 = 'changed' WHERE 身份证 = '3'")
        assert await source.gave_way() > 0
        async with adapter(source):
            await until_equal(source)


async def test_each_making_up_is_told_what_the_bus_has_by_then(source: SqliteSource) -> None:
    """By one adapter: what it published since the last one is on the bus too."""
    async with source.bus(), adapter(source):
        source.do(source.person(1, "first"), source.person(2, "stays"))
        await source.arrived()
        source.unseen(source.person(3, "missed"))
        await until_equal(source)
        source.do(source.person(4, "new"), source.person(1, "second"))
        await source.arrived()
        source.unseen("DELETE FROM people WHERE 身份证 = '4'", source.person(1, "first"))
        await until_equal(source)


async def test_what_was_made_up_is_not_made_up_once_more(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "LOOK_SECONDS", 3.0)  # so long it believes what it last saw
    async with source.bus(), adapter(source) as running:
        source.do(source.person(1), source.person(2))
        await source.arrived()
        with capture_logs() as logs:
            source.unseen("DELETE FROM people WHERE 身份证 = '2'")
            await until_equal(source)

            async def has_looked() -> bool:
                return not running.has_missed

            await until(has_looked)
        begun = [entry for entry in logs if entry["event"] == "making_up_begun"]
        assert len(begun) == 1
    deletes = [change for change in await source.out() if change.op is ChangeOp.DELETE]
    assert len(deletes) == 1


async def test_many_moves_that_were_missed_wait_for_a_word(source: SqliteSource) -> None:
    """Also those that many small batches take away."""
    async with source.bus(), adapter(source) as running:
        rule = HoldRemovals(percent=10, at_least=10)
        running.removals._rules["person"] = rule
        source.do(*(source.person(n) for n in range(15)))
        await source.arrived()
        source.do(*(source.person(n) for n in range(15, 30)))
        await source.arrived()
        source.unseen(f"UPDATE people SET area = '{PLACES[1]}'")

        async def is_made_up() -> bool:
            return await source.gave_way() == 0

        await until(is_made_up)
        assert {change.division for change in await source.out()} == {PLACES[0]}
        (hold,) = (await running.capture.status()).holds
        assert hold.keys == 30
        await running.capture.release(hold.number)

        async def have_moved() -> bool:
            return {change.division for change in (await source.state()).values()} == {PLACES[1]}

        await until(have_moved)
        for change in (await source.state()).values():
            assert PLACES[0] in change.former_divisions


async def test_it_waits_for_a_data_office_that_does_not_answer(
    source: SqliteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deptbus.department.making_up.make_up", impatient)
    async with source.intake(), adapter(source):
        source.do(source.person(1, "old"))
        await source.arrived()
        with capture_logs() as logs:
            source.unseen(source.person(2, "missed"))
            capture = await source.capture()
            await capture.give_way()
            await capture.close()

            async def has_tried() -> bool:
                return any(entry["event"] == "making_up_again_later" for entry in logs)

            await until(has_tried)
        assert await source.gave_way() > 0
        async with source.operations():
            await until_equal(source)


async def impatient(*words: object) -> object:
    from deptbus.department.resync import make_up

    return await make_up(*words, patience_seconds=2.0)  # type: ignore[arg-type]
