"""Looks whether capture still sees what is written: a vendor's update may rebuild a table without
our triggers, a bulk load may switch them off, a column may have another name by now."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from deptbus.department import postgres_triggers, sqlite_triggers
from deptbus.department.layout import Layout, quoted_table
from deptbus.department.postgres_schema import examine_table as examine_postgres
from deptbus.department.sqlite_schema import examine_table as examine_sqlite


class Broken(NamedTuple):
    """Why a dataset cannot be captured now. `is_blind`: writes go by and nothing notes them."""

    dataset: str
    reason: str
    is_blind: bool


def broken_sqlite(c: sqlite3.Connection, layouts: Iterable[Layout]) -> list[Broken]:
    found = []
    for layout in layouts:
        wrong = examine_sqlite(c, layout)
        if wrong:
            # SQLite keeps the triggers true when a column or table gets another name, so what is
            # written meanwhile waits in the outbox; a table that is gone has no writers.
            found.append(Broken(layout.dataset, wrong[0], False))
            continue
        there = {
            name
            for (name,) in c.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger' "
                "AND tbl_name = ? COLLATE NOCASE",
                (layout.table,),
            )
        }
        missing = set(sqlite_triggers.trigger_names(layout.dataset)) - there
        if missing:
            found.append(_without_triggers(layout))
    return found


async def broken_postgres(c: asyncpg.Connection, layouts: Iterable[Layout]) -> list[Broken]:
    found = []
    for layout in layouts:
        wrong = await examine_postgres(c, layout)
        if wrong:
            # The triggers are there, cannot do their work, and count each time that they gave way;
            # a table that was put aside took them with it, and is written to no more.
            found.append(Broken(layout.dataset, wrong[0], False))
            continue
        wanted = [
            postgres_triggers.trigger_name(layout.dataset, event)
            for event in postgres_triggers.EVENTS
        ]
        live = await c.fetchval(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass($1) "
            "AND tgname = ANY($2::text[]) AND tgenabled IN ('O', 'A')",
            quoted_table(layout.table),
            wanted,
        )
        if live < len(wanted):
            found.append(_without_triggers(layout))
    return found


def _without_triggers(layout: Layout) -> Broken:
    return Broken(
        layout.dataset,
        f"dataset {layout.dataset}: the triggers on table {layout.table} are gone or switched off",
        True,
    )
