"""A source whose rows are proved: a clerk at work in its table, what he does unseen, and what the
proof must name.

What the table has is read by the department's own SQL, never by the product.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from source_bus import BusSource, PostgresSource, SqliteSource
from source_world import PLACES, PUBLICATION

from deptbus.operations.inventory import Shelves
from deptbus.operations.leg import LegResult
from deptbus.operations.reconcile_source import prove_rows
from deptbus.operations.source_told import EXTRA, MISSING, WRONG

PAUSE_SECONDS = 0.002  # of a clerk, between two commits: some hundred a second


def key(number: Any) -> bytes:
    found = PUBLICATION.key_of_raw((str(number),)).key
    assert found is not None
    return found


def insert(number: Any, name: str = "李", place: str = PLACES[0], sex: int = 1) -> str:
    return (
        f"INSERT INTO people VALUES ('{number}', '{place}', '{name}', {sex}, NULL, NULL, "
        "'canary of religion')"
    )


def change(number: Any, what: str) -> str:
    return f"UPDATE people SET {what} WHERE 身份证 = '{number}'"


def delete(number: Any) -> str:
    return f"DELETE FROM people WHERE 身份证 = '{number}'"


async def write(source: BusSource, *statements: str) -> None:
    """In one transaction, captured."""
    if isinstance(source, SqliteSource):
        await asyncio.to_thread(source.do, *statements)
    else:
        assert isinstance(source, PostgresSource)
        async with source.desk.transaction():
            await source.desk.execute(";".join(statements))


async def unseen(source: BusSource, *statements: str) -> None:
    """With all triggers switched off."""
    if isinstance(source, SqliteSource):
        await asyncio.to_thread(source.unseen, *statements)
    else:
        assert isinstance(source, PostgresSource)
        await source.unseen(";".join(statements))


async def prove(source: BusSource, shelves: Shelves) -> LegResult:
    return await prove_rows(shelves, source.unit, "person")


def named(proved: LegResult) -> dict[bytes, str]:
    """Key -> class; no key is named twice."""
    counted = Counter(one.key for one in proved.findings)
    assert not [key for key, times in counted.items() if times > 1]
    return {one.key: one.word for one in proved.findings}


def mischief(numbers: list[int], share: int) -> tuple[list[str], dict[bytes, str]]:
    """`share` rows of each kind of change, of rows with these numbers; the statements and what has
    to be named for them. Of a changed key two keys differ."""
    left = iter(numbers)
    some = [[next(left) for _ in range(share)] for _ in range(4)]
    statements, expected = [], {}
    for number in some[0]:
        statements.append(change(number, "姓名 = '改'"))
        expected[key(number)] = WRONG
    for number in some[1]:
        statements.append(delete(number))
        expected[key(number)] = EXTRA
    for number in some[2]:
        statements.append(change(number, f"area = '{PLACES[1]}'"))
        expected[key(number)] = WRONG
    for number in some[3]:
        statements.append(change(number, f"身份证 = 'changed{number}'"))
        expected[key(number)] = EXTRA
        expected[key(f"changed{number}")] = MISSING
    for number in range(share):
        statements.append(insert(f"unseen{number}"))
        expected[key(f"unseen{number}")] = MISSING
    return statements, expected


class Clerk:
    """Edits rows of his own, captured, all the time: renames, moves, deletes, inserts, new keys."""

    def __init__(self, source: BusSource, rows: int = 60, seed: int = 1) -> None:
        self._source = source
        self._rows = [f"clerk{n}" for n in range(rows)]
        self._random = random.Random(seed)
        self.commits = 0

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Clerk]:
        stopping = asyncio.Event()
        work = self._sqlite if isinstance(self._source, SqliteSource) else self._postgres
        task = asyncio.create_task(work(stopping))
        try:
            yield self
        finally:
            stopping.set()
            await task

    def _next(self) -> str:
        number = self._random.choice(self._rows)
        odds = self._random.random()
        if odds < 0.5:
            return change(number, f"姓名 = '{self._random.random()}'")
        if odds < 0.7:
            return change(number, f"area = '{self._random.choice(PLACES)}'")
        if odds < 0.85:
            return delete(number)
        if odds < 0.95:
            return f"{insert(number)} ON CONFLICT DO NOTHING"
        return change(number, f"sex = {self._random.choice((1, 2, 9))}")  # 9 is no code: parked

    async def _sqlite(self, stopping: asyncio.Event) -> None:
        assert isinstance(self._source, SqliteSource)
        path = self._source.path

        def loop() -> None:
            with sqlite3.connect(path, timeout=20, isolation_level=None) as c:
                for number in self._rows:
                    c.execute(insert(number))
                while not stopping.is_set():
                    c.execute(self._next())
                    self.commits += 1
                    time.sleep(PAUSE_SECONDS)
            c.close()

        await asyncio.to_thread(loop)

    async def _postgres(self, stopping: asyncio.Event) -> None:
        import asyncpg

        assert isinstance(self._source, PostgresSource)
        c = await asyncpg.connect(self._source.url)
        try:
            for number in self._rows:
                await c.execute(insert(number))
            while not stopping.is_set():
                await c.execute(self._next())
                self.commits += 1
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            await c.close()
