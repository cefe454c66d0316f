"""What would go wrong if a proof or a repair left something out: each mistake is seen."""

from __future__ import annotations

import pytest
from copy_town import copies_of, found_in, key, prove
from office_bus import HOUSING

from deptbus.department import copy_view, proof_copy, proof_look, repairs
from deptbus.operations import copy_expected
from deptbus.operations.audit import Operator
from deptbus.operations.reconcile import Scope, reconcile
from deptbus.operations.reconcile_repair import Wishes, repair

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

WANG = Operator("wang")
SCOPE = Scope(HOUSING, legs="copy", deep=True, deadline_seconds=40)


async def typed_meanwhile(copies, office) -> tuple[str, dict[bytes, str]]:
    """A row is stale, and its clerk types into it between the look and the repair."""
    await copies.sql("UPDATE ledger SET version = 0 WHERE key = ?", key(1))
    found = await reconcile(office, copies.bus.connection, SCOPE)
    assert found_in(list(found.copies)) == {key(1): "stale"}
    await copies.sql("UPDATE people SET called = 'typed' WHERE no = '1'")
    await repair(office, copies.bus.connection, found, Wishes("test"), WANG)
    left = found_in(await prove(copies, office, deep=True))
    ((called,),) = await copies.sql("SELECT called FROM people WHERE no = '1'")
    return called, left


async def test_a_row_that_changed_since_it_was_looked_at_is_left_alone(new_bus, tmp_path):
    async with copies_of(new_bus, tmp_path, None, 40, range(20, 40)) as (copies, office):
        assert await typed_meanwhile(copies, office) == ("typed", {key(1): "stale"})


async def test_planted_repair_without_check(new_bus, tmp_path, monkeypatch):
    real = repairs.weigh

    def unchecked(orders, now):
        as_it_is = {
            name: order._replace(seen=proof_copy.seen_of(now[name].line, now[name].values),
                                 overwrite=True)
            for name, order in orders.items()
        }  # fmt: skip
        return real(as_it_is, now)

    monkeypatch.setattr("deptbus.department.store.weigh", unchecked)
    async with copies_of(new_bus, tmp_path, None, 40, range(20, 40)) as (copies, office):
        called, left = await typed_meanwhile(copies, office)
        assert (called, left) != ("typed", {key(1): "stale"})


async def test_planted_traffic_behind_the_cut_is_not_looked_at(new_bus, tmp_path, monkeypatch):
    """As if the cut were taken before the snapshot and nobody minded: newer rows look wrong."""

    async def nothing(*_):
        return None

    async with copies_of(new_bus, tmp_path, None) as (copies, office):
        assert found_in(await prove(copies, office)) == {}
        monkeypatch.setattr(copy_expected.Expected, "move", nothing)
        for _ in range(20):
            if found := found_in(await prove(copies, office)):
                break
        assert set(found) <= {key(n) for n in range(200, 300)}
        assert found


async def test_planted_a_column_is_skipped(new_bus, tmp_path, monkeypatch):
    async with copies_of(new_bus, tmp_path, None, 40, range(20, 40)) as (copies, office):
        await copies.sql("UPDATE people SET called = 'typed' WHERE no = '1'")
        assert found_in(await prove(copies, office, deep=True)) == {key(1): "edited_locally"}
        real = proof_look.row_digest
        monkeypatch.setattr(proof_look, "row_digest", lambda values: real(values[:-1]))
        monkeypatch.setattr(proof_look, "row_digests", lambda rows: [real(v[:-1]) for v in rows])
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_what_the_server_tells_otherwise_is_looked_at(
    new_bus, tmp_path, postgres, monkeypatch
):
    """Of equal rows nothing is read but the bytes under their digests. A mistake in these bytes
    costs time and hides nothing; one behind them does."""
    suspects: list[int] = []
    odd, encoded = proof_look.RowLook.odd, copy_view.encoded_row

    async def counted(self, lines):
        suspects.append(len(lines))
        return await odd(self, lines)

    monkeypatch.setattr(proof_look.RowLook, "odd", counted)
    async with copies_of(new_bus, tmp_path, postgres(), 40, ()) as (copies, office):
        assert found_in(await prove(copies, office, deep=True)) == {}
        assert sum(suspects) == 0
        await copies.sql("UPDATE people SET called = 'typed' WHERE no = '1'")
        await copies.sql("DELETE FROM people WHERE no = '2'")
        await copies.sql("INSERT INTO people (no) VALUES ('stranger')")
        found = found_in(await prove(copies, office, deep=True))
        assert (found.pop(key(1)), found.pop(key(2))) == ("edited_locally", "missing")
        assert list(found.values()) == ["extra"]
        assert sum(suspects) == 2

        monkeypatch.setattr(copy_view, "encoded_row", lambda columns: encoded(columns[:-1]))
        again = found_in(await prove(copies, office, deep=True))
        assert (again.pop(key(1)), again.pop(key(2))) == ("edited_locally", "missing")
        assert sum(suspects) == 2 + 40
        monkeypatch.setattr(
            copy_view.PostgresCopyView, "_digests", lambda _, lines: [n[7] for n in lines]
        )
        assert key(1) not in found_in(await prove(copies, office, deep=True))
