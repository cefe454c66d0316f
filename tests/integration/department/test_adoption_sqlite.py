"""Rows that were here before the bus, in an SQLite file."""

from __future__ import annotations

from pathlib import Path

from adoption_suite import AdoptionSuite
from recipient_contract import person
from store_rooms import SqliteRoom

from deptbus.department.seen import row_digest


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

    async def test_a_day_of_digits_in_a_column_for_dates_is_no_edit(self, database: Path) -> None:
        """SQLite keeps it as a number."""
        await self.sql(
            database, "CREATE TABLE people (id TEXT PRIMARY KEY, born DATE, remark TEXT)"
        )
        await self.sql(database, "INSERT INTO people VALUES ('id000001', '19900101', 'own')")
        words = {
            "columns": {"id": "id", "born": "born"},
            "forms": {"born": "date YYYYMMDD"},
            "match": ("born",),
        }
        store = await self.opened(database, words)
        for version in (1, 2):
            assert (await self.feed(store, person(1, version))).parked == ()
        assert await self.sql(database, "SELECT born, remark FROM people") == [(19900101, "own")]
        origins = await self.sql(database, f"SELECT origin FROM {self.kept}")
        assert origins == [("adoption",)]
        ((written,),) = await self.sql(database, f"SELECT written FROM {self.ledger}")
        assert written == row_digest(("id000001", 19900101))
        await store.close()
