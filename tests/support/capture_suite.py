"""What every Capture must do; each database's tests subclass it.

The department's program is played by `Desk`: plain SQL on a connection of its own. What capture saw
is folded by version, which is what every recipient ends with, and compared with the table.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import pytest

from deptbus.department import fence
from deptbus.department.capture import (
    GONE,
    HOLDS,
    PARKED,
    Capture,
    OutboxRow,
    Parked,
    Prepared,
    Sought,
    Variant,
    Waiting,
    Wanted,
)
from deptbus.department.layout import Layout
from deptbus.department.pressure import fill_percent
from deptbus.department.pulse import Publishing, Pulse
from deptbus.errors import DeptbusError, Fenced, SourceRefused

# Names as real tables have them: Chinese, mixed case, spaces, quotes; and an unpublished column.
PEOPLE = Layout(
    "resident", "居民 Table", ("证件号",), ("证件号", "Full Name", "所在'地\"区"), "所在'地\"区"
)
PEOPLE_SQL = """CREATE TABLE "居民 Table" (
  "证件号" VARCHAR(40) NOT NULL,
  "Full Name" TEXT,
  "所在'地""区" TEXT,
  secret TEXT,
  serial INTEGER UNIQUE,
  UNIQUE ("证件号")
)"""
STEPS = Layout("step", "Steps", ("file_no", "step"), ("file_no", "step", "note"), None)
STEPS_SQL = """CREATE TABLE "Steps" (
  file_no INTEGER NOT NULL, step INTEGER NOT NULL, note TEXT, PRIMARY KEY (file_no, step)
)"""
LAYOUTS = (PEOPLE, STEPS)
CAP = 100_000

INSERT = "INSERT INTO \"居民 Table\" VALUES ('{}', '{}', '{}', 'canary', {})"
PLACE = '"所在\'地""区"'


def person(number: Any, name: str = "李", place: str = "p1", serial: Any = "NULL") -> str:
    return INSERT.format(number, name, place, serial)


class Desk(Protocol):
    """The department's own program."""

    async def do(self, *statements: str, rollback: bool = False) -> None:
        """One transaction; raises the driver's own error when a statement fails."""

    async def rows(self, query: str) -> list[tuple[Any, ...]]: ...

    async def close(self) -> None: ...


def fold(rows: Sequence[OutboxRow]) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """The last state per key by version."""
    state: dict[tuple[str, ...], tuple[str | None, ...]] = {}
    for row in sorted(rows, key=lambda r: r.position):
        key = tuple(map(str, row.raw))
        if row.op == "d":
            state.pop(key, None)
        else:
            state[key] = tuple(None if v is None else str(v) for v in row.values.values())
    return state


class CaptureSuite:
    async def make(self, tmp_path: Any, request: pytest.FixtureRequest) -> tuple[Desk, Any]:
        """A desk on a fresh database, and what `another` needs to open it again."""
        raise NotImplementedError

    async def another_capture(self, where: Any) -> Capture:
        raise NotImplementedError

    async def another_desk(self, where: Any) -> Desk:
        raise NotImplementedError

    @pytest.fixture
    async def where(self, tmp_path: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
        desk, self.place = await self.make(tmp_path, request)
        await desk.do(PEOPLE_SQL, STEPS_SQL)
        self.desk = desk
        yield self.place
        await desk.close()

    @pytest.fixture
    async def capture(self, where: Any) -> AsyncIterator[Capture]:
        capture = await self.another_capture(where)
        await capture.install(LAYOUTS, CAP)
        yield capture
        await capture.close()

    async def token(self, capture: Capture) -> bytes:
        taken = await fence.take_over(capture.database, 0, unit="u@33", system="main")
        return taken.token

    async def check_people(self, capture: Capture, rows: Sequence[OutboxRow] | None = None) -> None:
        """Folding what was captured gives the table, column by column."""
        found = await capture.read(CAP) if rows is None else rows
        table = await self.desk.rows(f'SELECT "证件号", "Full Name", {PLACE} FROM "居民 Table"')
        expected = {(str(r[0]),): tuple(None if v is None else str(v) for v in r) for r in table}
        assert fold([r for r in found if r.dataset == "resident"]) == expected

    # --- what is remembered ---------------------------------------------------------------

    async def test_an_adapter_knows_of_which_keys_something_is_remembered(
        self, capture: Capture, where: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = await self.token(capture)
        moved, shared = ("resident", b"m" * 16), ("step", b"s" * 16)
        await capture.prepare(token, Prepared(places={moved: ("p1", "p2")}), sends=False)
        assert capture.remembered is None  # not looked at: `known` has to be asked for each
        await capture.recollect()
        assert capture.remembered == {moved[1]}
        both = Prepared(variants={shared: (Variant("a", HOLDS), Variant("b", PARKED))})
        await capture.prepare(token, both, sends=False)
        assert capture.remembered == {moved[1], shared[1]}
        other = await self.another_capture(where)
        try:
            await other.recollect()
            assert other.remembered == {moved[1], shared[1]}
            monkeypatch.setattr("deptbus.department.capture.MOST_REMEMBERED", 1)
            await other.recollect()
            assert other.remembered is None  # too many to hold
        finally:
            await other.close()

    # --- install --------------------------------------------------------------------------

    async def test_install_twice_changes_nothing(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await capture.install(LAYOUTS, CAP)
        await self.desk.do(person(2))
        rows = await capture.read(10)
        assert [(r.op, r.raw) for r in rows] == [("u", ("1",)), ("u", ("2",))]
        assert await capture.layouts() == {"resident": PEOPLE, "step": STEPS}

    async def test_a_dataset_that_is_no_longer_named_is_no_longer_captured(
        self, capture: Capture
    ) -> None:
        await capture.install([STEPS], CAP)
        await self.desk.do(person(1), 'INSERT INTO "Steps" VALUES (1, 1, NULL)')
        assert [r.dataset for r in await capture.read(10)] == ["step"]

    async def test_rows_that_wait_are_read_by_their_own_layout(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"))
        wider = Layout("resident", PEOPLE.table, PEOPLE.keys, (*PEOPLE.columns, "serial"), None)
        await capture.install([wider], CAP)
        await self.desk.do(person(2, "王", "p2", 7))
        old, new = await capture.read(10)
        assert list(old.values.values()) == ["1", "李", "p1"]
        assert [str(v) for v in new.values.values()] == ["2", "王", "p2", "7"]

    @pytest.mark.parametrize(
        ("layout", "words"),
        [
            (Layout("d", "Nowhere", ("a",), ("a",), None), "no table Nowhere"),
            (Layout("d", "Steps", ("step",), ("step", "colour"), None), "no column colour"),
            (Layout("d", "Steps", ("step",), ("step",), None), "no unique index on (step)"),
        ],
    )
    async def test_install_refuses_with_one_clear_line(
        self, where: Any, layout: Layout, words: str
    ) -> None:
        capture = await self.another_capture(where)
        try:
            with pytest.raises(SourceRefused) as refused:
                await capture.install([layout], CAP)
            assert words in str(refused.value)
            assert "\n" not in str(refused.value)
            assert await capture.layouts() == {}
        finally:
            await capture.close()

    async def test_uninstall_leaves_nothing_and_the_tables_work_on(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await capture.uninstall()
        await capture.uninstall()
        await self.desk.do(person(2), 'DELETE FROM "居民 Table"')
        assert (await capture.status()).installed is False

    async def test_only_published_columns_reach_the_outbox(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await self.desk.do("UPDATE \"居民 Table\" SET secret = 'another canary'")
        (row,) = await capture.read(10)
        assert set(row.values) == set(PEOPLE.columns)
        assert "canary" not in repr(row)

    async def test_the_sql_of_install_can_be_read_before(self, where: Any) -> None:
        capture = await self.another_capture(where)
        try:
            text = "\n".join(await capture.sql(LAYOUTS, CAP))
            assert '"居民 Table"' in text
            assert "secret" not in text
            assert await capture.layouts() == {}
        finally:
            await capture.close()

    # --- what is captured -----------------------------------------------------------------

    async def test_insert_update_delete(self, capture: Capture) -> None:
        await self.desk.do(person(1, "李", "p1"))
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p2'")
        await self.desk.do('DELETE FROM "居民 Table"')
        rows = await capture.read(10)
        assert [(r.op, r.was) for r in rows] == [("u", None), ("u", "p1"), ("d", "p2")]
        assert [r.position for r in rows] == sorted({r.position for r in rows})
        assert rows[1].values["Full Name"] == "李"
        assert {r.cause for r in rows} == {"live"}
        assert abs(rows[0].source_time_us - rows[2].source_time_us) < 60_000_000

    async def test_an_update_that_changes_nothing_published_is_not_captured(
        self, capture: Capture
    ) -> None:
        await self.desk.do(person(1))
        await self.desk.do('UPDATE "居民 Table" SET serial = 5, "Full Name" = "Full Name"')
        assert len(await capture.read(10)) == 1

    async def test_a_rollback_leaves_nothing(self, capture: Capture) -> None:
        await self.desk.do(person(1), person(2), rollback=True)
        assert await capture.read(10) == []

    async def test_bulk_statements(self, capture: Capture) -> None:
        await self.desk.do(*[person(n, f"n{n}", f"p{n % 3}") for n in range(300)])
        await self.desk.do(f"UPDATE \"居民 Table\" SET {PLACE} = 'p9' WHERE {PLACE} = 'p1'")
        await self.desk.do(f"DELETE FROM \"居民 Table\" WHERE {PLACE} = 'p2'")
        rows = await capture.read(CAP)
        assert len(rows) == 500
        await self.check_people(capture, rows)

    async def test_a_changed_key_is_a_delete_and_an_upsert(self, capture: Capture) -> None:
        await self.desk.do(person("old", "李", "p1"))
        await self.desk.do(f"UPDATE \"居民 Table\" SET \"证件号\" = 'new', {PLACE} = 'p2'")
        rows = (await capture.read(10))[1:]
        assert [(r.op, r.raw, r.was) for r in rows] == [
            ("d", ("old",), "p1"),
            ("u", ("new",), None),
        ]

    async def test_keys_that_differ_in_case_only_are_two_keys(self, capture: Capture) -> None:
        await self.desk.do(person("x"))
        await self.desk.do('UPDATE "居民 Table" SET "证件号" = \'X\'')
        assert [(r.op, r.raw[0]) for r in await capture.read(9)] == [
            ("u", "x"),
            ("d", "x"),
            ("u", "X"),
        ]

    @pytest.mark.parametrize("step", [1, -1])
    async def test_a_shift_of_all_keys_onto_one_another(self, capture: Capture, step: int) -> None:
        order = range(50, 0, -1) if step == 1 else range(1, 51)
        await self.desk.do(*[f"INSERT INTO \"Steps\" VALUES (1, {n}, 'note {n}')" for n in order])
        await self.desk.do(f'UPDATE "Steps" SET step = step + {step}')
        table = await self.desk.rows('SELECT file_no, step, note FROM "Steps"')
        assert fold(await capture.read(CAP)) == {
            (str(f), str(s)): (str(f), str(s), n) for f, s, n in table
        }
        assert len(table) == 50

    async def test_a_shift_of_keys_names_the_place_that_each_key_had(
        self, capture: Capture
    ) -> None:
        await self.desk.do(person(1, "甲", "p1"), person(2, "乙", "p2"))
        await self.desk.do('UPDATE "居民 Table" SET "证件号" = \'3\' WHERE "证件号" = \'2\'')
        await self.desk.do('UPDATE "居民 Table" SET "证件号" = \'2\' WHERE "证件号" = \'1\'')
        rows = (await capture.read(10))[2:]
        assert [(r.op, r.raw[0], r.was) for r in rows] == [
            ("d", "2", "p2"),
            ("u", "3", None),
            ("d", "1", "p1"),
            ("u", "2", None),
        ]
        await self.check_people(capture)

    async def test_one_statement_of_many_rows_captures_what_many_of_one_row_do(
        self, capture: Capture
    ) -> None:
        """Statements of one row have a way of their own."""
        table, key = '"居民 Table"', '"证件号"'
        changes = (
            f"UPDATE {table} SET \"Full Name\" = 'new', {PLACE} = 'p' || serial",
            f'UPDATE {table} SET "Full Name" = NULL',
            f"UPDATE {table} SET secret = 'another', \"Full Name\" = NULL",
            f"UPDATE {table} SET {key} = 'x' || {key}, {PLACE} = 'q' || serial",
            f"DELETE FROM {table}",
        )
        inserts = [person(n, "李", "p0", n) for n in range(4)]
        many = " UNION ALL ".join(f"SELECT '{n}', '李', 'p0', 'canary', {n}" for n in range(4))
        ways = []
        for statements in (
            [*inserts, *(f"{c} WHERE serial = {n}" for c in changes for n in range(4))],
            [f"INSERT INTO {table} {many}", *changes],
        ):
            before = len(await capture.read(CAP))
            for statement in statements:
                await self.desk.do(statement)
            rows = (await capture.read(CAP))[before:]
            ways.append(
                sorted((r.raw[0], r.op, str(r.was), str([*r.values.values()])) for r in rows)
            )
        assert ways[0] == ways[1]
        assert len(ways[0]) == 4 * (1 + 1 + 1 + 2 + 1)
        assert (await capture.state()).gave_way == 0

    async def test_insert_or_update_in_one_statement(self, capture: Capture) -> None:
        upsert = person(1, "王", "p2") + (
            ' ON CONFLICT ("证件号") DO UPDATE SET "Full Name" = excluded."Full Name", '
            f"{PLACE} = excluded.{PLACE}"
        )
        await self.desk.do(person(1, "李", "p1"), upsert)
        rows = await capture.read(10)
        assert rows[-1].was == "p1"
        await self.check_people(capture, rows)

    async def test_rows_that_the_adapter_applies_are_not_captured_as_their_own_dataset(
        self, capture: Capture
    ) -> None:
        raise NotImplementedError

    # --- triggers of the department's own --------------------------------------------------

    async def own_trigger(self, event: str, statement: str) -> None:
        """The department's program makes a row trigger, after capture was installed: `event` is
        what stands between AFTER and ON, `statement` what it does in its own table."""
        raise NotImplementedError

    async def test_what_a_trigger_of_the_department_changes_last_is_captured_last(
        self, capture: Capture
    ) -> None:
        """Such a trigger runs between the statement and its capture: what it wrote must not be
        followed by the row as the statement left it."""
        for event in ("INSERT", 'UPDATE OF "Full Name"'):
            await self.own_trigger(
                event,
                f'UPDATE "居民 Table" SET "Full Name" = \'Dr. \' || "Full Name", {PLACE} = \'p9\' '
                'WHERE "证件号" = NEW."证件号" AND "Full Name" NOT LIKE \'Dr.%\'',
            )
        await self.desk.do(person(1), person(2))
        await self.check_people(capture)
        await self.desk.do('UPDATE "居民 Table" SET "Full Name" = \'王\'')
        await self.check_people(capture)
        await self.desk.do(*(person(n) for n in range(3, 30)))
        await self.desk.do(f"UPDATE \"居民 Table\" SET \"Full Name\" = '张', {PLACE} = 'p3'")
        await self.check_people(capture)
        rows = await capture.read(CAP)
        assert {"p1", "p3"} <= {r.was for r in rows if r.raw[0] in (1, "1")}

    @pytest.mark.parametrize(
        "statement",
        [
            'DELETE FROM "居民 Table" WHERE "证件号" = NEW."证件号"',
            'UPDATE "居民 Table" SET "证件号" = \'x\' || "证件号" WHERE "证件号" = NEW."证件号" '
            "AND \"证件号\" NOT LIKE 'x%'",
        ],
    )
    async def test_a_row_that_a_trigger_of_the_department_takes_away_does_not_come_back(
        self, capture: Capture, statement: str
    ) -> None:
        await self.own_trigger("INSERT", statement)
        await self.desk.do(person(1))
        await self.check_people(capture)

    # --- never in the way -----------------------------------------------------------------

    async def test_beyond_the_cap_the_write_goes_through_and_it_is_said(
        self, capture: Capture
    ) -> None:
        await capture.install(LAYOUTS, 5)
        token = await self.token(capture)
        for n in range(12):
            await self.desk.do(person(n))
        assert len(await self.desk.rows('SELECT * FROM "居民 Table"')) == 12
        rows = await capture.read(CAP)
        assert 3 <= len(rows) <= 6
        assert (await capture.state()).gave_way > 0
        await capture.delete(token, [r.position for r in rows])
        await self.desk.do(person("later"))
        assert [r.raw[0] for r in await capture.read(CAP)] == ["later"]

    async def test_beyond_the_cap_in_bytes_the_write_goes_through_and_it_is_said(
        self, capture: Capture
    ) -> None:
        await capture.install(LAYOUTS, CAP, 1)
        token = await self.token(capture)
        for n in range(30):
            await self.desk.do(person(n, "长" * 33_000))  # 99,000 bytes
        rows = await capture.read(CAP)
        assert 9 <= len(rows) <= 11
        status = await capture.status()
        # SQLite counts the one that filled it too.
        assert 30 - len(rows) <= status.gave_way <= 31 - len(rows)
        assert (status.cap_kib, fill_percent(status) >= 90) == (1024, True)
        await capture.delete(token, [r.position for r in rows])
        await capture.state()
        assert fill_percent(await capture.status()) == 0.0
        await self.desk.do(person("later"), 'DELETE FROM "居民 Table" WHERE "证件号" = \'1\'')
        assert [r.op for r in await capture.read(CAP)] == ["u", "d"]
        assert 90_000 < (await capture.status()).outbox_kib * 1024 + 2048 < 110_000

    async def test_what_others_enqueue_does_not_forget_the_bytes_that_wait(
        self, capture: Capture
    ) -> None:
        await capture.install(LAYOUTS, CAP, 1)
        token = await self.token(capture)
        await self.desk.do(person(1, "长" * 340_000))
        await capture.want([Wanted("resident", '["1"]', None, "resend", None)])
        await capture.work_off(10)
        version = await capture.reserve(token, 1)
        await capture.enqueue_deletes(token, "resident", [(b"k" * 16, version)], "resend", "j")
        await self.desk.do(person(2, "长" * 33_000))  # SQLite looks before it adds this one
        await self.desk.do(person(3, "长" * 33_000))
        assert (await capture.state()).gave_way >= 1

    async def test_status_tells_how_near_capture_is_to_giving_way(self, capture: Capture) -> None:
        await capture.install(LAYOUTS, 40)
        token = await self.token(capture)
        empty = await capture.status()
        assert (empty.cap_rows, fill_percent(empty)) == (40, 0.0)
        for n in range(20):
            await self.desk.do(person(n))
        half = await capture.status()
        assert half.outbox_rows == 20
        assert 17 <= half.room_rows <= 21
        for n in range(20, 60):
            await self.desk.do(person(n))
        full = await capture.status()
        assert (full.room_rows, fill_percent(full)) == (0, 100.0)
        assert full.gave_way >= 60 - 40 - 1
        await capture.delete(token, [r.position for r in await capture.read(CAP)])
        await capture.state()
        empty = await capture.status()
        assert fill_percent(empty) == 0.0
        assert 35 <= empty.room_rows <= 40

    async def test_the_cap_counts_from_the_oldest_row_that_waits(self, capture: Capture) -> None:
        """Whatever was published behind it: a dataset that is held for ever fills no disk."""
        await capture.install(LAYOUTS, 40)
        token = await self.token(capture)
        for n in range(60):
            await self.desk.do(person(n))
            _, *others = await capture.read(CAP)
            await capture.delete(token, [row.position for row in others])
        assert (await capture.state()).gave_way >= 60 - 40 - 1
        full = await capture.status()
        assert (full.outbox_rows, full.room_rows, fill_percent(full)) == (1, 0, 100.0)
        (oldest,) = await capture.read(CAP)
        await capture.delete(token, [oldest.position])
        await capture.state()
        assert fill_percent(await capture.status()) == 0.0
        await self.desk.do(person("later"))
        assert [r.raw[0] for r in await capture.read(CAP)] == ["later"]

    async def test_signs_of_life_are_kept_and_a_zombie_does_not_overwrite_them(
        self, capture: Capture
    ) -> None:
        assert (await capture.status()).pulse is None
        old, new = await self.token(capture), await self.token(capture)
        said = Pulse(Publishing.GOING_ON, None, {"resident": "不可"}, 1_000_000, 90_000_000)
        await capture.tell(new, said)
        await capture.tell(old, Pulse(Publishing.STOPPED, "zombie", {}, 2, 91_000_000))
        await capture.tell(None, Pulse(Publishing.STOPPED, "stranger", {}, 2, 92_000_000))
        assert (await capture.status()).pulse == said
        # The same state goes on; another begins.
        await capture.tell(new, Pulse(Publishing.GOING_ON, None, {}, 95_000_000, 95_000_000))
        pulse = (await capture.status()).pulse
        assert pulse == Pulse(Publishing.GOING_ON, None, {}, 1_000_000, 95_000_000)
        stall = Pulse(Publishing.STALLED, "no broker", {}, 96_000_000, 97_000_000)
        await capture.tell(new, stall)
        assert (await capture.status()).pulse == stall
        # Who cannot take the system over may say why, once nobody else has spoken for long.
        refused = Pulse(Publishing.STOPPED, "wrong secret", {}, 200_000_000, 200_000_000)
        await capture.tell(None, refused)
        assert (await capture.status()).pulse == refused

    # --- the queue ------------------------------------------------------------------------

    async def test_rows_in_flight_and_held_datasets_are_left_out(self, capture: Capture) -> None:
        await self.desk.do(person(1), 'INSERT INTO "Steps" VALUES (1, 1, NULL)', person(2))
        one, step, two = await capture.read(10)
        assert await capture.read(1, [one.position]) == [step]
        assert await capture.read(10, [one.position], ["step"]) == [two]

    @pytest.mark.parametrize("every", [2, 40], ids=["scattered", "in_runs"])
    async def test_rows_between_those_that_are_in_flight_stay(
        self, capture: Capture, every: int
    ) -> None:
        """They are read while the others fly, and are there when those are forgotten."""
        await self.desk.do(*(person(n) for n in range(120)))
        rows = await capture.read(CAP)
        flying = [row.position for at, row in enumerate(rows) if at % every]
        left = rows[::every]
        assert await capture.read(CAP, flying) == left
        assert await capture.read(2, flying) == left[:2]
        await capture.delete(await self.token(capture), flying)
        assert await capture.read(CAP) == left

    async def test_deleting_needs_the_token(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        (row,) = await capture.read(10)
        old = await self.token(capture)
        new = await self.token(capture)
        with pytest.raises(Fenced):
            await capture.delete(old, [row.position])
        with pytest.raises(Fenced):
            await capture.prepare(old, Prepared(drop=[row.position]), sends=True)
        assert len(await capture.read(10)) == 1
        assert (await capture.state()).publication == 0
        await capture.delete(new, [row.position])
        assert await capture.read(10) == []

    async def test_what_is_prepared_is_remembered(self, capture: Capture) -> None:
        token = await self.token(capture)
        await self.desk.do(person(1), person(2))
        first, _ = await capture.read(10)
        key, other = ("resident", b"k" * 16), ("resident", b"o" * 16)
        prepared = Prepared(
            drop=[first.position],
            places={key: ("p1", "p2")},
            variants={key: (Variant('["a"]', HOLDS), Variant('["A"]', PARKED))},
            park=[Parked("resident", '["1"]', "bad_value", "Full Name", first.position)],
            wanted=[Wanted("resident", '["2"]', None, "live", None)] * 2,
            version=first.position,
        )
        assert await capture.prepare(token, prepared, sends=True) == 1
        found = await capture.known([key, other])
        assert set(found) == {key}
        assert found[key].places == ("p1", "p2")
        assert set(found[key].variants) == {Variant('["a"]', HOLDS), Variant('["A"]', PARKED)}
        assert await capture.parked() == {("resident", '["1"]')}
        status = await capture.status()
        assert (status.outbox_rows, status.wanted, dict(status.parked)) == (1, 1, {"bad_value": 1})
        put_back = Prepared(places={key: ("p9",)}, publication=9)
        for one in (put_back, Prepared(publication=9)):
            with pytest.raises(SourceRefused, match="restored from a backup"):
                await capture.prepare(token, one, sends=True)
        again = Prepared(variants={key: (Variant('["a"]', GONE),)}, unpark=[("resident", '["1"]')])
        assert await capture.prepare(token, again, sends=False) == 0
        assert await capture.parked() == set()
        after = (await capture.known([key]))[key]
        assert after.places == ("p1", "p2")
        assert set(after.variants) == {Variant('["A"]', PARKED), Variant('["a"]', GONE)}
        state = await capture.state()
        assert (state.publication, state.version) == (1, first.position)

    async def test_a_commit_wakes_the_reader(self, capture: Capture) -> None:
        until = asyncio.get_running_loop().time() + 20
        assert await capture.read(10) == []
        while await capture.wait(0.05):  # the echo of what was before
            assert await capture.read(10) == []
            assert asyncio.get_running_loop().time() < until
        waiting = asyncio.create_task(capture.wait(20))
        await asyncio.sleep(0)
        await self.desk.do(person(1))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await waiting is True
        assert loop.time() - begun < 2
        assert len(await capture.read(10)) == 1

    async def test_a_commit_between_reading_and_waiting_is_not_slept_through(
        self, capture: Capture
    ) -> None:
        for n in range(20):
            await capture.read(CAP)
            await self.desk.do(person(n))
            assert await capture.wait(20) is True

    async def test_eight_writers_with_rollbacks_lose_nothing_and_keep_the_order(
        self, capture: Capture, where: Any
    ) -> None:
        consumed = await self.consume_under_writers(capture, where, _queue)
        await self.check_people(capture, consumed)
        self.check_order(consumed)

    async def consume_under_writers(
        self, capture: Capture, where: Any, read: Any
    ) -> list[OutboxRow]:
        """All that `read` gives while eight desks write, with rollbacks, until nothing is left."""
        token = await self.token(capture)
        desks = [await self.another_desk(where) for _ in range(8)]
        writers = [asyncio.create_task(_write(d, random.Random(n))) for n, d in enumerate(desks)]
        consumed: list[OutboxRow] = []
        try:
            idle = 0
            while idle < 2:
                rows = await read(capture, consumed)
                consumed += rows
                await capture.delete(token, [r.position for r in rows])
                if all(w.done() for w in writers):
                    idle += not rows
                await asyncio.sleep(0)
            await asyncio.gather(*writers)
        finally:
            for desk in desks:
                await desk.close()
        return consumed

    def check_order(self, consumed: Sequence[OutboxRow]) -> None:
        """As they were read, the versions of each key grow."""
        last: dict[Any, int] = {}
        for row in consumed:
            assert row.position > last.get(row.raw, 0)
            last[row.raw] = row.position

    # --- existing rows --------------------------------------------------------------------

    async def test_a_snapshot_enqueues_every_row_once_and_goes_on_after_a_kill(
        self, where: Any
    ) -> None:
        await self.desk.do(*[person(n, f"n{n}") for n in range(95)])
        capture = await self.another_capture(where)
        await capture.install(LAYOUTS, CAP)
        await capture.begin_snapshot("resident", "snapshot", None)
        for _ in range(4):
            assert (await capture.advance_snapshot("resident", 10)).done is False
        await capture.close()
        capture = await self.another_capture(where)
        try:
            await capture.begin_snapshot("resident", "snapshot", None)
            while not (await capture.advance_snapshot("resident", 10)).done:
                pass
            rows = await capture.read(CAP)
            assert len(rows) == 95
            assert {r.cause for r in rows} == {"snapshot"}
            await self.check_people(capture, rows)
            assert (await capture.open_snapshots()) == ()
            assert (await capture.status()).snapshots[0].enqueued == 95
        finally:
            await capture.close()

    async def test_what_a_snapshot_enqueues_wakes_the_reader(self, capture: Capture) -> None:
        await self.desk.do(person(1))
        await capture.begin_snapshot("resident", "snapshot", None)
        (live,) = await capture.read(10)
        await capture.delete(await self.token(capture), [live.position])
        loop = asyncio.get_running_loop()
        until = loop.time() + 20
        while await capture.wait(0.05):  # the echo of what was before
            assert await capture.read(10) == []
            assert loop.time() < until
        waiting = asyncio.create_task(capture.wait(20))
        await asyncio.sleep(0)
        begun = loop.time()
        assert (await capture.advance_snapshot("resident", 10)).enqueued == 1
        assert await waiting is True
        assert loop.time() - begun < 5

    async def test_a_snapshot_never_overwrites_a_live_change(self, capture: Capture) -> None:
        await self.desk.do(*[person(n, "old") for n in range(40)])
        await capture.begin_snapshot("resident", "snapshot", None)
        done = False
        turn = 0
        while not done:
            done = (await capture.advance_snapshot("resident", 7)).done
            await self.desk.do(
                f'UPDATE "居民 Table" SET "Full Name" = \'new {turn}\' '
                f"WHERE \"证件号\" IN ('{turn}', '{39 - turn}')",
                f'DELETE FROM "居民 Table" WHERE "证件号" = \'{turn + 20}\'',
            )
            turn += 1
        await self.check_people(capture)

    async def test_a_snapshot_with_two_key_columns(self, capture: Capture) -> None:
        await self.desk.do(
            *[f'INSERT INTO "Steps" VALUES ({f}, {s}, NULL)' for f in range(9) for s in range(9)]
        )
        await capture.begin_snapshot("step", "resend", "job 1")
        while not (await capture.advance_snapshot("step", 10)).done:
            pass
        rows = [r for r in await capture.read(CAP) if r.cause == "resend"]
        assert len({tuple(map(str, r.raw)) for r in rows}) == len(rows) == 81
        assert {r.job for r in rows} == {"job 1"}

    async def test_wanted_rows_come_as_they_are_and_gone_ones_as_deletes(
        self, capture: Capture
    ) -> None:
        await self.desk.do(person(1, "李"))
        await capture.want(
            [
                Wanted("resident", '["1"]', None, "resend", "r1"),
                Wanted("resident", '["2"]', None, "resend", "r1"),
            ]
        )
        await self.work_off(capture)
        rows = (await capture.read(10))[1:]
        found = {r.raw[0]: (r.op, r.cause, r.job) for r in rows}
        assert found == {"1": ("u", "resend", "r1"), "2": ("d", "resend", "r1")}
        assert (await capture.status()).wanted == 0

    async def test_a_key_whose_row_is_found_and_one_whose_row_is_gone(
        self, capture: Capture
    ) -> None:
        await self.desk.do(person(1, "李"))
        gone, there, never = (
            Wanted("resident", None, bytes([n]) * 16, "resend", None) for n in range(3)
        )
        await capture.want([gone, there, never])
        to_find = await self.work_off(capture, by_key=3)
        assert {w.key for w in to_find} == {gone.key, there.key, never.key}
        # Inserted after the version of the delete was drawn: it must win.
        await self.desk.do(person(2))
        assert [tuple(map(str, k)) for k in await capture.keys_after("resident", None, 9)] == [
            ("1",),
            ("2",),
        ]
        await capture.resolve(
            "resident",
            [Sought(gone, None, True), Sought(there, ("1",), True), Sought(never, None, False)],
        )
        rows = await capture.read(10)
        deleted = next(r for r in rows if r.key == gone.key)
        assert deleted.op == "d"
        assert deleted.position < next(r for r in rows if r.raw == ("2",)).position
        assert [r.op for r in rows if r.raw == ("1",)] == ["u", "u"]
        assert all(r.key != never.key for r in rows)
        assert (await capture.status()).wanted == 0

    async def test_many_wanted_by_key_are_told_at_once_and_once_each(
        self, capture: Capture
    ) -> None:
        """Looking for one takes a walk over the table, as looking for all of them does; and those
        that are looked for do not keep others from being worked off."""
        keys = [n.to_bytes(16, "big") for n in range(300)]
        await self.desk.do(person("x"))
        await capture.want_keys("resident", keys, "resend", "a")
        await capture.want_keys("resident", keys[:7], "resend", "a")
        assert (await capture.status()).wanted == 300
        to_find = await self.work_off(capture, by_key=300)
        assert {w.key for w in to_find} == set(keys)
        await capture.want([Wanted("resident", '["x"]', None, "resend", "b")])
        assert len(await self.work_off(capture, by_key=300)) == 300
        assert (await capture.read(10))[-1].job == "b"
        told = await capture.wanted("resident", 1000)
        assert {(w.key, w.raw, w.job) for w in told} == {(key, None, "a") for key in keys}
        assert len(await capture.wanted("resident", 10)) == 10
        assert await capture.wanted("another", 10) == []
        await capture.resolve("resident", [Sought(w, None, True) for w in to_find])
        assert (await capture.status()).wanted == 0
        deleted = [r for r in await capture.read(1000) if r.key is not None]
        assert len({r.position for r in deleted}) == len({r.key for r in deleted}) == 300

    async def test_rows_of_own_keys_and_why_rows_are_parked(self, capture: Capture) -> None:
        await self.desk.do(person("x", "李"), person("y", "王"), person("z"))
        found = await capture.rows_of("resident", [("y",), ("gone",), ("x",), ("X",)])
        assert [row.raw for row in found] == [("y",), ("x",)]
        assert found == [
            row
            for raw in (("y",), ("x",))
            for row in await capture.rows_after("resident", None, 10)
            if row.raw == raw
        ]
        token = await self.token(capture)
        parked = Prepared(park=[Parked("resident", '["z"]', "bad_value", None, 1)])
        await capture.prepare(token, parked, sends=False)
        assert await capture.reasons("resident") == {'["z"]': "bad_value"}
        assert await capture.reasons("another") == {}

    async def work_off(self, capture: Capture, by_key: int = 0) -> list[Wanted]:
        """Until nothing is left but those that name a bus key."""
        until = asyncio.get_running_loop().time() + 20
        while True:
            _, to_find = await capture.work_off(100)
            if len(to_find) == by_key and (await capture.status()).wanted == by_key:
                return to_find
            assert asyncio.get_running_loop().time() < until, "wanted rows were not worked off"
            await asyncio.sleep(0.01)

    async def test_bears_and_backlog(self, capture: Capture) -> None:
        await self.desk.do(person("x"), person("y"))
        assert await capture.bears("resident", ("x",)) is True
        assert await capture.bears("resident", ("X",)) is False
        assert await capture.backlog(1) == 1
        assert await capture.backlog(10) == 2

    async def test_what_waits_is_told_without_counting_it_all(self, capture: Capture) -> None:
        assert await capture.waiting(10) == Waiting(0, None)
        before_us = time.time_ns() // 1000 - 1_000_000
        await self.desk.do(person("x"))
        await self.desk.do(*(person(n) for n in range(4)))
        waiting = await capture.waiting(100)
        assert waiting.rows == 5
        assert waiting.oldest_us is not None
        assert before_us < waiting.oldest_us <= time.time_ns() // 1000 + 1_000_000
        assert await capture.waiting(2) == waiting  # by the positions, where none is left out
        token = await self.token(capture)
        rows = await capture.read(10)
        await capture.delete(token, [row.position for row in rows[:2]])
        assert await capture.waiting(100) == Waiting(3, rows[2].source_time_us)

    async def test_parked_rows_are_wanted_again(self, capture: Capture) -> None:
        token = await self.token(capture)
        await self.desk.do(person(1))
        (row,) = await capture.read(10)
        parked = Parked("resident", '["1"]', "bad_value", None, row.position)
        await capture.prepare(token, Prepared(drop=[row.position], park=[parked]), sends=False)
        assert await capture.retry_parked("live") == 1
        await self.work_off(capture)
        assert [(r.op, r.raw) for r in await capture.read(10)] == [("u", ("1",))]

    # --- resync ---------------------------------------------------------------------------

    async def test_rows_are_read_as_the_outbox_has_them(self, capture: Capture) -> None:
        """Chunk by chunk, in the order of their keys, and just those that triggers would capture:
        value by value, published columns only."""
        await self.desk.do(
            *[person(n, None if n % 3 else "名", "p''1") for n in range(5)],
            'INSERT INTO "Steps" VALUES (2, 10, NULL)',
            "INSERT INTO \"Steps\" VALUES (2, 9, 'x')",
            "INSERT INTO \"Steps\" VALUES (1, 11, 'y')",
        )
        captured = {(r.dataset, r.raw): r.values for r in await capture.read(100)}
        for dataset, count in (("resident", 5), ("step", 3)):
            read: list[OutboxRow] = []
            while chunk := await capture.rows_after(dataset, read[-1].raw if read else None, 2):
                read += chunk
            assert len(read) == count
            assert [row.raw for row in read] == await capture.keys_after(dataset, None, 10)
            assert {(row.dataset, row.raw): row.values for row in read} == {
                place: values for place, values in captured.items() if place[0] == dataset
            }

    async def test_deletes_take_versions_that_were_reserved(self, capture: Capture) -> None:
        token = await self.token(capture)
        await self.desk.do(person(1))
        first = await capture.reserve(token, 5)
        await self.desk.do(person(2))
        await capture.enqueue_deletes(token, "resident", [(b"k" * 16, first)], "resend", "j")
        rows = await capture.read(10)
        assert [(r.op, r.key) for r in rows] == [("u", None), ("d", b"k" * 16), ("u", None)]
        assert [r.raw for r in rows if r.key is None] == [("1",), ("2",)]
        assert rows[0].position < rows[1].position == first
        assert rows[2].position >= first + 5
        assert (rows[1].cause, rows[1].job) == ("resend", "j")
        # And room for live changes is left as it was.
        assert (await capture.state()).gave_way == 0

    async def test_reserving_needs_the_token(self, capture: Capture) -> None:
        await self.token(capture)
        with pytest.raises(Fenced):
            await capture.reserve(b"another!", 1)
        with pytest.raises(Fenced):
            await capture.enqueue_deletes(b"another!", "resident", [(b"k" * 16, 1)], "resend", "j")
        assert await capture.read(10) == []

    async def test_present_rows_are_enqueued_and_gone_ones_deleted(self, capture: Capture) -> None:
        await self.desk.do(person(1), person(2))
        token = await self.token(capture)
        await capture.delete(token, [r.position for r in await capture.read(10)])
        await capture.enqueue("resident", [("2",), ("3",)], "resend", "j")
        assert await capture.is_pending("j")
        assert not await capture.is_pending("other")
        await self.work_off(capture)
        rows = await capture.read(10)
        assert [(r.op, r.raw, r.cause, r.job) for r in rows] == [
            ("u", ("2",), "resend", "j"),
            ("d", ("3",), "resend", "j"),
        ]
        await capture.delete(token, [r.position for r in rows])
        assert not await capture.is_pending("j")

    async def test_a_lift_keeps_the_order_and_makes_room(self, capture: Capture) -> None:
        token = await self.token(capture)
        await self.desk.do(person(1), person(2))
        await capture.lift(token, 7, 1_000)
        await self.desk.do(person(3))
        rows = await capture.read(10)
        assert [r.raw for r in rows] == [("1",), ("2",), ("3",)]
        assert 1_000 < rows[0].position < rows[1].position < rows[2].position
        state = await capture.state()
        assert (state.publication, state.version, state.gave_way) == (7, 1_000, 1)
        await capture.forgive(token, 1)
        assert (await capture.state()).gave_way == 0

    async def test_a_lift_draws_no_more_than_waits(self, capture: Capture) -> None:
        """A resync by cron, for years, leaves versions for the one that is needed."""
        token = await self.token(capture)
        await self.desk.do(person(1))
        await capture.lift(token, 7, 2**40)
        await self.desk.do(person(2))
        highest = 0
        for _ in range(60):
            rows = await capture.read(10)
            assert [r.raw for r in rows] == [("1",), ("2",)]
            assert max(highest, 2**40) < rows[0].position < rows[1].position
            highest = rows[1].position
            await capture.lift(token, 7, 2**40)
        await capture.delete(token, [r.position for r in await capture.read(10)])
        for _ in range(60):
            await capture.lift(token, 7, highest)
        await self.desk.do(person(3))
        (last,) = await capture.read(10)
        assert highest < last.position < 2**40 + 2**30


async def _queue(capture: Capture, consumed: list[OutboxRow]) -> list[OutboxRow]:
    return await capture.read(50)


async def cursor_instead_of_queue(capture: Capture, consumed: list[OutboxRow]) -> list[OutboxRow]:
    """The planted bug: go on behind the highest position that was read."""
    last = max((r.position for r in consumed), default=0)
    return [r for r in await capture.read(CAP) if r.position > last][:50]


async def _write(desk: Desk, chance: random.Random) -> None:
    """Sixty transactions of a clerk: some rolled back, all over the same few keys."""
    for _ in range(60):
        number = chance.randrange(12)
        statements = [
            f'DELETE FROM "居民 Table" WHERE "证件号" = \'{number}\''
            if chance.random() < 0.3
            else person(number, f"n{chance.randrange(1000)}")
            + ' ON CONFLICT ("证件号") DO UPDATE SET "Full Name" = excluded."Full Name"'
        ]
        if chance.random() < 0.3:
            statements.append(
                'UPDATE "居民 Table" SET "Full Name" = \'all\' WHERE "证件号" > \'8\''
            )
        with suppress(DeptbusError):
            await desk.do(*statements, rollback=chance.random() < 0.25)
