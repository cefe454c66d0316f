"""SqliteStore against real files: the suite of every store, and what is SQLite's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from recipient_contract import gone, person
from store_rooms import SqliteRoom
from store_suite import StoreSuite

from deptbus.change import Received
from deptbus.department import connect, store_sqlite
from deptbus.department.store_sqlite import SqliteStore

PRESUMED = SqliteStore.presume_from


class TestSqliteStore(SqliteRoom, StoreSuite):
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

    async def drop_quietly(self, database: Path, event: str, name: str) -> None:
        row = "OLD" if event == "DELETE" else "NEW"
        await self.sql(
            database,
            f"CREATE TRIGGER own_{event} BEFORE {event} ON people WHEN {row}.name = '{name}' "
            "BEGIN SELECT RAISE(IGNORE); END",
        )

    async def test_an_update_that_a_trigger_drops_is_parked(self, database: Path) -> None:
        await self.sql(database, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        await self.drop_quietly(database, "UPDATE", "no")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1), person(2), person(3))
        applied = await self.feed(
            store, person(1, 2, name="no"), person(2, 2, name="yes"), person(4, name="no")
        )
        assert [e.key[-1] for e in applied.parked] == [1]
        assert [name for _, name in await self.people(database, "id, name")] == [
            *("李雷", "yes", "李雷", "no")
        ]
        await store.close()

    @pytest.mark.parametrize("clause", ["REPLACE", "IGNORE", "FAIL", "ROLLBACK"])
    async def test_a_table_that_settles_conflicts_by_itself(
        self, database: Path, clause: str
    ) -> None:
        """A row of the department's own is not removed for one of the bus, nor is that dropped."""
        await self.sql(
            database,
            f"CREATE TABLE people (id TEXT PRIMARY KEY, phone TEXT UNIQUE ON CONFLICT {clause})",
        )
        await self.sql(database, "INSERT INTO people VALUES ('own', '1')")
        store = await self.opened(database, {"columns": {"id": "id", "phone": "phone"}})
        applied = await self.feed(store, person(1, phone="1"), person(2, phone="2"))
        assert [e.key[-1] for e in applied.parked] == [1]
        applied = await self.feed(store, person(2, 2, phone="1"), person(3, phone="3"))
        assert [e.key[-1] for e in applied.parked] == [2]
        rows = await self.people(database, "id, phone")
        assert rows[1:] == [("id000003", "3"), ("own", "1")]
        await store.close()

    async def test_an_expression_of_the_table_that_a_value_breaks(self, database: Path) -> None:
        """It parks its row; what SQLite says of it quotes the value, so nobody is told."""
        await self.sql(database, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        await self.sql(database, "CREATE INDEX own ON people (json_extract(name, '$.a'))")
        await self.sql(
            database,
            "CREATE TRIGGER own_path AFTER INSERT ON people WHEN NEW.id = 'id000002' "
            "BEGIN SELECT json_extract('{}', NEW.name); END",
        )
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        applied = await self.feed(
            store, person(1, name="secret"), person(2, name='["CANARY"]'), person(3, name="{}")
        )
        refused = "an expression of the table refuses it"
        assert [(e.key[-1], e.parked) for e in applied.parked] == [(1, refused), (2, refused)]
        assert await self.people(database, "id") == [("id000003",)]
        await store.close()

    async def test_own_text_that_is_no_utf8_is_given_back_as_it_was(self, database: Path) -> None:
        await self.sql(database, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)")
        typed = "INSERT INTO people VALUES ('id000001', CAST(x'C0EEC0D7' AS TEXT))"
        await self.sql(database, typed)
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1))
        assert await self.people(database, "name") == [("李雷",)]
        applied = await self.feed(store, gone(1, 2))
        assert applied.parked == ()
        found = await self.people(database, "hex(name), typeof(name)")
        assert found == [("C0EEC0D7", "text")]
        await store.close()

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

    async def test_the_log_is_brought_into_the_file(
        self, database: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By us: SQLite does it no more by itself."""
        monkeypatch.setattr(store_sqlite, "CHECKPOINT_ROWS", 20)
        store = await self.opened(database)
        for first in (0, 10, 20):
            await self.feed(store, *(person(n) for n in range(first, first + 10)))
        file = database.with_name("without_its_log.db")
        await asyncio.to_thread(shutil.copy, database, file)
        assert await self.sql(file, "SELECT count(*) FROM people") == [(20,)]
        await store.close()

    async def test_who_names_a_row_is_looked_up_by_index(self, database: Path) -> None:
        """A scan of the ledger's rows for each batch with new ones made a snapshot quadratic."""
        store = await self.opened(database)
        assert isinstance(store, SqliteStore)
        asked: list[str] = []
        await store._database.run(lambda c: c.set_trace_callback(asked.append))
        await self.feed(store, *(person(n) for n in range(20)))
        await self.feed(store, *(person(n, 2) for n in range(20)))
        looks = [q for q in asked if q.startswith("SELECT") and "FROM deptbus_ledger" in q]
        plans = [
            [detail for *_, detail in await self.sql(database, f"EXPLAIN QUERY PLAN {look}")]
            for look in looks
        ]
        assert {plan for (plan,) in plans} == {
            "SEARCH deptbus_ledger USING INDEX deptbus_ledger_row (dataset=? AND row_key=?)",
            "SEARCH deptbus_ledger USING INDEX sqlite_autoindex_deptbus_ledger_1 "
            "(dataset=? AND source_unit=? AND key=?)",
        }
        await store.close()

    @pytest.mark.parametrize("is_planted", [False, True])
    @pytest.mark.parametrize(
        ("clause", "comes"),
        [
            (" AND version < ?4", person(0, 1)),
            (" AND row_key = ?18", person(0, 3, id=f"id{PRESUMED:06}")),
        ],
        ids=["version", "row"],
    )
    async def test_planted_bug_what_is_presumed_is_not_looked_at(
        self,
        database: Path,
        clause: str,
        comes: Received,
        is_planted: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        written = store_sqlite._RENEW_PRESUMED
        assert clause in written
        if is_planted:
            careless = written.replace(clause, clause.replace("<", "<> -").replace("= ?", "<> -?"))
            monkeypatch.setattr(store_sqlite, "_RENEW_PRESUMED", careless)
        store = await self.opened(database)
        for version in (1, 2):
            await self.feed(store, *(person(n, version) for n in range(PRESUMED + 1)))
        await self.feed(store, comes, *(person(n, 3) for n in range(1, PRESUMED)))
        ((least, rows),) = await self.sql(
            database, "SELECT min(version), (SELECT count(*) FROM people) FROM deptbus_ledger"
        )
        if comes.version == 1:  # old news
            assert least == (1 if is_planted else 2)
        else:  # a record that leaves its row, which nobody else names
            assert rows == (PRESUMED + 1 if is_planted else PRESUMED)
        await store.close()


_STOPS_INSIDE = """
import asyncio, os, signal, sys, time
from deptbus.department.connect import SqliteDatabase, target_of

def stop(connection):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)  # this thread is stopped a moment later

async def main():
    await (await SqliteDatabase.open(target_of(sys.argv[1]))).transaction(stop)

asyncio.run(main())
"""


def test_an_adapter_stopped_in_its_transaction_holds_the_file_until_it_ends(
    tmp_path: Path,
) -> None:
    """SQLite has no other end of a lock than the process's: what an operator does is tested."""
    path = tmp_path / "own.db"
    with sqlite3.connect(path) as own:
        own.execute("CREATE TABLE people (id TEXT PRIMARY KEY)")
    own.close()
    adapter = subprocess.Popen([sys.executable, "-c", _STOPS_INSIDE, f"sqlite:///{path}"])
    try:
        os.waitid(os.P_PID, adapter.pid, os.WSTOPPED)
        clerk = sqlite3.connect(path, timeout=0.2)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            clerk.execute("INSERT INTO people VALUES ('1')")
        assert clerk.execute("SELECT count(*) FROM people").fetchone() == (0,)  # reading goes on
        adapter.kill()
        adapter.wait(10)
        clerk.execute("INSERT INTO people VALUES ('1')")
        clerk.commit()
        clerk.close()
    finally:
        adapter.kill()
        adapter.wait(10)


class Presuming(SqliteStore):
    """Tries every batch without looking it up."""

    presume_from = 1

    @property
    def _presumes(self) -> bool:  # type: ignore[override]
        return True

    @_presumes.setter
    def _presumes(self, seems_so: bool) -> None: ...


class TestSqliteStoreByPresumption(TestSqliteStore):
    """Everything once more with each batch presumed to be as in a bulk of changes."""

    kind = Presuming
    test_a_bulk_of_changes_is_not_looked_up = None  # type: ignore[assignment]  # none ever is
