"""What a store does with rows that were here before the bus; each database's tests subclass it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inbox_feed import department_file
from recipient_contract import CONTRACT, gone, person
from store_rooms import NOW, StoreRoom
from structlog.testing import capture_logs

from deptbus.change import DeliveryOp
from deptbus.contract.department import Department, load_department
from deptbus.department import (
    adoption,
    adoption_act,
    adoption_desk,
    adoption_postgres,
    adoption_sqlite,
    install,
)
from deptbus.department.adoption import Looked
from deptbus.department.compare import compare_dataset
from deptbus.department.kept_rows import own_of
from deptbus.department.ledger import WAITS_FOR_JOIN, Prepared, RecordId
from deptbus.department.repairs import REMOVE, Order, OrderId
from deptbus.department.store import Store
from deptbus.department.target import MappedTarget
from deptbus.errors import DatabaseBusy, DatabaseUnavailable, DeptbusError

PEOPLE = (
    "CREATE TABLE people (n {number} PRIMARY KEY, id VARCHAR(40), name VARCHAR(20), born TEXT, "
    "phone VARCHAR(20), remark VARCHAR(20), state VARCHAR(20))"
)
INDEX = "CREATE INDEX people_id ON people (id)"
TENANCIES = "CREATE TABLE tenancies (t INTEGER PRIMARY KEY, person INTEGER REFERENCES people (n))"
COLUMNS = {"id": "id", "name": "name", "born": "born", "phone": "phone"}
WORDS: dict[str, Any] = {"columns": COLUMNS, "key": ("id",), "mark": {"state": "gone"}}
BY_NAME = {
    "columns": {"$key": "id", **{f: c for f, c in COLUMNS.items() if f != "id"}},
    "key": ("id",),
    "match": ("name", "born"),
    "forms": {"born": "date YYYY/M/D"},
    "mark": {"state": "gone"},
}
KEYED = (
    "CREATE TABLE people (id VARCHAR(40) PRIMARY KEY, name VARCHAR(20), phone VARCHAR(20), "
    "remark VARCHAR(20), state VARCHAR(20))"
)
KEYED_WORDS = {
    "columns": {"id": "id", "name": "name", "phone": "phone"},
    "values": {"phone": {"021": "13800000000"}},
    "match": ("name",),
    "mark": {"state": "gone"},
}
ALL_OF_IT = "n, id, name, born, phone, remark, state"
LI = (1, "id000001", "李雷", "1990-01-01", "021", "old tenant", None)


class AdoptionSuite(StoreRoom):
    number = "INTEGER"  # of a column that the database numbers by itself

    async def typed(self, database: Any, *rows: tuple[Any, ...]) -> None:
        for statement in (PEOPLE.format(number=self.number), INDEX, TENANCIES):
            await self.sql(database, statement)
        for row in rows:
            words = ", ".join("NULL" if v is None else repr(v) for v in row)
            await self.sql(database, f"INSERT INTO people VALUES ({words})")
            await self.sql(database, f"INSERT INTO tenancies VALUES ({row[0]}, {row[0]})")

    async def all_of_it(self, database: Any) -> list[tuple[Any, ...]]:
        return await self.sql(database, f"SELECT {ALL_OF_IT} FROM people ORDER BY n")

    async def keyed(self, database: Any) -> list[tuple[Any, ...]]:
        return await self.sql(
            database, "SELECT id, name, phone, remark, state FROM people ORDER BY id"
        )

    async def tenancies(self, database: Any) -> list[tuple[Any, ...]]:
        return await self.sql(database, "SELECT t, person FROM tenancies ORDER BY t")

    async def kept_of(self, database: Any) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.sql(database, f"SELECT origin, own FROM {self.kept} ORDER BY number")
        return [(origin, own_of(own)) for origin, own in rows]

    async def reasons(self, database: Any) -> list[str]:
        rows = await self.sql(
            database, f"SELECT parked FROM {self.ledger} WHERE parked IS NOT NULL ORDER BY key"
        )
        return [reason for (reason,) in rows]

    # -- the first load waits ----------------------------------------------------------------------

    async def test_nothing_is_written_before_the_yes(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS, joins=False)
        assert store.targets["person"].waits
        await self.feed(store, person(1), person(2), person(3))
        await self.feed(store, person(2, 2), gone(3, 2))
        await store.apply({}, NOW + 10**15)
        assert await self.all_of_it(database) == [LI]
        assert await self.reasons(database) == [WAITS_FOR_JOIN] * 2
        assert await self.kept_of(database) == []
        (status, _) = await store.status(NOW)
        assert (status.waits_for_join, status.kept) == (True, {})
        assert store.retry_in_seconds(NOW) is None
        await store.close()

    async def test_what_waited_is_adopted_in_the_end_and_nothing_doubled(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS, joins=False)
        await self.feed(store, person(1), person(2), person(3))
        await self.feed(store, person(2, 2, name="韩梅梅"), gone(3, 2))
        assert await self.join(database, store) == ["person"]
        assert store.retry_in_seconds(NOW) == 0
        await store.apply({}, NOW)
        rows = await self.all_of_it(database)
        assert rows[0] == (1, "id000001", "李雷", "1990-01-01", "13800000000", "old tenant", None)
        assert [row[1:3] for row in rows] == [("id000001", "李雷"), ("id000002", "韩梅梅")]
        assert await self.kept_of(database) == [
            ("adoption", {"id": "id000001", "name": "李雷", "born": "1990-01-01", "phone": "021"})
        ]
        assert await self.tenancies(database) == [(1, 1)]
        await store.apply({}, NOW)
        assert store.retry_in_seconds(NOW) is None
        await store.close()

    async def test_the_yes_survives_a_restart_in_the_midst_of_it(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deptbus.department.store.ADOPTED_AT_ONCE", 3)
        await self.typed(database, LI)
        store = await self.opened(database, WORDS, joins=False)
        await self.feed(store, *(person(n) for n in range(1, 9)))
        await self.join(database, store)
        await store.apply({}, NOW)
        assert len(await self.all_of_it(database)) == 3
        await store.close()
        again = await self.opened(database, WORDS, joins=False)
        while again.existing.adopting:
            await again.apply({}, NOW)
        assert len(await self.all_of_it(database)) == 8
        assert [row[1] for row in await self.all_of_it(database)].count("id000001") == 1
        await again.close()

    async def test_a_first_load_whose_transaction_fails_goes_on(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS, joins=False)
        await self.feed(store, person(1), person(2))
        await self.join(database, store)
        commit = store.commit

        async def busy(work: Any) -> None:
            raise DatabaseBusy("somebody holds a lock")

        monkeypatch.setattr(store, "commit", busy)
        with pytest.raises(DatabaseBusy):
            await store.apply({}, NOW)
        monkeypatch.setattr(store, "commit", commit)
        assert store.retry_in_seconds(NOW) == 0
        await store.apply({}, NOW)
        assert len(await self.all_of_it(database)) == 2
        assert await self.reasons(database) == []
        await store.close()

    async def test_an_empty_table_and_one_of_ours_wait_for_nobody(self, database: Any) -> None:
        await self.typed(database)
        store = await self.opened(database, WORDS, joins=False)
        assert not any(target.waits or target.had_rows for target in store.targets.values())
        await self.feed(store, person(1))
        await self.feed(store, gone(1, 2))
        assert await self.all_of_it(database) == []
        await store.close()
        again = await self.opened(database, WORDS, joins=False)
        assert not again.targets["person"].waits
        await again.close()

    async def test_who_received_before_this_was_noted_is_asked_nothing(self, database: Any) -> None:
        store = await self.opened(database, joins=False)
        await self.feed(store, person(1))
        await store.close()
        await self.sql(database, f"DELETE FROM {self.existing}")
        again = await self.opened(database, joins=False)
        assert not again.targets["person"].waits
        await self.feed(again, gone(1, 2))
        assert await self.people(database, "id") == []
        await again.close()

    # -- which row -------------------------------------------------------------------------------

    async def test_a_row_is_known_in_other_letters_and_gets_the_bus_key(
        self, database: Any
    ) -> None:
        await self.typed(database, (1, None, "李雷", "19900101", None, "mine", None))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1))
        key = (1).to_bytes(16, "big").hex()
        assert await self.all_of_it(database) == [
            (1, key, "李雷", "1990/1/1", "13800000000", "mine", None)
        ]
        await self.feed(store, person(1, 2, phone="1"))
        assert [row[4] for row in await self.all_of_it(database)] == ["1"]
        await store.close()

    async def test_ambiguous_ones_are_parked_whichever_comes_first(self, database: Any) -> None:
        rows = [(n, f"id{n:06}", "李雷", "1990-01-01", None, None, None) for n in (1, 2)]
        await self.typed(database, *rows, (3, "id000002", "x", None, None, None, None))
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1), person(2))
        assert await self.reasons(database) == ["existing: several rows of people match it"]
        assert (await self.all_of_it(database))[1:] == [
            rows[1], (3, "id000002", "x", None, None, None, None),
        ]  # fmt: skip
        # A clerk takes one of the two away.
        await self.sql(database, "DELETE FROM tenancies WHERE t = 3")
        await self.sql(database, "DELETE FROM people WHERE n = 3")
        await store.apply({}, NOW + 10**9)
        assert await self.reasons(database) == []
        assert [row[4] for row in await self.all_of_it(database)] == ["13800000000"] * 2
        await store.close()

    @pytest.mark.parametrize("first", [1, 2])
    async def test_records_that_match_one_row_wait_for_a_person(
        self, database: Any, first: int
    ) -> None:
        """In the first load none of them gets it; later on the one that has it keeps it."""
        row = (1, None, "李雷", "1990/1/1", None, None, None)
        await self.typed(database, row)
        store = await self.opened(database, BY_NAME, joins=False)
        await self.feed(store, person(first))
        await self.feed(store, person(3 - first))
        await self.join(database, store)
        await store.apply({}, NOW)
        assert await self.all_of_it(database) == [row]
        assert (
            await self.reasons(database)
            == ["existing: several records match its row of people"] * 2
        )
        await store.close()

    async def test_records_that_match_one_row_wait_in_the_next_session_too(
        self, database: Any
    ) -> None:
        """Until one of them goes: then nobody contests the other's row."""
        row = (1, None, "李雷", "1990/1/1", None, None, None)
        await self.typed(database, row)
        store = await self.opened(database, BY_NAME, joins=False)
        await self.feed(store, person(1), person(2))
        await self.join(database, store)
        await store.apply({}, NOW)
        await store.close()
        again = await self.opened(database, BY_NAME)
        await again.apply({}, NOW + 10**9)
        assert await self.all_of_it(database) == [row]
        several = "existing: several records match its row of people"
        assert await self.reasons(database) == [several] * 2
        await self.feed(again, gone(1, 2), now=NOW + 2 * 10**9)
        await again.apply({}, NOW + 4 * 10**9)
        assert [r[4] for r in await self.all_of_it(database)] == ["13800000000"]
        assert await self.reasons(database) == []
        await again.close()

    async def test_new_records_that_match_one_row_wait_for_a_person(self, database: Any) -> None:
        """In one batch, in later ones, when one is tried again alone, and in the next session;
        until all but one went."""
        row = (1, None, "李雷", "1990/1/1", None, None, None)
        several = "existing: several records match its row of people"
        await self.typed(database, row)
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1), person(2))
        assert (await self.all_of_it(database), await self.reasons(database)) == (
            [row], [several] * 2,
        )  # fmt: skip
        await self.feed(store, person(3))
        assert await self.reasons(database) == [several] * 3
        await self.sql(
            database,
            f"UPDATE {self.ledger} SET retry_at_us = {NOW + 10**12} WHERE key <> "
            f"(SELECT min(key) FROM {self.ledger})",
        )
        await store.apply({}, NOW + 10**9)
        assert await self.all_of_it(database) == [row]
        await store.close()
        again = await self.opened(database, BY_NAME)
        await self.feed(again, person(1, 2), gone(3, 2))
        assert (await self.all_of_it(database), await self.reasons(database)) == (
            [row], [several] * 2,
        )  # fmt: skip
        await self.feed(again, gone(2, 2))
        await again.apply({}, NOW + 2 * 10**12)
        assert [r[4] for r in await self.all_of_it(database)] == ["13800000000"]
        assert await self.reasons(database) == []
        await again.close()

    async def test_a_new_record_waits_beside_one_that_a_session_before_left_parked(
        self, database: Any
    ) -> None:
        """Whatever that one was parked for: its row is not taken meanwhile."""
        key = (1).to_bytes(16, "big").hex()
        row = (1, None, "李雷", "1990/1/1", None, None, None)
        await self.typed(database, row, (2, key, "x", None, None, None, None))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1))
        assert await self.reasons(database) == ["existing: another row of people has its key"]
        await store.close()
        again = await self.opened(database, BY_NAME)
        await self.feed(again, person(2))
        assert (await self.all_of_it(database))[0] == row
        assert (await self.reasons(database))[1].startswith("existing: several records match")
        await again.close()

    async def test_new_records_of_one_own_key_are_claimants_of_the_row(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "match": ("name",)})
        await self.feed(store, person(2, id="id000001", phone="2"), person(1, phone="1"))
        assert await self.reasons(database) == []
        assert (await self.all_of_it(database))[0][4] == "1"
        await self.feed(store, gone(1, 2))
        assert (await self.all_of_it(database))[0][4] == "2"
        await store.close()

    async def test_a_row_that_another_record_holds_is_not_taken(self, database: Any) -> None:
        await self.typed(database, (1, None, "李雷", "1990/1/1", None, None, None))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(2))
        await self.feed(store, person(1))
        assert len(await self.all_of_it(database)) == 1
        (reason,) = await self.reasons(database)
        assert reason == "existing: another record holds the row of people that matches it"
        await store.close()

    async def test_existing_park(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "existing": "park"})
        await self.feed(store, person(1), person(2))
        rows = await self.all_of_it(database)
        assert rows[0] == LI
        assert [row[1] for row in rows] == ["id000001", "id000002"]
        assert await self.reasons(database) == ["existing: a row of people matches it"]
        await store.close()

    async def test_a_key_that_others_refer_to_is_not_changed(self, database: Any) -> None:
        await self.sql(
            database, "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20))"
        )
        await self.sql(
            database,
            "CREATE TABLE pets (owner VARCHAR(30) REFERENCES people (id) ON UPDATE CASCADE)",
        )
        await self.sql(database, "INSERT INTO people VALUES ('ID000001', '李雷'), ('ID2', 'x')")
        await self.sql(database, "INSERT INTO pets VALUES ('ID000001')")
        words = {"columns": {"id": "id", "name": "name"}, "match": ("name",)}
        store = await self.opened(database, words)
        await self.feed(store, person(1))
        assert await self.sql(database, "SELECT owner FROM pets") == [("ID000001",)]
        (reason,) = await self.reasons(database)
        assert reason.startswith("existing: other tables refer to the row")
        await store.close()

    async def test_a_record_without_a_match_is_parked(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "match": ("phone",)})
        await self.feed(store, person(7, phone=None))
        assert await self.all_of_it(database) == [LI]
        (reason,) = await self.reasons(database)
        assert reason == "existing: people.phone would be empty, by which rows are matched"
        await store.close()

    async def test_a_row_that_bears_the_key_of_another_is_not_overwritten(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "match": ("name",)})
        await self.feed(store, person(1, name="韩梅梅"))
        assert await self.all_of_it(database) == [LI]
        assert await self.reasons(database) == ["existing: another row of people has its key"]
        await store.close()

    async def test_a_row_that_is_changed_meanwhile_is_looked_at_again(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        wrote = await self.between_look_and_write(database, store, monkeypatch)
        await self.feed(store, person(1))
        assert wrote == [1]
        assert await self.kept_of(database) == [
            ("adoption", {"id": "id000001", "name": "李雷", "born": "1990-01-01", "phone": "new"})
        ]
        await store.close()

    async def test_who_writes_a_row_all_the_time_is_left_alone_for_a_while(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        commit, calls = store.commit, 0

        async def slowly(work: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < 9:
                await self.sql(database, f"UPDATE people SET phone = '{calls}' WHERE n = 1")
            await commit(work)

        monkeypatch.setattr(store, "commit", slowly)
        with pytest.raises(DatabaseBusy):
            await self.feed(store, person(1))
        assert calls == 3
        assert (await self.all_of_it(database))[0][4] == "3"
        await store.close()

    @pytest.mark.parametrize("on_remove", ["mark", "delete", "park"])
    async def test_a_row_goes_with_its_record_to_another_own_key(
        self, database: Any, on_remove: str
    ) -> None:
        """Nothing of the bus is kept as if it were the department's, and its own comes back."""
        await self.typed(database, LI)
        mark = {"mark": {"state": "gone"} if on_remove == "mark" else {}, "on_remove": on_remove}
        store = await self.opened(database, {**WORDS, **mark, "match": ("name", "born")})
        await self.feed(store, person(1, phone="1"))
        await self.sql(database, "UPDATE people SET phone = 'typed' WHERE n = 1")
        await self.feed(store, person(1, 2, id="id000099", phone="2"))
        assert await self.all_of_it(database) == [
            (1, "id000099", "李雷", "1990-01-01", "2", "old tenant", None)
        ]
        assert await self.reasons(database) == []
        assert await self.tenancies(database) == [(1, 1)]
        assert (await self.kept_of(database))[1:] == [("delivery", {"phone": "typed"})]
        if on_remove == "mark":
            await self.feed(store, gone(1, 3))
            assert await self.all_of_it(database) == [(*LI[:-1], "gone")]
        await store.close()

    async def test_a_row_whose_own_key_a_clerk_changed_is_told_and_made_anew(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1, phone="1"), person(2))
        with capture_logs() as logs:
            await self.feed(store, person(1, 2, phone="2"), person(2, 2))
            assert logs == []
            await self.sql(database, "UPDATE people SET id = 'mistyped' WHERE n = 1")
            await self.feed(store, person(1, 3, phone="3"), person(2, 3))
        (told,) = logs
        assert (told["event"], told["table"], told["rows"]) == ("own_rows_gone", "people", 1)
        rows = {row[1]: row for row in await self.all_of_it(database)}
        assert rows["mistyped"] == (
            *(1, "mistyped", "李雷", "1990-01-01", "2", "old tenant", None),
        )
        assert rows["id000001"][4:] == ("3", None, None)
        assert len(rows) == 3
        await store.close()

    async def between_look_and_write(
        self, database: Any, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> list[int]:
        """A clerk writes once, behind the look at the rows and before the transaction."""
        wrote: list[int] = []
        commit = store.commit

        async def slowly(work: Any) -> None:
            if not wrote:
                wrote.append(1)
                await self.sql(database, "UPDATE people SET phone = 'new' WHERE n = 1")
            await commit(work)

        monkeypatch.setattr(store, "commit", slowly)
        return wrote

    # -- when the record goes --------------------------------------------------------------------

    async def test_a_row_gets_back_what_it_had_and_is_marked(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1), person(2))
        await self.feed(store, person(1, 2, name="李四"))
        await self.feed(store, gone(1, 3), gone(2, 3))
        rows = await self.all_of_it(database)
        assert rows[0] == (*LI[:-1], "gone")
        assert rows[1][1:] == (None, None, None, None, None, "gone")
        assert await self.tenancies(database) == [(1, 1)]
        await store.close()

    async def test_what_was_typed_over_is_kept_when_it_goes(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1))
        await self.sql(database, "UPDATE people SET phone = 'typed', state = 's' WHERE n = 1")
        await self.feed(store, gone(1, 3))
        assert (await self.kept_of(database))[-1] == ("removal", {"phone": "typed", "state": "s"})
        await store.close()

    async def test_who_comes_back_gets_his_row_and_loses_the_mark(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        for version in (1, 3):
            await self.feed(store, person(1, version))
            assert [(r[4], r[6]) for r in await self.all_of_it(database)] == [("13800000000", None)]
            await self.feed(store, gone(1, version + 1))
            assert await self.all_of_it(database) == [(*LI[:-1], "gone")]
        await store.close()

    async def test_who_comes_back_soon_finds_his_row_as_it_was_spelled_before(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last look at the table saw it in the letters of the bus."""
        row = (1, None, "李雷", "19900101", None, "mine", None)
        await self.typed(database, row)
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1))
        with monkeypatch.context() as soon:
            soon.setattr(adoption_desk, "SPELLINGS_SECONDS", 0.0)
            await self.feed(store, person(3, name="韩梅梅"))
        await self.feed(store, gone(1, 2))
        assert (await self.all_of_it(database))[0] == (*row[:-1], "gone")
        await self.feed(store, person(1, 3))
        assert [(r[2], r[3], r[6]) for r in await self.all_of_it(database)] == [
            ("李雷", "1990/1/1", None), ("韩梅梅", "1990/1/1", None),
        ]  # fmt: skip
        await store.close()

    async def test_another_record_of_the_same_person_takes_the_mark_away(
        self, database: Any
    ) -> None:
        """As of one who moved to another county; and when that one goes too, what was there before
        both comes back."""
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1))
        await self.feed(store, gone(1, 2))
        assert await self.all_of_it(database) == [(*LI[:-1], "gone")]
        await self.feed(store, person(2, id="id000001"))
        assert [(r[4], r[6]) for r in await self.all_of_it(database)] == [("13800000000", None)]
        await self.feed(store, gone(2, 2))
        assert await self.all_of_it(database) == [(*LI[:-1], "gone")]
        await store.close()

    @pytest.mark.parametrize("existing", ["adopt", "park"])
    async def test_a_row_of_the_bus_whose_key_stayed_is_filled_again(
        self, database: Any, existing: str
    ) -> None:
        """Its match was emptied. The record is taken by it as often as it comes, as is another of
        the same own key."""
        await self.sql(database, KEYED)
        await self.sql(database, "INSERT INTO people VALUES ('own', 'x', NULL, NULL, NULL)")
        store = await self.opened(database, {**KEYED_WORDS, "existing": existing})
        emptied = ("id000001", None, None, "mine", "gone")
        await self.feed(store, person(1))
        await self.sql(database, "UPDATE people SET remark = 'mine' WHERE id = 'id000001'")
        for version in (2, 4):
            await self.feed(store, gone(1, version))
            assert (await self.keyed(database))[0] == emptied
            await self.feed(store, person(1, version + 1))
            assert await self.reasons(database) == []
            assert (await self.keyed(database))[0] == ("id000001", "李雷", "021", "mine", None)
        await self.feed(store, gone(1, 6))
        await self.feed(store, person(2, id="id000001", name="韩梅梅"))
        assert (await self.keyed(database))[0] == ("id000001", "韩梅梅", "021", "mine", None)
        await self.feed(store, gone(2, 2))
        assert (await self.keyed(database))[0] == emptied
        assert {origin for origin, _ in await self.kept_of(database)} == {"removal"}
        await store.close()

    async def test_a_row_of_the_bus_into_which_somebody_wrote_is_his(self, database: Any) -> None:
        await self.sql(database, KEYED)
        await self.sql(database, "INSERT INTO people VALUES ('own', 'x', NULL, NULL, NULL)")
        store = await self.opened(database, KEYED_WORDS)
        await self.feed(store, *(person(n) for n in (1, 2, 3)))
        await self.feed(store, *(gone(n, 2) for n in (1, 2, 3)))
        await self.sql(database, "UPDATE people SET name = 'typed' WHERE id = 'id000001'")
        await self.sql(database, "UPDATE people SET state = 'ours' WHERE id = 'id000002'")
        before = await self.keyed(database)
        await self.feed(store, *(person(n, 3) for n in (1, 2, 3)))
        assert (await self.keyed(database))[:2] == before[:2]
        assert (await self.keyed(database))[2] == ("id000003", "李雷", "021", None, None)
        key = "existing: another row of people has its key"
        assert await self.reasons(database) == [key] * 2
        await store.close()

    async def test_a_row_of_the_bus_whose_key_was_emptied_is_filled_again(
        self, database: Any
    ) -> None:
        """It is found by the table's own key; what refers to it meanwhile stays with the person."""
        await self.typed(database, (50, "own", "x", None, None, None, None))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1), person(2, name="韩梅梅"))
        made = {row[2]: row[0] for row in await self.all_of_it(database)}
        await self.sql(database, "UPDATE people SET remark = 'of ' || name")
        await self.sql(database, f"INSERT INTO tenancies VALUES (9, {made['李雷']})")
        for version in (2, 4):
            await self.feed(store, gone(1, version), gone(2, version))
            rows = {row[0]: row[1:] for row in await self.all_of_it(database)}
            assert rows[made["李雷"]] == (None, None, None, None, "of 李雷", "gone")
            await self.feed(store, person(2, version + 1, name="韩梅梅"))
            await self.feed(store, person(1, version + 1), now=NOW + 10**9 * version)
            assert await self.reasons(database) == []
            rows = {row[0]: row[1:] for row in await self.all_of_it(database)}
            assert len(rows) == 3
            for name, n in made.items():
                if name != "x":
                    assert (rows[n][1], *rows[n][4:]) == (name, f"of {name}", None)
        await store.close()

    async def test_a_key_that_others_refer_to_is_not_emptied(self, database: Any) -> None:
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) UNIQUE, name VARCHAR(20), state VARCHAR(20))",
        )
        await self.sql(
            database,
            "CREATE TABLE pets (owner VARCHAR(30) REFERENCES people (id) ON UPDATE CASCADE)",
        )
        await self.sql(database, "INSERT INTO people VALUES ('own', 'x', NULL)")
        words = {"columns": {"id": "id", "name": "name"}, "mark": {"state": "gone"}}
        store = await self.opened(database, words)
        await self.feed(store, person(1))
        await self.sql(database, "INSERT INTO pets VALUES ('id000001')")
        people = "SELECT id, name, state FROM people ORDER BY id"
        await self.feed(store, gone(1, 2))
        assert (await self.sql(database, people))[0] == ("id000001", None, "gone")
        assert await self.sql(database, "SELECT owner FROM pets") == [("id000001",)]
        await self.feed(store, person(1, 3))
        assert (await self.sql(database, people))[0] == ("id000001", "李雷", None)
        await store.close()

    async def test_an_emptied_row_that_is_another_ones_by_now_is_left(self, database: Any) -> None:
        """Its number was given to a new row, or somebody wrote there: a new one is made."""
        await self.typed(database, (50, "own", "x", None, None, None, None))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1), person(2, name="韩梅梅"))
        await self.feed(store, gone(1, 2), gone(2, 2))
        made = [row[0] for row in await self.all_of_it(database) if row[6] == "gone"]
        await self.sql(database, f"UPDATE people SET phone = 'typed' WHERE n = {made[0]}")
        await self.sql(database, f"DELETE FROM people WHERE n = {made[1]}")
        await self.sql(database, f"INSERT INTO people (n, remark) VALUES ({made[1]}, 'new')")
        before = {row[0]: row for row in await self.all_of_it(database)}
        await self.feed(store, person(1, 3), person(2, 3, name="韩梅梅"))
        rows = {row[0]: row for row in await self.all_of_it(database)}
        assert [rows[n] for n in made] == [before[n] for n in made]
        assert len(rows) == 5
        assert await self.reasons(database) == []
        await store.close()

    async def test_a_table_of_ours_whose_rows_stay_loses_the_mark_and_no_repair_removes_them(
        self, database: Any
    ) -> None:
        await self.sql(database, KEYED)
        store = await self.opened(database, {**KEYED_WORDS, "on_remove": "mark"}, joins=False)
        assert not store.targets["person"].waits
        store.stranger = lambda dataset, name: b"row"
        assert store.stranger_in("person", b"n") is None
        await self.feed(store, person(1))
        await self.feed(store, gone(1, 2))
        assert await self.keyed(database) == [("id000001", None, None, None, "gone")]
        await self.feed(store, person(1, 3))
        assert await self.keyed(database) == [("id000001", "李雷", "021", None, None)]
        await store.close()

    async def test_planted_bug_nobody_looks_whether_a_row_is_emptied_still(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (adoption_sqlite, adoption_postgres):
            monkeypatch.setattr(module, "is_emptied", lambda *_: True)
        await self.sql(database, KEYED)
        await self.sql(database, "INSERT INTO people VALUES ('own', 'x', NULL, NULL, NULL)")
        store = await self.opened(database, KEYED_WORDS)
        await self.feed(store, person(1))
        await self.feed(store, gone(1, 2))
        await self.sql(database, "UPDATE people SET name = 'typed' WHERE id = 'id000001'")
        await self.feed(store, person(1, 3))
        assert (await self.keyed(database))[0][1] == "李雷"  # what was typed is lost
        assert [o for o, _ in await self.kept_of(database)] == ["removal"]
        await store.close()

    async def test_what_was_there_before_comes_back_whoever_holds_the_row_by_then(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(2, id="id000001"))
        await self.feed(store, person(1))
        await self.feed(store, gone(2, 2))
        await self.feed(store, gone(1, 2))
        assert await self.all_of_it(database) == [(*LI[:-1], "gone")]
        await store.close()

    async def test_on_remove_delete_is_done_where_it_is_said(self, database: Any) -> None:
        await self.typed(database, (*LI[:1], "id000009", *LI[2:]))
        store = await self.opened(database, {**WORDS, "on_remove": "delete", "mark": {}})
        await self.feed(store, person(1))
        await self.feed(store, gone(1, 2))
        assert [row[1] for row in await self.all_of_it(database)] == ["id000009"]
        await store.close()

    async def test_on_remove_park_waits_for_a_person(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "on_remove": "park", "mark": {}})
        await self.feed(store, person(1), person(2))
        before = await self.all_of_it(database)
        await self.feed(store, gone(1, 2, op=DeliveryOp.DELETE), gone(2, 2))
        rows = await self.all_of_it(database)
        assert rows[0] == before[0]
        assert rows[1][1:] == ("id000002", None, None, None, None, None)  # its right has ended
        assert await self.reasons(database) == ["on_remove: park: its row is still there"] * 2
        await self.sql(database, "DELETE FROM tenancies")
        await self.sql(database, "DELETE FROM people")
        await store.apply({}, NOW + 10**9)
        assert await self.reasons(database) == []
        await store.close()

    async def test_a_repair_removes_no_row_of_the_departments_own(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        store.stranger = lambda dataset, name: b"row"
        order = Order(OrderId("j", "person", b"n" * 16), b"", REMOVE, True)
        assert (await store.look_at([order]))[order.id].row is None
        await store.close()

    @pytest.mark.parametrize("count", [1, 300])
    async def test_what_is_typed_over_is_kept_before_a_delivery(
        self, database: Any, count: int
    ) -> None:
        """One row, and in a bulk that is not looked up."""
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        for version in (1, 2):
            await self.feed(store, *(person(n, version) for n in range(1, count + 1)))
        await self.sql(database, "UPDATE people SET phone = 'typed', remark = 'r' WHERE n = 1")
        await self.feed(store, *(person(n, 3, phone="3") for n in range(1, count + 1)))
        assert (await self.kept_of(database))[1:] == [("delivery", {"phone": "typed"})]
        assert (await self.all_of_it(database))[0][4:6] == ("3", "r")
        await self.feed(store, *(person(n, 4) for n in range(1, count + 1)))
        assert len(await self.kept_of(database)) == 2
        await store.close()

    @pytest.mark.parametrize("is_typed", [True, False])
    @pytest.mark.parametrize("goes", [True, False])
    async def test_what_is_typed_into_a_row_whose_delivery_is_parked_is_kept(
        self, database: Any, is_typed: bool, goes: bool
    ) -> None:
        """All of it, as nobody knows what the bus wrote; of a row that nobody touched nothing: it
        would be a copy of the bus's values."""
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "values": {"phone": {"one": "1"}}})
        await self.feed(store, person(1, phone="1"))
        await self.feed(store, person(1, 2, phone="2"))
        assert await self.reasons(database) != []
        await store.apply({}, NOW + 10**9)
        if is_typed:
            await self.sql(database, "UPDATE people SET name = 'typed' WHERE n = 1")
        if goes:
            await self.feed(store, gone(1, 3))
        else:
            await self.feed(store, person(1, 3, phone="1"))
        assert await self.reasons(database) == []
        own = {"name": "typed", "born": "1990-01-01", "phone": "one"} if is_typed else {}
        kept = (await self.kept_of(database))[1:]
        if goes:
            assert kept == [("removal", {**own, "state": None})]
        else:
            assert kept == ([("delivery", own)] if own else [])
        await store.close()

    async def test_what_is_typed_into_a_column_that_is_closed_is_kept(self, database: Any) -> None:
        """Also where the delivery cannot be written, and where a person has to remove the row."""
        await self.typed(database, LI)
        words = {"on_remove": "park", "mark": {}, "values": {"name": {"Li": "李雷"}}}
        store = await self.opened(database, {**WORDS, **words})
        await self.feed(store, person(1), person(2))
        await self.sql(database, "UPDATE people SET phone = 'typed ' || id")
        await self.feed(store, person(1, 2, name="?", without=("phone",)), gone(2, 2))
        assert [row[4] for row in await self.all_of_it(database)] == [None, None]
        assert (await self.kept_of(database))[1:] == [
            ("delivery", {"phone": "typed id000001"}),
            ("delivery", {"phone": "typed id000002"}),
        ]
        await store.close()

    async def test_what_is_typed_into_a_row_that_another_record_takes_is_kept(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(2, id="id000001"))
        await self.sql(database, "UPDATE people SET phone = 'typed' WHERE n = 1")
        await self.feed(store, person(1, phone="1"))
        assert (await self.all_of_it(database))[0][4] == "1"
        assert (await self.kept_of(database))[1:] == [("delivery", {"phone": "typed"})]
        await store.close()

    async def test_what_is_typed_is_kept_when_the_mapping_reads_the_record_no_more(
        self, database: Any
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1))
        await store.close()
        await self.sql(database, "UPDATE people SET phone = 'typed' WHERE n = 1")
        again = await self.opened(database, {**WORDS, "values": {"phone": {"one": "1"}}})
        await self.feed(again, person(1, 2, phone="1"))
        ((origin, own),) = (await self.kept_of(database))[1:]
        assert (origin, own["phone"]) == ("delivery", "typed")
        await again.close()

    async def test_nothing_is_looked_at_where_the_mapping_says_so(self, database: Any) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, {**WORDS, "keeps": False})
        await self.feed(store, person(1))
        await self.sql(database, "UPDATE people SET phone = 'typed' WHERE n = 1")
        await self.feed(store, person(1, 2))
        assert [origin for origin, _ in await self.kept_of(database)] == ["adoption"]
        await store.close()

    # -- what people do ----------------------------------------------------------------------------

    def department(self, tmp_path: Path, database: Any) -> Department:
        url = database if isinstance(database, str) else f"sqlite:///{database}"
        words = {**WORDS, "key": ["id"]}
        return load_department(department_file(tmp_path, "housing@330106", url, **words))

    async def test_compare_says_what_is_where_and_writes_nothing(
        self, database: Any, tmp_path: Path
    ) -> None:
        rows = [
            (1, "id000001", "李雷", "1990-01-01", "13800000000", None, None),
            (2, "id000002", "李雷", "1990/1/1", "13800000000", None, None),  # the same day
            (3, "id000003", "韩梅", "1990-01-01", None, None, None),
            *((n, "id000004", "x", None, None, None, None) for n in (4, 5)),
            (6, "own", "x", None, None, None, None),
            (7, None, "x", None, None, None, None),
        ]
        await self.typed(database, *rows)
        store = await self.opened(database, WORDS, joins=False)
        await self.feed(store, *(person(n) for n in range(1, 6)))
        department = self.department(tmp_path, database)
        found = await compare_dataset(department, "main", "person", CONTRACT)
        assert (found.records, found.rows, found.same, found.different) == (5, 7, 2, 1)
        assert (found.only_here, found.unreadable_rows, found.only_on_bus) == (2, 1, 1)
        assert (found.ambiguous_records, found.ambiguous_rows) == (1, 2)
        assert {n: c.different for n, c in found.columns.items() if c.different} == {
            "name": 1, "phone": 1,
        }  # fmt: skip
        (sample,) = found.columns["name"].samples
        assert sample == ("i******3", "**", "**", "")
        assert not found.is_alike
        assert await self.all_of_it(database) == rows
        await store.close()

    async def test_nothing_can_be_compared_where_no_adapter_has_run(
        self, database: Any, tmp_path: Path
    ) -> None:
        await self.typed(database, LI)
        department = self.department(tmp_path, database)
        with pytest.raises(DeptbusError, match="nothing has come"):
            await compare_dataset(department, "main", "person", CONTRACT)
        assert await adoption_act.waiting_loads(department, "main", CONTRACT) == []

    async def test_the_yes_needs_an_index(self, database: Any, tmp_path: Path) -> None:
        await self.typed(database, LI)
        await self.sql(database, "DROP INDEX people_id")
        store = await self.opened(database, WORDS, joins=False)
        department = self.department(tmp_path, database)
        (waiting,) = await adoption_act.waiting_loads(department, "main", CONTRACT)
        assert "no index that begins with id" in waiting.obstacle
        await self.sql(database, INDEX)
        (waiting,) = await adoption_act.waiting_loads(department, "main", CONTRACT)
        assert waiting == ("person", "")
        assert await adoption_act.say_yes(department, "main", "person")
        assert not await adoption_act.say_yes(department, "main", "person")
        assert await store.look_at_existing() == ["person"]
        await store.close()

    async def test_what_is_kept_is_put_back_by_its_number(
        self, database: Any, tmp_path: Path
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1, name="韩梅梅"))
        department = self.department(tmp_path, database)
        (line,) = await adoption_act.kept_lines(department, "main", None, 9)
        assert (line.dataset, line.origin, line.restored_at_us) == ("person", "adoption", None)
        assert await adoption_act.restore(department, "main", line.number, CONTRACT)
        assert await self.all_of_it(database) == [LI]
        (line,) = await adoption_act.kept_lines(department, "main", "person", 9)
        assert line.restored_at_us is not None
        (status, _) = await store.status(NOW)
        assert status.kept == {}
        with pytest.raises(DeptbusError, match="nothing is kept under number 99"):
            await adoption_act.restore(department, "main", 99, CONTRACT)
        await self.sql(database, "DELETE FROM tenancies")
        await self.sql(database, "DELETE FROM people")
        assert not await adoption_act.restore(department, "main", line.number, CONTRACT)
        await store.close()

    @pytest.mark.parametrize(
        "words",
        [{"on_remove": "mark"}, {"on_remove": "park"}, {"keeps": True}, {"mark": {"name": "gone"}},
         {"match": ["name"]}, {"existing": "park"}, None],
        ids=str,
    )  # fmt: skip
    async def test_a_view_of_the_departments_own_keeps_and_marks_nothing(
        self, database: Any, tmp_path: Path, words: dict[str, Any] | None
    ) -> None:
        """Its rows have no places: said by `install`, and by an adapter, which leaves it out."""
        await self.sql(database, "CREATE TABLE own (id VARCHAR(40) PRIMARY KEY, phone VARCHAR(20))")
        await self.sql(database, "CREATE VIEW people AS SELECT * FROM own")
        mapped = {"columns": {"id": "id", "phone": "phone"}, "key": ["id"]}
        if words is not None and "mark" in words:
            mapped = {**mapped, "columns": {"id": "id"}}
            words = {"mark": {"phone": "gone"}}
        url = database if isinstance(database, str) else f"sqlite:///{database}"
        file = department_file(tmp_path, "housing@330106", url, **mapped, **(words or {}))
        department = load_department(file)
        if words is None:
            await install.install_system(department, "main", CONTRACT)
            store = await self.opened(database, mapped)
            assert not store.unfit
        else:
            ((setting, _),) = words.items()
            with pytest.raises(DatabaseUnavailable, match=f"people.* is a view.* says {setting}"):
                await install.install_system(department, "main", CONTRACT)
            store = await self.opened(database, {**mapped, **words})
            assert f"says {setting}" in store.unfit["person"].what
        await store.close()

    @pytest.mark.parametrize("is_typed", [True, False])
    async def test_what_is_kept_of_a_row_without_a_key_is_put_back(
        self, database: Any, tmp_path: Path, is_typed: bool
    ) -> None:
        """By the primary key, of a row that was here before and of one that the bus made."""
        await self.typed(database, (1, None, "李雷" if is_typed else "x", "1990/1/1", *[None] * 3))
        store = await self.opened(database, BY_NAME)
        await self.feed(store, person(1))
        await self.sql(database, "UPDATE people SET phone = 'typed', state = 's' WHERE id <> ''")
        await self.feed(store, gone(1, 2))
        url = database if isinstance(database, str) else f"sqlite:///{database}"
        words = {**BY_NAME, "key": ["id"], "match": ["name", "born"]}
        department = load_department(department_file(tmp_path, "housing@330106", url, **words))
        last = (await adoption_act.kept_lines(department, "main", None, 9))[0]
        assert (last.origin, last.own) == ("removal", {"phone": "typed", "state": "s"})
        assert await adoption_act.restore(department, "main", last.number, CONTRACT)
        phones = "SELECT phone, state FROM people WHERE id IS NULL AND state = 's'"
        assert await self.sql(database, phones) == [("typed", "s")]
        await self.sql(database, "DELETE FROM tenancies")
        await self.sql(database, "DELETE FROM people")
        assert not await adoption_act.restore(department, "main", last.number, CONTRACT)
        await store.close()

    # -- planted bugs ------------------------------------------------------------------------------

    async def test_planted_bug_rows_are_not_looked_for(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The match is not the key here: who does not look doubles the person."""

        async def finds_nothing(*_: Any) -> dict[Any, Any]:
            return {}

        await self.typed(database, (1, None, "李雷", "1990/1/1", None, None, None))
        store = await self.opened(database, BY_NAME)
        monkeypatch.setattr(store, "look_for", finds_nothing)
        await self.feed(store, person(1))
        assert len(await self.all_of_it(database)) == 2
        await store.close()

    async def test_planted_bug_the_first_of_several_rows_is_taken(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def first(rid: RecordId, fit: Prepared, target: MappedTarget, looked: Looked, **_: Any):
            return looked.matching[0] if looked.matching else None

        monkeypatch.setattr(adoption_desk, "verdict", first)
        rows = [(n, "id000001", "李雷", None, None, None, None) for n in (1, 2)]
        await self.typed(database, *rows)
        store = await self.opened(database, WORDS)
        await self.feed(store, person(1))
        assert [row[4] for row in await self.all_of_it(database)] == ["13800000000"] * 2
        await store.close()

    async def test_planted_bug_the_row_is_not_looked_at_under_its_lock(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.typed(database, LI)
        store = await self.opened(database, WORDS)
        await self.between_look_and_write(database, store, monkeypatch)
        monkeypatch.setattr(adoption.Found, "still_is", lambda before, now: True)
        await self.feed_carelessly(store)
        assert (await self.kept_of(database))[-1][1]["phone"] == "021"  # what was typed is lost
        await store.close()

    async def feed_carelessly(self, store: Store) -> None:
        await self.feed(store, person(1))


def test_own_values_read_back_as_they_were() -> None:
    from datetime import UTC, date, datetime, time
    from decimal import Decimal

    from deptbus.department.kept_rows import own_text

    own = {
        "a": None, "b": "一\udcff", "c": 7, "d": 0.5, "e": True, "f": b"\x00\xff",
        "g": Decimal("1.20"),
        "h": date(1990, 1, 1), "i": datetime(2026, 1, 1, tzinfo=UTC), "j": time(1, 2),
    }  # fmt: skip
    text = own_text(own)
    assert own_of(text) == own
    assert isinstance(json.loads(text), dict)
    assert str(own_of(text)["g"]) == "1.20"
