"""Mass removals at a source that is a real PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from removal_suite import RemovalSuite
from source_world import PLACES
from test_capture_postgres import PostgresDesk

pytestmark = pytest.mark.service


class TestPostgresRemovals(RemovalSuite):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: Callable[[], str]) -> None:
        self.fresh = postgres

    async def make(self, tmp_path: Path) -> tuple[Any, str]:
        url = self.fresh()
        return await PostgresDesk.open(url), url

    async def make_towns(self) -> None:
        await self.desk.do(
            "CREATE TABLE towns (area TEXT PRIMARY KEY)",
            f"INSERT INTO towns VALUES ('{PLACES[0]}'), ('{PLACES[2]}')",
            "ALTER TABLE people ADD FOREIGN KEY (area) REFERENCES towns ON DELETE CASCADE",
        )

    async def behind_captures_back(self, statement: str) -> None:
        await self.desk.do("SET LOCAL session_replication_role = replica", statement)
