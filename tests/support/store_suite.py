"""What every Store must do; each database's tests subclass it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from recipient_contract import ALL, CODECS, LI, SOURCE, gone, mapping, person
from store_rooms import IDENTITY, NOW, StoreRoom

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.department.fold import Tally
from deptbus.department.ledger import ParkedChoice
from deptbus.department.repairs import Order, OrderId, weigh
from deptbus.department.seen import seen_of
from deptbus.department.store import (
    BusIdentity,
    PartitionBatch,
    Store,
    Unreadable,
    day_of,
)
from deptbus.errors import DatabaseBusy, DatabaseUnavailable, Fenced, SourceRefused
from deptbus.wire.control import PolicyMarker, RepairOrder
from deptbus.wire.digest import encode_values

_HOUSES = "CREATE TABLE houses (id VARCHAR(30) PRIMARY KEY, address VARCHAR(40))"


class StoreSuite(StoreRoom):
    """What a store does with what comes."""

    async def test_every_type_arrives_and_reads_back(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(b"k" * 16))
        (row,) = await self.people(database, ", ".join(ALL))
        assert self.read_back(dict(zip(ALL, row, strict=True))) == LI
        (entry,) = await store.parked(None, [], 1) or [None]
        assert entry is None
        await store.close()

    def read_back(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    async def test_the_written_digest_is_that_of_the_row(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1))
        (row,) = await self.people(database, ", ".join(ALL))
        ((written,),) = await self.sql(database, f"SELECT written FROM {self.ledger}")
        from deptbus.wire.digest import values_digest

        assert bytes(written) == values_digest(row)
        await store.close()

    async def test_inserts_updates_deletes_and_tombstones(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1), person(2), person(3))
        await self.feed(store, person(2, 2, name="韩梅梅"), gone(3, 2, op=DeliveryOp.DELETE))
        await self.feed(store, person(3, 1), person(2, 1))
        rows = await self.people(database, "id, name")
        assert rows == [("id000001", "李雷"), ("id000002", "韩梅梅")]
        await store.close()

    async def test_times_are_told_of_what_happened_and_nothing_else(self, database: Any) -> None:
        """Loads, resends and what is read again would look late."""
        store = await self.opened(database)
        came = (person(1, 5), person(2, 6, cause=Cause.SNAPSHOT), person(3, 7, cause=Cause.RESEND))
        begin = came[0].source_time_us - 5

        async def ages(*items: Received) -> list[int]:
            told = (await self.feed(store, *items)).times_us
            assert told.keys() <= {("person", "horizontal")}
            return [at - begin for times in told.values() for at in times]

        assert await ages(*came) == [5]
        assert await ages(*came) == []
        assert await ages(gone(1, 8, op=DeliveryOp.DELETE)) == [8]
        assert await ages(person(4, 9), person(4, 10)) == [10]
        # In bulk: rows that are new, that are renewed, and that are only read again.
        for version, told in ((20, 300), (21, 300), (21, 0)):
            bulk = [person(n, version) for n in range(100, 400)]
            assert await ages(*bulk) == [version] * told
        mixed = [
            person(n, 22, cause=Cause.LIVE if n % 3 else Cause.SNAPSHOT) for n in range(100, 400)
        ]
        assert await ages(*mixed) == [22] * 200
        await store.close()

    async def test_a_closed_field_is_cleared(self, database: Any) -> None:
        store = await self.opened(database, {"defaults": {"income": 0}})
        await self.feed(store, person(1))
        await self.feed(store, person(1, 1, policy=2, without=("phone", "income")))
        ((phone, income),) = await self.people(database, "phone, income")
        assert (phone, float(income)) == (None, 0.0)
        await store.close()

    async def test_offsets_and_rows_are_one_transaction(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1), person(2), part=1)
        await store.close()
        again = await self.opened(database)
        assert {n: p.next_offset for n, p in again.positions.items()} == {0: 0, 1: 2}
        await again.close()

    async def test_the_policy_floor_survives_a_restart(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, PolicyMarker(policy=3, datasets=("person",), job="j"))
        await store.close()
        again = await self.opened(database)
        applied = await self.feed(again, person(1, policy=2))
        assert applied.written == frozenset()
        await self.feed(again, person(2, policy=2), part=1)
        assert await self.people(database, "id") == [("id000002",)]
        await again.close()

    async def test_own_columns_codes_defaults_and_foreign_columns(self, database: Any) -> None:
        await self.sql(
            database,
            "CREATE TABLE 居民 (证件号 VARCHAR(30) PRIMARY KEY, 姓名 VARCHAR(20) NOT NULL, "
            "性别 INTEGER, 来源 VARCHAR(9) NOT NULL, 备注 VARCHAR(20) DEFAULT '无' NOT NULL)",
        )
        await self.sql(database, "INSERT INTO 居民 VALUES ('id000001', '旧', 1, '手工', '老户')")
        store = await self.opened(
            database,
            {
                "table": "居民",
                "columns": {"id": "证件号", "name": "姓名", "sex": "性别"},
                "values": {"sex": {"1": "male", "2": "female"}},
                "defaults": {"来源": "总线"},
            },
        )
        await self.feed(store, person(1, sex="female"), person(2, sex="male"))
        assert await self.sql(database, "SELECT * FROM 居民 ORDER BY 证件号") == [
            ("id000001", "李雷", 2, "手工", "老户"),
            ("id000002", "李雷", 1, "总线", "无"),
        ]
        await store.close()

    async def test_a_required_column_of_the_departments_own_is_left_alone(
        self, database: Any
    ) -> None:
        """An upsert would trip over it also where the row is there."""
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20), own INT NOT NULL)",
        )
        await self.sql(database, "INSERT INTO people VALUES ('id000001', 'x', 7)")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1), person(2))
        assert await self.people(database, "id, name, own") == [("id000001", "李雷", 7)]
        (entry,) = await store.parked(NOW * 2, [], 9)
        assert entry.key == (2).to_bytes(16, "big")
        await store.close()

    async def test_the_bus_key_as_the_rows_key(self, database: Any) -> None:
        store = await self.opened(
            database, {"columns": {"$key": "bus", "name": "name"}, "key": ("bus",)}
        )
        await self.feed(store, person(1))
        assert await self.sql(database, "SELECT bus, name FROM people") == [
            ("0" * 31 + "1", "李雷")
        ]
        await self.feed(store, gone(1, 2))
        assert await self.sql(database, "SELECT bus FROM people") == []
        await store.close()

    async def test_a_refused_row_is_parked_and_its_neighbours_go_on(self, database: Any) -> None:
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20) CHECK (name < 'b'))",
        )
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        applied = await self.feed(
            store, *[person(n, name="bad" if n in (3, 7) else "a") for n in range(1, 10)]
        )
        rows = await self.people(database, "id")
        assert [r[0][-1] for r in rows] == list("1245689")
        assert len(applied.parked) == 2
        assert all("bad" not in (e.parked or "") for e in applied.parked)
        assert store.has_parked
        (((dataset, reason), rows),) = (await store.parked_rows()).items()
        assert (dataset, rows) == ("person", 2)
        assert reason == applied.parked[0].parked
        assert store.positions[0].next_offset == 9
        ((parked,),) = await self.sql(
            database, f"SELECT sum(deliveries) FROM {self.statistics} WHERE outcome = 'parked'"
        )
        assert int(parked) == 2
        await store.close()

    async def test_a_value_without_a_form_is_parked_without_being_told(self, database: Any) -> None:
        await self.sql(database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name INTEGER)")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        applied = await self.feed(store, person(1, name="张三"), person(2, name="12"))
        assert [e.parked for e in applied.parked] == [
            "value: people.name: not a whole number of 64 bits"
        ]
        assert await self.people(database, "id, name") == [("id000002", 12)]
        await store.close()

    async def test_a_child_waits_for_its_parent(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE houses (id VARCHAR(30) PRIMARY KEY, address VARCHAR(40))"
        )
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, house VARCHAR(30) REFERENCES houses)",
        )
        store = await self.opened(database, {"columns": {"id": "id", "house": "house"}})
        await self.feed(store, person(1, house="h1"))
        assert await self.people(database, "id") == []
        await self.feed(store, person(9, dataset="house", id="h1"))
        assert store.retry_in_seconds(NOW) == 0
        await store.apply({}, NOW)
        assert await self.people(database, "id, house") == [("id000001", "h1")]
        assert store.retry_in_seconds(NOW + 10**9) is None
        assert await store.parked_rows() == {}
        assert not store.has_parked
        await store.close()

    async def test_parent_and_child_in_one_batch(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE houses (id VARCHAR(30) PRIMARY KEY, address VARCHAR(40))"
        )
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, house VARCHAR(30) REFERENCES houses)",
        )
        store = await self.opened(database, {"columns": {"id": "id", "house": "house"}})
        applied = await self.feed(store, person(1, house="h1"), person(9, dataset="house", id="h1"))
        assert applied.parked == ()
        applied = await self.feed(store, gone(9, 2, dataset="house"), gone(1, 2))
        assert applied.parked == ()
        assert await self.people(database, "id") == []
        await store.close()

    async def test_a_foreign_key_that_is_checked_at_the_end(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE houses (id VARCHAR(30) PRIMARY KEY, address VARCHAR(40))"
        )
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, house VARCHAR(30) "
            "REFERENCES houses DEFERRABLE INITIALLY DEFERRED)",
        )
        store = await self.opened(database, {"columns": {"id": "id", "house": "house"}})
        applied = await self.feed(store, person(1, house="h1"), person(2))
        assert [e.key[-1] for e in applied.parked] == [1]
        assert await self.people(database, "id") == [("id000002",)]
        house = {"dataset": "house", "id": "h1"}
        await self.feed(store, person(9, **house), person(3, house="h1"))
        applied = await self.feed(store, gone(9, 2, dataset="house"), person(4))
        assert [e.key[-1] for e in applied.parked] == [9]  # somebody lives there
        assert [row[0] for row in await self.people(database, "id")] == [
            *("id000001", "id000002", "id000003", "id000004")
        ]
        applied = await self.feed(store, gone(3, 2), person(5))
        assert applied.parked == ()
        await store.close()

    async def test_a_table_that_refers_to_itself(self, database: Any) -> None:
        """The row that is updated refers to one that is inserted: no order of statements is right
        for all."""
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20), "
            "phone VARCHAR(30) REFERENCES people)",
        )
        columns = {"id": "id", "name": "name", "phone": "phone"}
        store = await self.opened(database, {"columns": columns})
        await self.feed(store, person(2, phone=None), person(3, phone=None))
        applied = await self.feed(
            store,
            person(1, phone=None),
            person(2, 2, phone="id000001"),
            person(3, 2, phone=None, name="new"),
        )
        assert applied.parked == ()
        rows = await self.people(database, "id, name, phone")
        assert rows == [
            ("id000001", "李雷", None),
            ("id000002", "李雷", "id000001"),
            ("id000003", "new", None),
        ]
        applied = await self.feed(store, person(4, phone="nobody"), person(5, phone="id000003"))
        assert [e.key[-1] for e in applied.parked] == [4]
        await store.close()

    async def drop_quietly(self, database: Any, event: str, name: str) -> None:
        """A trigger of the department's that drops what is done to a row of this name."""
        raise NotImplementedError

    async def test_what_a_trigger_drops_is_parked(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20))"
        )
        await self.drop_quietly(database, "INSERT", "no")
        await self.drop_quietly(database, "DELETE", "stays")
        store = await self.opened(
            database, {"columns": {"id": "id", "name": "name"}, "on_remove": "delete"}
        )
        applied = await self.feed(
            store, person(1), person(2, name="no"), person(3, name="stays"), person(4)
        )
        assert [(e.key[-1], e.parked) for e in applied.parked] == [
            (2, "a trigger keeps it from being written")
        ]
        applied = await self.feed(store, gone(1, 2), gone(3, 2))
        assert [(e.key[-1], e.parked) for e in applied.parked] == [
            (3, "a trigger keeps it from being removed")
        ]
        # The right to it has ended all the same.
        assert await self.people(database, "id, name") == [("id000003", None), ("id000004", "李雷")]
        await self.feed(store, *(person(n) for n in range(100, 400)))  # in bulk
        applied = await self.feed(
            store, *(person(n, name="no" if n == 450 else "yes") for n in range(400, 700))
        )
        assert len(applied.parked) == 1
        assert len(await self.people(database, "id")) == 2 + 300 + 299
        await store.close()

    async def test_a_parked_row_comes_when_its_time_has_come(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20) UNIQUE)"
        )
        await self.sql(database, "INSERT INTO people VALUES ('own', '李雷')")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1))
        await self.sql(database, "DELETE FROM people")
        await store.apply({}, NOW)
        assert await self.people(database, "id") == []
        seconds = store.retry_in_seconds(NOW)
        assert seconds is not None
        await store.apply({}, NOW + int(seconds * 1e6))
        assert await self.people(database, "id") == [("id000001",)]
        await store.close()

    async def parked_two(self, database: Any) -> Store:
        """Persons 3 and 7 of nine are parked, for a reason that `mend` takes away."""
        await self.sql(
            database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20) UNIQUE)"
        )
        await self.sql(database, "INSERT INTO people VALUES ('own1', 'bad3'), ('own2', 'bad7')")
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        names = {3: "bad3", 7: "bad7"}
        for n in range(1, 10):
            await self.feed(store, person(n, name=names.get(n, f"n{n}")), now=NOW + n)
        return store

    async def test_what_is_parked_is_listed_row_by_row(self, database: Any) -> None:
        store = await self.parked_two(database)
        rows = await store.parked_list(10)
        assert [(r.dataset, r.source_unit, r.key[-1], r.version) for r in rows] == [
            ("person", SOURCE, 3, 1), ("person", SOURCE, 7, 1),
        ]  # fmt: skip
        assert [(r.parked_at_us, r.attempts) for r in rows] == [(NOW + 3, 1), (NOW + 7, 1)]
        assert {r.reason for r in rows} == {reason for _, reason in await store.parked_rows()}
        assert "bad" not in str(rows)
        assert await store.parked_list(1) == rows[:1]
        await store.close()

    @pytest.mark.parametrize(
        ("choice", "count"),
        [
            (ParkedChoice(), 2),
            (ParkedChoice("person"), 2),
            (ParkedChoice("house"), 0),
            (ParkedChoice("person", (3).to_bytes(16, "big")), 1),
            (ParkedChoice("person", (4).to_bytes(16, "big")), 0),
            (ParkedChoice(reason="another"), 0),
        ],
    )
    async def test_parked_rows_are_tried_again_when_that_is_asked_for(
        self, database: Any, choice: ParkedChoice, count: int
    ) -> None:
        """Whatever their back-off, and those alone that are meant."""
        store = await self.parked_two(database)
        await self.sql(database, "DELETE FROM people WHERE id LIKE 'own%'")
        due_us, rows = await store.retry_now(choice, NOW + 100)
        assert rows == count
        applied = await store.apply({}, NOW + 101)
        assert applied.retried == ({(due_us, True): count} if count else {})
        assert len(await self.people(database, "id")) == 7 + count
        assert store.has_parked == (count < 2)
        await store.close()

    async def test_what_is_refused_again_is_told_and_waits_on(self, database: Any) -> None:
        store = await self.parked_two(database)
        reason = (await store.parked_list(1))[0].reason
        await self.sql(database, "DELETE FROM people WHERE id = 'own1'")
        due_us, rows = await store.retry_now(ParkedChoice(reason=reason), NOW + 100)
        applied = await store.apply({}, NOW + 101)
        assert rows == 2
        assert applied.retried == {(due_us, True): 1, (due_us, False): 1}
        assert applied.parked == ()  # it is no news
        (left,) = await store.parked_list(10)
        assert (left.key[-1], left.attempts, left.parked_at_us) == (7, 2, NOW + 7)
        assert store.next_due_us is not None
        assert store.next_due_us > NOW + 101
        await store.close()

    async def test_two_requests_at_one_moment_are_told_apart(self, database: Any) -> None:
        store = await self.parked_two(database)
        first, _ = await store.retry_now(ParkedChoice(key=(3).to_bytes(16, "big")), NOW + 100)
        second, _ = await store.retry_now(ParkedChoice(key=(7).to_bytes(16, "big")), NOW + 100)
        applied = await store.apply({}, NOW + 200)
        assert applied.retried == {(first, False): 1, (second, False): 1}
        await store.close()

    async def test_very_many_are_made_due_piece_by_piece(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of SQLite's one writer each transaction has to be short."""
        monkeypatch.setattr("deptbus.department.store.MARKS_AT_ONCE", 1)
        store = await self.parked_two(database)
        assert (await store.retry_now(ParkedChoice(), NOW + 100))[1] == 2
        await store.close()

    async def test_a_fenced_adapter_makes_nothing_due(self, database: Any) -> None:
        store = await self.parked_two(database)
        await self.take_over(database)
        with pytest.raises(Fenced):
            await store.retry_now(ParkedChoice(), NOW + 100)
        await store.close()

    async def test_planted_bug_a_retry_that_makes_nothing_due_is_seen(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It only looks sooner, and so finds nothing whose back-off is over."""

        async def careless(self: Store, choice: ParkedChoice, due_us: int, limit: int) -> int:
            return 0

        store = await self.parked_two(database)
        monkeypatch.setattr(type(store), "make_due", careless)
        await self.sql(database, "DELETE FROM people WHERE id LIKE 'own%'")
        await store.retry_now(ParkedChoice(), NOW + 100)
        assert (await store.apply({}, NOW + 101)).retried == {}
        assert len(await self.people(database, "id")) == 7  # where the test above wants nine
        await store.close()

    # -- repairs ---------------------------------------------------------------------------------

    async def order(
        self, store: Store, key: bytes, action: str = "deliver", **looked: Any
    ) -> RepairOrder:
        """As a proof would give it of what stands there now."""
        name = OrderId("repair-1", "person", key)
        now = await store.look_at([Order(name, b"", action, False)])
        seen = seen_of(now[name].line, now[name].values)
        return RepairOrder("repair-1", "person", (key,), (seen,), (action,), **looked)

    async def give(self, store: Store, order: RepairOrder) -> None:
        at = store.positions[0].next_offset
        await store.apply({0: PartitionBatch(at + 1, orders=[order])}, NOW)

    async def repaired(self, store: Store, number: int, version: int, name: str) -> None:
        item = person(number, version, name=name, cause=Cause.REPAIR)
        await self.feed(store, replace(item, job="repair-1"))

    async def test_a_repair_waits_for_its_order_and_outlives_a_restart(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1, 5), person(2, 5))
        await self.repaired(store, 1, 5, "nobody ordered")
        assert (await self.people(database, "name"))[0] == ("李雷",)
        # A line that claims more than the bus has gives way as well.
        await self.sql(database, f"UPDATE {self.ledger} SET version = 99 WHERE key = (SELECT "
                       f"min(key) FROM {self.ledger})")  # fmt: skip
        await self.give(
            store, await self.order(store, person(1).key, overwrite=False, ordered_at_us=NOW)
        )
        await store.close()
        store = await self.opened(database)
        await self.repaired(store, 1, 5, "mended")
        await self.repaired(store, 1, 5, "ordered once")
        assert (await self.people(database, "name"))[0] == ("mended",)
        found = await self.sql(database, f"SELECT version FROM {self.ledger} ORDER BY version")
        assert found == [(5,), (5,)]
        await store.close()

    async def test_what_is_typed_between_the_look_and_the_lock_stays(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await self.typed_meanwhile(database, monkeypatch) == [("typed",), ("mended",)]

    async def test_planted_bug_a_repair_that_looks_only_once_is_seen(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def once(orders: Any, now: Any) -> Any:
            found = weigh(orders, now)
            found.guards.clear()
            return found

        with pytest.MonkeyPatch.context() as planted:
            planted.setattr("deptbus.department.store.weigh", once)
            found = await self.typed_meanwhile(database, monkeypatch)
        assert found == [("mended",), ("mended",)]

    async def typed_meanwhile(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> list[tuple[Any, ...]]:
        """The names afterwards."""
        store = await self.opened(database)
        await self.feed(store, person(1, 5), person(2, 5))
        orders = [
            await self.order(store, person(n).key, overwrite=True, ordered_at_us=NOW)
            for n in (1, 2)
        ]
        for order in orders:
            await self.give(store, order)
        look_at = type(store).look_at

        async def then_typed(self_: Store, wanted: Any) -> Any:
            found = await look_at(self_, wanted)
            monkeypatch.undo()
            await self.type_into(database, store)
            return found

        monkeypatch.setattr(type(store), "look_at", then_typed)
        both = [
            replace(person(n, 5, name="mended", cause=Cause.REPAIR), job="repair-1") for n in (1, 2)
        ]
        await self.feed(store, *both)
        await store.close()
        return await self.people(database, "name")

    async def type_into(self, database: Any, store: Store) -> None:
        """By another hand, while a batch is being applied."""
        first = "UPDATE people SET name = 'typed' WHERE id = (SELECT min(id) FROM people)"
        await self.sql(database, first)

    async def test_a_line_is_forgotten_and_a_stranger_removed(self, database: Any) -> None:
        store = await self.opened(database)
        kept: list[Any] = []
        store.keep = kept.extend
        await self.feed(store, person(1, 5), person(2, 5))
        await self.sql(database, "UPDATE people SET id = 'stranger' WHERE id LIKE '%2'")
        rows = {b"s" * 16: encode_values(("stranger",))}
        store.stranger = lambda dataset, name: rows.get(name)
        for key, action in ((person(1).key, "forget"), (b"s" * 16, "remove")):
            order = await self.order(store, key, action, overwrite=False, ordered_at_us=NOW)
            await self.give(store, order)
        assert await self.people(database, "id") == []
        assert [one.order.key for one in kept] == [person(1).key, b"s" * 16]
        # Any delivery supersedes what was forgotten.
        await self.feed(store, person(1, 1))
        assert await self.people(database, "id") == [("id000001",)]
        await store.close()

    async def test_a_parked_newer_delivery_leaves_no_closed_column(self, database: Any) -> None:
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, "
            "name VARCHAR(20) CHECK (name <> 'bad'), phone VARCHAR(20))",
        )
        columns = {"id": "id", "name": "name", "phone": "phone"}
        store = await self.opened(database, {"columns": columns})
        await self.feed(store, person(1))
        await self.feed(store, person(1, 2, name="bad", without=("phone",)))
        assert await self.people(database) == [("id000001", "李雷", None)]
        await store.close()

    async def test_a_withdrawal_that_others_hang_on_empties_the_row(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20))"
        )
        await self.sql(
            database,
            "CREATE TABLE tenancies (n INT PRIMARY KEY, person VARCHAR(30) REFERENCES people)",
        )
        store = await self.opened(database, {"columns": {"id": "id", "name": "name"}})
        await self.feed(store, person(1))
        await self.sql(database, "INSERT INTO tenancies VALUES (1, 'id000001')")
        applied = await self.feed(store, gone(1, 2))
        assert await self.people(database, "id, name") == [("id000001", None)]
        assert len(applied.parked) == 1
        await self.sql(database, "DELETE FROM tenancies")
        await store.apply({}, NOW + 10**9)
        assert await self.people(database, "id, name") == []
        await store.close()

    async def test_claims_and_takeover_in_tables(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(b"b" * 16, name="one", id="x"))
        await self.feed(store, person(b"a" * 16, name="two", id="x"))
        assert await self.people(database, "id, name") == [("x", "two")]
        status = {s.dataset: s for s in await store.status(NOW)}
        assert (status["person"].rows, status["person"].waiting) == (1, 1)
        await self.feed(store, gone(b"a" * 16, 2))
        assert await self.people(database, "id, name") == [("x", "one")]
        await store.close()

    async def test_keys_shifted_over_a_whole_table(self, database: Any) -> None:
        """The source's k = k + 1: each record's own key is that of its neighbour before."""
        store = await self.opened(database)
        await self.feed(store, *[person(n, id=f"{n}", name=f"{n}") for n in range(100)])
        await self.feed(
            store,
            gone(0, 2),
            *[person(n, 2, id=f"{n}", name=f"{n - 1}") for n in range(1, 100)],
            person(100, 1, id="100", name="99"),
        )
        rows = dict(await self.people(database, "id, name"))
        assert rows == {f"{n}": f"{n - 1}" for n in range(1, 101)}
        await store.close()

    async def test_an_older_adapter_is_fenced_and_writes_nothing(self, database: Any) -> None:
        older = await self.opened(database)
        await self.feed(older, person(1))
        await self.take_over(database)
        younger = await self.opened(database)
        with pytest.raises(Fenced):
            await self.feed(older, person(1, 2, name="zombie"), person(2))
        assert await self.people(database, "id, name") == [("id000001", "李雷")]
        await self.feed(younger, person(1, 2, name="younger"))
        assert await self.people(database, "name") == [("younger",)]
        await older.close()
        await younger.close()

    async def test_planted_bug_without_the_fence_a_zombie_writes(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The test above would fail: offsets alone do not stop it on another partition."""
        older = await self.opened(database)
        await self.take_over(database)

        monkeypatch.setattr("deptbus.department.fence.lock_postgres", lambda *_: "SELECT true")
        monkeypatch.setattr("deptbus.department.fence.check_sqlite", lambda *_: None)
        await self.feed(older, person(1, name="zombie"), part=1)
        assert await self.people(database, "name") == [("zombie",)]
        await older.close()

    async def test_planted_bug_a_closed_column_left_standing_is_seen(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What `test_a_closed_field_is_cleared` looks at changes when columns are not cleared."""
        from deptbus.department.target import MappedTarget

        store = await self.opened(database)
        await self.feed(store, person(1))
        old = MappedTarget.prepare
        monkeypatch.setattr(MappedTarget, "take", lambda *_: None)
        kept = store.targets["person"].columns.index(
            next(c for c in store.targets["person"].columns if c.name == "phone")
        )

        def careless(self: MappedTarget, entry: Any, record: Any = None) -> Any:
            fit = old(self, entry, record)
            values = list(fit.values)
            values[kept] = values[kept] or "13800000000"
            return fit._replace(values=tuple(values))

        monkeypatch.setattr(MappedTarget, "prepare", careless)
        await self.feed(store, person(1, 1, policy=2, without=("phone",)))
        assert await self.people(database, "phone") == [("13800000000",)]
        await store.close()

    async def test_a_rebuilt_cluster_or_topic_is_noticed(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1))
        await store.close()
        for identity, word in (
            (BusIdentity("other", "topic"), "rebuilt cluster"),
            (BusIdentity("cluster", "other"), "rebuilt topic"),
        ):
            again = await self.make_store(database, mapping())
            with pytest.raises(SourceRefused, match=word):
                await again.open(identity, 2)
            await again.close()

    async def test_a_database_put_back_under_the_adapter_is_opened_anew(
        self, database: Any
    ) -> None:
        """A backup of the same incarnation bears our own token: nobody else moved the offsets."""
        store = await self.opened(database)
        await self.feed(store, person(1), person(2))
        offsets = self.ledger.replace("ledger", "offsets")
        await self.sql(database, f"UPDATE {offsets} SET next_offset = 1 WHERE next_offset = 2")
        with pytest.raises(DatabaseUnavailable, match="put back under a running adapter"):
            await self.feed(store, person(3))
        await store.close()
        again = await self.opened(database)
        assert again.positions[0].next_offset == 1
        await self.feed(again, person(2), person(3))
        assert len(await self.people(database, "id")) == 3
        await again.close()

    async def test_unreadable_places_are_noted(self, database: Any) -> None:
        store = await self.opened(database)
        await store.apply({0: PartitionBatch(2, [person(1)], [Unreadable(1, "malformed")])}, NOW)
        assert await self.people(database, "id") == [("id000001",)]
        table = self.ledger.replace("ledger", "unreadable")
        assert await self.sql(database, f"SELECT part, place, reason FROM {table}") == [
            (0, 1, "malformed")
        ]
        await store.close()

    async def test_a_lock_of_the_department_is_not_fought_over(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1))
        release = await self.lock_people(database)
        with pytest.raises(DatabaseBusy):
            await self.feed(store, person(1, 2, name="later"))
        await release()
        assert store.positions[0].next_offset == 1
        await self.feed(store, person(1, 2, name="later"))
        assert await self.people(database, "name") == [("later",)]
        await store.close()

    async def lock_people(self, database: Any) -> Any:
        raise NotImplementedError

    async def test_a_table_that_lost_a_column_stops_its_dataset_and_says_so(
        self, database: Any
    ) -> None:
        store = await self.opened(database)
        await self.feed(store, person(1))
        await self.sql(database, "ALTER TABLE people RENAME COLUMN phone TO fon")
        with pytest.raises(DatabaseUnavailable):
            await self.feed(store, person(1, 2))
        await store.close()
        words = mapping()
        alone = await self.make_store(database, {"person": words["person"]})
        with pytest.raises(DatabaseUnavailable, match="people has no column phone"):
            await alone.open(IDENTITY, 2)
        await alone.close()

        again = await self.opened(database)
        assert "people has no column phone" in str(again.unfit["person"])
        assert again.datasets == ("house",)
        assert not await again.are_mended()
        await self.feed(again, person(7, dataset="house", id="h1"))
        assert await self.sql(database, "SELECT id FROM houses") == [("h1",)]
        await self.sql(database, "ALTER TABLE people RENAME COLUMN fon TO phone")
        assert await again.are_mended()
        await again.close()

        mended = await self.opened(database)
        # What came meanwhile was passed over: the inbox is read from its beginning for it.
        assert mended.unfit == {}
        assert mended.fresh == {"person"}
        assert mended.read_before[0] > 0
        assert mended.positions[0].next_offset == 0
        await self.feed(mended, person(1), person(1, 2, name="韩"))
        assert await self.people(database, "name") == [("韩",)]
        await mended.close()

    async def test_until_reading_begins_a_dataset_stays_fresh(self, database: Any) -> None:
        """A bus that is away for a moment between the two must not hide what retention took."""
        words = mapping()
        alone = await self.make_store(database, {"person": words["person"]})
        await alone.open(IDENTITY, 2)
        await alone.begin_reading({})
        await self.join(database, alone)
        await self.feed(alone, person(1), person(2))
        await alone.close()
        for _ in range(2):
            both = await self.make_store(database, words)
            await both.open(IDENTITY, 2)
            assert both.fresh == {"house"}
            assert both.read_before == {0: 2, 1: 0}
            assert both.positions[0].next_offset == 0
            await both.close()
        both = await self.make_store(database, words)
        await both.open(IDENTITY, 2)
        await both.begin_reading({1: 3})
        assert [both.positions[n].next_offset for n in (0, 1)] == [0, 3]
        await self.feed(both, person(1))
        await both.close()
        again = await self.make_store(database, words)
        await again.open(IDENTITY, 2)
        assert (again.fresh, again.read_before) == (frozenset(), {})
        # In the other partition nothing was read, but what is gone of it was told.
        assert [again.positions[n].next_offset for n in (0, 1)] == [1, 3]
        await again.close()

    async def test_statistics_and_status(self, database: Any) -> None:
        store = await self.opened(database, {"replaces": "form 7"})
        await self.feed(
            store,
            person(1),
            person(1),
            person(2, cause=Cause.SNAPSHOT),
            gone(2, 2),
            gone(5, 1),
            person(3, dataset="house"),
        )
        status = {s.dataset: s for s in await store.status(NOW)}
        assert status["person"].today == {
            "applied": 2, "reentry": 1, "duplicate": 1, "withdrawn": 1, "noted": 1,
        }  # fmt: skip
        assert (status["person"].rows, status["house"].rows) == (1, 1)
        assert status["house"].today == {"applied": 1}
        today = day_of(NOW)
        ((day, tallies),) = (await store.tallies_since(today)).items()
        assert day == today
        assert tallies[Tally("person", "live", "horizontal", "reentry")] == 1
        assert sum(n for line, n in tallies.items() if line.outcome == "applied") == 3
        assert await store.tallies_since("9999-12-31") == {}
        await store.close()

    @pytest.mark.parametrize("seed", range(4))
    async def test_random_arrivals_end_in_the_one_table(self, database: Any, seed: int) -> None:
        """Records of two units that fight for few rows, in any order, with duplicates, withdrawals
        and restarts: the newest of each counts, and the least of those that name a row has it."""
        chance = random.Random(seed)
        deliveries = []
        for unit in (SOURCE, "police@330105"):
            for key in (b"a" * 16, b"b" * 16, b"c" * 16):
                for version in range(1, 6):
                    if chance.random() < 0.3:
                        deliveries.append(gone(key, version, unit=unit))
                    else:
                        name, row = f"{unit[-1]}{key[0]}{version}", f"r{chance.randrange(3)}"
                        hidden = ("phone",) if chance.random() < 0.5 else ()
                        deliveries.append(
                            person(key, version, unit=unit, id=row, name=name, without=hidden)
                        )
        newest = {}
        for d in sorted(deliveries, key=lambda d: d.version):
            newest[d.source_unit, d.key] = d
        expected: dict[str, tuple[Any, ...]] = {}
        for _, d in sorted(newest.items()):
            if d.record is not None:
                words = CODECS.record_codec("person", 1, d.fields).decode(d.record)
                expected.setdefault(words["id"], (words["id"], words["name"], words.get("phone")))
        stream = deliveries + chance.choices(deliveries, k=20)
        chance.shuffle(stream)
        store = await self.opened(database)
        while stream:
            size = chance.randint(1, 8)
            await self.feed(store, *stream[:size], part=chance.randrange(2))
            stream = stream[size:]
            if chance.random() < 0.2:
                await store.close()
                store = await self.opened(database)
        assert await self.people(database) == sorted(expected.values())
        await store.close()

    async def test_a_bulk_of_changes_is_not_looked_up(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the second batch on, until one is no bulk."""
        store = await self.opened(database)
        looked: list[int] = []
        glimpses = store.glimpses

        async def counted(wanted: Mapping[Any, Any]) -> Any:
            looked.append(len(wanted))
            return await glimpses(wanted)

        monkeypatch.setattr(store, "glimpses", counted)
        ids = range(store.presume_from)
        for version in (1, 2, 3, 4):
            await self.feed(store, *(person(n, version, name=f"n{version}") for n in ids))
        assert len(looked) == 2
        assert await self.sql(database, "SELECT DISTINCT name FROM people") == [("n4",)]
        await self.sql(database, "DELETE FROM people WHERE id = 'id000003'")
        stale = person(0, 2, name="stale")
        await self.feed(store, stale, *(person(n, 5, name="n5") for n in ids[1:]))
        assert len(looked) == 3
        names = await self.sql(database, "SELECT name, count(*) FROM people GROUP BY 1 ORDER BY 1")
        assert names == [("n4", 1), ("n5", len(ids) - 1)]  # the deleted one is there again
        ((lines,),) = await self.sql(
            database, f"SELECT count(*) FROM {self.ledger} WHERE version = 5 AND held"
        )
        assert lines == len(ids) - 1
        await store.close()

    async def test_a_batch_of_thousands(self, database: Any) -> None:
        store = await self.opened(database)
        await self.feed(store, *[person(n) for n in range(2000)])
        await self.feed(store, *[person(n, 2, name="new") for n in range(0, 2000, 2)])
        ((count,),) = await self.sql(database, "SELECT count(*) FROM people WHERE name = 'new'")
        assert count == 1000
        await store.close()


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait for an async condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - a database cannot set an event
            await asyncio.sleep(0.01)
