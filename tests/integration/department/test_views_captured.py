"""A dataset that is a view over several tables, in both databases: nothing lost, nothing stale."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from capture_suite import CAP, fold
from fault_desks import SourceDesk, running, until
from odd_tables import COMMON
from source_world import PLACES

from deptbus.change import ChangeOp
from deptbus.connection import Connection
from deptbus.contract.department import Behind, load_department
from deptbus.department import fence
from deptbus.department.capture import LIVE
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.raw import raw_text

pytestmark = pytest.mark.service

(ODD,) = (odd for odd in COMMON if odd.name == "a view over several tables")
LOADED = [
    "INSERT INTO village VALUES ('v1', 'one'), ('v2', 'two')",
    "INSERT INTO person VALUES (1, 'n1', 'li'), (2, 'n2', 'wang')",
    "INSERT INTO address VALUES (1, 's', 'v1'), (2, 's', 'v1')",
]


class Registry:
    """The tables and their view in PostgreSQL, captured."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Registry:
        self.own = await asyncpg.connect(self.url)
        for statement in (*ODD.make, *LOADED):
            await self.own.execute(statement)
        target = target_of(self.url)
        self.capture = await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )
        await self.capture.install([ODD.layout], CAP)
        taken = await fence.take_over(self.capture.database, 0, unit="u@33", system="main")
        self.token = taken.token
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.capture.close()
        await self.own.close()

    async def look(self) -> int:
        return await self.capture.look_again(self.token, CAP, ())

    async def is_equal(self) -> bool:
        rows = await self.own.fetch("SELECT id_no, name, street, village FROM resident")
        return fold(await self.capture.read(CAP)) == {(r[0],): tuple(r) for r in rows}


async def test_a_load_and_what_changes_nothing(postgres: Callable[[], str]) -> None:
    async with Registry(postgres()) as registry:
        capture = registry.capture
        await capture.begin_snapshot("odd", "snapshot", None)
        while not (done := await capture.advance_snapshot("odd", 1)).done:
            pass
        assert done.enqueued == 2
        assert await registry.is_equal()
        # A column that the view has and the mapping has not; the same value once more.
        await registry.own.execute("UPDATE village SET title = 'other'; UPDATE person SET id = id")
        assert await registry.look() > 0
        assert len(await capture.read(CAP)) == 2
        await capture.enqueue("odd", [("n1",), ("n7",)], "resend", "j")
        assert [r.raw for r in (await capture.read(CAP))[2:]] == [("n1",)]
        assert [w.raw for w in await capture.wanted("odd", 9)] == [raw_text(("n7",))]
        assert [r.raw for r in await capture.rows_after("odd", ("n1",), 9)] == [("n2",)]


async def test_what_is_rolled_back_and_what_is_held_is_not_enqueued(
    postgres: Callable[[], str],
) -> None:
    async with Registry(postgres()) as registry:
        transaction = registry.own.transaction()
        await transaction.start()
        await registry.own.execute("UPDATE person SET name = 'never'")
        await transaction.rollback()
        assert await registry.look() == 0
        await registry.own.execute("UPDATE person SET name = 'held'")
        assert await registry.capture.look_again(registry.token, CAP, {"odd"}) == 0
        assert (await registry.capture.status()).outbox_rows == 2
        assert {w.raw for w in await registry.capture.wanted("odd", 9)} == {
            raw_text(("n1",)),
            raw_text(("n2",)),
        }
        assert await registry.look() == 2
        assert await registry.is_equal()


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "planted"])
async def test_two_who_change_one_record_at_once(
    postgres: Callable[[], str], is_naive: bool
) -> None:
    """Neither sees what the other writes. Planted: each writes the record as it sees it."""
    async with Registry(postgres()) as registry:
        other = await asyncpg.connect(registry.url)
        naive = (
            "INSERT INTO deptbus.outbox (position, layout, op, cause, source_time_us, raw, vals) "
            f"SELECT nextval('deptbus.position'), {ODD.layout.number}, 'u', 'live', 0, "
            "ARRAY[id_no], ARRAY[id_no, name, street, village] FROM resident WHERE id_no = 'n1'"
        )
        try:
            for clerk in (registry.own, other):
                await clerk.execute("BEGIN")
            await registry.own.execute("UPDATE person SET name = 'new' WHERE id = 1")
            await other.execute("UPDATE address SET village = 'v2' WHERE person = 1")
            for clerk in (registry.own, other):
                if is_naive:
                    await clerk.execute(naive)
            for clerk in (registry.own, other):
                await clerk.execute("COMMIT")
                if not is_naive:
                    await registry.look()
        finally:
            await other.close()
        last = fold(await registry.capture.read(CAP))[("n1",)]
        assert (last == ("n1", "new", "s", "v2")) is not is_naive


async def test_many_clerks_over_the_same_few_people(postgres: Callable[[], str]) -> None:
    async with Registry(postgres()) as registry:
        looking = asyncio.create_task(_look_always(registry))
        await asyncio.gather(*(_clerk(registry.url, seed) for seed in range(6)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        while await registry.look():
            pass
        assert await registry.is_equal()
        assert (await registry.capture.state()).gave_way == 0


async def _look_always(registry: Registry) -> None:
    while True:
        await registry.capture.look_again(registry.token, 3, ())
        await asyncio.sleep(0)


async def _clerk(url: str, seed: int) -> None:
    chance = random.Random(seed)
    own = await asyncpg.connect(url)
    kinds: list[Callable[[int, int], str]] = [
        lambda n, x: f"UPDATE person SET name = 'x{x}' WHERE id = {n}",
        lambda n, x: f"UPDATE address SET village = 'v{x % 2 + 1}' WHERE person = {n}",
        lambda n, x: f"DELETE FROM address WHERE person = {n}",
        lambda n, x: f"INSERT INTO address VALUES ({n}, 's{x}', 'v1') ON CONFLICT DO NOTHING",
        lambda n, x: f"UPDATE village SET title = 't{x}' WHERE code = 'v1'",
        lambda n, x: f"UPDATE person SET id_no = 'n{n}x{x % 2}' WHERE id = {n}",
    ]
    try:
        for _ in range(40):
            transaction = own.transaction()
            await transaction.start()
            try:
                for _ in range(chance.randrange(1, 3)):
                    statement = chance.choice(kinds)(chance.randrange(1, 3), chance.randrange(99))
                    await own.execute(statement)
            except asyncpg.DeadlockDetectedError:
                await transaction.rollback()  # the clerks' own: they lock people in any order
                continue
            await (transaction.rollback() if chance.random() < 0.2 else transaction.commit())
    finally:
        await own.close()


async def test_in_sqlite_a_load_and_what_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        for statement in (*ODD.make, *LOADED):
            own.execute(statement)
        capture = SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
        try:
            await capture.install([ODD.layout], CAP)
            taken = await fence.take_over(capture.database, 0, unit="u@33", system="main")
            await capture.begin_snapshot("odd", "snapshot", None)
            while not (await capture.advance_snapshot("odd", 1)).done:
                pass
            assert len(await capture.read(CAP)) == 2
            own.execute("UPDATE village SET title = 'other'")
            own.execute("UPDATE person SET name = 'new' WHERE id = 2")
            assert {w.raw for w in await capture.wanted("odd", 9)} == {
                raw_text(("n1",)),
                raw_text(("n2",)),
            }
            await capture.look_again(taken.token, CAP, ())
            rows = (await capture.read(CAP))[2:]
            assert [(r.raw, r.cause) for r in rows] == [(("n2",), LIVE)]
            await capture.want_keys("odd", [b"k" * 16], "resend", "j")
        finally:
            await capture.close()


# --- published ----------------------------------------------------------------------------------

TABLES = (
    "CREATE TABLE persons (身份证 TEXT PRIMARY KEY, 姓名 TEXT, sex INTEGER, born TEXT, firm TEXT)",
    "CREATE TABLE homes (person TEXT PRIMARY KEY, area TEXT)",
    "CREATE VIEW people AS SELECT p.*, h.area FROM persons p JOIN homes h ON h.person = p.身份证",
)
BEHIND = {
    "persons": Behind(key={"身份证": "身份证"}),
    "homes": Behind(through="persons", on={"person": "身份证"}),
}


class ViewDesk(SourceDesk):
    """Publishes `person` from a view over two tables."""

    async def open(self) -> ViewDesk:
        path = self.folder / "department.yml"
        settings = json.loads(path.read_text("utf-8"))
        publish = settings["systems"]["main"]["publishes"]["person"]
        publish["tables"] = {t: b.model_dump(exclude_defaults=True) for t, b in BEHIND.items()}
        path.write_text(json.dumps(settings), "utf-8")
        self.department = load_department(path)
        await self.sql(*TABLES)
        await super().open()
        return self

    async def sql(self, *statements: str) -> None:
        """But for the table that any other desk has."""
        await super().sql(*(s for s in statements if not s.startswith("CREATE TABLE people")))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_records_of_two_tables_are_published_as_one(
    broker: Connection, postgres: Callable[[], str], tmp_path: Path, kind: str
) -> None:
    desk = await ViewDesk(broker, tmp_path, postgres() if kind == "postgres" else None).open()
    id_no = "{:018}"
    async with running(broker, [desk]):
        for n in range(1, 4):
            await desk.sql(
                f"INSERT INTO persons (身份证, 姓名, sex) VALUES ('{id_no.format(n)}', 'a', 1)",
                f"INSERT INTO homes VALUES ('{id_no.format(n)}', '{PLACES[0]}')",
            )
        await until(desk.is_published, "the first rows")
        await desk.sql("UPDATE persons SET 姓名 = 'b'", f"UPDATE homes SET area = '{PLACES[1]}'")
        await until(desk.is_published, "both halves")
        await desk.sql(f"DELETE FROM homes WHERE person = '{id_no.format(2)}'")
        await until(desk.is_published, "what is gone")
        last = (await desk.changes())[-1]
        assert (last.op, last.division, last.former_divisions) == (
            ChangeOp.DELETE,
            PLACES[1],
            (PLACES[0],),
        )
    assert (await desk.status()).gave_way == 0
