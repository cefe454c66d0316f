"""Mass removals at a source that is a real PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from removal_suite import QuietSource, RemovalSuite
from source_world import PLACES
from test_capture_postgres import PostgresDesk

from deptbus.contract.department import HoldRemovals
from deptbus.department import publisher

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

    async def test_what_commits_late_below_what_was_counted_is_held(
        self, source: QuietSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(publisher, "BATCH_ROWS", 25)
        rule = HoldRemovals(percent=50, at_least=20)
        monkeypatch.setitem(source.publisher.removals._rules, "person", rule)
        before = source.copy()[PLACES[0]].keys()
        late = await PostgresDesk.open(self.url)
        async with late.connection.transaction():
            await late.connection.execute("DELETE FROM people WHERE 身份证 < '000300'")
            await self.desk.do(
                "DELETE FROM people WHERE 身份证 = '000350'",
                "UPDATE people SET 姓名 = '王' WHERE 身份证 BETWEEN '000300' AND '000340'",
                "DELETE FROM people WHERE 身份证 = '000351'",
            )
            assert (await source.turn())[0] == 25
            assert source.publisher.removals._clear, "nothing was counted ahead"
        await late.close()
        await source.drain()
        assert len(before - source.copy()[PLACES[0]].keys()) == 1, "what nobody could know of"
        (hold,) = await source.holds()
        assert hold.keys == 301
        await source.capture.release(hold.number)
        await source.drain()
        assert source.copy() == await self.table(source)

    async def behind_captures_back(self, statement: str) -> None:
        await self.desk.do("SET LOCAL session_replication_role = replica", statement)
