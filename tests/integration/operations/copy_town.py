"""A recipient with its real adapter and its own database, beside a source that never rests.

The agent is the small one of `office_bus`; it commits what it has routed, as a worker does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
from office_bus import HOUSING, Agent, Bus, contract, key_of_person, person, until

from deptbus import names
from deptbus.contract.department import load_department
from deptbus.department.adapter import Shared, SystemRun
from deptbus.department.connect import target_of
from deptbus.errors import BusUnreachable
from deptbus.operations.reconcile_copy import CopyProved, prove_copy
from deptbus.stream.brokers import consumer_of
from deptbus.stream.group import LagCommitter
from deptbus.stream.log import end_offsets, read_to_end
from deptbus.wire.control import ProofRequest, decode_control

COLUMNS = {"id": "no", "place": "place", "name": "called"}


class Copies:
    """housing@330106's own database with the table `people`."""

    def __init__(self, bus: Bus, folder: Path, postgres_url: str | None = None) -> None:
        self.bus, self.folder, self.url = bus, folder, postgres_url
        self.file = folder / "own.db"
        if postgres_url is not None and postgres_url.startswith("folder:"):
            self.url, self.file = None, Path(target_of(f"folder:{folder}/exchange").location)
        elif postgres_url is None:
            with closing(sqlite3.connect(self.file)) as connection:
                connection.execute("CREATE TABLE people (no TEXT PRIMARY KEY, place TEXT, "
                                   "called TEXT, remark TEXT)")  # fmt: skip
        system = {
            "database": postgres_url or "sqlite:///own.db",
            "receives": {"person": {"table": "people", "columns": COLUMNS}},
        }
        path = folder / "department.yml"
        path.write_text(json.dumps({"unit": HOUSING, "systems": {"main": system}}), "utf-8")
        self.department = load_department(path)
        self.versions: dict[int, int] = {}
        self.agent: Agent | None = None

    async def sql(self, statement: str, *words: Any) -> list[Any]:
        """By a hand of the department's own, in its database's words: `ledger` is the bookkeeping.
        Words are `?`."""
        if self.url is None:
            statement = statement.replace("ledger", "deptbus_ledger")
            with closing(sqlite3.connect(self.file, timeout=10)) as connection, connection:
                return connection.execute(statement, words).fetchall()
        statement = statement.replace("ledger", "deptbus.ledger")
        for number in range(1, len(words) + 1):
            statement = statement.replace("?", f"${number}", 1)
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *words)]
        finally:
            await connection.close()

    async def rows(self) -> dict[str, tuple[Any, ...]]:
        found = await self.sql("SELECT no, place, called FROM people")
        return {row[0]: tuple(row) for row in found}

    @asynccontextmanager
    async def adapter(self):
        shared = Shared(self.bus.connection)
        await shared.start()
        run = SystemRun(shared, self.department, "main")
        task = asyncio.create_task(run.run())
        try:
            await asyncio.wait_for(run.settled.wait(), 30)
            yield run
        finally:
            run.stop()
            await asyncio.wait((task,), timeout=10)
            await shared.stop()
            assert task.done()
            assert run.ended is None, run.ended

    async def write(self, numbers: Iterable[int]) -> None:
        """Each changes once more at the source."""
        changes = []
        for number in numbers:
            self.versions[number] = self.versions.get(number, 0) + 1
            changes.append(person(self.bus.codecs, number, self.versions[number]))
        await self.bus.write(*changes)

    @asynccontextmanager
    async def traffic(self, policy: Any, numbers: Iterable[int] = ()):
        """The agent lives and routes; `numbers` are changed again and again."""
        agent = self.agent = Agent(self.bus, "a", policy)
        chosen, pick = list(numbers), random.Random(1)
        ending = asyncio.Event()  # not cancelled: what is being opened in the midst would leak
        async with agent.alive(), consumer_of(self.bus.connection) as consumer:
            committer = LagCommitter(consumer._client, names.WORKER_GROUP)

            async def work() -> None:
                while not ending.is_set():
                    if chosen:
                        await self.write(pick.sample(chosen, min(5, len(chosen))))
                    await agent.route()
                    with suppress(BusUnreachable):  # the group's topic is being made
                        await committer.commit("data.person", dict(agent.routed))
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(work())
            try:
                yield agent
                if task.done():
                    task.result()
            finally:
                ending.set()
                await asyncio.gather(task, return_exceptions=True)

    async def questions(self) -> int:
        """How many records of questions lie in the inbox."""
        records = await read_to_end(self.bus.connection, names.in_topic(HOUSING))
        control = [decode_control(r.value) for r in records if r.key is None]
        return sum(isinstance(found, ProofRequest) for found in control)

    async def is_applied(self, count: int) -> bool:
        with suppress(sqlite3.OperationalError, asyncpg.UndefinedTableError):
            return (await self.sql("SELECT count(*) FROM people"))[0][0] >= count
        return False

    async def settled(self, unit: str = HOUSING, policy: int = 1) -> None:
        await self.bus.job_done(unit, policy)


def key(number: int) -> bytes:
    return key_of_person(number)


def found_in(proved: list[CopyProved]) -> dict[bytes, str]:
    """Key -> class, of the one copy."""
    (one,) = proved
    assert one.result.could_not_tell == "", one.result.could_not_tell
    return {f.key: f.word for f in one.result.findings}


@asynccontextmanager
async def copies_of(
    new_bus: Callable[[], Bus],
    folder: Path,
    url: str | None,
    count: int = 300,
    live: Iterable[int] = range(200, 300),
):
    """(copies, office): `count` persons are applied, `live` are being changed."""
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        copies = Copies(bus, folder, url)
        await copies.write(range(count))
        async with (
            copies.traffic(policy, live),
            bus.office(keeper_interval_hours=None) as office,
            copies.adapter(),
        ):
            await copies.settled()
            await until(lambda: copies.is_applied(count), "all is applied")
            yield copies, office


async def prove(copies: Copies, office: Any, **how: Any) -> list[CopyProved]:
    how.setdefault("deadline_seconds", 40)
    return await prove_copy(office, copies.bus.connection, HOUSING, "person", **how)


__all__ = ["Copies", "copies_of", "end_offsets", "found_in", "key", "prove"]
