"""Rows that were here before the bus, in an SQLite file."""

from __future__ import annotations

from pathlib import Path

from adoption_suite import AdoptionSuite
from recipient_contract import person
from store_rooms import SqliteRoom


class TestAdoptionSqlite(SqliteRoom, AdoptionSuite):
    async def test_a_table_without_row_numbers(self, database: Path) -> None:
        await self.sql(
            database,
            "CREATE TABLE people (n TEXT PRIMARY KEY, id TEXT, name TEXT) WITHOUT ROWID",
        )
        await self.sql(database, "INSERT INTO people VALUES ('own', 'id000001', 'x')")
        store = await self.opened(
            database, {"columns": {"id": "id", "name": "name"}, "key": ("id",)}
        )
        await self.feed(store, person(1))
        assert await self.sql(database, "SELECT * FROM people") == [("own", "id000001", "李雷")]
        await store.close()
