"""What a view showed last is believed only where it is the last that was published."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from capture_suite import CAP
from fault_desks import running, until
from odd_tables import COMMON
from source_world import PLACES
from test_views_captured import LOADED, ViewDesk

from deptbus.connection import Connection
from deptbus.department import fence
from deptbus.department.capture import LIVE, Capture, Wanted
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.raw import raw_text

pytestmark = pytest.mark.service

(ODD,) = (odd for odd in COMMON if odd.name == "a view over several tables")
AS_A_TABLE = Layout("odd", "person", ("id_no",), ("id_no", "name"), None)
ONE = ("n1",)


class Books:
    """The tables and their view, captured and loaded; nothing waits in the outbox."""

    def __init__(self, capture: Capture, token: bytes, sql: Callable[..., Any]) -> None:
        self.capture = capture
        self.token = token
        self.sql = sql

    async def load(self) -> None:
        await self.capture.begin_snapshot("odd", "snapshot", None)
        while not (await self.capture.advance_snapshot("odd", 9)).done:
            pass
        await self.look()

    async def look(self) -> list[tuple[str, Any]]:
        """What a look at the touched records, and at what is wanted, enqueues; it is taken away."""
        await self.capture.look_again(self.token, CAP, ())
        while (await self.capture.work_off(CAP))[0]:
            pass
        rows = await self.capture.read(CAP)
        await self.capture.delete(self.token, [row.position for row in rows])
        return [(row.op, row.raw) for row in rows]

    async def unseen(self, *statements: str) -> None:
        """Writes that capture misses."""
        await self.capture.pause()
        for statement in statements:
            await self.sql(statement)
        await self.capture.install([ODD.layout], CAP)

    async def forgive(self) -> None:
        await self.capture.forgive(self.token, (await self.capture.state()).gave_way)


@asynccontextmanager
async def postgres_books(url: str) -> AsyncIterator[Books]:
    own = await asyncpg.connect(url)
    try:
        for statement in (*ODD.make, *LOADED):
            await own.execute(statement)
        target = target_of(url)
        capture = await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )
        try:
            yield await _taken(capture, own.execute)
        finally:
            await capture.close()
    finally:
        await own.close()


@asynccontextmanager
async def sqlite_books(path: Path) -> AsyncIterator[Books]:
    with closing(sqlite3.connect(path, isolation_level=None)) as own:

        async def sql(statement: str) -> None:
            own.execute(statement)

        for statement in (*ODD.make, *LOADED):
            await sql(statement)
        capture = SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{path}")))
        try:
            yield await _taken(capture, sql)
        finally:
            await capture.close()


async def _taken(capture: Capture, sql: Callable[..., Any]) -> Books:
    await capture.install([ODD.layout], CAP)
    taken = await fence.take_over(capture.database, 0, unit="u@33", system="main")
    return Books(capture, taken.token, sql)


@pytest.fixture(params=["sqlite", "postgres"])
async def books(
    request: pytest.FixtureRequest, postgres: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Books]:
    opened = (
        postgres_books(postgres())
        if request.param == "postgres"
        else sqlite_books(tmp_path / "own.db")
    )
    async with opened as made:
        yield made


async def test_what_is_wanted_is_enqueued_though_it_was_shown_so(books: Books) -> None:
    """A parked record is tried again as live, and so is the heir of a key."""
    await books.load()
    await books.capture.want([Wanted("odd", raw_text(ONE), None, LIVE, None)])
    assert await books.look() == [("u", ONE)]
    await books.sql("UPDATE person SET id = id")
    assert await books.look() == []  # what is only touched is not


async def test_a_removal_that_was_missed_is_not_taken_for_shown(books: Books) -> None:
    await books.load()
    await books.unseen("DELETE FROM address WHERE person = 1")
    # Which a resync found out, and published by the key of the bus.
    version = await books.capture.reserve(books.token, 1)
    key = b"k" * 16
    await books.capture.enqueue_deletes(books.token, "odd", [(key, version)], "resend", "resync")
    await books.forgive()
    assert [op for op, _ in await books.look()] == ["d"]
    await books.sql("INSERT INTO address VALUES (1, 's', 'v1')")
    assert await books.look() == [("u", ONE)]


async def test_while_something_is_missed_what_was_shown_counts_for_nothing(books: Books) -> None:
    """A record that is away just while a resync walks over the view is deleted by it."""
    await books.load()
    await books.capture.give_way()
    await books.sql("UPDATE person SET id = id WHERE id = 1")
    assert await books.look() == [("u", ONE)]
    await books.sql("UPDATE person SET id = id WHERE id = 2")
    await books.forgive()  # the note is looked at only now
    assert await books.look() == [("u", ("n2",))]
    await books.sql("UPDATE person SET id = id")
    assert await books.look() == []


async def test_what_goes_before_the_load_has_met_it_is_deleted(books: Books) -> None:
    """It may have been published before anything was remembered of what the view shows."""
    await books.sql("DELETE FROM address WHERE person = 1")
    assert await books.look() == []  # nobody loads: nothing was published
    await books.sql("INSERT INTO address VALUES (1, 's', 'v1')")
    await books.capture.begin_snapshot("odd", "snapshot", None)
    await books.sql("DELETE FROM address WHERE person = 2")
    assert sorted(await books.look()) == [("d", ("n2",)), ("u", ONE)]


async def test_of_a_table_nothing_is_remembered_as_shown(books: Books) -> None:
    await books.load()
    assert await books.capture.unshown() == []
    await books.capture.install([AS_A_TABLE], CAP)
    await books.capture.install([ODD.layout], CAP)
    assert await books.capture.unshown() == ["odd"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_view_of_which_nothing_is_remembered_is_published_anew(
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
    shown = "deptbus.shown" if kind == "postgres" else "deptbus_shown"
    await desk.sql(f"DELETE FROM {shown}")
    async with running(broker, [desk]):
        await until(lambda: _is_walked(desk), "what the view shows")
        await desk.sql(f"UPDATE homes SET area = '{PLACES[1]}' WHERE person = '{id_no.format(1)}'")
        await desk.sql(f"DELETE FROM homes WHERE person = '{id_no.format(2)}'")
        await until(desk.is_published, "what is gone")
        await until(lambda: _names_both(desk), "the place that it left")


async def _is_walked(desk: ViewDesk) -> bool:
    return [s.done for s in (await desk.status()).snapshots] == [True]


async def _names_both(desk: ViewDesk) -> bool:
    return any(
        (c.division, c.former_divisions) == (PLACES[1], (PLACES[0],)) for c in await desk.changes()
    )
