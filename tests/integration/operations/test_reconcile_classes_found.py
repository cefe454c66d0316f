"""Every class of difference, many of them, and what cannot be told; SQLite, under traffic."""

from __future__ import annotations

import asyncio
import sys

import pytest
from copy_town import Copies, copies_of, found_in, key, prove
from office_bus import HOUSING, contract, until

from deptbus.operations import copy_asking, reconcile_copy
from deptbus.operations.audit import Operator
from deptbus.operations.reconcile import Scope, reconcile
from deptbus.operations.reconcile_copy import OPEN_JOB, prove_copy
from deptbus.operations.reconcile_repair import Wishes, repair

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

WANG = Operator("wang")
SCOPE = Scope(HOUSING, legs="copy", deep=True, deadline_seconds=40)
LINE = "version, policy, op, fields, record, row_key, held, delivered, written"


async def line(copies: Copies, number: int) -> tuple:
    (found,) = await copies.sql(f"SELECT {LINE} FROM ledger WHERE key = ?", key(number))
    return found


async def put_line(copies: Copies, number: int, words: tuple) -> None:
    names = ", ".join(f"{name} = ?" for name in LINE.split(", "))
    await copies.sql(f"UPDATE ledger SET {names} WHERE key = ?", *words, key(number))


async def activate(copies: Copies, **changed) -> None:
    policy = await copies.bus.activate(contract(**changed))
    assert copies.agent is not None
    await copies.agent.adopt(policy)
    await copies.settled(policy=policy.number)


async def test_parked_claimed_and_unentitled_rows_are_named_and_narrowed(new_bus, tmp_path):
    async with copies_of(new_bus, tmp_path, None, 60, range(40, 60)) as (copies, office):
        await copies.sql(
            "UPDATE ledger SET parked = 'value: people.called: too long', retry_at_us = ?, "
            "parked_since_us = 1 WHERE key = ?", 1 << 60, key(1)
        )  # fmt: skip
        await copies.sql("UPDATE ledger SET held = 0, written = NULL WHERE key = ?", key(2))
        wide = await line(copies, 3)
        assert found_in(await prove(copies, office)) == {key(1): "parked", key(2): "claimed"}

        # A field is closed, and one row keeps it.
        await activate(copies, housing=("id", "place"))
        version, policy, *_ = await line(copies, 3)
        await put_line(copies, 3, (version, policy, *wide[2:]))
        await copies.sql("UPDATE people SET called = 'n3v1' WHERE no = '3'")
        found = await reconcile(office, copies.bus.connection, SCOPE)
        assert found_in(list(found.copies))[key(3)] == "unentitled"
        (reason,) = [f.reason for f in found.results[0].findings if f.key == key(3)]
        assert reason == "fields: name"
        await repair(office, copies.bus.connection, found, Wishes("closed"), WANG)
        assert key(3) not in found_in(await prove(copies, office))
        assert await copies.sql("SELECT called FROM people WHERE no = '3'") == [(None,)]

        # All rights end, and one record stays.
        narrow = await line(copies, 4)
        (row,) = await copies.sql("SELECT no, place, called FROM people WHERE no = '4'")
        await activate(copies, housing=())
        version, policy, *_ = await line(copies, 4)
        await put_line(copies, 4, (version, policy, *narrow[2:]))
        await copies.sql("INSERT INTO people (no, place, called) VALUES (?, ?, ?)", *row)
        found = await reconcile(office, copies.bus.connection, SCOPE)
        assert found_in(list(found.copies))[key(4)] == "unentitled"
        await repair(office, copies.bus.connection, found, Wishes("ended"), WANG)
        assert key(4) not in found_in(await prove(copies, office, deep=True))
        assert await copies.sql("SELECT no FROM people WHERE no = '4'") == []


async def test_more_differences_than_a_sketch_tells_are_found_leaf_by_leaf(
    new_bus, tmp_path, monkeypatch
):
    monkeypatch.setattr(reconcile_copy, "NAMED_ITEMS", 10)
    monkeypatch.setattr(reconcile_copy, "GROUP_ROWS", 60)
    monkeypatch.setattr(reconcile_copy, "KEYS_AT_ONCE", 90)
    async with copies_of(new_bus, tmp_path, None) as (copies, office):
        names = ", ".join("?" * 200)
        stale = [key(n) for n in range(200)]
        await copies.sql(f"UPDATE ledger SET version = 0 WHERE key IN ({names})", *stale)
        found = await reconcile(office, copies.bus.connection, SCOPE)
        assert found_in(list(found.copies)) == dict.fromkeys(stale, "stale")
        await repair(office, copies.bus.connection, found, Wishes("test"), WANG)
        assert found_in(await prove(copies, office)) == {}
        await copies.sql("DELETE FROM ledger")
        everything = found_in(await prove(copies, office))
        # A live row that changed since has a line again.
        assert {key(n) for n in range(200)} <= set(everything) <= {key(n) for n in range(300)}


async def test_what_cannot_be_told_is_neither_equal_nor_different(new_bus, tmp_path, monkeypatch):
    monkeypatch.setattr(copy_asking, "SILENCE_SECONDS", 1.0)
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        copies = Copies(bus, tmp_path)
        await copies.write(range(20))
        async with copies.traffic(policy), bus.office(keeper_interval_hours=None) as office:
            (absent,) = await prove(copies, office)
            assert absent.result.absent
            async with copies.adapter():
                await copies.settled()
                await until(lambda: copies.is_applied(20), "all is applied")
            found = await reconcile(office, bus.connection, SCOPE)
            assert "no sign" in found.untold[0].could_not_tell
            assert found.exit_code == 2
            # Another policy, which the agent does not work under yet.
            await bus.activate(contract(housing=("id",)))
            (untold,) = await prove(copies, office)
            assert untold.result.could_not_tell == OPEN_JOB


async def test_an_adapter_or_a_command_that_dies_in_the_midst_costs_another_try(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        copies = Copies(bus, tmp_path)
        await copies.write(range(100))
        async with copies.traffic(policy, range(50, 100)), bus.office() as office:
            async with copies.adapter():
                await copies.settled()
                await until(lambda: copies.is_applied(100), "all is applied")
            asking = asyncio.create_task(
                prove_copy(office, bus.connection, HOUSING, "person", deadline_seconds=60)
            )
            await until(copies.questions, "it has asked, and nobody is there")
            async with copies.adapter():
                assert found_in(await asking) == {}
                before = await copies.questions()
                command = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "deptbus.cli.main", "reconcile", "--unit", HOUSING,
                    "--leg", "copy", "--bootstrap", bus.connection.bootstrap,
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip

                async def it_has_asked() -> bool:
                    return await copies.questions() > before

                await until(it_has_asked, "the command has asked")
                command.kill()
                await command.wait()
                await copies.sql("UPDATE ledger SET version = 0 WHERE key = ?", key(1))
                found = await reconcile(office, bus.connection, SCOPE)
                assert found_in(list(found.copies)) == {key(1): "stale"}
            # The order lies in the inbox; the adapter that carries it out comes later.
            mending = asyncio.create_task(
                repair(office, bus.connection, found, Wishes("test"), WANG)
            )
            await mending
            async with copies.adapter():
                assert found_in(await prove(copies, office, deep=True)) == {}
