"""Rows that the adapter writes do not enter the outbox of the dataset that they were received as;
what is derived from them does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from recipient_contract import CODECS, CONTRACT, gone, mapping, person
from store_rooms import IDENTITY, NOW, TOPIC

from deptbus.department import fence
from deptbus.department.capture import Capture
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.store import PartitionBatch, Store
from deptbus.department.store_postgres import PostgresStore
from deptbus.department.store_sqlite import SqliteStore
from deptbus.department.target import ContractShapes

_LAYOUTS = [
    Layout("person", "people", ("id",), ("id", "name"), None),
    Layout("house", "people", ("id",), ("id", "name"), None),  # derived from what is received
]
_MAPPING = mapping({"columns": {"id": "id", "name": "name"}}, house=False)
_SHAPES = ContractShapes(CONTRACT, CODECS)


async def _captured_datasets(capture: Capture, store: Store) -> list[tuple[str, str]]:
    """Three batches (insert, update, delete) beside one row of the department's own."""
    await capture.install(_LAYOUTS, 1000)
    await store.open(IDENTITY, 1)
    for item in (person(1), person(1, 2, name="new"), gone(1, 3)):
        at = store.positions[0].next_offset
        await store.apply({0: PartitionBatch(at + 1, [item])}, NOW)
    return [(row.dataset, row.op) for row in await capture.read(100)]


async def test_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with sqlite3.connect(path) as own:
        own.execute("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
    own.close()
    target = target_of(f"sqlite:///{path}")
    capture = SqliteCapture(await SqliteDatabase.open(target))
    database = await SqliteDatabase.open(target)
    await fence.ensure_adapter_table(database)
    token = (await fence.take_over(database, 0, unit="u", system="main")).token
    store = SqliteStore(database, TOPIC, token, _MAPPING, _SHAPES)
    found = await _captured_datasets(capture, store)
    assert found == [("house", "u"), ("house", "u"), ("house", "d")]
    with sqlite3.connect(path) as own:
        own.execute("INSERT INTO people VALUES ('own', 'x')")
    own.close()
    assert {row.dataset for row in await capture.read(100)} == {"house", "person"}
    await store.close()
    await capture.close()


@pytest.mark.service
async def test_postgres(postgres: Callable[[], str]) -> None:
    target = target_of(postgres())
    capture = await PostgresCapture.open(
        await PostgresDatabase.open(target), await PostgresDatabase.open(target)
    )
    database = await PostgresDatabase.open(target)
    await database.connection.execute("CREATE TABLE people (id text PRIMARY KEY, name text)")
    await fence.ensure_adapter_table(database)
    token = (await fence.take_over(database, 0, unit="u", system="main")).token
    store = PostgresStore(database, TOPIC, token, _MAPPING, _SHAPES)
    found = await _captured_datasets(capture, store)
    assert found == [("house", "u"), ("house", "u"), ("house", "d")]
    await database.connection.execute("INSERT INTO people VALUES ('own', 'x')")
    assert {row.dataset for row in await capture.read(100)} == {"house", "person"}
    await store.close()
    await capture.close()
