"""A recipient whose own program writes the very rows that are applied: none of its transactions
fails, is taken for a deadlock's victim or waits for long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from desk_waits import Seen, typing, until_done
from recipient_contract import person
from store_rooms import PostgresRoom

from deptbus.department import connect
from deptbus.department.store import Store
from deptbus.errors import DatabaseBusy

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

ROWS = 400
MOST_MS = 50.0
TRANSACTIONS = 300


def several(chosen: random.Random) -> Sequence[str]:
    """Rows in any order, so that it meets the adapter from both sides."""
    rows = [chosen.randrange(ROWS) for _ in range(4)]
    return [f"UPDATE people SET phone = '{chosen.random()}' WHERE id = 'id{n:06}'" for n in rows]


class TestPostgresRecipient(PostgresRoom):
    @asynccontextmanager
    async def applying(self, store: Store) -> AsyncIterator[list[int]]:
        """Every row is written again and again, as much at a time as the store would; yields how
        many batches were applied."""
        stop, done = asyncio.Event(), [0]

        async def apply() -> None:
            version = 2
            while not stop.is_set():
                rows = random.Random(version).sample(range(ROWS), min(ROWS, store.batch_limit))
                await self.patiently(store, *(person(n, version, name="韩") for n in rows))
                version += 1
                done[0] += 1

        task = asyncio.create_task(apply())
        try:
            yield done
        finally:
            stop.set()
            await task

    async def patiently(self, store: Store, *items: Any) -> None:
        while True:
            try:
                await self.feed(store, *items)
            except DatabaseBusy:
                await asyncio.sleep(0.02)
            else:
                return

    async def test_the_program_writes_the_rows_that_are_applied(self, database: str) -> None:
        store, seen, batches = await self.meet(database)
        assert not seen.failed, seen.failed[:3]
        assert batches > 0, "nothing could be applied"
        assert seen.waits_ms, "they never met"
        assert seen.longest_ms <= MOST_MS, sorted(seen.waits_ms)[-5:]
        await store.close()

    async def meet(self, database: str) -> tuple[Store, Seen, int]:
        store = await self.opened(database)
        await self.feed(store, *(person(n) for n in range(ROWS)))
        async with self.applying(store) as done, typing(database, several) as seen:
            await until_done(seen, TRANSACTIONS)
        return store, seen, done[0]

    async def test_planted_an_adapter_that_waits_for_long_is_caught(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connect, "LOCK_TIMEOUT_MS", 5000)
        store, seen, _ = await self.meet(database)
        assert seen.failed or seen.longest_ms > MOST_MS
        await store.close()
