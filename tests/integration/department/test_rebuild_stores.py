"""Rebuilds in real databases: the suite of every store, in SQLite and in PostgreSQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import asyncpg
import pytest
from rebuild_suite import RebuildSuite, sent
from recipient_contract import person
from store_rooms import PostgresRoom, SqliteRoom

pytestmark = pytest.mark.service


class TestSqliteRebuild(SqliteRoom, RebuildSuite):
    second_table = "deptbus_rebuilt_person"

    def blob(self, number: int) -> str:
        return f"x'{number:032x}'"

    async def has_second_table(self, database: Path) -> bool:
        sql = f"SELECT 1 FROM sqlite_master WHERE name = '{self.second_table}'"
        return bool(await self.sql(database, sql))

    async def is_refused(self, database: Path, statement: str) -> bool:
        connection = sqlite3.connect(database, timeout=5)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            with connection:
                connection.execute(statement)
        except sqlite3.IntegrityError:
            return True
        finally:
            connection.close()
        return False

    async def test_a_kind_of_value_is_a_difference(self, database: Path) -> None:
        """To `=` 1 and 1.0 are one; a program that reads them may not think so."""
        await self.sql(database, "CREATE TABLE people (id TEXT PRIMARY KEY, name, remark TEXT)")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1, name="1"))
        await self.sql(database, "UPDATE people SET name = 1")
        self.keeping(store)
        await self.begun(store, [])
        await self.deliver(store, sent(person(1, name="1")))
        assert (await self.swapped(store))["updated"] == 1
        assert await self.sql(database, "SELECT typeof(name) FROM people") == [("text",)]
        await store.close()


class TestPostgresRebuild(PostgresRoom, RebuildSuite):
    second_table = "deptbus.rebuilt_person"

    def blob(self, number: int) -> str:
        return f"'\\x{number:032x}'::bytea"

    async def has_second_table(self, database: str) -> bool:
        sql = f"SELECT to_regclass('{self.second_table}') IS NOT NULL"
        return (await self.sql(database, sql)) == [(True,)]

    async def is_refused(self, database: str, statement: str) -> bool:
        try:
            await self.sql(database, statement)
        except asyncpg.IntegrityConstraintViolationError:
            return True
        return False

    async def test_owner_rights_and_triggers_stay(self, database: str) -> None:
        store = await self.room(database)
        for statement in (
            "CREATE TABLE noted (id VARCHAR(30))",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO noted VALUES (NEW.id); RETURN NEW; END'",
            "CREATE TRIGGER own AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note()",
        ):
            await self.sql(database, statement)
        facts = (
            "SELECT oid, relfilenode, relowner, relacl::text FROM pg_class "
            "WHERE oid = 'people'::regclass"
        )
        before = await self.sql(database, facts)
        await self.sql(database, "UPDATE people SET name = 'typed' WHERE id = 'id000001'")
        await self.sql(database, "DELETE FROM noted")
        self.keeping(store)
        await self.begun(store)
        await self.swapped(store)
        assert await self.sql(database, facts) == before
        assert await self.sql(database, "SELECT id FROM noted") == [("id000001",)]
        await store.close()
