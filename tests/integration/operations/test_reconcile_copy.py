"""The copy leg on a real bus, SQLite and PostgreSQL, while a clerk goes on changing rows."""

from __future__ import annotations

from collections import Counter

import pytest
from copy_town import copies_of, found_in, key, prove
from office_bus import HOUSING, until

from deptbus.errors import DeptbusError
from deptbus.operations.audit import Operator
from deptbus.operations.reconcile import Scope, reconcile
from deptbus.operations.reconcile_repair import Wishes, repair

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

WANG = Operator("wang")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")()


async def test_equal_copies_are_equal_under_traffic(new_bus, tmp_path, url):
    async with copies_of(new_bus, tmp_path, url) as (copies, office):
        for deep in (False, True, False):
            (proved,) = await prove(copies, office, deep=deep)
            assert proved.result.could_not_tell == ""
            assert (proved.result.differences, proved.result.findings) == (0, ())
            assert proved.result.rows == 300
            assert proved.result.bus == proved.result.other


async def test_differences_put_in_by_sql_are_named_exactly(new_bus, tmp_path, url):
    async with copies_of(new_bus, tmp_path, url) as (copies, office):
        await copies.sql("UPDATE people SET called = 'typed' WHERE no = ?", "1")
        await copies.sql("UPDATE people SET place = NULL WHERE no = ?", "2")
        await copies.sql("DELETE FROM people WHERE no = ?", "3")
        await copies.sql("INSERT INTO people (no, called) VALUES ('stranger', 'x')")
        await copies.sql("DELETE FROM ledger WHERE key = ?", key(4))
        await copies.sql("DELETE FROM people WHERE no = ?", "4")
        await copies.sql("UPDATE ledger SET version = 0 WHERE key = ?", key(5))
        await copies.sql("UPDATE ledger SET version = 99 WHERE key = ?", key(6))
        await copies.sql("UPDATE ledger SET delivered = ? WHERE key = ?", bytes(16), key(7))
        expected = {
            key(4): "missing", key(5): "stale", key(6): "wrong", key(7): "wrong",
        }  # fmt: skip
        assert found_in(await prove(copies, office)) == expected
        deep = found_in(await prove(copies, office, deep=True))
        strangers = [k for k in deep if deep[k] == "extra"]
        assert len(strangers) == 1
        assert deep == expected | {
            key(1): "edited_locally", key(2): "edited_locally", key(3): "missing",
            strangers[0]: "extra",
        }  # fmt: skip


async def test_a_row_whose_own_key_was_changed_by_hand(new_bus, tmp_path, url):
    """What docs/department.md says of it: no row is lost, and the other one is named."""
    async with copies_of(new_bus, tmp_path, url) as (copies, office):
        await copies.sql("UPDATE people SET no = 'mistyped', called = 'typed' WHERE no = ?", "1")
        assert found_in(await prove(copies, office)) == {}  # nobody looks at the rows
        deep = found_in(await prove(copies, office, deep=True))
        assert deep.pop(key(1)) == "missing"
        assert list(deep.values()) == ["extra"]
        await copies.write([1])
        await until(lambda: has_row(copies, "1"), "the next delivery makes it anew")
        assert (await copies.rows())["mistyped"][2] == "typed"
        again = found_in(await prove(copies, office, deep=True))
        assert again == deep

        scope = Scope(HOUSING, legs="copy", deep=True, deadline_seconds=40)
        found = await reconcile(office, copies.bus.connection, scope)
        await repair(office, copies.bus.connection, found, Wishes("test", max_delete=1), WANG)
        found = await reconcile(office, copies.bus.connection, scope)
        assert found.exit_code == 0, found_in(list(found.copies))
        assert "mistyped" not in await copies.rows()
        kept = "".join(p.read_text() for p in (tmp_path / "overwritten").iterdir())
        assert '"no": "mistyped"' in kept


async def has_row(copies, number: str) -> bool:
    return number in await copies.rows()


async def damage(copies, *, with_strangers: bool = True) -> dict[bytes, str]:
    """Every class but parked and claimed, among rows that nobody changes; what is to be found."""
    await copies.sql("UPDATE people SET called = 'typed' WHERE no = ?", "1")
    await copies.sql("DELETE FROM people WHERE no = ?", "3")
    await copies.sql("DELETE FROM ledger WHERE key = ?", key(4))
    await copies.sql("DELETE FROM people WHERE no = ?", "4")
    await copies.sql("UPDATE ledger SET version = 0 WHERE key = ?", key(5))
    await copies.sql("UPDATE ledger SET version = 99 WHERE key = ?", key(6))
    await copies.sql("UPDATE ledger SET delivered = ? WHERE key = ?", bytes(16), key(7))
    await copies.sql("UPDATE ledger SET key = ? WHERE key = ?", b"fabricated line.", key(8))
    if with_strangers:
        await copies.sql("INSERT INTO people (no, called) VALUES ('stranger', 'x')")
    return {
        key(1): "edited_locally", key(3): "missing", key(4): "missing", key(5): "stale",
        key(6): "wrong", key(7): "wrong", key(8): "missing", b"fabricated line.": "extra",
    }  # fmt: skip


def words(found) -> dict[str, int]:
    return dict(Counter(found.values()))


async def test_repair_mends_exactly_what_it_may(new_bus, tmp_path, url):
    async with copies_of(new_bus, tmp_path, url) as (copies, office):
        before = await copies.rows()
        expected = await damage(copies)
        scope = Scope(HOUSING, legs="copy", deep=True, deadline_seconds=40)
        found = await reconcile(office, copies.bus.connection, scope)
        assert found.exit_code == 1
        assert words(found_in(list(found.copies))) == words(expected) | {"extra": 2}
        with pytest.raises(DeptbusError, match="2 extra rows would be removed, and 1 may be"):
            await repair(office, copies.bus.connection, found, Wishes("test", 1), WANG)

        # Local edits and extra rows stay.
        mended = await repair(office, copies.bus.connection, found, Wishes("test"), WANG)
        assert sum(mended.ordered.values()) == 6
        assert sum(mended.left.values()) == 3
        found = await reconcile(office, copies.bus.connection, scope)
        # The row of the fabricated line is that of key 8 again, which claims it.
        left = found_in(list(found.copies))
        assert left.pop(key(1)) == "edited_locally"
        assert set(left.values()) <= {"extra", "claimed"}
        assert (await copies.rows())["1"][2] == "typed"

        wishes = Wishes("test", max_delete=5, overwrite_local=True)
        await repair(office, copies.bus.connection, found, wishes, WANG)
        found = await reconcile(office, copies.bus.connection, scope)
        assert found.exit_code == 0, found_in(list(found.copies))
        still = {str(n) for n in range(200)}
        rows = await copies.rows()
        assert {n: row for n, row in rows.items() if n in still} == {
            n: row for n, row in before.items() if n in still
        }
        assert "stranger" not in rows
        kept = "".join(p.read_text() for p in (tmp_path / "overwritten").iterdir())
        assert '"called": "typed"' in kept
        assert '"no": "stranger"' in kept
