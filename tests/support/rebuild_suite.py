"""What every store must do about rebuilds; each database's tests subclass it.

The store alone: what the bus would send is handed to it, and orders as they would be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from recipient_contract import gone, person
from store_rooms import NOW, StoreRoom

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.department import rebuild_swap
from deptbus.department.rebuild import fan_out
from deptbus.department.repairs import Kept
from deptbus.department.store import PartitionBatch, Store
from deptbus.errors import DatabaseUnavailable
from deptbus.names import rebuilt_copy
from deptbus.wire.control import PolicyMarker, RebuildOrder

JOB = "rebuild-1"
SECOND = rebuilt_copy("person")
# `remark` is the department's own: no mapping names it.
TABLE = "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20), remark VARCHAR(20))"
WORDS = {"columns": {"id": "id", "name": "name"}}
PEOPLE = range(1, 8)


class Killed(Exception):
    """The process ends here; what was committed stays."""


def order(action: Any, ends: tuple[int, ...] = (), job: str = JOB) -> RebuildOrder:
    return RebuildOrder(job, "person", action, ends, NOW)


def sent(item: Received, job: str = JOB) -> Received:
    """As the job of a rebuild delivers it."""
    return replace(item, cause=Cause.REPLAY, job=job)


class RebuildSuite(StoreRoom):
    second_table: str
    ledger: str

    async def room(self, database: Any) -> Store:
        """Seven people are applied, in versions 1; each has a remark."""
        await self.sql(database, TABLE)
        store = await self.opened(database, WORDS)
        await self.feed(store, *(person(n, name=f"n{n}") for n in PEOPLE))
        await self.sql(database, "UPDATE people SET remark = 'kept'")
        return store

    async def deliver(self, store: Store, *items: Received, part: int = 0) -> None:
        """Through the inbox: `has_rebuilt` is what it says of them."""
        at = store.positions[part].next_offset
        batch = PartitionBatch(at + len(items), list(items), has_rebuilt=True)
        await store.apply({part: batch}, NOW)

    async def begun(self, store: Store, numbers: Iterable[int] = PEOPLE) -> None:
        assert store.rebuilds is not None
        await store.rebuilds.take(order("begin"), NOW)
        await self.deliver(store, *(sent(person(n, name=f"n{n}")) for n in numbers))

    async def swapped(self, store: Store) -> Mapping[str, int]:
        """The swap is ordered behind all that came, and carried out; its counts."""
        assert store.rebuilds is not None
        ends = tuple(at.next_offset for _, at in sorted(store.positions.items()))
        await store.rebuilds.take(order("swap", ends), NOW)
        done = await store.swap(NOW + 1)
        assert done is not None
        assert done.state == "swapped", done.reason
        while await store.rebuilds.tidy_some():
            pass
        return done.counts

    async def lines(self, database: Any, name: str = "person") -> dict[Any, tuple[Any, ...]]:
        """Key -> what the ledger says of it, but for when and why it was delivered."""
        rows = await self.sql(
            database,
            "SELECT key, version, op, fields, record, row_key, held, delivered, written, parked "
            f"FROM {self.ledger} WHERE dataset = '{name}'",
        )
        return {bytes(row[0]): row[1:] for row in rows}

    async def state(self, database: Any) -> tuple[Any, ...]:
        rows = await self.sql(database, "SELECT id, name, remark FROM people ORDER BY id")
        return rows, await self.lines(database)

    async def spoil(self, database: Any) -> None:
        """Every way in which a copy goes wrong, one row each."""
        ledger, mine = self.ledger, "WHERE dataset = 'person' AND key ="
        for statement in (
            "UPDATE people SET name = 'typed' WHERE id = 'id000001'",
            "DELETE FROM people WHERE id = 'id000002'",
            f"DELETE FROM {ledger} {mine} {self.blob(3)}",
            f"UPDATE {ledger} SET version = 99 {mine} {self.blob(4)}",
            f"UPDATE {ledger} SET delivered = {self.blob(0)} {mine} {self.blob(5)}",
            f"UPDATE {ledger} SET key = {self.blob(77)} {mine} {self.blob(6)}",
            "INSERT INTO people VALUES ('own', 'theirs', 'own')",
        ):
            await self.sql(database, statement)

    def blob(self, number: int) -> str:
        """A key in the database's words."""
        raise NotImplementedError

    def keeping(self, store: Store) -> list[Kept]:
        kept: list[Kept] = []
        store.keep = kept.extend
        return kept

    # -- the suite -------------------------------------------------------------------------------

    async def test_a_copy_that_is_right_is_not_touched(self, database: Any) -> None:
        store = await self.room(database)
        before = await self.state(database)
        for _ in range(2):  # a second rebuild is another job, and changes nothing either
            await self.begun(store)
            counts = await self.swapped(store)
            assert set(counts.values()) == {0}
            assert await self.state(database) == before
            await self.forget(store, database)
        await store.close()

    async def forget(self, store: Store, database: Any) -> None:
        """That the job was ever done, so that it may be given once more."""
        assert store.rebuilds is not None
        table = self.ledger.replace("ledger", "rebuilds")
        await self.sql(database, f"DELETE FROM {table}")
        store.rebuilds.known.clear()

    async def test_a_spoilt_copy_is_what_it_should_be(self, database: Any) -> None:
        store = await self.room(database)
        rows, lines = await self.state(database)
        await self.spoil(database)
        kept = self.keeping(store)
        await self.begun(store)
        counts = await self.swapped(store)
        now, after = await self.state(database)
        assert after == lines | {(77).to_bytes(16, "big"): after[(77).to_bytes(16, "big")]}
        assert after[(77).to_bytes(16, "big")][:2] == (0, "delete")
        # The row that had gone comes without its remark; the stranger stays.
        assert now == [(*row[:2], None) if row[0] == "id000002" else row for row in rows] + [
            ("own", "theirs", "own")
        ]
        assert counts["inserted"] == 1
        assert counts["updated"] == 1
        assert [(k.order.job, k.values) for k in kept] == [(JOB, ("id000001", "typed"))]
        await store.close()

    async def test_until_the_swap_the_copy_in_use_is_not_touched(self, database: Any) -> None:
        store = await self.room(database)
        await self.spoil(database)
        before = await self.state(database)
        await self.begun(store)
        assert await self.state(database) == before
        second = await self.sql(database, f"SELECT id, name FROM {self.second_table} ORDER BY id")
        assert second == [(f"id{n:06}", f"n{n}") for n in PEOPLE]
        assert len(await self.lines(database, SECOND)) == 7
        assert store.datasets == ("person", "house")
        await store.close()

    async def test_what_comes_meanwhile_goes_to_both(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store, [1, 2, 3])
        await self.feed(store, person(2, 2, name="new"), person(9, name="n9"), gone(3, 2), part=1)
        await self.deliver(store, *(sent(person(n, name=f"n{n}")) for n in (3, 4, 5, 6, 7)))
        mine, second = await self.lines(database), await self.lines(database, SECOND)
        assert mine == second
        # Between proof and swap, too.
        await self.feed(store, person(4, 3, name="late"), gone(5, 3, op=DeliveryOp.DELETE))
        counts = await self.swapped(store)
        assert counts["records"] == 0
        rows = await self.sql(database, "SELECT id, name FROM people ORDER BY id")
        assert rows == [
            ("id000001", "n1"), ("id000002", "new"), ("id000004", "late"), ("id000006", "n6"),
            ("id000007", "n7"), ("id000009", "n9"),
        ]  # fmt: skip
        await store.close()

    async def test_planted_bug_a_delivery_between_proof_and_swap_is_lost(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What arrives goes to the copy in use alone: the swap puts the older state back."""
        store = await self.room(database)
        await self.begun(store)

        def to_one(items: Any, jobs: Mapping[str, str]) -> Any:
            return [item for item in fan_out(items, jobs) if item.dataset != SECOND]

        monkeypatch.setattr("deptbus.department.store.fan_out", to_one)
        await self.feed(store, person(4, 3, name="late"))
        counts = await self.swapped(store)
        rows = dict(await self.sql(database, "SELECT id, name FROM people"))
        assert counts["records"] == 1  # where the test above wants none
        assert rows["id000004"] == "n4"
        await store.close()

    async def test_deliveries_of_a_job_that_is_not_at_work_are_left_out(
        self, database: Any
    ) -> None:
        store = await self.room(database)
        await self.sql(database, "UPDATE people SET name = 'typed' WHERE id = 'id000001'")
        before = await self.state(database)
        await self.deliver(store, sent(person(1, name="n1"), "rebuild-other"))
        await self.begun(store, [])
        await self.deliver(store, sent(person(1, name="n1"), "rebuild-other"))
        assert await self.lines(database, SECOND) == {}
        assert await self.state(database) == before
        await store.close()

    async def test_both_refuse_what_an_older_policy_decided(self, database: Any) -> None:
        store = await self.room(database)
        await self.feed(store, PolicyMarker(policy=2, datasets=("person",), job="j"))
        await self.begun(store, [])
        await self.deliver(store, sent(person(1, name="old rights")))
        assert await self.lines(database, SECOND) == {}
        await self.feed(store, PolicyMarker(policy=3, datasets=("person",), job="k"))
        await self.deliver(store, sent(person(1, policy=2)), sent(person(2, policy=3)))
        assert [key[-1] for key in await self.lines(database, SECOND)] == [2]
        await store.close()

    async def test_what_is_delivered_counts_once(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store)
        applied = await self.feed(store, person(1, 5, name="x"), person(8, name="n8"))
        assert {(t.dataset, t.outcome): n for t, n in applied.tallies.items()} == {
            ("person", "applied"): 2
        }
        assert applied.written == frozenset({"person"})
        assert applied.times_us.keys() == {("person", "horizontal")}
        names = await self.sql(database, f"SELECT DISTINCT dataset FROM {self.statistics}")
        assert names == [("person",)]
        await store.close()

    async def test_it_goes_on_after_a_restart(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store, [1, 2])
        await store.close()
        again = await self.opened(database, WORDS)
        assert again.is_rebuilding
        assert again.rebuilds is not None
        await again.rebuilds.take(order("begin"), NOW)  # read once more: nothing new
        assert len(await self.lines(database, SECOND)) == 2
        await self.deliver(again, *(sent(person(n, name=f"n{n}")) for n in (3, 4, 5, 6, 7)))
        await self.spoil(database)
        await self.swapped(again)
        assert (await self.lines(database))[(4).to_bytes(16, "big")][0] == 1
        await again.close()

    async def test_a_swap_waits_for_the_offsets_of_its_proof(self, database: Any) -> None:
        """The database was restored since, and has not come so far again."""
        store = await self.room(database)
        await self.begun(store)
        assert store.rebuilds is not None
        at = store.positions[0].next_offset
        await store.rebuilds.take(order("swap", (at + 1, 0)), NOW)
        assert await store.swap(NOW) is None
        await self.feed(store, person(1, 2, name="y"))
        done = await store.swap(NOW)
        assert done is not None
        assert done.state == "swapped"
        await store.close()

    async def test_an_order_that_is_over_is_nothing(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store)
        await self.swapped(store)
        before = await self.state(database)
        assert store.rebuilds is not None
        for action in ("begin", "swap", "drop"):
            await store.rebuilds.take(order(action, (0, 0)), NOW)
            assert await store.swap(NOW) is None
            assert not store.is_rebuilding
        await self.deliver(store, sent(person(1, 9, name="late")))
        assert await self.state(database) == before
        await store.close()

    async def test_a_drop_leaves_nothing_behind(self, database: Any) -> None:
        store = await self.room(database)
        await self.spoil(database)
        before = await self.state(database)
        await self.begun(store)
        assert store.rebuilds is not None
        await store.rebuilds.take(order("drop"), NOW)
        assert not store.is_rebuilding
        while await store.rebuilds.tidy_some():
            pass
        assert await self.lines(database, SECOND) == {}
        assert not await self.has_second_table(database)
        assert await self.state(database) == before
        # Its beginning is read in another partition only now; another job may begin at once.
        await store.rebuilds.take(order("begin"), NOW)
        assert not store.is_rebuilding
        await store.rebuilds.take(order("begin", job="rebuild-2"), NOW)
        assert store.is_rebuilding
        await store.close()

    async def has_second_table(self, database: Any) -> bool:
        raise NotImplementedError

    async def test_another_job_begins_with_nothing(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store)
        assert store.rebuilds is not None
        await store.rebuilds.take(order("begin", job="rebuild-2"), NOW)
        assert await self.lines(database, SECOND) == {}
        assert await self.sql(database, f"SELECT id FROM {self.second_table}") == []
        assert store.rebuilds.known[JOB].state == "dropped"
        await store.close()

    async def test_a_drop_before_its_beginning_was_read(self, database: Any) -> None:
        """They lie in different partitions."""
        store = await self.room(database)
        assert store.rebuilds is not None
        await store.rebuilds.take(order("drop"), NOW)
        await store.rebuilds.take(order("begin"), NOW)
        assert not store.is_rebuilding
        await store.close()

    async def test_what_is_not_received_here_is_said(self, database: Any) -> None:
        store = await self.room(database)
        assert store.rebuilds is not None
        await store.rebuilds.take(replace(order("begin"), dataset="car"), NOW)
        assert store.rebuilds.known[JOB].state == "not_here"
        await store.close()

    async def test_a_mapping_that_was_changed_ends_it(self, database: Any) -> None:
        store = await self.room(database)
        await self.begun(store)
        await store.close()
        await self.sql(database, "ALTER TABLE people ADD COLUMN phone VARCHAR(20)")
        columns = {**WORDS["columns"], "phone": "phone"}
        again = await self.opened(database, {"columns": columns})
        assert again.rebuilds is not None
        assert again.rebuilds.known[JOB].state == "refused"
        assert "mapping was changed" in again.rebuilds.known[JOB].reason
        assert not again.is_rebuilding
        await self.feed(again, person(1, 3, name="on"))
        await again.close()

    async def test_a_row_that_the_table_refuses_is_parked_and_no_other(self, database: Any) -> None:
        await self.sql(
            database,
            "CREATE TABLE people (id VARCHAR(30) PRIMARY KEY, name VARCHAR(20) CHECK (name < 'x'), "
            "remark VARCHAR(20))",
        )
        store = await self.opened(database, WORDS)
        assert store.rebuilds is not None
        await store.rebuilds.take(order("begin"), NOW)
        names = {1: "a", 2: "xx", 3: "c"}
        await self.deliver(store, *(sent(person(n, name=name)) for n, name in names.items()))
        counts = await self.swapped(store)
        assert (counts["inserted"], counts["parked"]) == (2, 1)
        assert await self.people(database, "id, name") == [("id000001", "a"), ("id000003", "c")]
        (parked,) = await store.parked_list(9)
        assert (parked.dataset, parked.key[-1]) == ("person", 2)
        assert store.has_parked
        await store.close()

    async def test_of_two_records_of_one_row_the_same_one_holds_it(self, database: Any) -> None:
        store = await self.room(database)
        await self.feed(store, person(20, id="both", name="n20"), person(21, id="both", name="n21"))
        before = await self.lines(database)
        await self.sql(database, f"DELETE FROM {self.ledger} WHERE key = {self.blob(20)}")
        await self.begun(store)
        both = (person(n, id="both", name=f"n{n}") for n in (21, 20))
        await self.deliver(store, *map(sent, both))
        await self.swapped(store)
        after = await self.lines(database)
        assert after == before
        ((name,),) = await self.sql(database, "SELECT name FROM people WHERE id = 'both'")
        assert name == "n20"
        await store.close()

    async def test_tables_that_refer_to_it_its_view_and_its_index_stay(self, database: Any) -> None:
        """Nothing is renamed: what points to the table goes on pointing to it."""
        store = await self.room(database)
        for statement in (
            "CREATE TABLE pets (id INTEGER PRIMARY KEY, owner VARCHAR(30) REFERENCES people (id))",
            "INSERT INTO pets VALUES (1, 'id000001')",
            "CREATE INDEX own_index ON people (name)",
            "CREATE VIEW names AS SELECT name FROM people",
        ):
            await self.sql(database, statement)
        await self.sql(database, "UPDATE people SET name = 'typed' WHERE id = 'id000001'")
        self.keeping(store)
        await self.begun(store)
        await self.swapped(store)
        assert ("n1",) in await self.sql(database, "SELECT name FROM names")
        assert await self.sql(database, "SELECT owner FROM pets") == [("id000001",)]
        assert await self.is_refused(database, "INSERT INTO pets VALUES (2, 'nobody')")
        assert await self.is_refused(database, "DELETE FROM people WHERE id = 'id000001'")
        await store.close()

    async def is_refused(self, database: Any, statement: str) -> bool:
        raise NotImplementedError

    @pytest.mark.parametrize("step", ["differing", "carry_out", "note", "commit"])
    async def test_killed_at_any_step_it_goes_on(
        self, database: Any, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And until it is through, everybody reads the copy as it was."""
        monkeypatch.setattr(rebuild_swap, "CHUNK_RECORDS", 2)
        store = await self.room(database)
        right = await self.state(database)
        await self.spoil(database)
        spoilt = await self.state(database)
        await self.begun(store)
        assert store.rebuilds is not None
        ends = tuple(at.next_offset for _, at in sorted(store.positions.items()))
        await store.rebuilds.take(order("swap", ends), NOW)
        self.keeping(store)
        self.kill_at(store, step, monkeypatch)
        with pytest.raises(Killed):
            await store.swap(NOW + 1)
        await store.close()
        assert await self.state(database) == spoilt if step != "commit" else True
        again = await self.opened(database, WORDS)
        self.keeping(again)
        done = await again.swap(NOW + 2)
        assert (done is None) == (step == "commit")
        rows, lines = await self.state(database)
        assert [r[:2] for r in rows if r[0] != "own"] == [r[:2] for r in right[0]]
        assert {key: line for key, line in lines.items() if line[1] == "upsert"} == right[1]
        assert again.rebuilds is not None
        assert again.rebuilds.known[JOB].state == "swapped"
        await again.close()

    def kill_at(self, store: Store, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert store.rebuilds is not None
        shadows = store.rebuilds._shadows
        if step == "commit":  # it is durable, and nobody hears of it

            def left(*words: Any) -> None:
                raise Killed

            monkeypatch.setattr(store.rebuilds, "_left", left)
            return
        real = getattr(shadows, step)
        calls = 0

        async def killed(*words: Any) -> Any:
            nonlocal calls
            calls += 1
            done = await real(*words)
            if calls == (2 if step == "carry_out" else 1):
                raise Killed
            return done

        monkeypatch.setattr(shadows, step, killed)

    async def test_nobody_reads_a_half_copy(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rebuild_swap, "CHUNK_RECORDS", 1)
        store = await self.room(database)
        await self.spoil(database)
        spoilt = (await self.state(database))[0]
        self.keeping(store)
        await self.begun(store)
        assert store.rebuilds is not None
        shadows, seen = store.rebuilds._shadows, []
        real = shadows.carry_out

        async def looked_at(*words: Any) -> None:
            await real(*words)
            seen.append((await self.state(database))[0])

        monkeypatch.setattr(shadows, "carry_out", looked_at)
        await self.swapped(store)
        assert len(seen) > 3
        assert all(rows == spoilt for rows in seen)
        assert (await self.state(database))[0] != spoilt
        await store.close()

    async def test_no_right_to_make_a_table_is_no_stop(
        self, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await self.room(database)
        assert store.rebuilds is not None

        async def no_right(*words: Any) -> None:
            raise DatabaseUnavailable("no right to do this")

        monkeypatch.setattr(store.rebuilds._shadows, "begin", no_right)
        await store.rebuilds.take(order("begin"), NOW)
        assert store.rebuilds.known[JOB].reason == "no right to do this"
        await self.feed(store, person(1, 5, name="on"))
        assert ("id000001", "on") in await self.people(database, "id, name")
        await store.close()
