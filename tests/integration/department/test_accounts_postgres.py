"""One account owns the tables and installs, another one has the listed rights and runs: on Debian's
PostgreSQL, which is the lowest version that is supported.

Whole suites of capture and of stores are run once more by the account that has the listed rights
only; what it lacks is a refusal of PostgreSQL's own.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
import test_capture_postgres as captures
import test_rebuild_stores as rebuilds
import test_several_tables as several
import test_store_postgres as stores
from capture_suite import CAP, Desk
from odd_tables import COMMON, POSTGRES
from recipient_contract import CONTRACT as RECEIVED
from source_world import TABLE, UNIT, contract, department
from store_rooms import PostgresRoom

from deptbus.cluster.postgres import PostgresServer
from deptbus.contract.department import Receive
from deptbus.department import fence, install, postgres_rights, recipient_install
from deptbus.department.capture import Capture
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.connect import PostgresDatabase, target_of
from deptbus.department.layout import Layout
from deptbus.department.remove import remove_all
from deptbus.department.store import Store
from deptbus.errors import DatabaseUnavailable, SourceRefused

pytestmark = pytest.mark.service


class Accounts(NamedTuple):
    """Addresses of one database: of who owns its tables, and of who runs the adapter."""

    owner: str
    runner: str

    @property
    def role(self) -> str:
        return recipient_install.role_of(self.runner)


async def do(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def accounts_on(server: PostgresServer) -> Accounts:
    """A fresh database of an owner who is no superuser, and an account without any rights."""
    name = uuid.uuid4().hex[:12]
    database = f"accounts_{name}"
    url = server.create_database(database)
    await do(
        url,
        f"CREATE ROLE owner_{name} LOGIN",
        f"CREATE ROLE runner_{name} LOGIN",
        f"ALTER DATABASE {database} OWNER TO owner_{name}",
    )
    return Accounts(
        url.replace("postgres@", f"owner_{name}@"), url.replace("postgres@", f"runner_{name}@")
    )


async def give_rights(
    accounts: Accounts, layouts: Sequence[Layout] = (), received: Sequence[str] = ()
) -> None:
    connection = await asyncpg.connect(accounts.owner)
    try:
        for statement in await postgres_rights.grant_statements(
            connection, accounts.role, layouts, received
        ):
            await connection.execute(statement)
    finally:
        await connection.close()


# --- a source ---------------------------------------------------------------------------------


class InstalledByOwner(PostgresCapture):
    """Runs as the account with the listed rights; whatever installs goes by the owner's."""

    accounts: Accounts

    async def install(self, layouts: Sequence[Layout], *caps: int) -> None:
        by_owner = await captures_opened(self.accounts.owner)
        try:
            await by_owner.install(layouts, *caps)
        finally:
            await by_owner.close()
        await give_rights(self.accounts, layouts)
        self._layouts.clear()
        self._numbers.clear()

    async def uninstall(self) -> None:
        by_owner = await captures_opened(self.accounts.owner)
        try:
            await by_owner.uninstall()
        finally:
            await by_owner.close()


async def captures_opened(url: str) -> PostgresCapture:
    target = target_of(url)
    return await PostgresCapture.open(
        await PostgresDatabase.open(target), await PostgresDatabase.open(target)
    )


class TestCaptureByTheListedRights(captures.TestPostgresCapture):
    """Every test of capture; the department's program is the owner of its tables."""

    @pytest.fixture(autouse=True)
    def _server(self, debian_postgres: PostgresServer) -> None:
        self.server = debian_postgres

    async def make(self, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Desk, str]:
        self.accounts = await accounts_on(self.server)
        return await captures.PostgresDesk.open(self.accounts.owner), self.accounts.owner

    async def another_capture(self, where: str) -> Capture:
        target = target_of(self.accounts.runner)
        opened = await InstalledByOwner.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )
        assert isinstance(opened, InstalledByOwner)
        opened.accounts = self.accounts
        return opened

    # Of plans and schedules, and long: nothing of rights.
    test_a_bulk_update_after_single_ones_is_not_planned_for_one_row = None  # type: ignore[assignment]
    test_eight_writers_with_rollbacks_lose_nothing_and_keep_the_order = None  # type: ignore[assignment]
    test_the_planted_bug_is_caught_by_the_test_of_eight_writers = None  # type: ignore[assignment]

    # Makes an account, which takes a superuser; has the adapter write a table that is published and
    # not received. The suite's own run has both.
    test_a_program_without_rights_on_our_tables_is_captured = None  # type: ignore[assignment]
    test_rows_that_the_adapter_applies_are_not_captured_as_their_own_dataset = None  # type: ignore[assignment]

    async def test_it_may_not_do_what_is_not_listed(self, capture: Capture) -> None:
        assert isinstance(capture, InstalledByOwner)
        for statement in (
            'INSERT INTO "居民 Table" ("证件号") VALUES (\'1\')',
            'SELECT secret FROM "居民 Table"',
            'TRUNCATE "Steps"',
            "DROP SCHEMA deptbus CASCADE",
            'DROP TRIGGER deptbus_step_insert ON "Steps"',
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await do(self.accounts.runner, statement)

    async def test_planted_one_right_less_is_seen(self, capture: Capture) -> None:
        token = await self.token(capture)
        await do(self.accounts.owner, f"REVOKE DELETE ON deptbus.outbox FROM {self.accounts.role}")
        with pytest.raises(DatabaseUnavailable, match="no right to do this"):
            await capture.delete(token, [1])


# --- a recipient ------------------------------------------------------------------------------


class ListedRoom(PostgresRoom):
    """The store runs by the listed rights; the department's hand is the owner's."""

    @pytest.fixture
    async def database(self, debian_postgres: PostgresServer) -> AsyncIterator[str]:
        self.accounts = await accounts_on(debian_postgres)
        await self.make_books()
        await self.take_over(self.accounts.runner)
        return self.accounts.runner

    async def make_books(self) -> None:
        opened = await PostgresDatabase.open(target_of(self.accounts.owner))
        try:
            system = department(UNIT, self.accounts.runner).systems["main"]
            receives = {"house": Receive(table="houses_unused", columns={"id": "id"})}
            system = system.model_copy(update={"publishes": {}, "receives": receives})
            await recipient_install.install_recipient(opened, system, RECEIVED)
            await recipient_install.give_rights(opened, system, (), RECEIVED)
        finally:
            await opened.close()

    async def opened(self, database: str, person_words: Mapping[str, Any] | None = None) -> Store:
        """The account may make no tables but deptbus's own."""
        house = "houses (id VARCHAR(30) PRIMARY KEY, address VARCHAR(40))"
        await self.sql(database, f"CREATE TABLE IF NOT EXISTS {house}")
        return await super().opened(database, person_words)

    async def sql(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        # A second copy is the runner's own table.
        by = self.accounts.runner if "deptbus.rebuilt" in statement else self.accounts.owner
        found = await super().sql(by, statement)
        if statement.startswith("CREATE TABLE"):
            there = "SELECT relname FROM pg_class WHERE relname IN ('people', 'houses')"
            tables = [name for (name,) in await super().sql(self.accounts.owner, there)]
            await give_rights(self.accounts, (), tables)
        return found


class TestRebuildByTheListedRights(ListedRoom, rebuilds.TestPostgresRebuild):
    """Every test of rebuilds: they apply, park, clear, remove, and make a second table."""

    # A trigger of the department's own runs by the rights of who writes: it has to have them.
    test_owner_rights_and_triggers_stay = None  # type: ignore[assignment]
    test_no_right_to_make_a_table_is_no_stop = None  # takes a superuser  # type: ignore[assignment]


class TestStoreByTheListedRights(ListedRoom):
    async def opened(self, database: str, person_words: Mapping[str, Any] | None = None) -> Store:
        opened = await PostgresDatabase.open(target_of(self.accounts.owner))
        try:
            receives = {
                "person": Receive(
                    table="people",
                    columns={n: n for n in ("id", "name", "phone", "house")},
                ),
                "house": Receive(table="houses", columns={"id": "id", "address": "address"}),
            }
            system = department(UNIT, self.accounts.runner).systems["main"]
            system = system.model_copy(update={"publishes": {}, "receives": receives})
            await recipient_install.install_recipient(opened, system, RECEIVED)
            await recipient_install.give_rights(opened, system, (), RECEIVED)
        finally:
            await opened.close()
        words = {
            "columns": {n: n for n in ("id", "name", "phone", "house")},
            **(person_words or {}),
        }
        return await super().opened(database, words)

    async def test_tables_that_install_made_are_filled(self, database: str) -> None:
        await stores.TestPostgresStore.test_inserts_updates_deletes_and_tombstones(
            self,
            database,  # type: ignore[arg-type]
        )

    async def test_a_bulk(self, database: str) -> None:
        await stores.TestPostgresStore.test_a_batch_of_thousands(
            self,
            database,  # type: ignore[arg-type]
        )


class TestSeveralByTheListedRights(ListedRoom, several.TestPostgresSeveral):
    """A record into several tables: the view is the owner's, and is made by install."""

    async def again(self, database: str, receive: Receive = several.RECEIVE) -> Store:
        opened = await PostgresDatabase.open(target_of(self.accounts.owner))
        try:
            system = department(UNIT, self.accounts.runner).systems["main"]
            system = system.model_copy(update={"publishes": {}, "receives": {"person": receive}})
            await recipient_install.install_recipient(opened, system, RECEIVED)
            await recipient_install.give_rights(opened, system, (), RECEIVED)
        finally:
            await opened.close()
        return await super().again(database, receive)

    # Both install by the account that runs.
    test_installing_capture_leaves_it_as_it_is = None  # type: ignore[assignment]
    test_uninstall_takes_view_and_triggers_away = None  # type: ignore[assignment]


# --- install and uninstall --------------------------------------------------------------------


def dump(server: PostgresServer, url: str) -> list[str]:
    """The schema as PostgreSQL's own pg_dump writes it, rights included."""
    argv = [str(server.binaries / "pg_dump"), "--schema-only", url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    # A word of its own in each dump, so that nobody may slip commands into it.
    return [line for line in done.stdout.splitlines() if not line.startswith("\\")]


async def test_uninstall_leaves_the_catalogue_as_it_was(debian_postgres: PostgresServer) -> None:
    accounts = await accounts_on(debian_postgres)
    await do(
        accounts.owner,
        TABLE,
        "CREATE TABLE copies (id text PRIMARY KEY, remark text)",
        f"GRANT SELECT (area) ON people TO {accounts.role}",
        "CREATE VIEW adults AS SELECT * FROM people",
    )
    unit = department(UNIT, accounts.runner)
    receives = {"person": Receive(table="copies", columns={"id": "id"})}
    main = unit.systems["main"].model_copy(update={"receives": receives})
    unit = unit.model_copy(update={"systems": {"main": main}})
    agreed = contract(UNIT)
    before = dump(debian_postgres, accounts.owner)

    with pytest.raises(DatabaseUnavailable, match="no right to do this"):
        await install.install_system(unit, "main", agreed)
    assert dump(debian_postgres, accounts.owner) == before
    told = await install.install_sql(unit, "main", agreed, accounts.owner)
    assert dump(debian_postgres, accounts.owner) == before, "a dry run changes nothing"
    for _ in range(2):  # idempotent
        await install.install_system(unit, "main", agreed, accounts.owner)
    installed = dump(debian_postgres, accounts.owner)
    assert installed != before
    assert any("GRANT SELECT(" in line and accounts.role in line for line in installed)

    with pytest.raises(DatabaseUnavailable):
        await install.uninstall_system(unit, "main")  # the runner owns nothing of it
    await install.uninstall_system(unit, "main", accounts.owner)
    assert dump(debian_postgres, accounts.owner) == before

    # The SQL that a person is shown does just what install does.
    await do(accounts.owner, *told)
    assert dump(debian_postgres, accounts.owner) == installed
    await install.uninstall_system(unit, "main", accounts.owner)
    assert dump(debian_postgres, accounts.owner) == before


async def test_uninstall_of_every_odd_table_leaves_the_catalogue_as_it_was(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.create_database(f"odd_{uuid.uuid4().hex[:12]}")
    made: set[str] = set()
    layouts = []
    for number, odd in enumerate((*COMMON, *POSTGRES)):
        if odd.refused or odd.needs_icu or not made.isdisjoint(odd.make):
            continue
        made |= set(odd.make)
        await do(url, *odd.make)
        layouts.append(
            Layout(
                f"odd{number}",
                *(odd.layout.table, odd.layout.keys, odd.layout.columns, odd.layout.place),
                *(odd.layout.is_vouched, odd.layout.parts),
            )
        )
    assert len(layouts) > 10
    before = dump(postgres_server, url)
    capture = await captures_opened(url)
    try:
        await capture.install(layouts, CAP)
        assert await capture.broken() == []
        assert dump(postgres_server, url) != before
        await remove_all(capture.database)
        assert dump(postgres_server, url) == before
    finally:
        await capture.close()


# --- encodings --------------------------------------------------------------------------------


async def test_a_database_in_another_encoding(debian_postgres: PostgresServer) -> None:
    """EUC_CN holds GB 2312: what is typed there is published, what it lacks is parked there."""
    words = ("-E", "EUC_CN", "-T", "template0", "--locale", "C")
    url = debian_postgres.create_database(f"gb_{uuid.uuid4().hex[:12]}", *words)
    await do(url, 'CREATE TABLE "居民" ("号" text PRIMARY KEY, "姓名" text)')
    capture = await captures_opened(url)
    try:
        await capture.install([Layout("d", "居民", ("号",), ("号", "姓名"), None)], CAP)
        token = (await fence.take_over(capture.database, 0, unit="u@33", system="main")).token
        await do(url, "INSERT INTO \"居民\" VALUES ('甲', '李雷')")
        (row,) = await capture.read(9)
        assert (row.raw, row.values["姓名"]) == (("甲",), "李雷")
        await capture.delete(token, [row.position])
        await capture.enqueue("d", [("甲",)], "resend", "j")
        (row,) = await capture.read(9)
        assert (row.raw, row.cause) == (("甲",), "resend")
    finally:
        await capture.close()


async def test_a_database_without_an_encoding_is_refused(postgres_server: PostgresServer) -> None:
    words = ("-E", "SQL_ASCII", "-T", "template0", "--locale", "C")
    url = postgres_server.create_database(f"raw_{uuid.uuid4().hex[:12]}", *words)
    await do(url, "CREATE TABLE people (id text PRIMARY KEY)")
    capture = await captures_opened(url)
    try:
        with pytest.raises(SourceRefused, match="nobody knows what its letters are"):
            await capture.install([Layout("d", "people", ("id",), ("id",), None)], CAP)
    finally:
        await capture.close()


class TestStoreInEucCn(PostgresRoom):
    @pytest.fixture
    async def database(self, debian_postgres: PostgresServer) -> AsyncIterator[str]:
        words = ("-E", "EUC_CN", "-T", "template0", "--locale", "C")
        url = debian_postgres.create_database(f"gb_{uuid.uuid4().hex[:12]}", *words)
        opened = await PostgresDatabase.open(target_of(url))
        await fence.ensure_adapter_table(opened)
        await opened.close()
        await self.take_over(url)
        return url

    async def test_a_character_that_it_lacks_parks_its_row_alone(self, database: str) -> None:
        from recipient_contract import person

        store = await self.opened(database)
        many = [person(n, name="李雷") for n in range(100)]
        done = await self.feed(store, person(900, name="𠮷田"), *many)
        assert [entry.parked for entry in done.parked] != []
        assert len(await self.people(database, "id")) == 100
        await self.feed(store, person(900, 2, name="吉田"))
        assert len(await self.people(database, "id")) == 101
        await store.close()
