"""Two departments with typed people join a running bus, in SQLite and in PostgreSQL: compare, the
yes, the first load; each step beside the referee.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import typed_people as people
import typed_referee as referee
from installed import Room, Up, wait_until

_TENANCIES = "CREATE TABLE 租约 (租号 INTEGER PRIMARY KEY, 人 INTEGER REFERENCES 人员 (编号))"
_MARKS = ", ".join("?" * len(people.OWN))


class Lite:
    """The department with an SQLite file."""

    is_lite, unit, ledger, kept = True, people.LITE, "deptbus_ledger", "deptbus_kept"

    def __init__(self, folder: Path, source: Path) -> None:
        self.path = folder / "own.db"
        self._source = source
        self.config = people.write_department(folder, self.unit, "sqlite:///own.db")

    def make(self, count: int) -> None:
        with closing(sqlite3.connect(self.path)) as c, c:
            c.execute("PRAGMA journal_mode = WAL")
            c.execute(f"CREATE TABLE 人员 (编号 INTEGER PRIMARY KEY, {people.OWN_COLUMNS})")
            c.execute(_TENANCIES)
            c.executemany(f"INSERT INTO 人员 VALUES ({_MARKS})", people.rows_of(count))
            c.execute("CREATE INDEX 人员_证号 ON 人员 (证号)")
            c.execute("INSERT INTO 租约 SELECT 编号, 编号 FROM 人员 WHERE 编号 % 3 = 0")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, timeout=30)) as c, c:
            c.execute("ATTACH ? AS source", (str(self._source),))
            return c.execute(sql).fetchall()


class Gres:
    """The department with PostgreSQL, which gets a table with the source's rows for the referee."""

    is_lite, unit, ledger, kept = False, people.GRES, "deptbus.ledger", "deptbus.kept"

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        self.config = people.write_department(folder, self.unit, url)

    def make(self, count: int) -> None:
        async def fill(c: asyncpg.Connection) -> None:
            await c.execute(f"CREATE TABLE 人员 (编号 serial PRIMARY KEY, {people.OWN_COLUMNS})")
            await c.execute(_TENANCIES)
            await c.copy_records_to_table("人员", records=people.rows_of(count))
            await c.execute("SELECT setval('\"人员_编号_seq\"', (SELECT max(编号) FROM 人员))")
            await c.execute("CREATE INDEX ON 人员 (证号)")
            await c.execute("INSERT INTO 租约 SELECT 编号, 编号 FROM 人员 WHERE 编号 % 3 = 0")
            await c.execute(
                "CREATE TABLE register (number text PRIMARY KEY, place text, name text, "
                "born text, sex text, household text, phone text)"
            )
            await c.copy_records_to_table("register", records=map(people.person, range(count)))
            await c.execute("ANALYZE")

        self._run(fill)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        async def fetch(c: asyncpg.Connection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await c.fetch(sql)]

        found: list[tuple[Any, ...]] = self._run(fetch)
        return found

    def _run(self, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            c = await asyncpg.connect(self._url)
            try:
                return await work(c)
            finally:
                await c.close()

        return asyncio.run(run())


Department = Lite | Gres


class Joining:
    """`make`, then `wait_for_all`, `compare`, `join`, `check`, of each of `departments`."""

    def __init__(self, room: Room, url: str, count: int) -> None:
        self.room, self.count = room, count
        data = room.folder / "data"
        source = data / "police" / "own.db"
        people.write_contract(room.folder / "contract")
        people.make_source(source, count)
        people.write_department(source.parent, people.SOURCE, "sqlite:///own.db", publishes=True)
        self.departments: list[Department] = [
            Lite(data / "housing", source), Gres(data / "civil_affairs", url),
        ]  # fmt: skip
        self.source = source
        self.up = Up(room, data, "--contract", room.folder / "contract")
        self._seconds = 60 + count / 200  # a slow machine that others use as well
        self.told: dict[str, float] = {}

    def make(self) -> None:
        for one in self.departments:
            one.make(self.count)
            referee.note_before(one.ask, is_lite=one.is_lite)

    def wait_for_all(self, one: Department) -> None:
        """Until all that the source has waits for the yes."""
        began = time.monotonic()
        waiting = f"SELECT count(*) FROM {one.ledger} WHERE parked LIKE 'existing: the first load%'"
        wait_until(
            lambda: self._has_ledger(one) and one.ask(waiting) == [(self.count,)],
            self._seconds,
            lambda: self.room.run("department", "status", "--config", one.config),
            pause=0.5,
        )
        self.told[f"{one.unit}: all waits after"] = time.monotonic() - began

    def _has_ledger(self, one: Department) -> bool:
        if one.is_lite:
            return bool(one.ask("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_ledger'"))
        return one.ask("SELECT to_regclass('deptbus.ledger') IS NOT NULL") == [(True,)]

    def compare(self, one: Department) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `deptbus department compare` says and what the referee counts."""
        words = ("department", "compare", "--config", one.config, "--data", self.up.data)
        said = self.room.run(*words, "-o", "json", timeout=self._seconds)
        assert said.code == 1, str(said)
        self.told[f"{one.unit}: compare"] = said.seconds
        ((found),) = json.loads(said.out)["datasets"]
        wanted = referee.counts(one.ask, is_lite=one.is_lite)
        of_columns, values = found.pop("columns"), found.pop("refused")
        assert len(values) == sum(column["refused"] for column in of_columns.values())
        found["refused"] = {n: c["refused"] for n, c in of_columns.items() if c["refused"]}
        found["columns"] = {
            n: c["different"] for n, c in of_columns.items() if n in wanted["columns"]
        }
        found = {name: found[name] for name in wanted}
        return found, wanted

    def join(self, one: Department) -> None:
        """Says yes, and waits until nothing waits any more."""
        began = time.monotonic()
        words = ("department", "join", "--config", one.config, "--data", self.up.data, "--yes")
        said = self.room.run(*words)
        assert said.code == 0, str(said)
        waiting = f"SELECT count(*) FROM {one.ledger} WHERE parked LIKE 'existing: the first load%'"
        wait_until(lambda: one.ask(waiting) == [(0,)], self._seconds, pause=0.5)
        self.told[f"{one.unit}: adopted after"] = time.monotonic() - began

    def check(self, one: Department, wanted: dict[str, Any]) -> dict[str, Any]:
        """What is not as it should be; empty when all is."""
        found: dict[str, Any] = dict(referee.harmed(one.ask, is_lite=one.is_lite))
        found["unlike"] = referee.unlike(one.ask, is_lite=one.is_lite)
        ((rows,),) = one.ask("SELECT count(*) FROM 人员")
        found["doubled"] = rows - wanted["rows"] - wanted["only_on_bus"]
        parked = one.ask(
            f"SELECT parked, count(*) FROM {one.ledger} WHERE parked IS NOT NULL GROUP BY parked"
        )
        reason = "existing: several rows of 人员 match it"
        found["parked"] = dict(map(tuple, parked)) != {reason: wanted["ambiguous_records"]}
        ((kept,),) = one.ask(f"SELECT count(*) FROM {one.kept} WHERE origin = 'adoption'")
        found["kept"] = kept - wanted["same"] - wanted["different"]
        return {what: wrong for what, wrong in found.items() if wrong}
