"""Capture on a real SQLite file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from capture_suite import CAP, LAYOUTS, PEOPLE, PLACE, CaptureSuite, Desk, person

from deptbus.department import fence, sqlite_rows, sqlite_triggers
from deptbus.department.capture import Capture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import SqliteDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.sqlite_triggers import trigger_names
from deptbus.errors import DatabaseUnavailable


class SqliteDesk:
    """The department's program: an own connection with a busy time-out, as install asks for."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            path, isolation_level=None, timeout=10, check_same_thread=False
        )

    async def do(self, *statements: str, rollback: bool = False) -> None:
        await asyncio.to_thread(self._do, statements, rollback)

    def _do(self, statements: tuple[str, ...], rollback: bool) -> None:
        c = self._connection
        c.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                c.execute(statement)
        except BaseException:
            c.execute("ROLLBACK")
            raise
        c.execute("ROLLBACK" if rollback else "COMMIT")

    def pragma(self, text: str) -> None:
        self._connection.execute(f"PRAGMA {text}")

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(lambda: self._connection.execute(query).fetchall())

    async def close(self) -> None:
        self._connection.close()


class TestSqliteCapture(CaptureSuite):
    async def make(self, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Desk, Path]:
        path = tmp_path / "own.db"
        return SqliteDesk(path), path

    async def another_capture(self, where: Path) -> Capture:
        return SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{where}")))

    async def another_desk(self, where: Path) -> Desk:
        return SqliteDesk(where)

    async def own_trigger(self, event: str, statement: str) -> None:
        self.own = getattr(self, "own", 0) + 1
        await self.desk.do(
            f'CREATE TRIGGER own_{self.own} AFTER {event} ON "居民 Table" BEGIN {statement}; END'
        )

    async def test_closing_waits_for_a_read_that_nobody_awaits_any_more(
        self, capture: Capture, where: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An adapter that stops gives up its read, whose thread goes on. A connection closed under
        a thread that uses it brings the process down."""
        capture = await self.another_capture(where)
        assert isinstance(capture, SqliteCapture)
        entered, go, ended = threading.Event(), threading.Event(), threading.Event()
        ask = capture._data_version

        def slowly() -> int:
            version, watcher = ask(), capture._watcher
            entered.set()
            assert go.wait(10)
            assert watcher is not None
            watcher.execute("PRAGMA data_version")  # raises if it was closed meanwhile
            ended.set()
            return version

        monkeypatch.setattr(capture, "_data_version", slowly)
        reading = asyncio.create_task(capture.together(lambda: capture.read(10)))
        assert await asyncio.to_thread(entered.wait, 10)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        asyncio.get_running_loop().call_later(0.05, go.set)
        await capture.close()
        assert ended.is_set()

    async def test_a_file_put_in_its_place_is_noticed(self, capture: Capture, where: Path) -> None:
        """A backup that is moved there while the adapter runs: what is typed into it would never
        be read, and nobody would know."""
        token = await self.token(capture)
        await capture.check(token)
        backup = where.with_name("backup.db")
        await asyncio.to_thread(shutil.copy, where, backup)
        await asyncio.to_thread(backup.replace, where)
        with pytest.raises(DatabaseUnavailable, match="replaced"):
            await capture.check(token)

    async def test_a_trigger_of_the_department_does_not_hide_what_a_statement_replaced(
        self, capture: Capture
    ) -> None:
        """Another row with the same serial is replaced; the department's trigger writes the same
        table before capture looks what became of it."""
        await self.own_trigger(
            "INSERT",
            'UPDATE "居民 Table" SET serial = serial + 100 '
            'WHERE "证件号" = NEW."证件号" AND serial < 100',
        )
        await self.own_trigger(
            "INSERT",
            "INSERT INTO \"居民 Table\" SELECT 'log' || NEW.\"证件号\", NULL, 'p1', NULL, NULL "
            'WHERE NEW."证件号" NOT LIKE \'log%\' AND NOT EXISTS (SELECT 1 FROM "居民 Table" '
            'WHERE "证件号" = \'log\' || NEW."证件号")',
        )
        await self.desk.do(person(1, serial=107), person(2, "王", "p2", serial=8))
        await self.desk.do(person(3, serial=108).replace("INSERT", "INSERT OR REPLACE"))
        await self.check_people(capture)
        again = person(3, "王", "p4", serial=9).replace("INSERT", "INSERT OR REPLACE")
        await self.desk.do(again)
        await self.check_people(capture)
        rows = await capture.read(CAP)
        assert "p1" in {r.was for r in rows if r.raw[0] in (3, "3")}

    async def test_rows_that_the_adapter_applies_are_not_captured_as_their_own_dataset(
        self, capture: Capture
    ) -> None:
        assert isinstance(capture, SqliteCapture)

        def apply(c: sqlite3.Connection) -> None:
            fence.begin_applying_sqlite(c, ["resident"])
            c.execute(person(1))
            c.execute('INSERT INTO "Steps" VALUES (1, 1, NULL)')
            fence.end_applying_sqlite(c)

        await capture.database.transaction(apply)
        await self.desk.do(person(2))
        assert [(r.dataset, str(r.raw[0])) for r in await capture.read(9)] == [
            ("step", "1"),
            ("resident", "2"),
        ]

    @pytest.mark.parametrize("recursive", ["on", "off"])
    @pytest.mark.parametrize(
        "statement",
        [
            # The same natural key; another row by another unique constraint; both at once.
            person(1, "new", "p9").replace("INSERT", "INSERT OR REPLACE", 1),
            person(9, "new", "p9", 12).replace("INSERT", "INSERT OR REPLACE", 1),
            person(1, "new", "p9", 12).replace("INSERT", "REPLACE", 1),
            'UPDATE OR REPLACE "居民 Table" SET "证件号" = \'2\' WHERE "证件号" = \'1\'',
            'UPDATE OR REPLACE "居民 Table" SET serial = 13 WHERE "证件号" = \'1\'',
            'UPDATE OR REPLACE "居民 Table" SET "证件号" = \'2\', serial = 13 WHERE serial = 11',
        ],
    )
    async def test_replaced_rows(self, capture: Capture, statement: str, recursive: str) -> None:
        assert isinstance(self.desk, SqliteDesk)
        self.desk.pragma(f"recursive_triggers = {recursive}")
        for n in (1, 2, 3):
            await self.desk.do(person(n, f"n{n}", f"p{n}", 10 + n))
        await self.desk.do(statement)
        await self.check_people(capture)

    async def test_a_replaced_row_leaves_its_place(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"))
        await self.desk.do(person(1, "李", "p2").replace("INSERT", "INSERT OR REPLACE", 1))
        await self.desk.do(person(2, "王", "p3", 5))
        await self.desk.do(person(7, "王", "p4", 5).replace("INSERT", "INSERT OR REPLACE", 1))
        rows = (await capture.read(9))[1:]
        assert [(r.op, r.raw[0], r.was) for r in rows] == [
            ("u", "1", "p1"),
            ("u", "2", None),
            ("d", "2", "p3"),
            ("u", "7", None),
        ]

    async def test_ignored_and_failed_inserts_leave_nothing_behind(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1", 5))
        await self.desk.do(person(1, "x").replace("INSERT", "INSERT OR IGNORE", 1))
        with pytest.raises(sqlite3.IntegrityError):
            await self.desk.do(person(2, "x", "p2", 5))
        await self.desk.do('DELETE FROM "居民 Table"')
        await self.desk.do(person(3))
        assert [(r.op, r.raw[0]) for r in await capture.read(9)] == [
            ("u", "1"),
            ("d", "1"),
            ("u", "3"),
        ]

    async def test_rows_that_a_foreign_key_removes(self, capture: Capture) -> None:
        assert isinstance(self.desk, SqliteDesk)
        self.desk.pragma("foreign_keys = on")
        await self.desk.do(
            "CREATE TABLE child (id TEXT PRIMARY KEY, parent VARCHAR(40) "
            'REFERENCES "居民 Table" ("证件号") ON DELETE CASCADE)'
        )
        from deptbus.department.layout import Layout

        await capture.install([*LAYOUTS, Layout("child", "child", ("id",), ("id",), None)], CAP)
        await self.desk.do(person(1), "INSERT INTO child VALUES ('c', '1')")
        await self.desk.do('DELETE FROM "居民 Table"')
        assert {(r.dataset, r.op) for r in await capture.read(9)} >= {("child", "d")}

    async def test_values_keep_their_own_types(self, capture: Capture) -> None:
        await self.desk.do(
            "INSERT INTO \"居民 Table\" VALUES ('a', x'00ff', 1.1, NULL, NULL)",
            "INSERT INTO \"居民 Table\" VALUES ('b', CAST(x'e6ff' AS TEXT), NULL, NULL, NULL)",
        )
        first, second = await capture.read(9)
        assert list(first.values.values()) == ["a", b"\x00\xff", "1.1"]
        assert second.values["Full Name"] == b"\xe6\xff".decode("utf-8", "surrogateescape")

    async def test_writes_of_the_department_wait_little(self, capture: Capture) -> None:
        """While a thousand rows are forgotten and a snapshot runs, a clerk's write stays quick."""
        token = await self.token(capture)
        await self.desk.do(*[person(n) for n in range(3000)])
        rows = await capture.read(CAP)
        await capture.begin_snapshot("resident", "snapshot", None)

        async def busy() -> None:
            await capture.delete(token, [r.position for r in rows])
            while not (await capture.advance_snapshot("resident", 500)).done:
                pass

        working = asyncio.create_task(busy())
        slowest = 0.0
        loop = asyncio.get_running_loop()
        number = 0
        while not working.done():
            begun = loop.time()
            await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'w{number}' WHERE rowid = 1")
            slowest = max(slowest, loop.time() - begun)
            number += 1
        await working
        assert number > 0
        assert slowest < 1.0  # shared machines stall; alone it is a few milliseconds

    async def test_updates_that_move_nothing_unique_go_their_own_way(
        self, capture: Capture
    ) -> None:
        assert isinstance(self.desk, SqliteDesk)
        await self.desk.do(person(1, serial=1), person(2, serial=2))
        (former,) = await self.desk.rows(
            "SELECT sql FROM sqlite_master WHERE name = 'deptbus_resident_moved'"
        )
        await self.desk.do("DROP TRIGGER deptbus_resident_moved")
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2', serial = serial")
        rows = (await capture.read(9))[2:]
        assert [(r.op, r.raw[0], r.was) for r in rows] == [("u", "1", "p1"), ("u", "2", "p1")]
        await self.desk.do(former[0])
        await self.desk.do("DROP TRIGGER deptbus_resident_changed")
        moves = (
            f"UPDATE \"居民 Table\" SET {PLACE} = 'p3', serial = serial + 5",
            'UPDATE "居民 Table" SET "证件号" = \'3\' WHERE "证件号" = \'1\'',
            'UPDATE OR REPLACE "居民 Table" SET serial = 6 WHERE "证件号" = \'2\'',
        )
        for statement in moves:
            await self.desk.do(statement)
        await self.check_people(capture)

    async def test_planted_rows_that_replace_others_taken_for_plain_are_caught(
        self, capture: Capture
    ) -> None:
        await self.desk.do(person(1, serial=1), person(2, serial=2))
        await self.desk.do("DROP TRIGGER deptbus_resident_moved")
        await self.desk.do('UPDATE OR REPLACE "居民 Table" SET serial = 1 WHERE "证件号" = \'2\'')
        with pytest.raises(AssertionError):
            await self.check_people(capture)

    async def test_keys_that_move_without_being_named(self, where: Path) -> None:
        """By a name of the row's number that no column has, or generated from another column."""
        capture = await self.another_capture(where)
        try:
            await self.numbered(capture)
            moves = "UPDATE numbered SET _ROWID_ = 2", "UPDATE generated SET code = 'b'"
            await self.desk.do(*moves)
            assert await self.told(capture) == [("d", 1), ("u", 2), ("d", "A"), ("u", "B")]
        finally:
            await capture.close()

    async def test_planted_triggers_that_look_at_named_columns_alone_are_caught(
        self, where: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_triggers, "ROW_NUMBER", ())
        traits_of = sqlite_rows.traits_of
        monkeypatch.setattr(
            sqlite_rows, "traits_of", lambda *a: traits_of(*a)._replace(generated=frozenset())
        )
        with pytest.raises(AssertionError):
            await self.test_keys_that_move_without_being_named(where)

    BEFORE = (
        'CREATE TRIGGER "own before" {when} ON "居民 Table" WHEN OLD.serial < 10 '
        'BEGIN UPDATE "居民 Table" SET serial = serial + 10 WHERE serial = OLD.serial; END'
    )

    @pytest.mark.parametrize("when", [f"BEFORE UPDATE OF {PLACE}", "UPDATE"])
    async def test_what_a_trigger_moves_before_the_statement_that_does_not_name_it(
        self, where: Path, when: str
    ) -> None:
        """The new row has what a BEFORE trigger wrote, so the statement seems to have moved it."""
        await self.desk.do(self.BEFORE.format(when=when), person(1, serial=1))
        capture = await self.another_capture(where)
        try:
            await capture.install(LAYOUTS, CAP)
            await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2'")
            (row,) = await capture.read(9)
            assert (row.op, row.values[PEOPLE.columns[2]], row.was) == ("u", "p2", "p1")
            assert await capture.broken() == []
        finally:
            await capture.close()

    async def test_a_trigger_before_updates_that_came_after_install_is_told(
        self, capture: Capture
    ) -> None:
        await self.own_trigger("UPDATE", "SELECT 1")
        await self.desk.do(self.BEFORE.format(when="BEFORE DELETE").replace("own", "no"))
        assert await capture.broken() == []
        await self.desk.do(self.BEFORE.format(when="BEFORE UPDATE"), person(1, serial=1))
        (broken,) = await capture.broken()
        assert (broken.is_blind, broken.is_partly) == (True, True)
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2'")
        with pytest.raises(AssertionError):
            await self.check_people(capture)
        await capture.install(LAYOUTS, CAP)
        assert await capture.broken() == []
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p3', serial = 1")
        await self.check_people(capture)

    @pytest.mark.parametrize(
        ("index", "statement"),
        [
            (
                "secret COLLATE NOCASE",
                "REPLACE INTO \"居民 Table\" VALUES ('2', NULL, 'p2', 'CANARY', NULL)",
            ),
            (
                "secret COLLATE NOCASE",
                "UPDATE OR REPLACE \"居民 Table\" SET secret = 'CANARY' WHERE secret = 'other'",
            ),
            ("serial", 'REPLACE INTO "居民 Table" (rowid, "证件号") VALUES (1, \'2\')'),
            ("serial", 'UPDATE OR REPLACE "居民 Table" SET oid = 1 WHERE oid = 7'),
            (
                "lower(secret) desc, -- it's one (or two)\n 1)\nWHERE (serial IS NULL",
                "REPLACE INTO \"居民 Table\" VALUES ('2', NULL, 'p2', 'CANARY', NULL)",
            ),
            (
                "substr(secret, 1, 1), coalesce(serial, 0)",
                "UPDATE OR REPLACE \"居民 Table\" SET secret = 'came', serial = 0 WHERE oid = 7",
            ),
            (
                '"secret") WHERE (serial IS NOT 4',
                "UPDATE OR REPLACE \"居民 Table\" SET secret = 'canary' WHERE oid = 7",
            ),
            (
                "substr(secret, 9)) WHERE (serial IS NULL",
                'UPDATE OR REPLACE "居民 Table" SET serial = NULL WHERE serial = 3',
            ),
            (
                "length(secret) = 0) WHERE (serial IS NULL",
                'UPDATE OR REPLACE "居民 Table" SET serial = NULL WHERE serial = 3',
            ),
        ],
    )
    async def test_rows_that_are_replaced_by_what_no_column_compares(
        self, where: Path, index: str, statement: str
    ) -> None:
        """By an index whose collation is not its column's, over expressions or of some rows only,
        which a row may join by a column that is not in it; and by the number of the row."""
        await self.desk.do(f'CREATE UNIQUE INDEX bare ON "居民 Table" ({index})')
        capture = await self.another_capture(where)
        try:
            await capture.install(LAYOUTS, CAP)
            await self.desk.do(
                person(1),
                'INSERT INTO "居民 Table" (rowid, "证件号", secret, serial) '
                "VALUES (7, '7', 'other', 3)",
            )
            await self.desk.do(statement)
            assert ("1",) not in await self.desk.rows('SELECT "证件号" FROM "居民 Table"')
            await self.check_people(capture)
        finally:
            await capture.close()

    async def test_a_row_without_a_key_is_captured_by_each_update(self, where: Path) -> None:
        """So that it is parked and somebody mends it; no row of its table tells it by its key."""
        capture = await self.another_capture(where)
        try:
            await self.numbered(capture)
            await self.desk.do("UPDATE generated SET code = NULL")
            await self.desk.do("UPDATE generated SET name = 'y'")
            assert await self.told(capture) == [("d", "A"), ("u", None), ("u", None)]
            assert (await capture.state()).gave_way == 0
        finally:
            await capture.close()

    async def numbered(self, capture: Capture) -> None:
        """A table whose key is its row's number and one whose key is generated, a row in each."""
        await self.desk.do(
            "CREATE TABLE numbered (id INTEGER PRIMARY KEY, name TEXT)",
            "CREATE TABLE generated (code TEXT, name TEXT, "
            "key TEXT GENERATED ALWAYS AS (upper(code)) STORED UNIQUE)",
            "INSERT INTO numbered VALUES (1, 'x')",
            "INSERT INTO generated (code, name) VALUES ('a', 'x')",
        )
        layouts = [
            Layout("numbered", "numbered", ("id",), ("id", "name"), None),
            Layout("generated", "generated", ("key",), ("key", "name"), None),
        ]
        await capture.install(layouts, CAP)

    async def told(self, capture: Capture) -> list[tuple[str, Any]]:
        return [(row.op, row.raw[0]) for row in await capture.read(9)]

    async def test_triggers_of_an_older_install_are_whole_and_renewed(
        self, capture: Capture
    ) -> None:
        body = 'AFTER UPDATE ON "居民 Table" BEGIN SELECT 1; END'
        for name in ("moved", "changed"):
            await self.desk.do(f"DROP TRIGGER deptbus_resident_{name}")
        (broken,) = await capture.broken()
        assert broken.is_blind
        await self.desk.do(f"CREATE TRIGGER deptbus_resident_update {body}")
        assert await capture.broken() == []
        await capture.install(LAYOUTS, CAP)
        there = await self.desk.rows(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '居民 Table'"
        )
        assert {name for (name,) in there} == set(trigger_names("resident"))
        await self.desk.do(person(1))
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2'")
        assert len(await capture.read(9)) == 2

    async def test_installing_keeps_what_waits(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await capture.install([PEOPLE], CAP)
        assert len(await capture.read(9)) == 1
