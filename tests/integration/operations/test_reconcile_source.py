"""The source's leg of a proof, on a real broker: what differs is named, and nothing else, while a
clerk writes all the time; what is named is mended, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from proof_world import Clerk, change, delete, insert, key, mischief, named, prove, unseen, write
from source_bus import BusSource, PostgresSource, SqliteSource, until
from source_world import PLACES, TABLE

from deptbus.change import Cause, ChangeOp
from deptbus.connection import Connection
from deptbus.contract.department import HoldRemovals
from deptbus.department import proof_source
from deptbus.department.cuts import Cuts
from deptbus.department.proof_rows import TableRows
from deptbus.department.proof_source import Waiting
from deptbus.operations import reconcile_repair, reconcile_source, source_asking, source_folds
from deptbus.operations.audit import Operator
from deptbus.operations.reconcile_repair import Mended, Wishes
from deptbus.operations.source_asking import CouldNotTell
from deptbus.operations.source_folds import Folds
from deptbus.operations.source_repair import order_resend
from deptbus.operations.source_told import EXTRA, MISSING, PARKED, WRONG
from deptbus.proof.certificate import HELD

pytestmark = pytest.mark.service

BOTH = pytest.mark.parametrize("source", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
async def source(
    request: pytest.FixtureRequest, broker: Connection, tmp_path: Path
) -> AsyncIterator[BusSource]:
    made: BusSource
    if getattr(request, "param", "sqlite") == "sqlite":
        made = await asyncio.to_thread(SqliteSource, broker, tmp_path)
        await made.install()
        yield made
        return
    postgres: Callable[[], str] = request.getfixturevalue("postgres")
    url = postgres()
    desk = await asyncpg.connect(url)
    try:
        await desk.execute(TABLE)
        made = await asyncio.to_thread(PostgresSource, broker, url, desk)
        await made.install()
        yield made
    finally:
        await desk.close()


async def filled(source: BusSource, rows: int) -> list[int]:
    for start in range(0, rows, 500):
        await write(source, *[insert(n) for n in range(start, min(rows, start + 500))])
    await source.arrived()
    return list(range(rows))


@BOTH
async def test_what_changed_unseen_is_named_exactly_and_mended_exactly(source: BusSource) -> None:
    async with source.intake(), source.proving(), source.office() as shelves:
        numbers = await filled(source, 1500)
        clerk = Clerk(source)
        async with clerk.at_work():
            assert (await prove(source, shelves)).by_class.keys() <= {PARKED}
            statements, expected = mischief(numbers[::-1], 200)
            await unseen(source, *statements)
            proved = await prove(source, shelves)
            found = {k: kind for k, kind in named(proved).items() if kind != PARKED}
            assert found == expected
            assert len(found) == 1200
            asked = await order_resend(
                shelves,
                source.unit,
                "person",
                found,
                by=Operator("test"),
                reason="differs",
                name="mend-1",
            )
            assert asked == 1200

            async def is_mended() -> bool:
                return {PARKED} >= (await prove(source, shelves)).by_class.keys()

            await until(is_mended)
        assert clerk.commits > 200
        resent = [c for c in await source.out() if c.job == "mend-1"]
        assert {c.cause for c in resent} == {Cause.RESEND}
        assert {c.key for c in resent} == set(expected)
        for one in resent:
            gone = expected[one.key] == EXTRA
            assert (one.op is ChangeOp.DELETE) == gone
            if gone:  # whoever got it there hears of it
                assert one.division == PLACES[0]
            elif one.division == PLACES[1]:  # it moved unseen
                assert one.former_divisions == (PLACES[0],)


@BOTH
async def test_no_difference_is_seen_in_what_a_busy_clerk_writes(source: BusSource) -> None:
    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 300)
        clerk = Clerk(source, rows=60, seed=7)
        async with clerk.at_work():
            for _ in range(5):
                proved = await prove(source, shelves)
                assert proved.by_class.keys() <= {PARKED}, named(proved)
                assert proved.bus == proved.other
        assert clerk.commits > 200


def guarded(source: BusSource) -> None:
    main = source.department.systems["main"]
    rule = HoldRemovals(percent=10, at_least=50)
    person = main.publishes["person"].model_copy(update={"hold_removals": rule})
    main = main.model_copy(update={"publishes": {"person": person}})
    source.department = source.department.model_copy(update={"systems": {"main": main}})


@BOTH
@pytest.mark.parametrize("is_planted", [False, True], ids=["as it is", "planted"])
async def test_keys_whose_removal_is_held_are_told_from_what_differs(
    source: BusSource, monkeypatch: pytest.MonkeyPatch, is_planted: bool
) -> None:
    """By the number of the hold, until somebody releases it, or their rows are back."""
    guarded(source)
    if is_planted:  # the source does not look which they are
        monkeypatch.setattr(proof_source._Answer, "_held", _none)
    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 200)
        await write(source, *(delete(n) for n in range(100)))

        capture = await source.capture()

        async def is_held() -> bool:
            return [hold.keys for hold in (await capture.status()).holds] == [100]

        await until(is_held)
        await unseen(source, change(150, "姓名 = '改'"), delete(151))
        word = EXTRA if is_planted else HELD
        proved = await prove(source, shelves)
        assert named(proved) == {
            **{key(n): word for n in range(100)}, key(150): WRONG, key(151): EXTRA,
        }  # fmt: skip
        if is_planted:
            await capture.close()
            return
        assert (proved.differences, proved.held, proved.holds) == (2, 100, ("1",))
        await write(source, insert(7), insert(8, name="韩"), change(9, "姓名 = '改'"))
        assert {k for k, kind in named(await prove(source, shelves)).items() if kind == HELD} == {
            key(n) for n in range(100) if n not in (7, 8)
        }
        mended = Mended()
        wishes = Wishes("night", max_delete=500)
        monkeypatch.setattr(reconcile_repair, "order_resend", None)  # there is nothing to order
        only = replace(
            proved, findings=tuple(f for f in proved.findings if f.word == HELD), by_class={HELD: 9}
        )
        await reconcile_repair._resend(None, None, only, wishes, Operator("o"), mended)  # type: ignore[arg-type]
        assert (mended.jobs, sum(mended.left.values())) == ([], 9)
        await capture.release(1)
        await capture.close()

        async def is_released() -> bool:
            return set(named(await prove(source, shelves)).values()) <= {WRONG, EXTRA}

        await until(is_released)
        assert named(await prove(source, shelves)) == {key(150): WRONG, key(151): EXTRA}


async def _none(*_: Any) -> dict[Any, Any]:
    return {}


async def test_more_than_a_sketch_tells_is_told_leaf_by_leaf(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_source, "NAMED_ITEMS", 40)
    monkeypatch.setattr(reconcile_source, "_GROUP_ROWS", 300)
    monkeypatch.setattr(source_folds, "_FOLDED_RECORDS", 1)  # one partition at a time
    async with source.intake(), source.proving(), source.office() as shelves:
        numbers = await filled(source, 1000)
        async with Clerk(source).at_work():
            statements, expected = mischief(numbers, 100)
            await unseen(source, *statements)
            proved = await prove(source, shelves)
        assert {k: kind for k, kind in named(proved).items() if kind != PARKED} == expected
        await unseen(source, "DELETE FROM people")
        proved = await prove(source, shelves)
        assert proved.rows == 0
        assert set(proved.by_class) == {EXTRA}
        assert proved.by_class[EXTRA] >= 1000


async def test_rows_that_the_checks_refuse_are_parked_whatever_the_bus_has(
    source: BusSource,
) -> None:
    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 10)
        await write(source, change(1, "sex = 9"), insert("new", sex=9), insert("a1"), insert("A1"))
        await write(source, change(2, "area = '330105001001'"))  # moved out
        await source.arrived()
        await unseen(source, change(3, "sex = 9"), change(4, "area = '330105001001'"))
        await unseen(source, change("new", "sex = 1"), insert(" a1"))
        proved = await prove(source, shelves)
        reasons = [(one.key, one.word, one.reason) for one in proved.findings]
        assert sorted(reasons) == sorted(
            [
                (key(1), PARKED, "unknown_code"),
                (key(3), PARKED, "unknown_code"),
                (key("A1"), PARKED, "duplicate"),
                (key("A1"), PARKED, "duplicate"),
                (key(4), EXTRA, ""),  # it moved out, and the bus has it yet
                (key("new"), MISSING, ""),  # it is parked, and was mended unseen
            ]
        )


async def test_an_adapter_that_dies_amid_its_walk_is_asked_again(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_asking, "SIGN_SECONDS", 3.0)
    monkeypatch.setattr(proof_source, "_ROWS", 100)
    judged, walked = proof_source._Answer._judged, asyncio.Event()

    async def slowly(self: Any, *asked: Any) -> Any:
        if not walked.is_set():
            walked.set()
            await asyncio.Event().wait()  # until it is killed
        return await judged(self, *asked)

    monkeypatch.setattr(proof_source._Answer, "_judged", slowly)
    async with source.intake(), source.office() as shelves:
        async with source.proving():
            numbers = await filled(source, 500)
            statements, expected = mischief(numbers, 20)
            await unseen(source, *statements)
            proving = asyncio.create_task(prove(source, shelves))
            await walked.wait()
        async with source.proving():
            assert named(await proving) == expected


async def test_what_cannot_be_told_is_no_difference(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_asking, "SIGN_SECONDS", 4.0)
    monkeypatch.setattr(reconcile_source, "ATTEMPTS", 1)
    async with source.office(marker_seconds=2.0) as shelves:
        async with source.intake(), source.running():
            await filled(source, 10)
        with pytest.raises(CouldNotTell, match="does it run"):
            await prove(source, shelves)
        async with source.proving() as publisher:
            with pytest.raises(CouldNotTell, match="is a worker running"):
                await prove(source, shelves)
            with pytest.raises(CouldNotTell, match="none of its systems"):
                await reconcile_source.prove_rows(shelves, source.unit, "another")
            with monkeypatch.context() as patch:
                patch.setattr(proof_source, "MOST_APART", 1)
                await write(source, insert("x", sex=9), insert("y", sex=9))
                await source.drained()
                with pytest.raises(CouldNotTell, match="wait or are parked"):
                    await prove(source, shelves)
            monkeypatch.setattr(
                type(publisher.chores), "_advance", lambda _: asyncio.sleep(0, False)
            )
            await publisher.chores.enqueue_resend("person", None, "first")
            with pytest.raises(CouldNotTell, match="still being published"):
                await prove(source, shelves)


@pytest.mark.parametrize("source", ["postgres"], indirect=True)
async def test_who_empties_the_table_meanwhile_waits_for_nobody(
    source: PostgresSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are gone for the snapshot as well: an answer would call them all extra."""
    monkeypatch.setattr(proof_source, "_ROWS", 100)
    judged, seconds = proof_source._Answer._judged, list[float]()

    async def meanwhile(self: Any, *asked: Any) -> Any:
        if not seconds:
            clock = asyncio.get_running_loop().time
            began = clock()
            await source.desk.execute("TRUNCATE people")
            seconds.append(clock() - began)
        return await judged(self, *asked)

    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 500)
        with monkeypatch.context() as patch:
            patch.setattr(proof_source._Answer, "_judged", meanwhile)
            with pytest.raises(CouldNotTell, match="emptied or rewritten"):
                await prove(source, shelves)
        assert seconds[0] < 1
        await source.arrived()
        proved = await prove(source, shelves)
        assert (proved.rows, proved.by_class) == (0, {})


# --- planted mistakes ---------------------------------------------------------------------


async def _false_differences(source: BusSource, runs: int = 8) -> int:
    """Named in what a busy clerk writes, of which none is one."""
    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 200)
        found = 0
        async with Clerk(source, rows=15, seed=3).at_work():
            for _ in range(runs):
                kinds = named(await prove(source, shelves)).values()
                found += sum(kind != PARKED for kind in kinds)
                if found:
                    break
        return found


async def test_planted_a_snapshot_before_the_cut_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Cuts.make

    async def early(self: Cuts, name: str, look: Callable[[], Any]) -> Any:
        seen = await look()
        await asyncio.sleep(0.1)  # publishing goes on
        marker, _ = await make(self, name, lambda: asyncio.sleep(0))
        return marker, seen

    monkeypatch.setattr(Cuts, "make", early)
    assert await _false_differences(source)


async def test_planted_a_snapshot_behind_the_cut_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Cuts.make

    async def late(self: Cuts, name: str, look: Callable[[], Any]) -> Any:
        marker, _ = await make(self, name, lambda: asyncio.sleep(0))
        await asyncio.sleep(0.1)
        return marker, await look()

    monkeypatch.setattr(Cuts, "make", late)
    assert await _false_differences(source)


async def test_planted_rows_that_wait_are_left_out_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Any, view: Any) -> Waiting:
        return Waiting()

    monkeypatch.setattr(proof_source._Answer, "_waiting", nothing)
    assert await _false_differences(source, runs=25)


async def test_planted_another_cuts_marker_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_of = Folds._cut_of

    def any_of_ours(self: Any, marker: Any) -> int:
        first: int = self._told.cut_us
        return first if 0 < cut_of(self, marker) < first else cut_of(self, marker)

    monkeypatch.setattr(Folds, "_cut_of", any_of_ours)
    assert await _false_differences(source)


async def test_planted_a_digest_that_skips_a_column_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(dataset: str, version: int, record: Sequence[bytes]) -> bytes:
        return b"".join(record)[:16].ljust(16)

    class Short:
        """As `short`, on the quick way."""

        def copy(self) -> Short:
            return Short()

        def update(self, record: bytes) -> None:
            self.record = record

        def digest(self) -> bytes:
            return short("", 0, (self.record,))

    for module in ("department.speakers", "operations.source_told"):
        monkeypatch.setattr(f"deptbus.{module}.record_digest", short)
    for module in ("department.proof_rows", "operations.source_told"):
        monkeypatch.setattr(f"deptbus.{module}.projection_hash", lambda *_: Short())
    async with source.intake(), source.proving(), source.office() as shelves:
        numbers = await filled(source, 100)
        statements, expected = mischief(numbers, 10)
        await unseen(source, *statements)
        assert named(await prove(source, shelves)) != expected


async def test_planted_parked_rows_as_if_they_were_published_are_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TableRows, "_refuse", lambda self, key, reason: None)
    monkeypatch.setattr(proof_source._Answer, "_keys_of", lambda self, parked: set())
    assert await _false_differences(source)


async def test_planted_a_repair_without_places_is_caught(
    source: BusSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deletes nothing that the source does not remember to have published."""

    async def none(*asked: Any) -> dict[bytes, str]:
        return {}

    monkeypatch.setattr("deptbus.operations.source_repair._places", none)
    async with source.intake(), source.proving(), source.office() as shelves:
        await filled(source, 20)
        await unseen(source, delete(3), change(4, "姓名 = '改'"))
        found = named(await prove(source, shelves))
        assert found == {key(3): EXTRA, key(4): WRONG}
        by = Operator("test")
        await order_resend(
            shelves, source.unit, "person", found, by=by, reason="differs", name="mend"
        )

        async def is_mended() -> bool:
            return key(4) not in named(await prove(source, shelves))

        await until(is_mended)
        assert named(await prove(source, shelves)) == {key(3): EXTRA}
