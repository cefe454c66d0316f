"""What is said of units on a real bus: verdict, stage, owner, and the commands that say it.

Adapters and the worker are played by their signs of life and commits; the clock is the test's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from office_bus import GRID, HOUSING, PARTITIONS, SOURCE, person
from office_town import HOUR, ME, Town

from deptbus import names
from deptbus.operations.lag import PartitionState, Place
from deptbus.operations.lag_watch import LagReport, LagWatch
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport
from deptbus.operations.status import status_document
from deptbus.operations.verdicts import Verdict
from deptbus.stream.log import Outgoing
from deptbus.wire.control import AppliedBeat, encode_control, key_of

pytestmark = pytest.mark.service


@asynccontextmanager
async def watching(town: Town) -> AsyncIterator[LagWatch]:
    async with LagWatch(town.bus.connection, now=town.now) as watch:
        yield watch


def of(report: LagReport, unit: str) -> StageReport:
    (found,) = [u for u in report.units if u.unit == unit]
    return found


async def test_all_is_well(town: Town):
    async with watching(town) as watch:
        report = await watch.look()
        assert {(u.unit, u.verdict) for u in report.units} == {
            (unit, Verdict.OK) for unit in (BUS, SOURCE, HOUSING, GRID)
        }
        assert status_document(report)["exit_code"] == 0
        await town.live(HOUR)  # nothing comes for an hour, and all live
        assert status_document(await watch.look())["exit_code"] == 0


async def test_a_stopped_adapter_is_told_from_an_idle_one(town: Town):
    async with watching(town) as watch:
        await watch.look()
        town.alive.remove(HOUSING)
        await town.live(61)
        stopped = of(await watch.look(), HOUSING)
        assert (stopped.verdict, stopped.stage, stopped.owner) == ("STOPPED", Stage.APPLY, "office")
        assert stopped.lag_records == 0
        assert stopped.margin_seconds == pytest.approx(168 * HOUR)
        await town.deliver(HOUSING, 3)
        await town.live(HOUR)
        waits = of(await watch.look(), HOUSING)
        assert (waits.verdict, waits.lag_records) == ("STOPPED", 12)
        assert waits.lag_seconds == pytest.approx(HOUR, abs=30)
        assert waits.margin_seconds == pytest.approx(167 * HOUR, abs=30)


async def test_a_stopped_worker(town: Town):
    async with watching(town) as watch:
        await watch.look()
        await town.bus.report("agent", 1, "stopped")
        town.alive.remove("worker")
        gone = of(await watch.look(), BUS)
        assert (gone.verdict, gone.stage, gone.owner) == ("STOPPED", Stage.ROUTING, OFFICE)
        await town.publish(1)
        await town.live(20)
        intake = of(await watch.look(), SOURCE)
        assert (intake.verdict, intake.stage, intake.owner) == ("STOPPED", Stage.INTAKE, OFFICE)
        assert intake.lag_records == 4


async def test_a_database_that_is_down(town: Town):
    """The adapter lives, and what comes is not applied."""
    async with watching(town) as watch:
        await watch.look()
        await town.deliver(HOUSING, 1)
        await town.live(30)
        assert of(await watch.look(), HOUSING).verdict is Verdict.OK
        await town.live(40)
        assert of(await watch.look(), HOUSING).verdict is Verdict.BEHIND
        await town.live(30)
        down = of(await watch.look(), HOUSING)
        assert (down.verdict, down.stage, down.owner) == ("STALLED", Stage.APPLY, "office")


async def test_a_slow_sink_grows_and_then_catches_up(town: Town):
    group, topic = names.adapter_group(HOUSING, "main"), names.in_topic(HOUSING)
    async with watching(town) as watch:
        await town.deliver(HOUSING, 100)
        for step in range(1, 9):
            await town.live(10)
            await town.deliver(HOUSING, 100)
            await town.commit(group, topic, *[2 + step * 10] * 4)
            report = await watch.look()
        grows = of(report, HOUSING)
        assert (grows.verdict, grows.stage) == ("GROWING", Stage.APPLY)
        assert grows.expected_seconds == float("inf")
        for step in range(9):
            await town.live(10)
            await town.commit(group, topic, *[82 + (step + 1) * 50] * 4)
            report = await watch.look()
        gains = of(report, HOUSING)
        assert gains.verdict is Verdict.CATCHING_UP
        assert gains.expected_seconds == pytest.approx((902 - 532) / 5, rel=0.25)


async def test_what_waits_at_the_source(town: Town):
    async with watching(town) as watch:
        await watch.look()
        town.outbox = (17, 90.0)
        await town.live(1)
        late = of(await watch.look(), SOURCE)
        assert (late.verdict, late.stage, late.owner) == ("BEHIND", Stage.OUTBOX, "office")
        assert (late.lag_records, late.lag_seconds) == (17, pytest.approx(90, abs=5))
        town.outbox = (17, 190.0)
        await town.live(100)
        assert of(await watch.look(), SOURCE).verdict is Verdict.STALLED
        town.resync_needed = True
        await town.live(1)
        assert of(await watch.look(), SOURCE).verdict is Verdict.LOST


async def test_an_outbox_of_a_silent_adapter_is_unknown(town: Town):
    async with watching(town) as watch:
        await watch.look()
        town.alive.remove(SOURCE)
        await town.live(61)
        silent = of(await watch.look(), SOURCE)
        assert (silent.verdict, silent.stage) == ("STOPPED", Stage.OUTBOX)
        assert (silent.lag_records, silent.lag_seconds, silent.margin_seconds) == (None, None, None)


async def test_a_unit_that_never_began(town: Town):
    async with watching(town) as watch:
        assert of(await watch.look(), GRID).verdict is Verdict.OK  # nothing waits for it
        await town.deliver(GRID, 5)
        await town.live(20)
        report = await watch.look()
        never = of(report, GRID)
        assert (never.verdict, never.stage, never.lag_records) == ("STOPPED", Stage.APPLY, None)
        place = Place(names.adapter_group(GRID, "main"), names.in_topic(GRID), 0)
        assert report.picture.tracks[place].lag.state is PartitionState.NEVER_COMMITTED
        document = status_document(report)
        assert [row["unit"] for row in document["not_joined"]] == [GRID]
        assert document["red"] == []


async def test_a_sign_far_before_the_end_is_found_by_who_looks_for_the_first_time(town: Town):
    """One system of a unit died long ago, and another one went on."""
    at_us = int(town.now() * 1e6)
    other = [AppliedBeat(HOUSING, "other", ME, None, at_us + n) for n in range(200)]
    topic = names.control_topic(HOUSING)
    await town.bus.sender.send([Outgoing(topic, 0, key_of(b), encode_control(b)) for b in other])
    async with watching(town) as watch:
        assert of(await watch.look(), HOUSING).has_lived


async def command(town: Town, *words: str) -> tuple[int | None, str]:
    async with asyncio.timeout(90):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deptbus.cli.main", *words),
            *("--bootstrap", town.bus.connection.bootstrap),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_commands(town: Town):
    code, text = await command(town, "status")
    assert code == 1
    assert (
        f"{SOURCE}  person is late, never refreshed" in text
    )  # what is in its outbox is no change
    fresh = replace(person(town.bus.codecs, 1), source_time_us=int(time.time() * 1e6))
    value = town.bus.codecs.encode_change(fresh)
    await town.bus.sender.send([Outgoing(names.out_topic(SOURCE), 0, fresh.key, value)])
    await town.commit(names.WORKER_GROUP, names.out_topic(SOURCE), 3, 2, 2, 2)
    code, text = await command(town, "status")
    assert (code, "all is well" in text) == (0, True)
    await town.deliver(GRID, 5)
    town.resync_needed = True
    await town.live(0)
    code, text = await command(town, "status")
    assert code == 1
    assert "ring office" in text
    assert "deptbus department resync --config FILE" in text
    code, text = await command(town, "lag", "--only-bad", "-o", "json")
    document = json.loads(text)
    assert code == 1
    assert SOURCE in {row["unit"] for row in document["units"]}
    assert all(row["verdict"] not in ("OK", "CATCHING_UP") for row in document["units"])
    code, text = await command(town, "lag", "--unit", HOUSING)
    assert (code, HOUSING in text, SOURCE in text) == (0, True, False)
    code, text = await command(town, "groups", "-o", "json")
    groups = {row["group"]: row for row in json.loads(text)["groups"]}
    assert code == 0
    assert groups[names.WORKER_GROUP]["partitions"] == 2 * PARTITIONS
    code, _ = await command(town, "lag", "--unit", "nobody@330106")
    assert code == 2
