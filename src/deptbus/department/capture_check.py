"""Looks whether capture still sees what is written: a vendor's update may rebuild a table without
our triggers, a bulk load may switch them off, a column may have another name by now."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from deptbus.department import (
    postgres_schema,
    postgres_triggers,
    sqlite_schema,
    sqlite_unique,
    sqlite_view,
)
from deptbus.department.layout import Layout, quoted_table
from deptbus.department.postgres_view import part_suffix
from deptbus.department.shape import retyped_postgres, retyped_sqlite


class Broken(NamedTuple):
    """Why a dataset cannot be captured now. `is_blind`: writes go by and nothing notes them.
    `is_partly`: only some do, so that the others are published all the same."""

    dataset: str
    reason: str
    is_blind: bool
    is_partly: bool = False
    is_retyped: bool = False  # what was published of it may read otherwise now


def broken_sqlite(c: sqlite3.Connection, layouts: Iterable[Layout]) -> list[Broken]:
    found = []
    for layout in layouts:
        wrong = sqlite_schema.examine_table(c, layout)
        retyped = [] if wrong else retyped_sqlite(c, layout)
        if retyped:
            found.append(Broken(layout.dataset, retyped[0], False, is_retyped=True))
            continue
        if wrong:
            # SQLite keeps the triggers true when a column or table gets another name, so what is
            # written meanwhile waits in the outbox; a table that is gone has no writers.
            found.append(Broken(layout.dataset, wrong[0], False))
            continue
        there = {
            (name, table.lower())
            for name, table in c.execute(
                "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' "
                "AND name GLOB 'deptbus_*'"
            )
        }
        missing = [one for one in sqlite_view.watched(layout) if one not in there]
        if missing and not (sqlite_view.formerly_watched(layout) <= there):
            found.append(_without_triggers(layout, missing[0][1] if layout.is_view else ""))
            continue
        if not layout.is_view and _is_moved_unseen(c, layout):
            reason = (
                f"dataset {layout.dataset}: table {layout.table} has a trigger before updates that "
                "was not there at install, so what is written to a row whose key it moves is not "
                "captured"
            )
            found.append(Broken(layout.dataset, reason, True, True))
            continue
        altered = _otherwise_unique(c, layout)
        if altered is not None:
            found.append(altered)
    return found


def _otherwise_unique(c: sqlite3.Connection, layout: Layout) -> Broken | None:
    """Our triggers look at what was unique when they were made. One that an older deptbus made does
    not say what that was, and looked at no index on expressions or of some rows."""
    for table in dict.fromkeys([part.table for part in layout.parts] or [layout.table]):
        unique = sqlite_unique.replacing(c, table)
        now = sqlite_unique.marks(unique)
        for (trigger,) in c.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB ? "
            "AND tbl_name = ? COLLATE NOCASE",
            (f"deptbus_{layout.dataset}_before_insert*", table),
        ).fetchall():
            then = sqlite_unique.marked(trigger)
            if then is None:
                then = sqlite_unique.marks(u for u in unique if u.columns and not u.where)
            where = f"dataset {layout.dataset}: table {table}"
            if now - then:
                return Broken(
                    layout.dataset,
                    f"{where} has a unique index that was not there, or not looked at, at install, "
                    "so what is replaced by it (REPLACE) is not captured",
                    True,
                    True,
                )
            if then - now:
                return Broken(
                    layout.dataset,
                    f"{where} has lost a unique index by which our triggers look for rows, so each "
                    "write to it reads the whole table",
                    False,
                    True,
                )
    return None


def _is_moved_unseen(c: sqlite3.Connection, layout: Layout) -> bool:
    """Ours look at statements that name a key alone, which was enough when they were made."""
    looks_at_some = c.execute(
        "SELECT instr(sql, ' AFTER UPDATE OF ') FROM sqlite_master WHERE name = ?",
        (f"deptbus_{layout.dataset}_moved",),
    ).fetchone()
    return bool(looks_at_some and looks_at_some[0]) and sqlite_schema.is_moved_before(
        c, layout.table
    )


async def broken_postgres(c: asyncpg.Connection, layouts: Iterable[Layout]) -> list[Broken]:
    found = []
    for layout in layouts:
        wrong = await postgres_schema.examine_table(c, layout)
        retyped = [] if wrong else await retyped_postgres(c, layout)
        if retyped:
            found.append(Broken(layout.dataset, retyped[0], False, is_retyped=True))
            continue
        if wrong:
            # The triggers are there, cannot do their work, and count each time that they gave way;
            # a table that was put aside took them with it, and is written to no more.
            found.append(Broken(layout.dataset, wrong[0], False))
            continue
        unwatched = await _unwatched(c, layout)
        if unwatched is not None:
            found.append(_without_triggers(layout, unwatched))
            continue
        if await _is_paused(c, layout):
            reason = f"dataset {layout.dataset}: capture is paused"
            found.append(Broken(layout.dataset, reason, True))
            continue
        blind = [] if layout.is_view else await _unwatched_partitions(c, layout)
        if blind:
            # What is written by way of the partitioned table is captured.
            reason = (
                f"dataset {layout.dataset}: partition {blind[0]} of table {layout.table} has come "
                "since install, so what is written to it directly is not captured"
            )
            found.append(Broken(layout.dataset, reason, True, True))
    return found


async def _unwatched(c: asyncpg.Connection, layout: Layout) -> str | None:
    """The first table without our triggers, of those behind a view too."""
    tables = [(part.table, part_suffix(number)) for number, part in enumerate(layout.parts)]
    for table, suffix in tables or [(layout.table, "")]:
        if not await _is_watched(c, layout, table, suffix):
            return table
    return None


async def _is_paused(c: asyncpg.Connection, layout: Layout) -> bool:
    """One of its trigger functions does nothing; all of them are paused together."""
    return bool(
        await c.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'deptbus' "
            "AND starts_with(t.tgname, $1) AND p.prosrc = $2)",
            f"deptbus_{layout.dataset}_",
            postgres_triggers.PAUSED,
        )
    )


def _names(layout: Layout, suffix: str = "") -> list[str]:
    return [
        postgres_triggers.trigger_name(layout.dataset, f"{event}{suffix}")
        for event in postgres_triggers.EVENTS
    ]


async def _is_watched(c: asyncpg.Connection, layout: Layout, table: str, suffix: str = "") -> bool:
    wanted = _names(layout, suffix)
    live = await c.fetchval(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass($1) "
        "AND tgname = ANY($2::text[]) AND tgenabled IN ('O', 'A')",
        quoted_table(table),
        wanted,
    )
    return bool(live == len(wanted))


async def _unwatched_partitions(c: asyncpg.Connection, layout: Layout) -> list[str]:
    wanted = _names(layout)
    rows = await c.fetch(
        "SELECT p.relid::regclass::text FROM pg_partition_tree(to_regclass($1)) AS p "
        "WHERE (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = p.relid "
        "AND t.tgname = ANY($2::text[]) AND t.tgenabled IN ('O', 'A')) < $3 ORDER BY 1",
        quoted_table(layout.table),
        wanted,
        len(wanted),
    )
    return [row[0] for row in rows]


def _without_triggers(layout: Layout, table: str = "") -> Broken:
    return Broken(
        layout.dataset,
        f"dataset {layout.dataset}: the triggers on table {table or layout.table} are gone or "
        "switched off",
        True,
    )
