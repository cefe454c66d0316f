"""A source restored from last night's backup, in either database: 1,000 changes were made since and
are gone, 1,000 were typed behind the restore. The bus ends with what the table has; and one that
knows no publication number keeps what is gone."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from source_bus import BusSource, PostgresSource, SqliteSource
from source_world import PLACES, TABLE

from deptbus.connection import Connection
from deptbus.department import publisher
from deptbus.errors import SourceRefused

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

CHANGES = 1_000
PEOPLE = 400


def changes(seed: int) -> Iterator[str]:
    """Statements of one change each: new people, other names, moves there and back, people who go
    and come again."""
    draw = random.Random(seed)
    for number in range(CHANGES):
        who, kind = draw.randrange(PEOPLE), draw.random()
        if kind < 0.2:
            yield f"DELETE FROM people WHERE 身份证 = '{who}'"
        elif kind < 0.4:
            yield f"UPDATE people SET area = '{draw.choice(PLACES)}' WHERE 身份证 = '{who}'"
        else:
            yield (
                "INSERT INTO people (身份证, area, 姓名, sex) "
                f"VALUES ('{who}', '{draw.choice(PLACES)}', 's{seed}n{number}', 1) "
                "ON CONFLICT (身份证) DO UPDATE SET 姓名 = excluded.姓名, area = excluded.area"
            )


class OfSqlite:
    """The source, and the hands of whoever looks after its database."""

    def __init__(self, source: SqliteSource) -> None:
        self.source: BusSource = source
        self._file = source.path
        self._backup = source.path.with_suffix(".backup")

    async def type(self, seed: int) -> None:
        with closing(sqlite3.connect(self._file, timeout=30)) as connection:
            for number, statement in enumerate(changes(seed)):
                connection.execute(statement)
                if number % 10 == 9:
                    connection.commit()
                    await asyncio.sleep(0)
            connection.commit()

    async def table(self) -> dict[str, str]:
        with closing(sqlite3.connect(self._file, timeout=30)) as connection:
            return dict(connection.execute("SELECT 身份证, 姓名 FROM people"))

    async def back_up(self) -> None:
        with (
            closing(sqlite3.connect(self._file)) as have,
            closing(sqlite3.connect(self._backup)) as made,
        ):
            have.backup(made)

    async def restore(self) -> None:
        put_back(self._backup, self._file)


def put_back(backup: Path, file: Path) -> None:
    for end in ("-wal", "-shm"):
        Path(f"{file}{end}").unlink(missing_ok=True)
    shutil.copy(backup, file)


class OfPostgres:
    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self.source: BusSource = source
        self._server, _, self._name = source.url.rpartition("/")

    async def type(self, seed: int) -> None:
        statements = list(changes(seed))
        for at in range(0, CHANGES, 10):
            async with self._source.desk.transaction():
                for statement in statements[at : at + 10]:
                    await self._source.desk.execute(statement)

    async def table(self) -> dict[str, str]:
        rows = await self._source.desk.fetch("SELECT 身份证, 姓名 FROM people")
        return {row[0]: row[1] for row in rows}

    async def back_up(self) -> None:
        await self._copy(self._name, f"{self._name}_backup")

    async def restore(self) -> None:
        await self._copy(f"{self._name}_backup", self._name)

    async def _copy(self, database: str, to: str) -> None:
        """Nobody may be connected to what is copied."""
        await self._source.desk.close()
        hand = await asyncpg.connect(f"{self._server}/postgres")
        await hand.execute(f'DROP DATABASE IF EXISTS "{to}" WITH (FORCE)')
        await hand.execute(f'CREATE DATABASE "{to}" TEMPLATE "{database}"')
        await hand.close()
        self._source.desk = await asyncpg.connect(self._source.url)


@pytest.fixture(params=["sqlite", "postgres"])
async def office(
    request: pytest.FixtureRequest, broker: Connection, tmp_path: Path
) -> AsyncIterator[OfSqlite | OfPostgres]:
    if request.param == "sqlite":
        of_file = await asyncio.to_thread(SqliteSource, broker, tmp_path)
        await of_file.install()
        yield OfSqlite(of_file)
        return
    postgres: Callable[[], str] = request.getfixturevalue("postgres")
    url = postgres()
    desk = await asyncpg.connect(url)
    await desk.execute(TABLE)
    of_server = await asyncio.to_thread(PostgresSource, broker, url, desk)
    await of_server.install()
    made = OfPostgres(of_server)
    yield made
    await of_server.desk.close()


async def work_until_the_restore(office: OfSqlite | OfPostgres) -> None:
    source = office.source
    async with source.running():
        await office.type(1)
        await source.arrived()
    await office.back_up()
    async with source.running():
        await office.type(2)
        await source.arrived()
    await office.restore()
    await office.type(3)


async def is_equal(office: OfSqlite | OfPostgres) -> None:
    async with office.source.running():
        await office.source.arrived()
    there, here = office.source.named(await office.source.canonical()), await office.table()
    wrong = [who for who in there.keys() | here.keys() if there.get(who) != here.get(who)]
    assert not wrong, f"stale or lost: {len(wrong)}"


async def test_a_restored_source_ends_equal(office: OfSqlite | OfPostgres) -> None:
    async with office.source.bus():
        await work_until_the_restore(office)
        before = len(await office.source.out())
        async with office.source.publisher() as made:
            with pytest.raises(SourceRefused, match="restored from a backup") as refused:
                await made.start()
        assert "deptbus department resync" in str(refused.value)
        assert len(await office.source.out()) == before
        assert (await office.source.resync()).is_complete
        await is_equal(office)
        await office.type(4)
        await is_equal(office)


async def test_planted_no_publication_number_is_caught(
    office: OfSqlite | OfPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "check_publication", lambda *_, **__: None)
    async with office.source.bus():
        await work_until_the_restore(office)
        with pytest.raises(AssertionError, match="stale or lost"):
            await is_equal(office)
