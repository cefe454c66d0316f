"""Rows that a recipient's database refused, on a real bus: the office lists them one by one and has
them tried again at once, whether the adapter runs just then or not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from office_bus import HOUSING, SOURCE, Agent, Bus, contract, key_of_person, person, until
from test_operations_cli import run

from deptbus.contract.department import load_department
from deptbus.department import decide
from deptbus.department.adapter import Shared, SystemRun
from deptbus.department.adoption_act import say_yes
from deptbus.operations.audit import QUARANTINE_RETRY, read_acts
from deptbus.operations.live_feed import BusFeed

pytestmark = pytest.mark.service

WHY = ("--reason", "table mended", "--operator", "wang", "--yes")
COLUMNS = {"id": "id", "place": "place", "name": "name"}
PEOPLE = (
    "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, place VARCHAR(12), name VARCHAR(20) UNIQUE)"
)


@dataclass
class Recipient:
    """Housing, whose own rows are in the way of some that come."""

    file: Path
    url: str

    async def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.file.parent / "own.db", timeout=5)) as connection:
                rows = [connection.execute(statement).fetchall() for statement in statements][-1]
                connection.commit()
            return rows
        connection = await asyncpg.connect(self.url)
        try:
            return [[tuple(r) for r in await connection.fetch(s)] for s in statements][-1]
        finally:
            await connection.close()

    async def names(self) -> set[str]:
        return {name for (name,) in await self.sql("SELECT name FROM people WHERE id < 'own'")}

    async def blocks(self, *numbers: int) -> None:
        values = ", ".join(f"('own{n}', 'n{n}v1')" for n in numbers)
        await self.sql(f"INSERT INTO people (id, name) VALUES {values}")

    async def clears(self, *numbers: int) -> None:
        await self.sql(*(f"DELETE FROM people WHERE id = 'own{n}'" for n in numbers))

    async def says_yes(self) -> None:
        """Its table has rows already: to the first load, once the adapter has noted that."""
        books = "deptbus_existing" if self.url.startswith("sqlite") else "deptbus.existing"
        async with asyncio.timeout(20):
            while True:
                with suppress(sqlite3.OperationalError, asyncpg.UndefinedTableError):
                    if await self.sql(f"SELECT 1 FROM {books}"):
                        break
                await asyncio.sleep(0.05)
        await say_yes(load_department(self.file), "main", "person")

    @asynccontextmanager
    async def adapter(self, bus: Bus) -> AsyncIterator[None]:
        shared = Shared(bus.connection)
        await shared.start()
        system = SystemRun(shared, load_department(self.file), "main")
        task = asyncio.create_task(system.run())
        try:
            await self.says_yes()
            yield
            assert not task.done()
        finally:
            system.stop()
            await asyncio.wait((task,), timeout=20)
            await shared.stop()
            task.result()


@pytest.fixture(params=["sqlite", "postgres"])
async def recipient(request: pytest.FixtureRequest, tmp_path: Path) -> Recipient:
    url = "sqlite:///own.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")()
    words = {"database": url, "receives": {"person": {"table": "people", "columns": COLUMNS}}}
    file = tmp_path / "department.yml"
    file.write_text(json.dumps({"unit": HOUSING, "systems": {"main": words}}), encoding="utf-8")
    found = Recipient(file, url)
    await found.sql(PEOPLE)
    return found


@pytest.fixture(autouse=True)
def back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is tried again here is tried because its time had come."""
    for name in ("FIRST_RETRY_US", "LAST_RETRY_US"):
        monkeypatch.setattr(decide, name, 3_600_000_000)


async def listed(bus: Bus) -> list[dict[str, Any]]:
    """The parked rows as `ls` tells them; a name that a row holds is in nothing that it says."""
    _, out, err = await run(bus, "quarantine", "ls", "-o", "json")
    assert err == ""
    assert "v1" not in out
    return json.loads(out)["parked_rows"]


async def listed_until(bus: Bus, wanted: Callable[[list[dict[str, Any]]], bool]) -> Any:
    found: list[dict[str, Any]] = []

    async def is_so() -> bool:
        found[:] = await listed(bus)
        return wanted(found)

    await until(is_so, "the list of parked rows is as wanted")
    return found


async def test_parked_rows_are_listed_and_tried_again(
    new_bus: Callable[[], Bus], recipient: Recipient
) -> None:
    async with new_bus() as bus:
        agent = Agent(bus, "a", await bus.activate(contract()))
        await recipient.blocks(3, 7)
        await bus.write(*(person(bus.codecs, n) for n in range(10)))
        await agent.route()
        async with recipient.adapter(bus):
            rows = await listed_until(bus, lambda rows: len(rows) == 2)
            assert {r["key"] for r in rows} == {key_of_person(n).hex() for n in (3, 7)}
            assert {(r["unit"], r["dataset"], r["source_unit"], r["attempts"]) for r in rows} == {
                (HOUSING, "person", SOURCE, 1)
            }
            assert len(await recipient.names()) == 8

            await recipient.clears(3)
            code, out, err = await run(bus, "quarantine", "retry", "--all", *WHY)
            assert (code, err) == (1, "")  # one stays
            assert "2 rows tried, 1 written, 1 refused" in out
            assert "n3v1" in await recipient.names()
            (left,) = await listed_until(bus, lambda rows: len(rows) == 1)
            assert (left["key"], left["attempts"]) == (key_of_person(7).hex(), 2)

            await recipient.clears(7)
            other = key_of_person(1).hex()
            code, out, _ = await run(bus, "quarantine", "retry", "--key", other, *WHY)
            assert (code, "0 rows tried" in out) == (0, True)
            assert len(await recipient.names()) == 9
            key = key_of_person(7).hex()
            code, out, err = await run(bus, "quarantine", "retry", "--key", key, *WHY)
            assert (code, err) == (0, "")
            assert "1 rows tried, 1 written, 0 refused" in out
            assert len(await recipient.names()) == 10
            await listed_until(bus, lambda rows: not rows)
        acts = await read_acts(bus.connection)
        assert [(a.verb, a.operator, a.unit, a.key) for a in acts] == [
            (QUARANTINE_RETRY, "wang", HOUSING, None),
            (QUARANTINE_RETRY, "wang", HOUSING, bytes.fromhex(other)),
            (QUARANTINE_RETRY, "wang", HOUSING, bytes.fromhex(key)),
        ]


async def test_an_adapter_that_is_away_tries_them_when_it_comes_back(
    new_bus: Callable[[], Bus], recipient: Recipient
) -> None:
    async with new_bus() as bus:
        agent = Agent(bus, "a", await bus.activate(contract()))
        await recipient.blocks(3, 7)
        await bus.write(*(person(bus.codecs, n) for n in range(10)))
        await agent.route()
        async with recipient.adapter(bus):
            await listed_until(bus, lambda rows: len(rows) == 2)
        await recipient.clears(3, 7)
        retry = ("quarantine", "retry", "--unit", HOUSING, "--seconds", "1", *WHY)
        code, out, err = await run(bus, *retry)
        assert (code, err) == (2, "")  # nobody could tell yet what comes of it
        assert "has not answered yet" in out
        assert len(await recipient.names()) == 8
        feed = BusFeed(bus.connection)
        await feed.start()
        try:
            async with recipient.adapter(bus):
                await until(lambda: _has(recipient, 10), "both are written")
                # And the console, which follows what adapters tell, sees what came of it.
                await until(lambda: _told(feed), "the outcome is told, and the list is empty")
        finally:
            await feed.stop()


async def _has(recipient: Recipient, rows: int) -> bool:
    return len(await recipient.names()) == rows


async def _told(feed: BusFeed) -> bool:
    live = await feed.look()
    return live.parked == () and any(
        (told.unit, told.rows, told.written, told.is_done) == (HOUSING, 2, 2, True)
        for told in live.retried
    )


async def test_a_choice_is_needed_and_a_reason(new_bus: Callable[[], Bus]) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        code, _, err = await run(bus, "quarantine", "retry", *WHY)
        assert code == 2
        assert "--unit" in err
        code, _, err = await run(bus, "quarantine", "retry", "--all", "--yes")
        assert (code, err.count("\n")) == (2, 1)
        code, out, err = await run(bus, "quarantine", "retry", "--all", *WHY)
        assert (code, err, out) == (0, "", "no recipient tells of such rows\n")
        assert await read_acts(bus.connection) == []
