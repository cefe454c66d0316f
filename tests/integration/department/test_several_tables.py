"""A received dataset that goes into several tables, in both databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inbox_feed import department_file
from recipient_contract import CONTRACT, gone, person
from store_rooms import IDENTITY, NOW, PostgresRoom, SqliteRoom, StoreRoom

from deptbus.change import Cause
from deptbus.contract.department import Beside, Receive, load_department
from deptbus.department.capture import Capture
from deptbus.department.capture_postgres import PostgresCapture
from deptbus.department.capture_sqlite import SqliteCapture
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.install import install_system
from deptbus.department.layout import Layout
from deptbus.department.remove import remove_all
from deptbus.department.repairs import Order, OrderId
from deptbus.department.seen import seen_of
from deptbus.department.several_tables import as_one, tables_of
from deptbus.department.store import PartitionBatch, Store
from deptbus.errors import DatabaseUnavailable
from deptbus.wire.control import RebuildOrder, RepairOrder

PERSONS = (
    "CREATE TABLE persons (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20), remark VARCHAR(20), "
    "house VARCHAR(20) REFERENCES houses (code))"
)
HOUSES = "CREATE TABLE houses (code VARCHAR(20) PRIMARY KEY, note VARCHAR(20))"
PHONES = (
    "CREATE TABLE phones (owner VARCHAR(30) PRIMARY KEY REFERENCES persons (id), "
    "number VARCHAR(20) CHECK (number <> '0'), note VARCHAR(20))"
)
RECEIVE = Receive(
    table="persons",
    columns={"id": "id", "name": "name"},
    tables={"phones": Beside(columns={"phone": "number"}, on={"owner": "id"})},
)
JOB = "rebuild-1"


class SeveralSuite(StoreRoom):
    is_postgres: bool

    async def room(self, database: Any, receive: Receive = RECEIVE) -> Store:
        for statement in (HOUSES, PERSONS, PHONES):
            await self.sql(database, statement)
        return await self.again(database, receive)

    async def again(self, database: Any, receive: Receive = RECEIVE) -> Store:
        key = ("id",)
        words: Mapping[str, Any] = {
            "person": (as_one("person", receive, postgres=self.is_postgres), key)
        }
        store = await self.make_store(database, words)
        store.several = {"person": tables_of(receive, key)}
        try:
            await store.open(IDENTITY, 2)
            await store.begin_reading({})
        except BaseException:
            await store.close()
            raise
        return store

    async def both(self, database: Any) -> list[tuple[Any, ...]]:
        return await self.sql(
            database,
            "SELECT p.id, p.name, h.number FROM persons p FULL JOIN phones h ON h.owner = p.id "
            "ORDER BY 1"
            if self.is_postgres
            else "SELECT p.id, p.name, h.number FROM persons p LEFT JOIN phones h "
            "ON h.owner = p.id ORDER BY 1",
        )

    async def test_a_record_comes_changes_and_goes_in_both(self, database: Any) -> None:
        store = await self.room(database)
        done = await self.feed(store, person(1, phone="1"), person(2, phone=None))
        assert done.parked == ()
        assert await self.both(database) == [
            ("id000001", "李雷", "1"),
            ("id000002", "李雷", None),
        ]
        await self.sql(database, "UPDATE persons SET remark = 'own'")
        await self.sql(database, "UPDATE phones SET note = 'own'")
        await self.feed(store, person(1, 2, name="韩", phone="2"), gone(2, 2))
        assert await self.both(database) == [("id000001", "韩", "2")]
        assert await self.sql(
            database, "SELECT remark, note FROM persons JOIN phones ON owner = id"
        ) == [("own", "own")]
        await self.feed(store, gone(1, 3))
        assert await self.sql(database, "SELECT count(*) FROM phones") == [(0,)]
        assert await self.sql(database, "SELECT count(*) FROM persons") == [(0,)]
        await store.close()

    async def test_what_one_table_refuses_is_parked_as_a_whole(self, database: Any) -> None:
        store = await self.room(database)
        done = await self.feed(store, person(1, phone="0"), person(2, phone="2"))
        assert len(done.parked) == 1
        assert await self.both(database) == [("id000002", "李雷", "2")]
        await self.feed(store, person(1, 2, phone="1"))
        assert len(await self.both(database)) == 2
        await store.close()

    async def test_a_repair_writes_it_in_all_of_them(self, database: Any) -> None:
        store = await self.room(database)
        await self.feed(store, person(1, 5, phone="1"), person(2, 5, phone="2"))
        await self.sql(database, "UPDATE phones SET number = 'typed'")
        name = OrderId("repair-1", "person", person(1).key)
        now = (await store.look_at([Order(name, b"", "deliver", False)]))[name]
        seen = seen_of(now.line, now.values)
        ordered = RepairOrder("repair-1", "person", (name.key,), (seen,), ("deliver",), True, NOW)
        at = store.positions[0].next_offset
        await store.apply({0: PartitionBatch(at + 1, orders=[ordered])}, NOW)
        mended = person(1, 5, phone="1", cause=Cause.REPAIR)
        await self.feed(store, replace(mended, job="repair-1"))
        assert [number for _, _, number in await self.both(database)] == ["1", "typed"]
        await store.close()

    async def test_it_is_rebuilt(self, database: Any) -> None:
        store = await self.room(database)
        assert store.rebuilds is not None
        store.keep = lambda kept: None
        some = [person(n, phone=str(n)) for n in (1, 2, 3)]
        await self.feed(store, *some)
        await self.sql(database, "UPDATE phones SET number = 'typed' WHERE owner = 'id000001'")
        await self.sql(database, "DELETE FROM phones WHERE owner = 'id000002'")
        await store.rebuilds.take(RebuildOrder(JOB, "person", "begin", (), NOW), NOW)
        at = store.positions[0].next_offset
        sent = [replace(item, cause=Cause.REPLAY, job=JOB) for item in some]
        await store.apply({0: PartitionBatch(at + 3, [*sent], has_rebuilt=True)}, NOW)
        ends = tuple(place.next_offset for _, place in sorted(store.positions.items()))
        await store.rebuilds.take(RebuildOrder(JOB, "person", "swap", ends, NOW), NOW)
        done = await store.swap(NOW + 1)
        assert done is not None
        assert (done.state, done.reason) == ("swapped", "")
        assert [number for _, _, number in await self.both(database)] == ["1", "2", "3"]
        await store.close()

    async def test_what_was_there_before_is_not_lost_unsaid(self, database: Any) -> None:
        """Neither the main table's rows, nor those that hang on them; shared ones are no matter."""
        for statement in (HOUSES, PERSONS, PHONES):
            await self.sql(database, statement)
        await self.sql(database, "INSERT INTO houses VALUES ('h', 'shared')")
        await self.sql(database, "INSERT INTO persons (id, remark) VALUES ('id000001', 'own')")
        with pytest.raises(DatabaseUnavailable, match="persons has rows before the bus comes"):
            await self.again(database)
        meant = RECEIVE.model_copy(update={"keeps": False, "on_remove": "delete"})
        store = await self.again(database, meant)
        await self.feed(store, person(1, phone="1"))
        assert await self.both(database) == [("id000001", "李雷", "1")]
        assert await self.sql(database, "SELECT remark FROM persons") == [("own",)]
        await store.close()
        store = await self.again(database)  # the bus has come: what is there is its own
        await store.close()

    @pytest.mark.parametrize("on", [{"code": "house"}, {"code": "id", "note": "name"}])
    async def test_a_table_that_hangs_on_no_record_is_refused(
        self, database: Any, tmp_path: Path, on: dict[str, str]
    ) -> None:
        """Its row may be of other records too, or be left behind when what it hangs on changes.
        Said by `install`, and by an adapter."""
        receive = RECEIVE.model_copy(
            update={
                "columns": {"id": "id", "name": "name", "house": "house"},
                "tables": {"houses": Beside(columns={"phone": "number"}, on=on)},
            }
        )
        for statement in (
            "CREATE TABLE houses (code VARCHAR(30), note VARCHAR(20), number VARCHAR(20), "
            f"UNIQUE ({', '.join(on)}))",
            PERSONS.replace(" REFERENCES houses (code)", ""),
        ):
            await self.sql(database, statement)
        url = database if self.is_postgres else f"sqlite:///{database}"
        words = receive.model_dump(exclude_unset=True)
        department = load_department(department_file(tmp_path, "housing@330106", url, **words))
        with pytest.raises(DatabaseUnavailable, match="houses hangs on neither"):
            await install_system(department, "main", CONTRACT)
        with pytest.raises(DatabaseUnavailable, match="houses hangs on neither") as refused:
            await self.again(database, receive)
        assert refused.value.mend is not None
        assert "Declare the foreign key of persons" in refused.value.mend
        assert "(id)" in refused.value.mend

    async def test_a_column_without_a_value_keeps_the_default_of_its_table(
        self, database: Any
    ) -> None:
        typed = PERSONS.replace("remark VARCHAR(20)", "remark VARCHAR(20) NOT NULL DEFAULT 'd'")
        for statement in (HOUSES, typed, PHONES):
            await self.sql(database, statement)
        store = await self.again(
            database, RECEIVE.model_copy(update={"defaults": {"remark": None}})
        )
        assert (await self.feed(store, person(1, phone="1"))).parked == ()
        assert await self.sql(database, "SELECT remark FROM persons") == [("d",)]
        await store.close()

    async def test_a_bulk_is_written_and_renewed(self, database: Any) -> None:
        store = await self.room(database)
        for version in (1, 2, 3):
            some = [person(n, version, name=f"v{version}", phone=str(n)) for n in range(1, 301)]
            assert (await self.feed(store, *some)).parked == ()
        found = await self.both(database)
        assert len(found) == 300
        assert {(name, int(id_no[2:]) == int(number)) for id_no, name, number in found} == {
            ("v3", True)
        }
        await store.close()

    async def test_a_table_that_the_main_one_refers_to_is_written_first(
        self, database: Any
    ) -> None:
        houses = Beside(columns={"phone": "note"}, on={"code": "house"})
        receive = Receive(
            table="persons",
            columns={"id": "id", "name": "name", "house": "house"},
            tables={"houses": houses},
        )
        store = await self.room(database, receive)
        several = [person(n, house="h", phone="one") for n in (1, 2)]
        assert (await self.feed(store, *several, person(3, house=None))).parked == ()
        assert await self.sql(database, "SELECT id, house FROM persons ORDER BY id") == [
            ("id000001", "h"),
            ("id000002", "h"),
            ("id000003", None),
        ]
        await self.feed(store, gone(1, 2), gone(2, 2))
        assert await self.sql(database, "SELECT * FROM houses") == [("h", "one")]
        await store.close()

    async def test_the_view_is_made_once_and_anew_for_another_mapping(self, database: Any) -> None:
        store = await self.room(database)
        await self.feed(store, person(1, phone="1"))
        await store.close()
        store = await self.again(database)
        await self.feed(store, person(1, 2, phone="2"))
        await store.close()
        other = RECEIVE.model_copy(
            update={"tables": {"phones": Beside(columns={"phone": "note"}, on={"owner": "id"})}}
        )
        store = await self.again(database, other)
        await self.feed(store, person(1, 3, phone="3"))
        assert await self.sql(database, "SELECT number, note FROM phones") == [("2", "3")]
        await store.close()

    async def test_installing_capture_leaves_it_as_it_is(self, database: Any) -> None:
        store = await self.room(database)
        capture = await self.capture(database)
        try:
            await capture.install([Layout("house", "houses", ("code",), ("code",), None)], 100)
            await self.feed(store, person(1, phone="1"))
            await capture.install([], 100)
            await self.feed(store, person(1, 2, phone="2"))
        finally:
            await capture.close()
        assert await self.both(database) == [("id000001", "李雷", "2")]
        await store.close()

    async def capture(self, database: Any) -> Capture:
        if not self.is_postgres:
            return SqliteCapture(await SqliteDatabase.open(target_of(f"sqlite:///{database}")))
        target = target_of(database)
        return await PostgresCapture.open(
            await PostgresDatabase.open(target), await PostgresDatabase.open(target)
        )

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            ("ALTER TABLE phones RENAME COLUMN number TO other", "has no column number"),
            ("DROP TABLE phones", "no table phones"),
        ],
    )
    async def test_a_table_that_is_not_as_the_mapping_says_is_named(
        self, database: Any, harm: str, words: str
    ) -> None:
        for statement in (HOUSES, PERSONS, PHONES, harm):
            await self.sql(database, statement)
        with pytest.raises(DatabaseUnavailable, match=words):
            await self.again(database)

    async def test_uninstall_takes_view_and_triggers_away(self, database: Any) -> None:
        store = await self.room(database)
        await self.feed(store, person(1, phone="1"))
        await store.close()
        opened: Any
        if self.is_postgres:
            opened = await PostgresDatabase.open(target_of(database))
        else:
            opened = await SqliteDatabase.open(target_of(f"sqlite:///{database}"))
        await remove_all(opened)
        await opened.close()
        assert await self.both(database) == [("id000001", "李雷", "1")]
        await self.sql(database, "DELETE FROM phones")


class TestSqliteSeveral(SqliteRoom, SeveralSuite):
    is_postgres = False


@pytest.mark.service
class TestPostgresSeveral(PostgresRoom, SeveralSuite):
    is_postgres = True
