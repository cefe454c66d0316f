"""Databases of a recipient for tests of its store, and a hand of its department."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from recipient_contract import CODECS, CONTRACT, mapping

from deptbus.change import Received
from deptbus.department import fence
from deptbus.department.connect import (
    PostgresDatabase,
    SqliteDatabase,
    application_prefix,
    target_of,
)
from deptbus.department.store import Applied, BusIdentity, PartitionBatch, Store
from deptbus.department.store_postgres import PostgresStore
from deptbus.department.store_sqlite import SqliteStore
from deptbus.department.target import ContractShapes
from deptbus.wire.control import PolicyMarker

TOPIC = "in.housing-330106"
IDENTITY = BusIdentity("cluster", "topic")
NOW = 1_800_000_000_000_000


class StoreRoom:
    """A recipient's database and how a test works in it; each test has a fresh one. `make_store`,
    `take_over` and `sql` are what a subclass gives."""

    ledger = "deptbus_ledger"
    existing, kept, no = "deptbus_existing", "deptbus_kept", "0"
    statistics = "deptbus_statistics"

    @pytest.fixture
    async def database(self) -> Any:
        raise NotImplementedError

    async def make_store(self, database: Any, words: Mapping[str, Any]) -> Store:
        """An unopened store behind the fence's present token, on a connection of its own."""
        raise NotImplementedError

    async def take_over(self, database: Any) -> None:
        raise NotImplementedError

    async def sql(self, database: Any, statement: str) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    shapes = ContractShapes(CONTRACT, CODECS)

    async def opened(
        self, database: Any, person_words: Mapping[str, Any] | None = None, *, joins: bool = True
    ) -> Store:
        """`joins`: the department says yes to every first load that waits."""
        store = await self.make_store(database, mapping(person_words))
        await store.open(IDENTITY, 2)
        await store.begin_reading({})
        if joins:
            await self.join(database, store)
        return store

    async def join(self, database: Any, store: Store) -> list[str]:
        await self.sql(database, f"UPDATE {self.existing} SET waits = {self.no}")
        return await store.look_at_existing()

    async def feed(
        self, store: Store, *items: Received | PolicyMarker, now: int = NOW, part: int = 0
    ) -> Applied:
        at = store.positions[part].next_offset
        return await store.apply({part: PartitionBatch(at + len(items), list(items))}, now)

    async def people(
        self, database: Any, columns: str = "id, name, phone"
    ) -> list[tuple[Any, ...]]:
        return await self.sql(database, f"SELECT {columns} FROM people ORDER BY id")


class PostgresRoom(StoreRoom):
    ledger = "deptbus.ledger"
    existing, kept, no = "deptbus.existing", "deptbus.kept", "false"
    statistics = "deptbus.statistics"

    @pytest.fixture
    async def database(self, postgres: Callable[[], str]) -> AsyncIterator[str]:
        url = postgres()
        opened = await PostgresDatabase.open(target_of(url))
        await fence.ensure_adapter_table(opened)
        await opened.close()
        await self.take_over(url)
        return url

    async def make_store(self, database: str, words: Mapping[str, Any]) -> Store:
        name = application_prefix("u", "main") + "older"
        opened = await PostgresDatabase.open(target_of(database), application_name=name)
        token = (await fence.read_adapter(opened)).incarnation.token
        return PostgresStore(opened, TOPIC, token, words, self.shapes)

    async def take_over(self, database: str) -> None:
        opened = await PostgresDatabase.open(target_of(database))
        await fence.take_over(opened, 0, unit="u", system="main")
        await opened.close()

    async def sql(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(database)
        try:
            return [tuple(r) for r in await connection.fetch(statement)]
        finally:
            await connection.close()


class SqliteRoom(StoreRoom):
    kind = SqliteStore

    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncIterator[Path]:
        path = tmp_path / "own.db"
        sqlite3.connect(path).close()
        opened = await SqliteDatabase.open(target_of(f"sqlite:///{path}"))
        await fence.ensure_adapter_table(opened)
        await opened.close()
        await self.take_over(path)
        return path

    async def make_store(self, database: Path, words: Mapping[str, Any]) -> Store:
        opened = await SqliteDatabase.open(target_of(f"sqlite:///{database}"))
        token = (await fence.read_adapter(opened)).incarnation.token
        return self.kind(opened, TOPIC, token, words, self.shapes)

    async def take_over(self, database: Path) -> None:
        opened = await SqliteDatabase.open(target_of(f"sqlite:///{database}"))
        await fence.take_over(opened, 0, unit="u", system="main")
        await opened.close()

    async def sql(self, database: Path, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(database, timeout=5)
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()
