"""Installs and removes capture on PostgreSQL: only what differs, so a second run needs no lock."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from deptbus.department import fence, postgres_view, shape
from deptbus.department import postgres_triggers as sql
from deptbus.department import removal_guard_postgres as removals
from deptbus.department.layout import Layout, comma, quoted, text_literal
from deptbus.department.postgres_schema import relations, table_facts
from deptbus.department.postgres_schema import shape as shape_of
from deptbus.department.postgres_view import ViewFunctions, part_suffix

# Ours by the schema of their functions; those on our own views are no capture.
OUR_TRIGGERS = (
    "SELECT t.tgname, format('%I.%I', n.nspname, k.relname) AS on_table, p.proname, "
    "t.tgenabled IN ('O', 'A') AS is_on FROM pg_trigger t "
    "JOIN pg_class k ON k.oid = t.tgrelid JOIN pg_namespace n ON n.oid = k.relnamespace "
    "JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace "
    "WHERE pn.nspname = 'deptbus' AND n.nspname <> 'deptbus' AND NOT t.tgisinternal"
)
_OUR_FUNCTIONS = (
    "SELECT p.oid::regprocedure::text AS signature, p.proname FROM pg_proc p "
    "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'deptbus' "
    r"AND p.proname NOT LIKE 'into\_%\_write'"
)

# (table, column) that an older install had not.
WIDENED = (
    *(("published", "cap_kib"), ("published", "limit_kib")),
    *(("outbox", "kib"), ("touched", "part"), ("touched", "kib")),
)


async def install_statements(
    c: asyncpg.Connection, layouts: Sequence[Layout], cap_rows: int, cap_mib: int
) -> list[str]:
    """Everything that `install` runs in one transaction, given what is there already."""
    made = [*fence.POSTGRES_TABLES, *sql.TABLES, *removals.TABLES]
    made += [*postgres_view.TABLES, shape.POSTGRES_TABLE]
    cap_kib = int(cap_mib) * 1024
    made += [
        *await _widened(c),
        "INSERT INTO deptbus.published (cap_rows, limit_position, cap_kib) "
        f"VALUES ({int(cap_rows)}, 0, {cap_kib}) ON CONFLICT (only_row) "
        f"DO UPDATE SET cap_rows = {int(cap_rows)}, cap_kib = {cap_kib}",
        "UPDATE deptbus.published SET limit_position = cap_rows + coalesce((SELECT min(position) "
        "FROM deptbus.outbox), (SELECT last_value FROM deptbus.position)), "
        "limit_kib = cap_kib + coalesce((SELECT kib FROM deptbus.outbox WHERE kib IS NOT NULL "
        "ORDER BY position LIMIT 1), (SELECT last_value FROM deptbus.volume))",
        "UPDATE deptbus.layout SET is_current = false",
    ]
    there = {(r["tgname"], r["on_table"]): r["is_on"] for r in await c.fetch(OUR_TRIGGERS)}
    kept: set[tuple[str, str]] = set()
    kept_functions: set[str] = set()
    for layout in layouts:
        facts = await table_facts(c, layout)
        made.append(
            f"INSERT INTO deptbus.layout VALUES ({layout.number}, "
            f"{text_literal(layout.dataset)}, {text_literal(layout.to_json())}, true) "
            "ON CONFLICT (number) DO UPDATE SET is_current = true"
        )
        functions = ViewFunctions if layout.is_view else sql.Functions
        written = functions(layout, facts)
        made += written.all()
        made += [
            f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"
            for signature in sql.helper_signatures(layout)
        ]
        kept_functions.update(written.names())
        kept_functions.update(f"{layout.dataset}_{helper}" for helper in sql.helpers_of(layout))
        for table, event, suffix in await _watched(c, layout):
            place = (sql.trigger_name(layout.dataset, f"{event}{suffix}"), table)
            kept.add(place)
            if place not in there:
                made.append(sql.trigger(layout.dataset, table, event, suffix))
            elif not there[place]:
                made.append(f"ALTER TABLE {table} ENABLE TRIGGER {quoted(place[0])}")
        made += shape.note_sql("deptbus.shape", layout.dataset, await shape_of(c, layout))
    views = comma(text_literal(layout.dataset) for layout in layouts if layout.is_view)
    made += [
        f"DELETE FROM deptbus.{table}" + (f" WHERE dataset NOT IN ({views})" if views else "")
        for table in postgres_view.TABLE_NAMES  # what is no view now may be one again
    ]
    made += [f"DROP TRIGGER {quoted(n)} ON {t}" for n, t in there if (n, t) not in kept]
    made += [
        f"DROP FUNCTION {r['signature']}"
        for r in await c.fetch(_OUR_FUNCTIONS)
        if r["proname"] not in kept_functions
    ]
    return made


async def _watched(c: asyncpg.Connection, layout: Layout) -> list[tuple[str, str, str]]:
    """(table as `%I.%I` writes it, event, suffix of trigger and function) of every trigger."""
    if not layout.is_view:
        tables = [(name, "") for name, _ in await relations(c, layout.table)]
    else:
        tables = [
            (name, part_suffix(number))
            for number, part in enumerate(layout.parts)
            for name, _ in await relations(c, part.table)
        ]
    return [(table, event, suffix) for table, suffix in tables for event in sql.EVENTS]


async def _widened(c: asyncpg.Connection) -> list[str]:
    """Columns that an older install had not. Only then: it is a lock that captures give way to."""
    there = {
        (row[0], row[1])
        for row in await c.fetch(
            "SELECT k.relname::text, a.attname::text FROM pg_class k JOIN pg_attribute a "
            "ON a.attrelid = k.oid WHERE k.relnamespace = to_regnamespace('deptbus')"
        )
    }
    tables = {table for table, _ in there}
    return [
        f"ALTER TABLE deptbus.{table} ADD COLUMN {column} bigint"
        + (" NOT NULL DEFAULT 0" if table == "published" else "")
        for table, column in WIDENED
        if table in tables and (table, column) not in there
    ]


async def pause_statements(c: asyncpg.Connection) -> list[str]:
    """Capture does nothing from the commit on, in sessions that are open too. Takes no lock that a
    write of the department's meets, so it need not wait for any."""
    if await c.fetchval("SELECT to_regclass('deptbus.gave_way')") is None:
        noted = []
    else:
        noted = ["SELECT nextval('deptbus.gave_way')"]
    functions = await c.fetch(
        f"{_OUR_FUNCTIONS} AND p.prorettype = 'trigger'::regtype AND p.prosrc <> $1", sql.PAUSED
    )
    return noted + [
        f"CREATE OR REPLACE FUNCTION {row['signature']} RETURNS trigger LANGUAGE plpgsql "
        f"AS {text_literal(sql.PAUSED)}"
        for row in functions
    ]


async def drop_statements(c: asyncpg.Connection) -> list[str]:
    """Everything of the source side; the schema too when nothing else of ours is in it."""
    made = [
        f"DROP TRIGGER {quoted(r['tgname'])} ON {r['on_table']}"
        for r in await c.fetch(OUR_TRIGGERS)
    ]
    made += [f"DROP FUNCTION {r['signature']}" for r in await c.fetch(_OUR_FUNCTIONS)]
    tables = (*sql.TABLE_NAMES, *removals.TABLE_NAMES, *postgres_view.TABLE_NAMES)
    made += [f"DROP TABLE IF EXISTS deptbus.{table}" for table in (*tables, "shape", "granted")]
    made += [f"DROP SEQUENCE IF EXISTS deptbus.{s}" for s in ("position", "gave_way", "volume")]
    if await c.fetchval("SELECT to_regnamespace('deptbus')") is None:
        return []
    return made
