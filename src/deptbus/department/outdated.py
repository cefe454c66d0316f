"""Looks whether capture was installed by an older deptbus, whose tables and functions lack what
this one works with: `install` adds it, and until then nothing else may be tried on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

import asyncpg

from deptbus.department import (
    postgres_install,
    postgres_triggers,
    postgres_view,
    removal_guard_postgres,
    removal_guard_sqlite,
    sqlite_rows,
    sqlite_triggers,
    sqlite_view,
)
from deptbus.department.layout import Layout


def outdated_sqlite(c: sqlite3.Connection, layouts: Collection[Layout]) -> str:
    """What an older deptbus installed without, so that this one cannot work with it: one line that
    names the datasets; empty where nothing is missing. (The adapter makes `pulse` by itself.)"""
    tables = {name for (name,) in c.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    needed = (
        *sqlite_triggers.TABLE_NAMES,
        *sqlite_view.TABLE_NAMES,
        *removal_guard_sqlite.TABLE_NAMES,
    )
    missing = [name for name in needed if name not in tables | {"deptbus_pulse"}]
    for table, column in sqlite_rows.WIDENED:
        if not sqlite_rows.column_count(c, f"deptbus_{table}", column):
            missing.append(f"deptbus_{table}.{column}")
    return _outdated(layouts, missing[0]) if layouts and missing else ""


async def outdated_postgres(c: asyncpg.Connection, layouts: Collection[Layout]) -> str:
    """As `outdated_sqlite`."""
    rows = await c.fetch(
        "SELECT k.relname::text, a.attname::text FROM pg_class k LEFT JOIN pg_attribute a "
        "ON a.attrelid = k.oid AND a.attnum > 0 AND NOT a.attisdropped AND k.relkind = 'r' "
        "WHERE k.relnamespace = to_regnamespace('deptbus')"
    )
    columns = {(table, column) for table, column in rows}
    relations = {table for table, _ in columns}
    needed = (
        *postgres_triggers.TABLE_NAMES,
        *postgres_view.TABLE_NAMES,
        *removal_guard_postgres.TABLE_NAMES,
        "volume",
    )
    missing = [name for name in needed if name not in relations | {"pulse"}]
    missing += [f"{t}.{col}" for t, col in postgres_install.WIDENED if (t, col) not in columns]
    if layouts and missing:
        return _outdated(layouts, f"deptbus.{missing[0]}")
    there = {
        name
        for (name,) in await c.fetch(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace('deptbus')"
        )
    }
    for layout in layouts:
        for helper in postgres_triggers.helpers_of(layout):
            if (name := f"{layout.dataset}_{helper}") not in there:
                return _outdated([layout], f"deptbus.{name}")
    return ""


def _outdated(layouts: Iterable[Layout], missing: str) -> str:
    names = ", ".join(sorted(layout.dataset for layout in layouts))
    return (
        f"dataset {names}: capture was installed by an older deptbus, or altered since "
        f"({missing} is missing)"
    )
