"""SqliteStore against real files: the suite of every store, and what is SQLite's own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from recipient_contract import person
from store_suite import StoreSuite

from deptbus.department import connect, fence
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.ledger import Sender
from deptbus.department.plain import Known
from deptbus.department.store import Store
from deptbus.department.store_sqlite import SqliteStore
from deptbus.errors import DatabaseBusy


class TestSqliteStore(StoreSuite):
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
        from store_suite import TOPIC

        return SqliteStore(opened, TOPIC, token, words, self.shapes)

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

    def read_back(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {
            "born": date.fromisoformat(row["born"]),
            "seen_at": datetime.fromisoformat(row["seen_at"]),
            "income": Decimal(str(row["income"])),
            "active": bool(row["active"]),
        }

    async def lock_people(self, database: Path) -> Any:
        connection = sqlite3.connect(database, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")

        async def release() -> None:
            connection.execute("ROLLBACK")
            connection.close()

        return release

    @pytest.fixture(autouse=True)
    def short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connect, "BUSY_TIMEOUT_S", 0.3)

    async def test_a_trigger_that_rolls_back_parks_its_row_only(self, database: Path) -> None:
        await self.sql(database, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        await self.sql(
            database,
            "CREATE TRIGGER own BEFORE INSERT ON people WHEN NEW.name = 'bad' "
            "BEGIN SELECT RAISE(ROLLBACK, 'not here'); END",
        )
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        applied = await self.feed(store, person(1), person(2, name="bad"), person(3))
        assert [e.key[-1] for e in applied.parked] == [2]
        assert len(await self.people(database, "id")) == 2
        await store.close()

    async def test_lines_that_move_after_the_look_are_looked_for_again(
        self, database: Path
    ) -> None:
        """As `VACUUM` may do it: another record's line comes to lie where the first one's was."""
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1), person(2))
        look = store.glimpses

        async def moving(wanted: Mapping[Sender, Collection[bytes]]) -> Known:
            found = await look(wanted)
            await self.sql(database, "UPDATE deptbus_ledger SET rowid = 3 - rowid + 10")
            await self.sql(database, "UPDATE deptbus_ledger SET rowid = rowid - 10")
            return found

        store.glimpses = moving  # type: ignore[method-assign]
        before = await self.sql(database, "SELECT * FROM deptbus_ledger ORDER BY key")
        with pytest.raises(DatabaseBusy, match="moved"):
            await self.feed(store, person(1, 2, name="new"))
        assert await self.sql(database, "SELECT * FROM deptbus_ledger ORDER BY key") == before
        store.glimpses = look  # type: ignore[method-assign]
        await self.feed(store, person(1, 2, name="new"))
        versions = await self.sql(database, "SELECT key, version FROM deptbus_ledger ORDER BY key")
        assert [(key[-1], version) for key, version in versions] == [(1, 2), (2, 1)]
        names = [name for (name,) in await self.people(database, "name")]
        assert names[0] == "new"
        assert names[1] != "new"
        await store.close()
