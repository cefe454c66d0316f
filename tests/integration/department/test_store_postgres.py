"""PostgresStore against a real server: the suite of every store, and what is PostgreSQL's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import pytest
from recipient_contract import person
from store_rooms import TOPIC, PostgresRoom
from store_suite import StoreSuite, until

from deptbus.change import Received
from deptbus.department import connect
from deptbus.department.postgres_plain import PlainStage
from deptbus.department.store import Store
from deptbus.department.store_postgres import COPY_ROWS as PRESUMED
from deptbus.department.store_postgres import PostgresStore

pytestmark = pytest.mark.service


class TestPostgresStore(PostgresRoom, StoreSuite):
    async def lock_people(self, database: str) -> Any:
        connection = await asyncpg.connect(database)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT * FROM people FOR UPDATE")

        async def release() -> None:
            await transaction.rollback()
            await connection.close()

        return release

    async def test_who_names_a_row_is_looked_up_by_index(self, database: str) -> None:
        """In a ledger of which nothing is known yet, by the statement that stays compiled: it
        walked a dataset's lines for each batch with new rows, until they were analyzed."""
        store = await self.opened(database)
        assert isinstance(store, PostgresStore)
        await self.sql(database, "ALTER TABLE deptbus.ledger SET (autovacuum_enabled = false)")
        asked: dict[str, int] = {}
        store._database.connection.add_query_logger(
            lambda query: asked.update({query.query: len(query.args)})
        )
        for version in (1, 2):
            await self.feed(store, *(person(n, version) for n in range(400)))
        looks = {q: n for q, n in asked.items() if q.startswith("SELECT") and "ledger WHERE" in q}
        of_row = "Index Cond: (row_key = ANY ($2))"
        of_key = "Index Cond: ((dataset = $1) AND (source_unit = $2) AND (key = ANY ($3)))"
        assert await self.bounds(database, looks) == {of_key, of_row}
        planted = {q.replace("(dataset = $1) IS TRUE", "dataset = $1"): n for q, n in looks.items()}
        assert await self.bounds(database, planted) == {of_key, "Index Cond: (dataset = $1)"}
        await store.close()

    async def bounds(self, database: str, looks: Mapping[str, int]) -> set[str]:
        """What the walks of indexes are bound by in the generic plans of statements, each given
        with the number of its arguments."""
        found: set[str] = set()
        connection = await asyncpg.connect(database)
        try:
            await connection.execute(
                "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"
            )
            for number, (query, arguments) in enumerate(looks.items()):
                await connection.execute(f"PREPARE look_{number} AS {query}")
                nulls = ", ".join(["NULL"] * arguments)
                plan = await connection.fetch(
                    f"EXPLAIN (COSTS OFF) EXECUTE look_{number} ({nulls})"
                )
                found |= {line.strip() for (line,) in plan if "Index Cond" in line}
        finally:
            await connection.close()
        return found

    async def test_a_zombie_inside_its_transaction_is_ended(self, database: str) -> None:
        """It holds the fence's row; the successor ends its connection and goes on in time."""
        zombie = await self.opened(database)
        await self.feed(zombie, person(1))
        stopped, go_on = asyncio.Event(), asyncio.Event()
        write = PostgresStore._write_books

        async def stop_here(self: PostgresStore, *words: Any) -> None:
            stopped.set()
            await go_on.wait()
            await write(self, *words)

        zombie._write_books = stop_here.__get__(zombie)  # type: ignore[attr-defined]
        late = asyncio.create_task(self.feed(zombie, person(1, 2, name="zombie")))
        await stopped.wait()
        began = asyncio.get_running_loop().time()
        await self.take_over(database)
        assert asyncio.get_running_loop().time() - began < 3
        younger = await self.opened(database)
        await self.feed(younger, person(1, 2, name="younger"))
        go_on.set()
        with pytest.raises(Exception, match=r"cannot be reached|connection"):
            await late
        assert await self.people(database, "name") == [("younger",)]
        await younger.close()

    @pytest.mark.parametrize("code", ["P0001", "45000", "DB123"])
    async def test_a_trigger_with_a_code_of_its_own_parks_its_row_only(
        self, database: str, code: str
    ) -> None:
        await self.sql(database, "CREATE TABLE people (id text PRIMARY KEY, name text)")
        await self.sql(
            database,
            "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
            f"RAISE EXCEPTION 'no %', NEW.name USING ERRCODE = '{code}'; END$$",
        )
        await self.sql(
            database,
            "CREATE TRIGGER own AFTER INSERT ON people FOR EACH ROW "
            "WHEN (NEW.name = 'canary') EXECUTE FUNCTION own()",
        )
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        applied = await self.feed(store, person(1), person(2, name="canary"), person(3))
        assert [(e.key[-1], "canary" in (e.parked or "")) for e in applied.parked] == [(2, False)]
        assert len(await self.people(database, "id")) == 2
        await store.close()

    async def test_types_that_only_the_database_knows(self, database: str) -> None:
        await self.sql(database, "CREATE TYPE sort AS ENUM ('male', 'female')")
        await self.sql(database, "CREATE DOMAIN long_id AS varchar(20) CHECK (value <> 'id000003')")
        await self.sql(
            database,
            "CREATE TABLE people (id long_id PRIMARY KEY, sex sort, name char(6), "
            "income numeric(8,1), children smallint, seen_at timestamp, score json)",
        )
        names = ("id", "sex", "name", "income", "children", "seen_at", "score")
        store = await self.opened(database, {"columns": {n: n for n in names}})
        from decimal import Decimal

        applied = await self.feed(
            store,
            person(1),
            person(2, income=Decimal("1.25")),
            person(3),
            person(4, children=99999),
            person(5, name="too long a name"),
        )
        reasons = {e.key[-1]: e.parked for e in applied.parked}
        assert reasons.keys() == {2, 3, 4, 5}
        assert (
            reasons[2] == "value: people.income: more digits after the point than the column keeps"
        )
        ((sex, seen),) = await self.sql(database, "SELECT sex::text, seen_at::text FROM people")
        assert (sex, seen) == ("male", "2026-01-02 11:04:05.678901")
        applied = await self.feed(store, person(1, 2, children=3))
        assert applied.parked == ()
        await store.close()

    async def test_the_departments_transaction_never_loses(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its transaction and the batch lock the same rows in opposite order: ours gives way."""
        monkeypatch.setattr(connect, "LOCK_TIMEOUT_MS", 250)  # long enough to be met here
        store = await self.opened(database)
        await self.feed(store, person(1), person(2))
        own = await asyncpg.connect(database)
        transaction = own.transaction()
        await transaction.start()
        await own.execute("UPDATE people SET house = 'x' WHERE id = 'id000002'")
        batch = asyncio.create_task(self.feed(store, person(1, 2), person(2, 2)))

        async def waits() -> bool:
            rows = await self.sql(
                database,
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND application_name LIKE 'deptbus%'",
            )
            return bool(rows)

        await until(waits)
        await own.execute("UPDATE people SET house = 'x' WHERE id = 'id000001'")
        await transaction.commit()
        await own.close()
        with pytest.raises(Exception, match="lock not available"):
            await batch
        await self.feed(store, person(1, 2), person(2, 2))
        await store.close()

    async def test_mapped_schema_and_foreign_default_names(self, database: str) -> None:
        await self.sql(database, 'CREATE SCHEMA "房管"')
        await self.sql(
            database,
            'CREATE TABLE "房管"."Own People" (n serial PRIMARY KEY, "Id" varchar(30) UNIQUE, '
            "name text)",
        )
        store = await self.opened(
            database, {"table": "房管.Own People", "columns": {"id": "Id", "name": "name"}}
        )
        await self.feed(store, person(1), person(2))
        await self.feed(store, person(1, 2, name="new"))
        rows = await self.sql(database, 'SELECT n, "Id", name FROM "房管"."Own People" ORDER BY n')
        assert rows == [(1, "id000001", "new"), (2, "id000002", "李雷")]
        await store.close()


class TestPostgresStoreByCopy(TestPostgresStore):
    """Everything once more with each batch, however small, going through the temporary table."""

    async def make_store(self, database: str, words: Mapping[str, Any]) -> Store:
        store = await super().make_store(database, words)
        assert isinstance(store, PostgresStore)
        store.copy_rows = 1
        return store

    @pytest.mark.parametrize(
        ("clause", "comes", "is_planted"),
        [
            ("AND l.version < s.version", person(0, 1), False),
            ("AND l.version < s.version", person(0, 1), True),
            ("AND l.row_key = s.row_key", person(0, 3, id=f"id{PRESUMED:06}"), False),
            ("AND l.row_key = s.row_key", person(0, 3, id=f"id{PRESUMED:06}"), True),
        ],
    )
    async def test_planted_bug_what_is_presumed_is_not_looked_at(
        self,
        database: str,
        clause: str,
        comes: Received,
        is_planted: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        renew = PlainStage.renew_books

        def careless(stage: PlainStage, first: int) -> str:
            written = renew(stage, first)
            assert clause in written
            return written.replace(clause, "")

        if is_planted:
            monkeypatch.setattr(PlainStage, "renew_books", careless)
        store = await self.opened(database)
        for version in (1, 2):
            await self.feed(store, *(person(n, version) for n in range(PRESUMED + 1)))
        await self.feed(store, comes, *(person(n, 3) for n in range(1, PRESUMED)))
        ((least, rows),) = await self.sql(
            database, "SELECT min(version), (SELECT count(*) FROM people) FROM deptbus.ledger"
        )
        if comes.version == 1:  # old news
            assert least == (1 if is_planted else 2)
        else:  # a record that leaves its row, which nobody else names
            assert rows == (PRESUMED + 1 if is_planted else PRESUMED)
        await store.close()

    async def test_a_time_that_would_be_of_the_next_day_is_parked(self, database: str) -> None:
        await self.sql(database, "CREATE TABLE people (id text PRIMARY KEY, opens time(0))")
        store = await self.opened(database, {"columns": {"id": "id", "name": "opens"}})
        times = ("23:59:59.4", "23:59:59.9", "8:00")
        applied = await self.feed(store, *(person(n, name=t) for n, t in enumerate(times, 1)))
        assert {e.key[-1]: e.parked for e in applied.parked} == {
            2: "value: people.opens: a time that the column rounds to 24:00:00",
            3: "value: people.opens: not a date or time",
        }
        assert await self.sql(database, "SELECT opens::text FROM people") == [("23:59:59",)]
        assert (await self.feed(store, person(1, 2, name="07:00"))).parked == ()
        await store.close()

    async def test_values_that_are_hard_to_write_in_binary(self, database: str) -> None:
        from decimal import Decimal

        store = await self.opened(database)
        sums = [
            "0.00", "-0.01", "0.10", "1.00", "12.30", "9999.99", "10000.00", "-10000.01",
            "100000000.00", "1234567890.12", "-9999999999.99", "0.99", "20000.50",
        ]  # fmt: skip
        times = [
            datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 999999, UTC),
            datetime(9999, 12, 31, tzinfo=UTC),
        ]  # fmt: skip
        scores = [0.0, -1.5, 1e300, 5e-324]
        days = [date(1, 1, 1), date(1999, 12, 31), date(2000, 1, 1), date(9999, 12, 31)]
        wanted = []
        for n, income in enumerate(sums):
            words = {
                "name": "字" * (n * 7), "income": Decimal(income), "seen_at": times[n % 3],
                "score": scores[n % 4], "born": days[n % 4], "active": (True, False, None)[n % 3],
                "children": (None, -(2**31), 2**31 - 1)[n % 3],
            }  # fmt: skip
            wanted.append(tuple(words.values()))
            await self.feed(store, person(n, **words))
        names = "name, income, seen_at, score, born, active, children"
        assert await self.people(database, names) == wanted
        ((written, waits),) = await self.sql(
            database, "SELECT count(written), count(parked) FROM deptbus.ledger"
        )
        assert (written, waits) == (len(sums), 0)
        await store.close()


class Presuming(PostgresStore):
    """Tries every batch without looking it up."""

    presume_from = 1

    @property
    def _presumes(self) -> bool:  # type: ignore[override]
        return True

    @_presumes.setter
    def _presumes(self, seems_so: bool) -> None: ...


class TestPostgresStoreByPresumption(TestPostgresStore):
    """Everything once more with each batch presumed to be as in a bulk of changes."""

    test_a_bulk_of_changes_is_not_looked_up = None  # type: ignore[assignment]  # none ever is

    async def make_store(self, database: str, words: Mapping[str, Any]) -> Store:
        plain = await super().make_store(database, words)
        assert isinstance(plain, PostgresStore)
        store = Presuming(plain._database, TOPIC, plain.token, words, self.shapes)
        store.presume_from = 1
        return store
