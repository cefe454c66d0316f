"""What is held of removals, in PostgreSQL: tables and statements of `removal_guard`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg

from deptbus.department.capture import HeldRemoval, Hold, Holding

TABLES = (
    """CREATE TABLE IF NOT EXISTS deptbus.hold (
  number bigint PRIMARY KEY,
  dataset text NOT NULL,
  began_us bigint NOT NULL,
  size bigint NOT NULL,
  is_released boolean NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.held (
  dataset text NOT NULL,
  bus_key bytea NOT NULL,
  hold bigint NOT NULL,
  raw text NOT NULL,
  place text NOT NULL,
  state text NOT NULL,
  PRIMARY KEY (dataset, bus_key)
)""",
    """CREATE TABLE IF NOT EXISTS deptbus.removals (
  dataset text NOT NULL,
  minute bigint NOT NULL,
  counted bigint NOT NULL,
  PRIMARY KEY (dataset, minute)
)""",
)
TABLE_NAMES = ("hold", "held", "removals")

_HOLDS = (
    "SELECT number, dataset, began_us, size, is_released, {keys} FROM deptbus.hold h "
    "WHERE EXISTS (SELECT 1 FROM deptbus.held WHERE hold = h.number) ORDER BY number"
)


async def holds(c: asyncpg.Connection, *, counted: bool = False) -> tuple[Hold, ...]:
    """Those that hold something; how much, only where it is asked for."""
    keys = "(SELECT count(*) FROM deptbus.held WHERE hold = h.number)" if counted else "0"
    return tuple(Hold(*row) for row in await c.fetch(_HOLDS.format(keys=keys)))


async def next_hold(c: asyncpg.Connection) -> int:
    return int(await c.fetchval("SELECT coalesce(max(number), 0) + 1 FROM deptbus.hold"))


async def held(
    c: asyncpg.Connection, keys: Sequence[tuple[str, bytes]]
) -> dict[tuple[str, bytes], HeldRemoval]:
    rows = await c.fetch(
        "SELECT hold, dataset, bus_key, raw, place, state FROM deptbus.held JOIN "
        "unnest($1::text[], $2::bytea[]) AS a(dataset, bus_key) USING (dataset, bus_key)",
        [d for d, _ in keys],
        [k for _, k in keys],
    )
    return {(row["dataset"], row["bus_key"]): HeldRemoval(*row) for row in rows}


async def held_of(c: asyncpg.Connection, dataset: str, at_most: int) -> list[HeldRemoval]:
    rows = await c.fetch(
        "SELECT hold, dataset, bus_key, raw, place, state FROM deptbus.held WHERE dataset = $1 "
        "LIMIT $2",
        dataset,
        at_most,
    )
    return [HeldRemoval(*row) for row in rows]


async def lately(c: asyncpg.Connection) -> dict[tuple[str, int], int]:
    rows = await c.fetch("SELECT dataset, minute, counted FROM deptbus.removals")
    return {(dataset, minute): counted for dataset, minute, counted in rows}


async def ahead(
    c: asyncpg.Connection, numbers: Sequence[int], position: int, released: str, moved: str
) -> tuple[dict[int, tuple[int, int]], int]:
    rows = await c.fetch(
        "SELECT source_time_us / 60000000, count(*), count(*) FILTER (WHERE op = 'd'), "
        "max(position) FROM deptbus.outbox WHERE position >= $2 AND layout = ANY($1::int[]) "
        "AND (op = 'd' OR was IS NOT NULL OR job = $4) "
        "AND NOT coalesce(starts_with(job, $3), false) GROUP BY 1",
        *(list(numbers), position, released, moved),
    )
    upto = max((row[3] for row in rows), default=position)
    return {row[0]: (row[1], row[2]) for row in rows}, upto


async def write(c: asyncpg.Connection, holding: Holding) -> None:
    for hold in holding.begun:
        await c.execute(
            "INSERT INTO deptbus.hold VALUES ($1, $2, $3, $4, false)",
            *(hold.number, hold.dataset, hold.began_us, hold.size),
        )
    await give_back(c, holding.given_back)
    if holding.held:
        hold_of, *rest = zip(*holding.held, strict=True)
        await c.execute(
            "INSERT INTO deptbus.held (hold, dataset, bus_key, raw, place, state) SELECT * FROM "
            "unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[]) "
            "ON CONFLICT (dataset, bus_key) DO NOTHING",
            *map(list, (hold_of, *rest)),
        )
    if holding.removals:
        await c.executemany(
            "INSERT INTO deptbus.removals AS r VALUES ($1, $2, $3) ON CONFLICT (dataset, minute) "
            "DO UPDATE SET counted = r.counted + excluded.counted",
            [(*where, count) for where, count in holding.removals.items()],
        )
        await c.execute("DELETE FROM deptbus.removals WHERE minute < $1", holding.forget_before)


async def give_back(c: asyncpg.Connection, keys: Sequence[tuple[str, bytes]]) -> None:
    if keys:
        await c.execute(
            "DELETE FROM deptbus.held h USING unnest($1::text[], $2::bytea[]) "
            "AS a(dataset, bus_key) WHERE (h.dataset, h.bus_key) = (a.dataset, a.bus_key)",
            [d for d, _ in keys],
            [k for _, k in keys],
        )


async def release(c: asyncpg.Connection, number: int) -> Hold | None:
    """To be called in a transaction."""
    found = [hold for hold in await holds(c, counted=True) if hold.number == number]
    if not found:
        return None
    await c.execute("UPDATE deptbus.hold SET is_released = true WHERE number = $1", number)
    await c.execute("DELETE FROM deptbus.removals WHERE dataset = $1", found[0].dataset)
    return found[0]


async def released(
    c: asyncpg.Connection, at_most: int, datasets: Collection[str]
) -> list[HeldRemoval]:
    rows = await c.fetch(
        "SELECT d.hold, d.dataset, d.bus_key, d.raw, d.place, d.state FROM deptbus.held d "
        "WHERE d.hold = (SELECT number FROM deptbus.hold h WHERE h.is_released "
        "AND h.dataset = ANY($2::text[]) AND EXISTS "
        "(SELECT 1 FROM deptbus.held WHERE hold = h.number) ORDER BY number LIMIT 1) LIMIT $1",
        *(at_most, list(datasets)),
    )
    return [HeldRemoval(*row) for row in rows]
