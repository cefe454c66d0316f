"""The copy leg on a real bus, SQLite and PostgreSQL, while a clerk goes on changing rows."""

from __future__ import annotations

import pytest
from copy_town import copies_of, found_in, key, prove

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]


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
