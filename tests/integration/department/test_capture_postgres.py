"""Capture on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from capture_suite import (
    CAP,
    LAYOUTS,
    PEOPLE,
    PLACE,
    STEPS,
    STEPS_SQL,
    CaptureSuite,
    Desk,
    cursor_instead_of_queue,
    person,
)
from source_bus import until

from deptbus.cluster.postgres import PostgresServer
from deptbus.department import capture_postgres, fence
from deptbus.department.capture import Capture, Wanted
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.connect import PostgresDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.postgres_triggers import Functions
from deptbus.errors import SourceRefused

pytestmark = pytest.mark.service


class PostgresDesk:
    """The department's program."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, url: str) -> PostgresDesk:
        return cls(await asyncpg.connect(url))

    async def do(self, *statements: str, rollback: bool = False) -> None:
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            for statement in statements:
                await self.connection.execute(statement)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if rollback else transaction.commit())

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(r) for r in await self.connection.fetch(query)]

    async def close(self) -> None:
        await self.connection.close()


class TestPostgresCapture(CaptureSuite):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: Callable[[], str]) -> None:
        self.fresh = postgres

    async def make(self, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Desk, str]:
        url = self.fresh()
        return await PostgresDesk.open(url), url

    async def another_capture(self, where: str) -> Capture:
        target = target_of(where)
        return await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )

    async def another_desk(self, where: str) -> Desk:
        return await PostgresDesk.open(where)

    @pytest.fixture
    async def second(self, where: str) -> AsyncIterator[PostgresDesk]:
        desk = await PostgresDesk.open(where)
        yield desk
        await desk.close()

    async def test_rows_that_the_adapter_applies_are_not_captured_as_their_own_dataset(
        self, capture: Capture
    ) -> None:
        assert isinstance(capture, PostgresCapture)
        async with capture.database.transaction() as c:
            await fence.begin_applying_postgres(c, ["resident"])
            await c.execute(person(1))
            await c.execute('INSERT INTO "Steps" VALUES (1, 1, NULL)')
        await self.desk.do(person(2))
        assert [(r.dataset, r.raw[0]) for r in await capture.read(9)] == [
            ("step", "1"),
            ("resident", "2"),
        ]

    async def own_trigger(self, event: str, statement: str) -> None:
        self.own = getattr(self, "own", 0) + 1
        await self.desk.do(
            f"CREATE FUNCTION own_{self.own}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN {statement}; RETURN NULL; END$$",
            f'CREATE TRIGGER own_{self.own} AFTER {event} ON "居民 Table" '
            f"FOR EACH ROW EXECUTE FUNCTION own_{self.own}()",
        )

    async def test_the_planted_bug_of_a_cursor_is_caught(
        self, capture: Capture, where: str
    ) -> None:
        """A transaction that draws its position first and commits last is lost by a cursor, and not
        by the queue."""
        late = await PostgresDesk.open(where)
        consumed: list[Any] = []
        try:
            transaction = late.connection.transaction()
            await transaction.start()
            await late.connection.execute(person("late"))
            await self.desk.do(person("early"))
            consumed += await cursor_instead_of_queue(capture, consumed)
            await transaction.commit()
            consumed += await cursor_instead_of_queue(capture, consumed)
            with pytest.raises(AssertionError):
                await self.check_people(capture, consumed)
            await self.check_people(capture, await capture.read(CAP))
        finally:
            await late.close()

    async def test_the_planted_bug_is_caught_by_the_test_of_eight_writers(
        self, capture: Capture, where: str
    ) -> None:
        for _ in range(20):
            consumed = await self.consume_under_writers(capture, where, cursor_instead_of_queue)
            try:
                await self.check_people(capture, consumed)
            except AssertionError:
                return
            await self.desk.do('DELETE FROM "居民 Table"', "DELETE FROM deptbus.outbox")
        pytest.fail("a cursor in place of the queue lost nothing in twenty rounds")

    async def test_what_is_written_while_numbers_are_lifted_stays_the_newer(
        self, capture: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = await self.token(capture)
        await self.desk.do(*(person(n) for n in range(5)))
        asked = asyncpg.Connection.fetchrow

        async def fetchrow(connection: Any, query: str, *words: Any) -> Any:
            found = await asked(connection, query, *words)
            if "last_value" in query and "greatest" in query:
                await self.desk.do('UPDATE "居民 Table" SET "Full Name" = \'newer\'')
            return found

        monkeypatch.setattr(asyncpg.Connection, "fetchrow", fetchrow)
        await capture.lift(token, 0, 0)
        await self.check_people(capture)
        assert len(await capture.read(CAP)) == 10

    async def test_more_came_to_light_while_numbers_are_lifted_than_there_was_room_for(
        self, capture: Capture, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a transaction that was open at the lift had written, nobody could count."""
        monkeypatch.setattr(capture_postgres, "_DRAWN_MEANWHILE", 4)
        token = await self.token(capture)
        late = await self.another_desk(where)
        try:
            transaction = late.connection.transaction()
            await transaction.start()
            await late.connection.execute(
                'INSERT INTO "居民 Table" '
                "SELECT n::text, 'n', 'p1' FROM generate_series(1, 20) AS n"
            )
            lift = asyncio.create_task(capture.lift(token, 7, 1_000))

            async def is_drawn() -> bool:
                found = await self.desk.rows("SELECT last_value FROM deptbus.position")
                return int(found[0][0]) > 1_000

            await until(is_drawn)
            await self.desk.do(person("meanwhile"))
            await transaction.commit()
            await asyncio.wait_for(lift, 60)
        finally:
            await late.close()
        await self.desk.do(person("after"))
        rows = await capture.read(CAP)
        assert [r.raw[0] for r in rows] == [*map(str, range(1, 21)), "meanwhile", "after"]
        assert rows[0].position > 1_000

    async def test_truncate(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"), person(2, "王", "p2"))
        await self.desk.do('TRUNCATE "居民 Table"', person(3))
        rows = (await capture.read(9))[2:]
        assert [(r.op, r.raw[0], r.was) for r in rows] == [
            ("d", "1", "p1"),
            ("d", "2", "p2"),
            ("u", "3", None),
        ]

    async def test_truncate_that_cannot_be_seen_whole_is_said(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await self.desk.do(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", 'TRUNCATE "居民 Table"'
        )
        assert (await capture.state()).gave_way == 1

    async def test_delete_and_insert_of_one_key_in_one_statement(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"))
        await self.desk.do(
            'WITH gone AS (DELETE FROM "居民 Table" RETURNING 1) '
            "INSERT INTO \"居民 Table\" SELECT '1', '王', 'p2', NULL, NULL FROM gone"
        )
        rows = (await capture.read(9))[1:]
        assert {r.op for r in rows} == {"u"}
        assert "p1" in {r.was for r in rows}
        await self.check_people(capture)

    async def test_merge_and_copy(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"), person(2, "王", "p2"))
        await self.desk.do(
            "MERGE INTO \"居民 Table\" t USING (VALUES ('1'), ('2'), ('3')) AS s(k) "
            "ON t.\"证件号\" = s.k WHEN MATCHED AND s.k = '1' THEN DELETE "
            "WHEN MATCHED THEN UPDATE SET \"Full Name\" = 'merged' "
            "WHEN NOT MATCHED THEN INSERT VALUES (s.k, 'new', 'p3', NULL, NULL)"
        )
        assert isinstance(self.desk, PostgresDesk)
        await self.desk.connection.copy_records_to_table(
            "居民 Table", records=[(str(n), "copied", "p4", None, None) for n in range(10, 40)]
        )
        await self.check_people(capture)

    async def test_a_bulk_update_after_single_ones_is_not_planned_for_one_row(
        self, capture: Capture
    ) -> None:
        """plpgsql keeps a plan; the one for a single row would take hours for this."""
        await self.desk.do(
            "INSERT INTO \"Steps\" SELECT n, 1, 'x' FROM generate_series(1, 20000) n"
        )
        for n in range(8):
            await self.desk.do(f"UPDATE \"Steps\" SET note = 'one' WHERE file_no = {n}")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self.desk.do("UPDATE \"Steps\" SET file_no = file_no + 100000, note = 'many'")
        await self.desk.do('DELETE FROM "Steps" WHERE file_no > 110000')
        assert loop.time() - begun < 20
        assert len(await capture.read(CAP)) == 20000 + 7 + 40000 + 10000

    async def test_values_come_as_their_text(self, where: str) -> None:
        await self.desk.do(
            "CREATE TYPE colour AS ENUM ('red')",
            "CREATE TABLE kinds (id integer PRIMARY KEY, a double precision, b numeric(9, 3), "
            "c timestamptz, d date, e boolean, f bytea, g json, h char(5), i colour)",
        )
        columns = ("id", "a", "b", "c", "d", "e", "f", "g", "h", "i")
        capture = await self.another_capture(where)
        try:
            await capture.install([Layout("kind", "kinds", ("id",), columns, None)], CAP)
            assert isinstance(self.desk, PostgresDesk)
            await self.desk.connection.execute(
                "SET timezone = 'Asia/Shanghai'; SET datestyle = 'German'; "
                "SET extra_float_digits = 0"
            )
            await self.desk.do(
                "INSERT INTO kinds VALUES (1, 0.1::float8 + 0.2, 1.5, '2026-01-02 03:04:05+08', "
                "'2026-01-02', true, '\\x00ff', '{\"x\": 1}', 'ab', 'red')",
                "UPDATE kinds SET b = 1.500, g = '{\"x\": 1}'",
            )
            (row,) = await capture.read(9)
            assert list(row.values.values()) == [
                *("1", "0.30000000000000004", "1.500", "2026-01-01 19:04:05+00", "2026-01-02"),
                *("true", "\\x00ff", '{"x": 1}', "ab", "red"),
            ]
        finally:
            await capture.close()

    async def test_statements_of_one_row_go_their_own_way(
        self, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the general way broken they are captured all the same; what is not theirs is not."""
        guarded = Functions._guarded

        def broken(self: Any, event: str, count: str, *rest: Any) -> str:
            return guarded(self, event, "RAISE EXCEPTION 'the general way';", *rest)

        monkeypatch.setattr(Functions, "_guarded", broken)
        capture = await self.another_capture(where)
        try:
            await capture.install(LAYOUTS, CAP)
            own = f"UPDATE \"居民 Table\" SET {PLACE} = 'p2' WHERE \"证件号\" = '1'"
            await self.desk.do(person(1), own, 'DELETE FROM "居民 Table"', person(2), person(3))
            rows = await capture.read(9)
            assert [(r.op, r.raw[0], r.was) for r in rows] == [
                *(("u", "1", None), ("u", "1", "p1"), ("d", "1", "p2")),
                *(("u", "2", None), ("u", "3", None)),
            ]
            await self.desk.do('UPDATE "居民 Table" SET secret = NULL WHERE "证件号" = \'2\'')
            assert (await capture.state()).gave_way == 0
            generally = (
                f"UPDATE \"居民 Table\" SET {PLACE} = 'p3'",
                'UPDATE "居民 Table" SET "证件号" = \'4\' WHERE "证件号" = \'3\'',
                person(5, "长" * 400),
                'DELETE FROM "居民 Table"',
            )
            for done, statement in enumerate(generally, 1):
                await self.desk.do(statement)
                assert (await capture.state()).gave_way == done
            assert await capture.read(9) == rows
        finally:
            await capture.close()

    async def test_planted_one_row_whose_key_has_moved_taken_for_plain_is_caught(
        self, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_changed = Functions._one_changed
        monkeypatch.setattr(
            Functions,
            "_one_changed",
            lambda self: one_changed(self).replace(self._same("o", "n"), "true"),
        )
        capture = await self.another_capture(where)
        try:
            await capture.install(LAYOUTS, CAP)
            await self.desk.do(person(1))
            await self.desk.do(f"UPDATE \"居民 Table\" SET \"证件号\" = '2', {PLACE} = 'p2'")
            with pytest.raises(AssertionError):
                await self.check_people(capture)
        finally:
            await capture.close()

    async def test_a_function_has_the_settings_that_its_values_depend_on(self, where: str) -> None:
        await self.desk.do(
            "CREATE TYPE mood AS ENUM ('well')",
            "CREATE DOMAIN born AS date",
            "CREATE TABLE forms (id integer PRIMARY KEY, few numeric(9, 3), mood mood, "
            "at timestamp(3) with time zone, born born)",
        )
        wanted = {
            ("id", "few", "mood"): set(),
            ("id", "at"): {"TimeZone", "DateStyle"},
            ("id", "born"): {
                *("TimeZone", "DateStyle", "IntervalStyle"),
                *("bytea_output", "extra_float_digits"),
            },
        }
        capture = await self.another_capture(where)
        try:
            for columns, names in wanted.items():
                await capture.install([Layout("form", "forms", ("id",), columns, None)], CAP)
                ((settings,),) = await self.desk.rows(
                    "SELECT proconfig FROM pg_proc WHERE proname = 'form_insert'"
                )
                assert {s.split("=")[0] for s in settings} == {
                    *("search_path", "lock_timeout"),
                    *names,
                }
        finally:
            await capture.close()

    async def test_a_deferrable_constraint_is_refused(self, where: str) -> None:
        await self.desk.do(
            "CREATE TABLE late (k text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
            "CREATE VIEW seen AS SELECT * FROM late",
            "CREATE TABLE partly (k text); CREATE UNIQUE INDEX ON partly (k) WHERE k > 'a'",
        )
        capture = await self.another_capture(where)
        try:
            for table, words in (
                ("late", "deferrable"),
                ("seen", "is a view"),
                ("partly", "no unique index"),
            ):
                with pytest.raises(SourceRefused, match=words):
                    await capture.install([Layout("d", table, ("k",), ("k",), None)], CAP)
        finally:
            await capture.close()

    async def test_a_program_without_rights_on_our_tables_is_captured(
        self, capture: Capture, second: PostgresDesk
    ) -> None:
        await self.desk.do(
            "DROP ROLE IF EXISTS deptbus_test_clerk",
            "CREATE ROLE deptbus_test_clerk",
            'GRANT ALL ON "居民 Table" TO deptbus_test_clerk',
        )
        try:
            await second.do("SET LOCAL ROLE deptbus_test_clerk", person(1))
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await second.do("SET LOCAL ROLE deptbus_test_clerk", "SELECT * FROM deptbus.outbox")
            assert len(await capture.read(9)) == 1
        finally:
            await self.desk.do("DROP OWNED BY deptbus_test_clerk; DROP ROLE deptbus_test_clerk")

    @pytest.mark.parametrize(
        "harm",
        [
            "DROP TABLE deptbus.outbox",
            "DROP TABLE deptbus.published",
            "ALTER TABLE deptbus.outbox DROP COLUMN vals",
            'ALTER TABLE "居民 Table" DROP COLUMN "Full Name"',
        ],
    )
    async def test_when_capture_fails_the_write_goes_through_and_it_is_said(
        self, capture: Capture, second: PostgresDesk, harm: str
    ) -> None:
        await self.desk.do(harm)
        await second.do('INSERT INTO "居民 Table" ("证件号") VALUES (\'1\')')
        await second.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2'")
        await second.do('DELETE FROM "居民 Table"')
        assert (await second.rows("SELECT last_value, is_called FROM deptbus.gave_way"))[0] == (
            3,
            True,
        )

    async def test_a_schema_dropped_by_mistake_fails_nobody(
        self, capture: Capture, second: PostgresDesk
    ) -> None:
        await self.desk.do("DROP SCHEMA deptbus CASCADE")
        await second.do(person(1), 'DELETE FROM "居民 Table"')

    async def test_a_lock_on_our_tables_holds_nobody_up(
        self, capture: Capture, second: PostgresDesk
    ) -> None:
        loop = asyncio.get_running_loop()
        transaction = second.connection.transaction()
        await transaction.start()
        await second.connection.execute("LOCK TABLE deptbus.outbox IN ACCESS EXCLUSIVE MODE")
        try:
            begun = loop.time()
            await self.desk.do(person(1))
            assert loop.time() - begun < 1
        finally:
            await transaction.rollback()
        assert (await capture.state()).gave_way == 1

    async def test_vacuum_of_an_emptied_outbox_takes_no_lock_that_captures_meet(
        self, capture: Capture
    ) -> None:
        """Giving pages back to the disk needs ACCESS EXCLUSIVE, while a capture waits for 20 ms."""
        size = "SELECT pg_relation_size('deptbus.outbox')"
        await self.desk.do(
            "INSERT INTO deptbus.outbox (position, layout, op, cause, source_time_us, raw) "
            "SELECT -n, 1, 'u', 'live', 0, '{x}' FROM generate_series(1, 2000) n"
        )
        (before,) = await self.desk.rows(size)
        await self.desk.do("DELETE FROM deptbus.outbox WHERE position < 0")
        await self.desk.connection.execute("VACUUM deptbus.outbox")
        assert await self.desk.rows(size) == [before]
        assert before > (0,)

    async def test_rows_that_others_hold_locked_are_come_back_to(
        self, capture: Capture, second: PostgresDesk
    ) -> None:
        await self.desk.do(*[person(n, "old") for n in range(30)])
        consumed = await capture.read(CAP)
        transaction = second.connection.transaction()
        await transaction.start()
        await second.connection.execute(
            "UPDATE \"居民 Table\" SET \"Full Name\" = 'new' WHERE \"证件号\" IN ('3', '4')"
        )
        await capture.begin_snapshot("resident", "snapshot", None)
        while not (snapshot := await capture.advance_snapshot("resident", 10)).done:
            pass
        assert (snapshot.enqueued, snapshot.skipped) == (28, 2)
        await capture.work_off(100)
        assert (await capture.status()).wanted == 2
        await transaction.commit()
        await self.work_off(capture)
        rows = await capture.read(CAP)
        assert len([r for r in rows if r.cause == "snapshot"]) == 30
        await self.check_people(capture, rows)
        assert len(consumed) == 30

    async def test_a_delete_for_a_gone_row_waits_for_an_insert_that_is_not_seen_yet(
        self, capture: Capture, second: PostgresDesk
    ) -> None:
        """The insert has drawn its version and is not committed. A delete at a greater version,
        sent because no row is seen, would lose it for good."""
        transaction = second.connection.transaction()
        await transaction.start()
        await second.connection.execute(person(1))
        await capture.want([Wanted("resident", '["1"]', None, "resend", None)])
        for _ in range(10):
            await capture.work_off(100)
        assert await capture.read(9) == []
        await transaction.commit()
        await self.work_off(capture)
        await self.check_people(capture)
        assert {r.op for r in await capture.read(9)} == {"u"}

    async def test_values_that_are_equal_and_differ_in_text(self, where: str) -> None:
        await self.desk.do("CREATE TABLE loose (k numeric PRIMARY KEY, v numeric)")
        capture = await self.another_capture(where)
        try:
            await capture.install([Layout("loose", "loose", ("k",), ("k", "v"), None)], CAP)
            await self.desk.do("INSERT INTO loose VALUES (1, 2)")
            await self.desk.do("UPDATE loose SET v = 2.0")
            await self.desk.do("UPDATE loose SET k = 1.0")
            rows = await capture.read(9)
            assert [(r.op, r.raw[0]) for r in rows] == [
                ("u", "1"),
                ("u", "1"),
                ("d", "1"),
                ("u", "1.0"),
            ]
            assert rows[1].values["v"] == "2.0"
        finally:
            await capture.close()

    async def test_uninstall_leaves_the_catalogue_as_it_was(self, where: str) -> None:
        catalogue = (
            "SELECT 'trigger', tgname::text FROM pg_trigger WHERE NOT tgisinternal UNION ALL "
            "SELECT 'function', proname::text FROM pg_proc p JOIN pg_namespace n "
            "ON n.oid = pronamespace WHERE nspname = 'deptbus' UNION ALL "
            "SELECT 'relation', relname::text FROM pg_class k JOIN pg_namespace n "
            "ON n.oid = relnamespace WHERE nspname = 'deptbus' AND relname NOT LIKE 'adapter%'"
        )
        capture = await self.another_capture(where)
        try:
            await capture.install([PEOPLE, *LAYOUTS[1:]], CAP)
            assert await self.desk.rows(catalogue)
            await capture.uninstall()
            assert await self.desk.rows(catalogue) == []
        finally:
            await capture.close()


async def test_what_a_department_prepares_goes_through_and_is_captured(
    service_folder: Path,
) -> None:
    """A transaction that rang a bell cannot be prepared."""
    server = PostgresServer(
        service_folder / "postgres-prepares", extra_settings={"max_prepared_transactions": "4"}
    )
    with server:
        url = server.create_database("own")
        desk, target = await PostgresDesk.open(url), target_of(url)
        capture = await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )
        own = await asyncpg.connect(url)
        try:
            await desk.do(STEPS_SQL)
            await capture.install([STEPS], CAP)
            assert await capture.wait(0)  # from here on it idles
            for statement in (
                "BEGIN",
                """INSERT INTO "Steps" VALUES (1, 1, 'a')""",
                "PREPARE TRANSACTION 'two phases'",
            ):
                await own.execute(statement)
            assert await capture.read(CAP) == []
            await own.execute("COMMIT PREPARED 'two phases'")
            assert not await capture.wait(0.05)  # nobody rings: it looks by itself
            assert [row.raw for row in await capture.read(CAP)] == [("1", "1")]
        finally:
            await own.close()
            await capture.close()
            await desk.close()
