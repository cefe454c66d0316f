"""A dataset that is a view over several tables, in both databases: nothing lost, nothing stale."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from capture_suite import CAP, fold
from fault_desks import SourceDesk, running, until
from odd_tables import COMMON
from source_world import PLACES

from deptbus.change import ChangeOp
from deptbus.cli.main import run
from deptbus.connection import Connection
from deptbus.contract.department import Behind, load_department
from deptbus.department import fence, postgres_install
from deptbus.department.capture import LIVE
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.postgres_view import ViewFunctions
from deptbus.department.raw import raw_text
from deptbus.errors import Exit, SourceRefused

pytestmark = pytest.mark.service

(ODD,) = (odd for odd in COMMON if odd.name == "a view over several tables")
# With something of the village that each of its people has.
TITLED = replace(ODD.layout, columns=("id_no", "name", "street", "village", "title"))
LOADED = [
    "INSERT INTO village VALUES ('v1', 'one'), ('v2', 'two')",
    "INSERT INTO person VALUES (1, 'n1', 'li'), (2, 'n2', 'wang')",
    "INSERT INTO address VALUES (1, 's', 'v1'), (2, 's', 'v1')",
]


class Registry:
    """The tables and their view in PostgreSQL, captured."""

    def __init__(self, url: str, layout: Layout = ODD.layout) -> None:
        self.url, self.layout = url, layout

    async def __aenter__(self) -> Registry:
        self.own = await asyncpg.connect(self.url)
        for statement in (*ODD.make, *LOADED):
            await self.own.execute(statement)
        target = target_of(self.url)
        self.capture = await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )
        await self.capture.install([self.layout], CAP)
        taken = await fence.take_over(self.capture.database, 0, unit="u@33", system="main")
        self.token = taken.token
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.capture.close()
        await self.own.close()

    async def look(self) -> int:
        return await self.capture.look_again(self.token, CAP, ())

    async def is_equal(self) -> bool:
        rows = await self.own.fetch(f"SELECT {', '.join(self.layout.columns)} FROM resident")
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


class JoinsWhenWritten(ViewFunctions):
    """Planted: who a row of the village touches is found when it is written."""

    def _touch(self, number: int, rows: str) -> str:
        if self._layout.parts[number].table != "village":
            return super()._touch(number, rows)
        return self._note(
            f"SELECT DISTINCT ARRAY[q.id_no::text]::text[] AS raw FROM {rows} p "
            "JOIN public.address a ON a.village = p.code JOIN public.person q ON q.id = a.person"
        )


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
@pytest.mark.parametrize("is_planted", [False, True], ids=["as it is", "planted"])
async def test_a_village_gets_another_name_while_somebody_moves_there(
    postgres: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    is_planted: bool,
    isolation: str,
) -> None:
    """Who moves has been looked at before the name is committed, which he was not seen for."""
    if is_planted:
        monkeypatch.setattr(postgres_install, "ViewFunctions", JoinsWhenWritten)
    async with Registry(postgres(), TITLED) as registry:
        other = await asyncpg.connect(registry.url)
        try:
            for clerk in (registry.own, other):
                await clerk.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            await registry.own.execute("UPDATE village SET title = 'new' WHERE code = 'v1'")
            await other.execute("INSERT INTO person VALUES (3, 'n3', 'zhao')")
            await other.execute("INSERT INTO address VALUES (3, 's', 'v1')")
            await other.execute("COMMIT")
            assert await registry.look() > 0
            assert fold(await registry.capture.read(CAP))[("n3",)][-1] == "one"
            await registry.own.execute("COMMIT")
        finally:
            await other.close()
        while await registry.look():
            pass
        last = fold(await registry.capture.read(CAP))[("n3",)]
        assert last[-1] == ("one" if is_planted else "new")
        # A planted miss is of this one alone.
        assert fold(await registry.capture.read(CAP))[("n1",)][-1] == "new"


async def test_a_row_that_many_records_share_is_one_note(postgres: Callable[[], str]) -> None:
    """And what it touched is taken some at a time, wanted by name, and as if never compared when a
    resync is over."""
    async with Registry(postgres(), TITLED) as registry:
        await registry.own.execute(
            "INSERT INTO person SELECT n, 'n' || n, 'x' FROM generate_series(3, 30) n; "
            "INSERT INTO address SELECT n, 's', 'v2' FROM generate_series(3, 30) n; "
            "UPDATE person SET name = 'known' WHERE id < 3"
        )
        while await registry.look():
            pass
        assert await registry.is_equal()
        drawn = await registry.own.fetchval("SELECT last_value FROM deptbus.position")
        await registry.own.execute("UPDATE village SET title = 'new' WHERE code = 'v2'")
        assert await registry.own.fetchval("SELECT count(*) FROM deptbus.touched") == 1
        names = {raw_text((f"n{n}",)) for n in range(3, 31)}
        assert {w.raw for w in await registry.capture.wanted("odd", 99)} == names
        assert len(await registry.capture.wanted("odd", 9)) == 9
        assert await registry.capture.look_again(registry.token, 5, ()) > 0
        assert len(await registry.capture.wanted("odd", 99)) == 23
        # The department's own room in the outbox went down by the note and by what was enqueued.
        now = await registry.own.fetchval("SELECT last_value FROM deptbus.position")
        assert now == drawn + 1 + 5
        await registry.own.execute("UPDATE village SET title = 'newer' WHERE code = 'v2'")
        await registry.capture.forgive(registry.token, 0)
        touched = "SELECT count(*) FROM deptbus.shown WHERE digest = ''"
        assert await registry.own.fetchval(touched) == 28
        while await registry.look():
            pass
        assert await registry.is_equal()
        assert await registry.own.fetchval("SELECT count(*) FROM deptbus.touched") == 0


MANY = "INSERT INTO person SELECT n, repeat('0', 11) || n, 'x' FROM generate_series({}, {}) n"


async def test_notes_keep_to_the_cap_in_bytes(postgres: Callable[[], str]) -> None:
    """Also those of a dataset that is held, while others are published and make room."""
    async with Registry(postgres()) as registry:
        capture, own = registry.capture, registry.own
        await capture.install([registry.layout], CAP * 10, 1)
        await own.execute(MANY.format(1001, 9000))
        assert await capture.look_again(registry.token, CAP, ["odd"]) == 0
        assert (await capture.state()).gave_way == 0  # makes room, where there is some
        status = await capture.status()
        assert 0 < status.outbox_kib <= status.cap_kib == 1024
        await own.execute(MANY.format(9001, 17000))
        assert (await capture.state()).gave_way == 1
        assert (await capture.status()).outbox_rows == 8000
        while await registry.look():
            pass
        await capture.state()
        assert (await capture.status()).outbox_kib == 0
        await own.execute(MANY.format(20001, 25000))
        assert (await capture.status()).outbox_rows == 5000


async def test_in_sqlite_notes_keep_to_the_cap_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        for statement in ODD.make:
            own.execute(statement)
        capture = SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
        try:
            await capture.install([ODD.layout], CAP, 1)
            own.execute("BEGIN")
            for n in range(2000):
                own.execute("INSERT INTO person VALUES (?, ?, 'x')", (n, f"{n:01000}"))
            own.execute("COMMIT")
            (noted,) = own.execute("SELECT count(*) FROM deptbus_touched").fetchone()
            assert 500 < noted < 1100
            gave_way = (await capture.state()).gave_way
            assert gave_way >= 2000 - noted
        finally:
            await capture.close()


async def test_a_column_of_the_join_that_was_retyped_is_walked_as_it_is_now(
    postgres: Callable[[], str],
) -> None:
    async with Registry(postgres(), TITLED) as registry:
        own = registry.own
        await own.execute("UPDATE address SET street = 'before' WHERE person = 1")
        definition = await own.fetchval("SELECT pg_get_viewdef('resident')")
        await own.execute(
            "DROP VIEW resident; ALTER TABLE address ALTER COLUMN person TYPE bigint; "
            f"CREATE VIEW resident AS {definition}"
        )
        await own.execute("UPDATE address SET street = 'after' WHERE person = 2")
        assert await registry.look() > 0
        found = fold(await registry.capture.read(CAP))
        assert [found[(n,)][2] for n in ("n1", "n2")] == ["before", "after"]
        assert (await registry.capture.state()).gave_way == 0


async def test_notes_that_cannot_be_read_any_more_are_made_good_by_a_resync(
    postgres: Callable[[], str],
) -> None:
    async with Registry(postgres(), TITLED) as registry:
        own = registry.own
        await own.execute("UPDATE village SET title = 'new' WHERE code = 'v1'")
        definition = await own.fetchval("SELECT pg_get_viewdef('resident')")
        number = "TYPE integer USING substr({}, 2)::integer"
        await own.execute(
            "DROP VIEW resident; "
            f"ALTER TABLE village ALTER COLUMN code {number.format('code')}; "
            f"ALTER TABLE address ALTER COLUMN village {number.format('village')}; "
            f"CREATE VIEW resident AS {definition}"
        )
        await own.execute("UPDATE person SET name = 'other' WHERE id = 2")
        while await registry.look():
            pass
        assert (await registry.capture.state()).gave_way == 1
        assert ("n2",) in fold(await registry.capture.read(CAP))


async def test_many_clerks_over_the_same_few_people(postgres: Callable[[], str]) -> None:
    async with Registry(postgres(), TITLED) as registry:
        done = asyncio.Event()
        looking = asyncio.create_task(_look_until(done, registry))
        await asyncio.gather(*(_clerk(registry.url, seed) for seed in range(6)))
        done.set()  # whoever is cancelled within a transaction loses its connection
        await looking
        while await registry.look():
            pass
        assert await registry.is_equal()
        assert (await registry.capture.state()).gave_way == 0


async def _look_until(done: asyncio.Event, registry: Registry) -> None:
    while not done.is_set():
        await registry.capture.look_again(registry.token, 3, ())
        await asyncio.sleep(0)


async def _clerk(url: str, seed: int) -> None:
    chance = random.Random(seed)
    own = await asyncpg.connect(url)
    # People 3 and 4 come, of whom nobody knows who does not see them.
    kinds: list[Callable[[int, int], str]] = [
        lambda n, x: f"INSERT INTO person VALUES ({n + 2}, 'm{n}', 'x') ON CONFLICT DO NOTHING",
        lambda n, x: f"INSERT INTO address VALUES ({n + 2}, 's', 'v1') ON CONFLICT DO NOTHING",
        lambda n, x: f"DELETE FROM address WHERE person = {n + 2}",
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


async def test_in_sqlite_nobody_moves_while_a_village_gets_another_name(tmp_path: Path) -> None:
    """The second writer waits for the first to end, so which records a row is in can be told when
    it is written."""
    path = tmp_path / "own.db"
    first, second = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(2))
    with closing(first), closing(second):
        first.execute("PRAGMA journal_mode = WAL")
        for statement in (*ODD.make, *LOADED):
            first.execute(statement)
        capture = SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
        try:
            await capture.install([TITLED], CAP)
            taken = await fence.take_over(capture.database, 0, unit="u@33", system="main")
            for clerk in (first, second):
                clerk.execute("BEGIN")
                clerk.execute("SELECT count(*) FROM person").fetchall()
            first.execute("UPDATE village SET title = 'new' WHERE code = 'v1'")
            came = "INSERT INTO person VALUES (3, 'n3', 'zhao')"
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                second.execute(came)
            first.execute("COMMIT")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                second.execute(came)  # what it has read is old
            second.execute("ROLLBACK")
            second.execute(came)
            second.execute("INSERT INTO address VALUES (3, 's', 'v1')")
            await capture.look_again(taken.token, CAP, ())
            found = fold(await capture.read(CAP))
            assert [found[(n,)][-1] for n in ("n1", "n2", "n3")] == ["new"] * 3
        finally:
            await capture.close()


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


OLDER = {
    # As installed before notes were of rows, before the byte cap, before removals were held.
    "sqlite": [
        (
            "ALTER TABLE deptbus_published DROP COLUMN limit_octets",
            "deptbus_published.limit_octets",
        ),
        ("ALTER TABLE deptbus_outbox DROP COLUMN mark", "deptbus_outbox.mark"),
        ("DROP TABLE deptbus_held", "deptbus_held"),
    ],
    "postgres": [
        ("DROP FUNCTION deptbus.person_reach(bigint[])", "deptbus.person_reach"),
        (
            "ALTER TABLE deptbus.touched DROP COLUMN part, DROP COLUMN kib",
            "deptbus.touched.part",
        ),
        ("DROP TABLE deptbus.held", "deptbus.held"),
        ("DROP SEQUENCE deptbus.volume", "deptbus.volume"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "older", "missing"),
    [(kind, *one) for kind, some in OLDER.items() for one in some],
)
async def test_what_an_older_deptbus_installed_is_named_with_its_mend(
    broker: Connection,
    postgres: Callable[[], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    older: str,
    missing: str,
) -> None:
    desk = await ViewDesk(broker, tmp_path, postgres() if kind == "postgres" else None).open()
    await desk.sql(older)
    said = (
        "dataset person: capture was installed by an older deptbus, or altered since "
        f"({missing} is missing)"
    )
    mend = "Run `deptbus department install --config FILE`"
    async with running(broker, [desk]) as (adapter,):
        assert isinstance(adapter.ended, SourceRefused)  # which `run` ends with, exit code 2
        assert said in str(adapter.ended)
        assert mend in str(adapter.ended)
    config = ["--config", str(desk.folder / "department.yml")]
    assert await asyncio.to_thread(run, ["department", "status", *config]) == Exit.ANSWER_IS_NO
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("main: "))
    assert said in line
    assert mend in line
    words = ["department", "snapshot", *config]
    assert await asyncio.to_thread(run, words) == Exit.COULD_NOT
    assert said in capsys.readouterr().err

    await desk.install()
    async with running(broker, [desk]):
        await desk.sql(
            "INSERT INTO persons (身份证, 姓名, sex) VALUES ('000000000000000001', 'a', 1)",
            f"INSERT INTO homes VALUES ('000000000000000001', '{PLACES[0]}')",
        )
        await until(desk.is_published, "the first row")
