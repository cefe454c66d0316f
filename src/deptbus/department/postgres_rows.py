"""The statements of PostgreSQL capture: what is read, counted, remembered and forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from deptbus.department import removal_guard_postgres as removals
from deptbus.department.capture import (
    OutboxRow,
    Prepared,
    RawKey,
    Snapshot,
    Wanted,
    present_row,
)
from deptbus.department.layout import Layout, comma, quoted
from deptbus.department.postgres_schema import TableFacts
from deptbus.department.postgres_triggers import SETTINGS

# The plan that is made while the outbox is empty is the wrong one for ever: only by index. A plan
# that knows the positions in flight looks them up by hash; one for all positions compares each row
# with each of them (10 us a row).
SESSION = (
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off; "
    "SET plan_cache_mode = force_custom_plan"
)
READ = (
    "SELECT position, layout, op, cause, job, source_time_us, was, bus_key, raw, vals "
    "FROM deptbus.outbox WHERE NOT position = ANY($2::bigint[]) AND NOT layout = ANY($3::int[]) "
    "ORDER BY position LIMIT $1"
)
TOUCHED = (
    "SELECT position, dataset, raw, part FROM deptbus.touched WHERE dataset = ANY($1::text[]) "
    "ORDER BY position LIMIT $2"
)
KNOWN = (
    "WITH asked AS MATERIALIZED ("
    "  SELECT * FROM unnest($1::text[], $2::bytea[]) AS a(dataset, bus_key)) "
    "SELECT dataset, bus_key, places, NULL, NULL FROM deptbus.places JOIN asked "
    "USING (dataset, bus_key) UNION ALL "
    "SELECT dataset, bus_key, NULL, raw, state FROM deptbus.variants JOIN asked "
    "USING (dataset, bus_key)"
)
REMEMBERED = (
    "SELECT bus_key FROM (SELECT bus_key FROM deptbus.places UNION ALL "
    "SELECT bus_key FROM deptbus.variants) AS k LIMIT $1"
)
COUNT = (
    "UPDATE deptbus.published SET publication = publication + 1, version = greatest(version, $2) "
    "FROM (SELECT true FROM deptbus.adapter WHERE token = $1 FOR SHARE) AS mine "
    "WHERE $3::bigint IN (0, publication + 1) RETURNING publication"
)
FORGET = (
    "WITH mine AS MATERIALIZED (SELECT true FROM deptbus.adapter WHERE token = $1 FOR SHARE), "
    "gone AS (DELETE FROM deptbus.outbox WHERE position = ANY($2::bigint[]) "
    "  AND EXISTS (SELECT 1 FROM mine)) "
    "SELECT count(*) FROM mine"
)
# The cap counts from the oldest row or note that waits; where none does it has all its room again.
# (Positions are also used up by transactions that roll back. Notes below 0 are our own.)
LIFT = (
    "UPDATE deptbus.published SET limit_position = cap_rows + waiting.least, "
    "limit_kib = cap_kib + waiting.kib FROM (SELECT coalesce(least("
    "(SELECT min(position) FROM deptbus.outbox), "
    "(SELECT min(position) FROM deptbus.touched WHERE position > 0)), "
    "(SELECT last_value FROM deptbus.position)) AS least, coalesce(least("
    "(SELECT kib FROM deptbus.outbox WHERE kib IS NOT NULL ORDER BY position LIMIT 1), "
    "(SELECT kib FROM deptbus.touched WHERE position > 0 ORDER BY position LIMIT 1)), "
    "(SELECT last_value FROM deptbus.volume)) "
    "AS kib) AS waiting WHERE limit_position < cap_rows + waiting.least - cap_rows / 10 "
    "OR limit_kib < cap_kib + waiting.kib - cap_kib / 10"
)
# Every transaction that may have drawn a version below the one reserved has ended.
SETTLED = "coalesce(after_xid <= pg_snapshot_xmin(pg_current_snapshot()), false)"
LATER = (
    "UPDATE deptbus.wanted SET "
    "number = nextval(pg_get_serial_sequence('deptbus.wanted', 'number')) WHERE number = $1"
)
GAVE_WAY = (
    "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM deptbus.gave_way) - gave_way_seen"
)


async def write_prepared(c: asyncpg.Connection, prepared: Prepared) -> None:
    if prepared.drop:
        await c.execute(
            "DELETE FROM deptbus.outbox WHERE position = ANY($1::bigint[])", prepared.drop
        )
    if prepared.places:
        await c.executemany(
            "INSERT INTO deptbus.places VALUES ($1, $2, $3) "
            "ON CONFLICT (dataset, bus_key) DO UPDATE SET places = excluded.places",
            [(*pair, ",".join(places)) for pair, places in prepared.places.items()],
        )
    if prepared.variants:
        await c.executemany(
            "INSERT INTO deptbus.variants VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (dataset, bus_key, raw) DO UPDATE SET state = excluded.state",
            [(*pair, *v) for pair, variants in prepared.variants.items() for v in variants],
        )
    if prepared.unpark:
        await c.executemany(
            "DELETE FROM deptbus.parked WHERE dataset = $1 AND raw = $2", prepared.unpark
        )
    if prepared.park:
        await c.executemany(
            "INSERT INTO deptbus.parked VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT (dataset, raw) DO UPDATE SET reason = excluded.reason, "
            "own_column = excluded.own_column, position = excluded.position",
            [(*p, time.time_ns() // 1000) for p in prepared.park],
        )
    await want(c, prepared.wanted)
    if prepared.holding is not None:
        await removals.write(c, prepared.holding)


async def want(c: asyncpg.Connection, wanted: Iterable[Wanted]) -> None:
    for w in wanted:
        await c.execute(
            "INSERT INTO deptbus.wanted (dataset, raw, bus_key, cause, job) "
            "SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM deptbus.wanted "
            "WHERE dataset = $1 AND raw IS NOT DISTINCT FROM $2 "
            "AND bus_key IS NOT DISTINCT FROM $3 AND cause = $4 AND job IS NOT DISTINCT FROM $5)",
            *w,
        )


async def advance_absent(c: asyncpg.Connection, absent: Sequence[asyncpg.Record]) -> int:
    """The next step towards being sure; returns how many took one."""
    unnumbered = [r["number"] for r in absent if r["position"] is None]
    unmarked = [r["number"] for r in absent if r["position"] is not None and not r["is_waiting"]]
    if unnumbered:
        await c.execute(
            "UPDATE deptbus.wanted SET position = nextval('deptbus.position') "
            "WHERE number = ANY($1::bigint[])",
            unnumbered,
        )
    if unmarked:
        # This transaction began after the version was drawn, so its id is above that of each that
        # drew a lesser one.
        await c.execute(
            "UPDATE deptbus.wanted SET after_xid = pg_current_xact_id() "
            "WHERE number = ANY($1::bigint[])",
            unmarked,
        )
    return len(unnumbered) + len(unmarked)


async def snapshots(c: asyncpg.Connection, where: str, *values: Any) -> tuple[Snapshot, ...]:
    rows = await c.fetch(
        f"SELECT dataset, enqueued, skipped, done FROM deptbus.snapshot {where} ORDER BY dataset",
        *values,
    )
    return tuple(Snapshot(*row) for row in rows)


# Every value as text, as the capture functions write it: under their settings.
FORM = "; ".join(f"SET LOCAL {setting}" for setting in SETTINGS)


async def set_form(c: asyncpg.Connection) -> None:
    """How `rows_after` and `rows_of` read values, for the rest of the caller's transaction."""
    await c.execute(FORM)


async def rows_after(
    c: asyncpg.Connection, layout: Layout, facts: TableFacts, after: RawKey | None, limit: int
) -> list[OutboxRow]:
    order = comma(f"t.{quoted(k)}" for k in facts.order)
    where = " AND ".join(f"t.{quoted(k)} IS NOT NULL" for k in layout.keys)
    values: list[Any] = [limit]
    if after is not None:
        by_name = dict(zip(layout.keys, after, strict=True))
        values += [by_name[k] for k in facts.order]
        marks = comma(f"${n}::text::{facts.types[k]}" for n, k in enumerate(facts.order, 2))
        where += f" AND ({order}) > ({marks})"
    return await _present(c, layout, facts, f"{where} ORDER BY {order} LIMIT $1", values)


async def rows_of(
    c: asyncpg.Connection, layout: Layout, facts: TableFacts, raws: Iterable[RawKey]
) -> list[OutboxRow]:
    """One after the other: meant for few."""
    found: list[OutboxRow] = []
    where = own_key(layout, facts)
    for raw in raws:
        try:
            async with c.transaction():  # a value that is none of the type undoes no more than this
                found += await _present(c, layout, facts, where, raw)
        except asyncpg.DataError:
            continue  # no row can bear it
    return found


def own_key(layout: Layout, facts: TableFacts) -> str:
    """Condition: just this own key, by index and then as text."""
    return " AND ".join(
        f"t.{quoted(k)} = CAST(${i}::text AS {facts.types[k]}) "
        f'AND t.{quoted(k)}::text COLLATE "C" = ${i}'
        for i, k in enumerate(layout.keys, 1)
    )


async def _present(
    c: asyncpg.Connection, layout: Layout, facts: TableFacts, where: str, values: Sequence[Any]
) -> list[OutboxRow]:
    columns = comma(f"t.{quoted(name)}::text" for name in (*layout.keys, *layout.columns))
    rows = await c.fetch(f"SELECT {columns} FROM {facts.table} t WHERE {where}", *values)
    width = len(layout.keys)
    return [present_row(layout, tuple(row[:width]), tuple(row[width:])) for row in rows]
