"""The types that mapped columns had when capture was installed: one that has another since is
noticed and named, because its values may read otherwise by now. Longer texts and wider whole
numbers read as before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import asyncpg

from deptbus.department import postgres_schema, sqlite_schema
from deptbus.department.layout import Layout, text_literal
from deptbus.department.values import sqlite_kind

POSTGRES_TABLE = """CREATE TABLE IF NOT EXISTS deptbus.shape (
  dataset text NOT NULL,
  own_column text NOT NULL,
  declared text NOT NULL,
  PRIMARY KEY (dataset, own_column)
)"""
SQLITE_TABLE = """CREATE TABLE IF NOT EXISTS deptbus_shape (
  dataset TEXT NOT NULL,
  own_column TEXT NOT NULL,
  declared TEXT NOT NULL,
  PRIMARY KEY (dataset, own_column)
) WITHOUT ROWID"""


def note_sql(table: str, dataset: str, shape: dict[str, str]) -> list[str]:
    """Statements that note these types in `table`."""
    made = [f"DELETE FROM {table} WHERE dataset = {text_literal(dataset)}"]
    for column, declared in shape.items():
        words = ", ".join(map(text_literal, (dataset, column, declared)))
        made.append(f"INSERT INTO {table} VALUES ({words})")
    return made


async def retyped_postgres(c: asyncpg.Connection, layout: Layout) -> list[str]:
    """What is to be said of columns of another type; the layout's table must have all of them."""
    if await c.fetchval("SELECT to_regclass('deptbus.shape')") is None:
        return []  # installed before types were noted
    rows = await c.fetch(
        "SELECT own_column, declared FROM deptbus.shape WHERE dataset = $1", layout.dataset
    )
    return _told(layout, dict(rows), await postgres_schema.shape(c, layout), _postgres_family)


def retyped_sqlite(c: sqlite3.Connection, layout: Layout) -> list[str]:
    if not c.execute("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_shape'").fetchone():
        return []
    rows = c.execute(
        "SELECT own_column, declared FROM deptbus_shape WHERE dataset = ?", (layout.dataset,)
    )
    return _told(layout, dict(rows), sqlite_schema.shape(c, layout), sqlite_kind)


def _postgres_family(declared: str) -> str:
    """Types of one family write a value as the same text."""
    if declared == "text" or declared.startswith("character varying"):
        return "text"
    return "integer" if declared in ("smallint", "integer", "bigint") else declared


def _told(
    layout: Layout, was: dict[str, str], now: dict[str, str], family: Callable[[str], str]
) -> list[str]:
    return [
        f"dataset {layout.dataset}: column {column} of table {layout.table} was {was[column]} when "
        f"capture was installed and is {declared} now"
        for column, declared in now.items()
        if column in was and family(was[column]) != family(declared)
    ]
