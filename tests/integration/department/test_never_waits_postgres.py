"""A source's own transactions on PostgreSQL: none fails or waits for the bus, whatever befalls it.

The load is that of pgbench (a hot row, a tally, a history) with a published row in each; the
adapter is the product's own publisher and chores, whose bus is a list.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from desk_waits import Seen, connected, typing, until_done
from removal_suite import QuietSource, insert
from source_world import AGREED, PLACES, PUBLISH, TABLE

from deptbus.contract.department import HoldRemovals
from deptbus.department import postgres_triggers
from deptbus.department.layout import layout_of
from deptbus.department.opening import open_system
from deptbus.department.remove import remove_all

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

ROWS = 300
MOST_MS = 50.0
NEW = itertools.count(1_000_000)
TRANSACTIONS = 300
OWN = (
    "CREATE TABLE branches (bid int PRIMARY KEY, balance int NOT NULL)",
    "CREATE TABLE tellers (tid int PRIMARY KEY, balance int NOT NULL)",
    "CREATE TABLE history (tid int, bid int, delta int)",
    "INSERT INTO branches VALUES (1, 0)",
    "INSERT INTO tellers SELECT n, 0 FROM generate_series(1, 10) n",
)


def transaction(chosen: random.Random) -> Sequence[str]:
    """The hot row in the middle: whoever holds it has others wait behind it."""
    number, teller, delta = chosen.randrange(ROWS), chosen.randint(1, 10), chosen.randint(1, 99)
    own = f"UPDATE people SET 姓名 = '王{delta}' WHERE 身份证 = '{number:06}'"
    if chosen.random() < 0.1:
        own = insert(next(NEW))
    return (
        f"UPDATE tellers SET balance = balance + {delta} WHERE tid = {teller}",
        f"UPDATE branches SET balance = balance + {delta} WHERE bid = 1",
        own,
        f"INSERT INTO history VALUES ({teller}, 1, {delta})",
    )


@pytest.fixture
async def url(postgres: Callable[[], str]) -> str:
    made = postgres()
    hand = await connected(made, "somebody")
    for statement in (TABLE, *OWN, *(insert(n) for n in range(ROWS))):
        await hand.execute(statement)
    await hand.close()
    return made


@asynccontextmanager
async def adapter(source: QuietSource) -> AsyncIterator[None]:
    """Publishes, and enqueues all rows again and again, under their locks."""
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            await source.capture.begin_snapshot("person", "snapshot", None)
            await source.capture.advance_snapshot("person", 100)
            await source.publisher.when_free(source.drain)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        stop.set()
        await task


async def source_of(url: str) -> QuietSource:
    return await QuietSource.open(url, HoldRemovals(percent=100))


def check(seen: Seen, most_ms: float = MOST_MS) -> None:
    assert not seen.failed, seen.failed[:3]
    assert seen.longest_ms <= most_ms, sorted(seen.waits_ms)[-5:]


async def test_while_the_adapter_runs_and_while_it_does_not(url: str) -> None:
    source = await source_of(url)
    await source.capture.begin_snapshot("person", "snapshot", None)
    while not (await source.capture.advance_snapshot("person", 1000)).done:
        pass
    async with typing(url, transaction) as seen:
        async with adapter(source):
            await until_done(seen, TRANSACTIONS)
        await until_done(seen, TRANSACTIONS)
    check(seen)
    await source.drain()
    assert (await source.capture.state()).gave_way == 0
    hand = await connected(url)
    publication = source.publisher.publications["person"]
    rows = await hand.fetch("SELECT 身份证, 姓名 FROM people")
    await hand.close()
    assert source.copy()[PLACES[0]] == {publication.key_of_raw((n,)).key: name for n, name in rows}
    await source.close()


async def test_when_the_cap_is_reached(url: str) -> None:
    source = await source_of(url)
    await source.capture.install([layout_of("person", PUBLISH, AGREED)], 40)
    async with typing(url, transaction) as seen:
        await until_done(seen, TRANSACTIONS)
    check(seen)
    status = await source.capture.status()
    assert status.gave_way > 0
    assert status.outbox_rows <= 40 + 4  # those that were beyond the look at the same time
    await source.close()


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
async def test_while_somebody_locks_our_tables(url: str, mode: str) -> None:
    source = await source_of(url)
    seen = await under_a_lock(url, mode)
    check(seen)
    assert (await source.capture.state()).gave_way > 0
    await source.close()


async def under_a_lock(url: str, mode: str, transactions: int = TRANSACTIONS) -> Seen:
    somebody = await connected(url, "somebody")
    tables = [
        r[0]
        for r in await somebody.fetch(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname = 'deptbus'"
        )
    ]
    try:
        async with typing(url, transaction) as seen:
            await until_done(seen, 20)
            async with somebody.transaction():
                await somebody.execute(f"LOCK TABLE {', '.join(tables)} IN {mode} MODE")
                await until_done(seen, transactions)
            await until_done(seen, 20)
    finally:
        await somebody.close()
    return seen


async def test_when_our_schema_is_dropped_by_mistake(url: str) -> None:
    source = await source_of(url)
    somebody = await connected(url, "somebody")
    async with typing(url, transaction) as seen:
        await until_done(seen, 50)
        await dropped(somebody)
        await until_done(seen, TRANSACTIONS)
    await somebody.close()
    assert not seen.failed, seen.failed[:3]
    await source.close()


async def dropped(somebody: asyncpg.Connection) -> None:
    """He has a lock time-out of his own: without one all wait behind him for the tables."""
    await somebody.execute("SET lock_timeout = '20ms'")
    for _ in range(500):
        try:
            await somebody.execute("DROP SCHEMA deptbus CASCADE")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("it could not be dropped")


async def test_capture_is_paused_and_goes_on_and_is_removed_under_load(url: str) -> None:
    source = await source_of(url)
    reader = await connected(url, "somebody")
    async with typing(url, transaction) as seen, reader.transaction():
        await reader.execute(
            "SELECT * FROM people"
        )  # a long report: a lock that DROP TRIGGER needs
        await until_done(seen, 50)
        await source.capture.pause()
        before = (await source.capture.status()).outbox_rows
        await until_done(seen, 100)
        status = await source.capture.status()
        assert status.outbox_rows <= before + 4  # transactions that were under way
        assert status.gave_way == 1
        (broken,) = await source.capture.broken()
        assert "paused" in broken.reason
        assert broken.is_blind
        await source.capture.install([layout_of("person", PUBLISH, AGREED)], 1_000_000)
        await until_done(seen, 50)
        assert await source.capture.broken() == []
        assert (await source.capture.status()).outbox_rows > before
    check(seen)
    await source.close()
    database = await open_system(source.department, "main")
    async with typing(url, transaction) as seen:
        await until_done(seen, 50)
        await remove_all(database)
        await until_done(seen, 50)
    await database.close()
    check(seen)
    left = await reader.fetchval(
        "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'deptbus%'"
    )
    assert left == 0
    await reader.close()


async def test_a_bulk_of_ours_and_a_bulk_of_theirs_meet_no_deadlock(url: str) -> None:
    """The snapshot takes rows under their locks in the order of keys, the program in any order."""
    source = await source_of(url)

    def backwards(chosen: random.Random) -> Sequence[str]:
        rows = [chosen.randrange(ROWS) for _ in range(8)]
        return sorted(
            (f"UPDATE people SET 姓名 = '赵' WHERE 身份证 = '{n:06}'" for n in set(rows)),
            reverse=True,
        )

    async with typing(url, backwards) as seen, adapter(source):
        await until_done(seen, TRANSACTIONS)
    check(seen)
    await source.close()


async def test_planted_triggers_that_wait_for_our_tables_are_caught(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = postgres_triggers.Functions._guarded

    def waiting(self: Any, *words: Any) -> str:
        text = guarded(self, *words)
        line = "    LOCK TABLE deptbus.outbox, deptbus.published IN ROW EXCLUSIVE MODE NOWAIT;\n"
        assert line in text
        return text.replace(line, "").replace("'20ms'", "'400ms'")

    monkeypatch.setattr(postgres_triggers.Functions, "_guarded", waiting)
    source = await source_of(url)
    seen = await under_a_lock(url, "ACCESS EXCLUSIVE", 8)
    assert seen.longest_ms > MOST_MS
    await source.close()
