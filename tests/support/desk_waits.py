"""How long a department's own program waits because of the bus, and whether a write of it fails.

Not by the clock of the program, which a busy machine stops too: PostgreSQL is asked every few
milliseconds which of its sessions wait, for what and since when (`pg_locks.waitstart`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

PROGRAM = "the department's program"
_LOOK_SECONDS = 0.004
# Sessions of the program that wait behind somebody who is none of it, or for a table of ours.
_WAITS = """
SELECT extract(epoch FROM clock_timestamp() - l.waitstart)::float8 * 1000
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.application_name = $1 AND a.datname = current_database()
AND l.waitstart IS NOT NULL AND (
  l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('deptbus'))
  OR EXISTS (SELECT 1 FROM unnest(pg_blocking_pids(l.pid)) AS b(pid)
    JOIN pg_stat_activity o ON o.pid = b.pid WHERE o.application_name <> $1))"""


@dataclass(slots=True)
class Seen:
    """`waits_ms`: of each look, the longest that somebody had waited by then."""

    done: int = 0
    failed: list[str] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)

    @property
    def longest_ms(self) -> float:
        return max(self.waits_ms, default=0.0)


async def connected(url: str, name: str = PROGRAM) -> asyncpg.Connection:
    return await asyncpg.connect(url, server_settings={"application_name": name})


async def _type(
    connection: asyncpg.Connection,
    write: Callable[[random.Random], Sequence[str]],
    seed: int,
    seen: Seen,
    stop: asyncio.Event,
) -> None:
    chosen = random.Random(seed)
    while not stop.is_set():
        try:
            async with connection.transaction():
                for statement in write(chosen):
                    await connection.execute(statement)
            seen.done += 1
        except asyncpg.PostgresError as error:
            seen.failed.append(f"{type(error).__name__}: {error}")


async def _look(connection: asyncpg.Connection, seen: Seen, stop: asyncio.Event) -> None:
    while not stop.is_set():
        found = [row[0] for row in await connection.fetch(_WAITS, PROGRAM)]
        if found:
            seen.waits_ms.append(max(found))
        await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def typing(
    url: str, write: Callable[[random.Random], Sequence[str]], clerks: int = 4
) -> AsyncIterator[Seen]:
    """So many sessions of the program write, one transaction after the other, and are watched."""
    seen, stop = Seen(), asyncio.Event()
    sessions = [await connected(url) for _ in range(clerks)]
    watcher = await connected(url, "the watcher")
    tasks = [asyncio.create_task(_look(watcher, seen, stop))]
    tasks += [
        asyncio.create_task(_type(session, write, seed, seen, stop))
        for seed, session in enumerate(sessions)
    ]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for session in (*sessions, watcher):
            await session.close()


async def until_done(seen: Seen, transactions: int, seconds: float = 60) -> None:
    """So many more transactions were done."""
    goal, loop = seen.done + transactions, asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while seen.done < goal:
        assert loop.time() < deadline, f"{seen.done} of {goal} transactions, {seen.failed[:3]}"
        await asyncio.sleep(0.01)
