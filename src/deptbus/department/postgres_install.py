"""Installs and removes capture on PostgreSQL: only what differs, so a second run needs no lock."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from deptbus.department import fence, postgres_view, shape
from deptbus.department import postgres_triggers as sql
from deptbus.department.layout import Layout, quoted, text_literal
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


async def install_statements(
    c: asyncpg.Connection, layouts: Sequence[Layout], cap_rows: int
) -> list[str]:
    """Everything that `install` runs in one transaction, given what is there already."""
    made = [*fence.POSTGRES_TABLES, *sql.TABLES, *postgres_view.TABLES, shape.POSTGRES_TABLE]
    made += [
        f"INSERT INTO deptbus.published (cap_rows, limit_position) VALUES ({int(cap_rows)}, 0) "
        f"ON CONFLICT (only_row) DO UPDATE SET cap_rows = {int(cap_rows)}",
        "UPDATE deptbus.published SET limit_position = cap_rows + coalesce((SELECT min(position) "
        "FROM deptbus.outbox), (SELECT last_value FROM deptbus.position))",
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
            for signature in sql.helper_signatures(layout.dataset)
        ]
        kept_functions.update(written.names())
        kept_functions.update(f"{layout.dataset}_{helper}" for helper in sql.HELPERS)
        for table, event, suffix in await _watched(c, layout):
            place = (sql.trigger_name(layout.dataset, f"{event}{suffix}"), table)
            kept.add(place)
            if place not in there:
                made.append(sql.trigger(layout.dataset, table, event, suffix))
            elif not there[place]:
                made.append(f"ALTER TABLE {table} ENABLE TRIGGER {quoted(place[0])}")
        made += shape.note_sql("deptbus.shape", layout.dataset, await shape_of(c, layout))
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


async def drop_statements(c: asyncpg.Connection) -> list[str]:
    """Everything of the source side; the schema too when nothing else of ours is in it."""
    made = [
        f"DROP TRIGGER {quoted(r['tgname'])} ON {r['on_table']}"
        for r in await c.fetch(OUR_TRIGGERS)
    ]
    made += [f"DROP FUNCTION {r['signature']}" for r in await c.fetch(_OUR_FUNCTIONS)]
    tables = (*sql.TABLE_NAMES, *postgres_view.TABLE_NAMES, "shape", "granted")
    made += [f"DROP TABLE IF EXISTS deptbus.{table}" for table in tables]
    made += [f"DROP SEQUENCE IF EXISTS deptbus.{s}" for s in ("position", "gave_way")]
    if await c.fetchval("SELECT to_regnamespace('deptbus')") is None:
        return []
    return made
