"""Mass removals at a source that is a real SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from removal_suite import RemovalSuite
from source_world import PLACES
from test_capture_sqlite import SqliteDesk


class TestSqliteRemovals(RemovalSuite):
    truncate = "DELETE FROM people"  # there is no TRUNCATE

    async def make(self, tmp_path: Path) -> tuple[Any, str]:
        path = tmp_path / "own.db"
        return SqliteDesk(path), f"sqlite:///{path}"

    async def make_towns(self) -> None:
        self.desk.pragma("foreign_keys = ON")
        await self.desk.do(
            "CREATE TABLE towns (area TEXT PRIMARY KEY)",
            f"INSERT INTO towns VALUES ('{PLACES[0]}'), ('{PLACES[2]}')",
            "CREATE TRIGGER of_town AFTER DELETE ON towns BEGIN "
            "DELETE FROM people WHERE area = OLD.area; END",
        )

    async def behind_captures_back(self, statement: str) -> None:
        triggers = await self.desk.rows(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'deptbus_*'"
        )
        await self.desk.do(*(f'DROP TRIGGER "{name}"' for name, _ in triggers))
        await self.desk.do(statement)
        await self.desk.do(*(sql for _, sql in triggers))
