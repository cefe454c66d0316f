"""A copy is made anew on a real bus, beside a clerk who never rests. Whoever is killed, whatever
mistake is planted: the copy in use is right, or as it was.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from copy_town import Copies, copies_of, found_in, key, prove
from office_bus import HOUSING, contract, until
from office_orders import WANG, closed, order_keys
from test_reconcile_copy import damage

from deptbus.contract.model import TwoPeople
from deptbus.errors import DeptbusError
from deptbus.operations import rebuild as rebuild_job
from deptbus.operations.audit import JOB_ENDED, REBUILD_ORDER, read_acts
from deptbus.operations.rebuild import RebuildJob
from deptbus.operations.rebuild_order import order_rebuild, told_of
from deptbus.operations.replay_desk import read_orders, steer
from deptbus.operations.replay_planner import open_desk
from deptbus.wire.control import OrderProgress

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

COUNT = 120


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")()


@asynccontextmanager
async def town(new_bus, folder, url=None):
    """(copies, office): the upper third is changed all the time; every row has a remark."""
    async with copies_of(new_bus, folder, url, COUNT, range(80, COUNT)) as (copies, office):
        await copies.sql("UPDATE people SET remark = 'ours'" if url is None else "SELECT 1")
        yield copies, office


async def ordered(copies: Copies) -> str:
    async with open_desk(copies.bus.connection) as desk:
        job, _ = await order_rebuild(desk, HOUSING, "person", WANG, "their disk")
    return job


async def ended(copies: Copies, job: str) -> OrderProgress:
    await closed(copies.bus, job)
    return (await read_orders(copies.bus.connection)).progress[job]


async def settled_rows(copies: Copies) -> list[tuple]:
    """Rows that nobody changes, as they are."""
    rows = await copies.sql("SELECT no, place, called FROM people ORDER BY no")
    return [row for row in rows if not row[0].isdigit() or int(row[0]) < 80]


async def test_a_spoilt_copy_is_made_anew_under_traffic(new_bus, tmp_path, url):
    async with town(new_bus, tmp_path, url) as (copies, office):
        right = await settled_rows(copies)
        await damage(copies)
        progress = await ended(copies, await ordered(copies))
        assert (progress.state, progress.problem) == ("done", "")
        found = found_in(await prove(copies, office, deep=True))
        # What the department wrote itself stays; of a line that the bus never knew nothing does.
        assert sorted(found.values()) == ["extra"]
        stranger = ("stranger", None, "x")
        assert [row for row in await settled_rows(copies) if row != stranger] == right
        if url is None:
            remarks = await copies.sql("SELECT count(*) FROM people WHERE remark = 'ours'")
            assert remarks[0][0] >= COUNT - 2 - 40  # all but those that had to be inserted again
        acts = [a for a in await read_acts(copies.bus.connection) if a.reason == "their disk"]
        assert [a.verb for a in acts] == [REBUILD_ORDER, JOB_ENDED]
        (told,) = await told_of(copies.bus.connection, HOUSING, progress.job)
        counts = dict(zip(told.names, told.counts, strict=True))
        assert (told.state, counts["inserted"], counts["removed"]) == ("swapped", 2, 0)
        assert f"main: inserted {counts['inserted']}" in acts[1].subjects
        # Once more: nothing is left to change.
        progress = await ended(copies, await ordered(copies))
        (told,) = await told_of(copies.bus.connection, HOUSING, progress.job)
        counts = dict(zip(told.names, told.counts, strict=True))
        assert {counts[name] for name in ("inserted", "updated", "removed", "parked")} == {0}


async def spoil_the_second(copies: Copies) -> None:
    await copies.sql("DELETE FROM ledger WHERE dataset = 'person~rebuilt' AND key = ?", key(7))
    await copies.sql("UPDATE deptbus_rebuilt_person SET called = 'wrong' WHERE no = '8'")


def before_the_proof(monkeypatch, act) -> None:
    """`act` comes after all was sent and applied, right before the proof."""
    prove_and_swap, done = RebuildJob._prove_and_swap, False

    async def acted(self: RebuildJob) -> None:
        nonlocal done
        if not done:
            await act(self)
            done = True
        await prove_and_swap(self)

    monkeypatch.setattr(RebuildJob, "_prove_and_swap", acted)


async def applied(copies: Copies) -> None:
    async def is_full() -> bool:
        sql = "SELECT count(*) FROM ledger WHERE dataset = 'person~rebuilt'"
        return (await copies.sql(sql))[0][0] >= COUNT

    await until(is_full, "the second copy is filled")


async def test_a_second_copy_that_is_not_equal_is_dropped(new_bus, tmp_path, monkeypatch):
    async with town(new_bus, tmp_path) as (copies, _):
        await damage(copies)
        before = await settled_rows(copies)

        async def spoil(_: RebuildJob) -> None:
            await applied(copies)
            await spoil_the_second(copies)

        before_the_proof(monkeypatch, spoil)
        progress = await ended(copies, await ordered(copies))
        assert progress.state == "refused"
        # Of the row whose line is gone, the row itself is nobody's.
        assert "1 edited_locally, 1 extra, 1 missing" in progress.problem
        assert await settled_rows(copies) == before
        await until(lambda: is_tidy(copies), "nothing is left of it")


async def is_tidy(copies: Copies) -> bool:
    lines = await copies.sql("SELECT count(*) FROM ledger WHERE dataset = 'person~rebuilt'")
    tables = await copies.sql(
        "SELECT count(*) FROM sqlite_master WHERE name = 'deptbus_rebuilt_person'"
    )
    return (lines[0][0], tables[0][0]) == (0, 0)


async def test_planted_bug_a_swap_without_a_proof(new_bus, tmp_path, monkeypatch):
    """It puts the spoilt second copy in place."""
    monkeypatch.setattr(rebuild_job, "faults_of", lambda proved: {})
    async with town(new_bus, tmp_path) as (copies, office):

        async def spoil(_: RebuildJob) -> None:
            await applied(copies)
            await spoil_the_second(copies)

        before_the_proof(monkeypatch, spoil)
        progress = await ended(copies, await ordered(copies))
        assert progress.state == "done"
        assert found_in(await prove(copies, office)) == {key(7): "missing"}


async def test_planted_bug_a_job_resumed_from_the_wrong_place(new_bus, tmp_path, monkeypatch):
    """A partition is taken to be done that is not: the proof misses its keys."""
    places = RebuildJob._places

    async def too_few(self, named):
        return (await places(self, named))[1:]

    monkeypatch.setattr(RebuildJob, "_places", too_few)
    async with town(new_bus, tmp_path) as (copies, _):
        before = await settled_rows(copies)
        progress = await ended(copies, await ordered(copies))
        assert progress.state == "refused"
        assert "missing" in progress.problem
        assert await settled_rows(copies) == before


async def _under_a_narrower_contract(copies: Copies, monkeypatch) -> OrderProgress:
    """The unit's right to names ends while the second copy is being filled."""
    agent = copies.agent
    assert agent is not None
    reached = asyncio.Event()

    async def stand(_: RebuildJob) -> None:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()  # until the job of the policy takes its place

    before_the_proof(monkeypatch, stand)
    job = await ordered(copies)
    await asyncio.wait_for(reached.wait(), 60)
    await agent.adopt(await copies.bus.activate(contract(housing=("id", "place"))))
    await copies.settled(policy=2)
    return await ended(copies, job)


async def test_what_is_closed_meanwhile_is_in_no_copy(new_bus, tmp_path, monkeypatch):
    async with town(new_bus, tmp_path) as (copies, office):
        progress = await _under_a_narrower_contract(copies, monkeypatch)
        assert progress.state == "done", progress.problem
        assert {row[2] for row in await settled_rows(copies)} == {None}
        assert found_in(await prove(copies, office, deep=True)) == {}


async def test_planted_bug_old_rights_are_found(new_bus, tmp_path, monkeypatch):
    """Markers and deliveries of the new policy do not reach the second copy."""
    from deptbus.department.rebuild import fan_out

    def of_the_first_policy(items, jobs):
        return [
            item
            for item in fan_out(items, jobs)
            if not str(getattr(item, "dataset", "")).endswith("~rebuilt") or item.policy == 1
        ]

    monkeypatch.setattr("deptbus.department.store.fan_out", of_the_first_policy)
    async with town(new_bus, tmp_path) as (copies, _):
        progress = await _under_a_narrower_contract(copies, monkeypatch)
        assert progress.state == "refused"
        assert "unentitled" in progress.problem


STEPS = ("_until_begun", "_carry", "_prove_and_swap", "_until_swapped")


@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_it_goes_on(new_bus, tmp_path, monkeypatch, step):
    """The operations process ends right behind that step, and the adapter with it; others take
    up where they were. Nobody reads anything else than the old copy or the new one."""
    real, reached = getattr(RebuildJob, step), asyncio.Event()

    async def then_dies(self, *words):
        if step != "_until_swapped":
            await real(self, *words)
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        if step == "_until_swapped":
            await real(self, *words)

    monkeypatch.setattr(RebuildJob, step, then_dies)
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        copies = Copies(bus, tmp_path)
        await copies.write(range(COUNT))
        async with copies.traffic(policy, range(80, COUNT)):
            async with bus.office(keeper_interval_hours=None), copies.adapter():
                await copies.settled()
                await until(lambda: copies.is_applied(COUNT), "all is applied")
                right = await settled_rows(copies)
                await damage(copies, with_strangers=False)
                spoilt = await settled_rows(copies)
                job = await ordered(copies)
                await asyncio.wait_for(reached.wait(), 60)
            assert await settled_rows(copies) in (spoilt, right)
            async with bus.office(keeper_interval_hours=None) as office, copies.adapter():
                progress = await ended(copies, job)
                assert progress.state == "done", progress.problem
                assert await settled_rows(copies) == right
                assert found_in(await prove(copies, office, deep=True)) == {}


async def test_one_order_at_a_time_and_one_that_is_cancelled(new_bus, tmp_path, monkeypatch):
    async with town(new_bus, tmp_path) as (copies, _):
        await damage(copies)
        before, reached = await settled_rows(copies), asyncio.Event()

        async def stand(_: RebuildJob) -> None:
            reached.set()
            await asyncio.Event().wait()

        before_the_proof(monkeypatch, stand)
        job = await ordered(copies)
        assert await ordered(copies) == job  # it is at work already
        with pytest.raises(DeptbusError, match="still open"):
            await order_keys(copies.bus, HOUSING, [key(1)])
        await asyncio.wait_for(reached.wait(), 60)
        await steer(copies.bus.connection, job, "cancelled", "not today", WANG)
        assert (await ended(copies, job)).state == "cancelled"
        assert await settled_rows(copies) == before
        await until(lambda: is_tidy(copies), "nothing is left of it")


async def test_what_cannot_be_rebuilt_is_refused(new_bus, tmp_path):
    async with town(new_bus, tmp_path) as (copies, _), open_desk(copies.bus.connection) as desk:
        for unit, dataset, why in (
            ("housing@110101", "person", "no unit"),
            (HOUSING, "car", "never had a right"),
            ("grid@330106109", "person", "not joined"),
        ):
            with pytest.raises(DeptbusError, match=why):
                await order_rebuild(desk, unit, dataset, WANG, "why not")
        asked = TwoPeople(acts=("repair",), datasets=("person",))
        await copies.bus.activate(contract().model_copy(update={"two_people": asked}))
        async with open_desk(copies.bus.connection) as later:
            with pytest.raises(DeptbusError, match="asks for two people"):
                await order_rebuild(later, HOUSING, "person", WANG, "alone")
