"""`deptbus replay` as a person runs it: planned, judged by Kafka's own tools, applied once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
from kafka_tools import offsets_at
from office_bus import (
    GRID,
    HOUSING,
    PARTITIONS,
    Agent,
    Bus,
    Recipient,
    contract,
    copy_of,
    key_of_person,
    person,
)
from office_orders import deliveries_behind
from test_operations_cli import run

from deptbus import names
from deptbus.operations.audit import read_acts
from deptbus.stream.log import end_offsets, read_to_end

pytestmark = pytest.mark.service

WHY = ("--reason", "their disk failed", "--operator", "wang")


async def planned(bus: Bus, tmp_path, *words: str, unit: str = HOUSING) -> dict:
    """What `replay plan` says of its plan."""
    file = str(tmp_path / f"plan-{len(list(tmp_path.iterdir()))}.json")
    asked = ("replay", "plan", "--unit", unit, *words, *WHY, "--file", file, "-o", "json")
    code, out, err = await run(bus, *asked)
    assert (code, err) == (0, ""), err
    return json.loads(out)


async def applied(bus: Bus, plan: dict) -> tuple[int | None, dict | None, str]:
    code, out, err = await run(
        bus, "replay", "apply", plan["file"], "--yes", "--operator", "li", "-o", "json"
    )
    return code, json.loads(out) if out else None, err


async def moment() -> str:
    """A time of which nothing that came before is as young, and all that comes later is younger."""
    await asyncio.sleep(0.01)
    now = datetime.now(UTC)
    await asyncio.sleep(0.01)
    return now.isoformat()


def ms_of(text: str) -> str:
    """As GetOffsetShell wants it, rounded up: what is older by less than a millisecond is older."""
    return str(-(-int(datetime.fromisoformat(text).timestamp() * 1_000_000) // 1000))


async def test_a_week_is_planned_and_given_again_and_no_more(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(100)))
        begins = await moment()
        await bus.write(*(person(bus.codecs, n, 2) for n in range(0, 60)))
        await bus.write(*(person(bus.codecs, n, 3) for n in range(0, 30)))
        ends = await moment()
        await bus.write(*(person(bus.codecs, n, 4) for n in range(0, 10)))
        async with (
            Agent(bus, "a", policy).alive(),
            Recipient(bus, HOUSING).running(),
            Recipient(bus, GRID).running(),
            bus.office(keeper_interval_hours=None),
        ):
            await bus.job_done(HOUSING, 1)
            plan = await planned(bus, tmp_path, "--from", begins, "--to", ends)
            await agrees_with_kafka(bus, plan, begins, ends)
            (expected,) = plan["plan"]["expected"]
            assert (plan["to_send"], expected["upserts"], expected["superseded"]) == (60, 60, 10)
            assert set(expected["fields_sent"]) == {"id", "place", "name"}
            assert expected["fields_withheld"] == {"phone": 60, "salary": 60}

            before = await end_offsets(bus.connection, names.in_topic(HOUSING))
            code, done, err = await applied(bus, plan)
            assert (code, err) == (0, "")
            assert (done["state"], done["sent"], done["job"]) == ("done", 60, plan["job"])
            found = await deliveries_behind(bus, HOUSING, before)
            wanted = {n: 4 if n < 10 else 3 if n < 30 else 2 for n in range(60)}
            assert [d.key for d in found].sort() == [key_of_person(n) for n in wanted].sort()
            assert {d.key: d.version for d in found} == {
                key_of_person(n): version for n, version in wanted.items()
            }
            assert len(found) == 60
            assert {(d.cause, d.job) for d in found} == {("replay", plan["job"])}

            # Applied twice it changes nothing: not a record more in the inbox.
            now = await end_offsets(bus.connection, names.in_topic(HOUSING))
            assert (await applied(bus, plan))[:2] == (0, done)
            assert await end_offsets(bus.connection, names.in_topic(HOUSING)) == now
        acts = [(a.verb, a.operator) for a in await read_acts(bus.connection)]
        assert acts[-3:] == [("replay_plan", "wang"), ("replay_apply", "li"), ("job_ended", "li")]


async def agrees_with_kafka(bus: Bus, plan: dict, begins: str, ends: str) -> None:
    """Every partition: its offsets those of GetOffsetShell, its counts those of a reader."""
    first = offsets_at(bus.connection, "data.person", ms_of(begins))
    last = offsets_at(bus.connection, "data.person", ms_of(ends))
    log_ends = offsets_at(bus.connection, "data.person", "latest")
    ranges = plan["plan"]["ranges"]
    assert [r["partition"] for r in ranges] == list(range(PARTITIONS))
    records = await read_to_end(bus.connection, "data.person")
    for r in ranges:
        number = r["partition"]
        end = log_ends[number]
        assert (r["start"], r["end"]) == (first.get(number, end), last.get(number, end))
        there = [x for x in records if x.partition == number and r["start"] <= x.offset < r["end"]]
        assert (r["records"], r["keys"]) == (len(there), len({x.key for x in there}))


async def test_offsets_are_kafkas_own_at_the_very_millisecond_of_a_record(new_bus, tmp_path):
    """From that of one record to that of another; and from just behind the one to behind all."""
    async with new_bus() as bus:
        await bus.activate(contract())
        for first in range(0, 200, 20):
            await bus.write(*(person(bus.codecs, n) for n in range(first, first + 20)))
            await moment()
        times = sorted({r.timestamp_ms for r in await read_to_end(bus.connection, "data.person")})
        early, late = times[len(times) // 3], times[-2]
        for begins_ms, ends_ms in ((early, late), (early + 1, times[-1] + 1)):
            begins, ends = (
                datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (begins_ms, ends_ms)
            )
            plan = await planned(bus, tmp_path, "--from", begins, "--to", ends)
            assert (ms_of(begins), ms_of(ends)) == (str(begins_ms), str(ends_ms))
            await agrees_with_kafka(bus, plan, begins, ends)


async def test_a_partition_with_nothing_after_a_time_says_so(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(100)))
        begins = await moment()
        await bus.write(person(bus.codecs, 1, 2))
        async with Agent(bus, "a", policy).alive():
            plan = await planned(bus, tmp_path, "--from", begins)
        kafka = offsets_at(bus.connection, "data.person", ms_of(begins))
        silent = set(range(PARTITIONS)) - kafka.keys()
        assert len(silent) == PARTITIONS - 1
        for r in plan["plan"]["ranges"]:
            says = r["note"] == "nothing came after the first time"
            assert says == (r["partition"] in silent)
            assert (r["start"] == r["end"]) == says
        assert plan["to_send"] == 1


async def test_keys_and_offsets_are_read_from_files(new_bus, tmp_path):
    async with new_bus() as bus:
        await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(100)))
        (keys := tmp_path / "keys.txt").write_text(
            "\n".join(["# two that are there", *(key_of_person(n).hex() for n in (1, 2, 777))])
        )
        plan = await planned(bus, tmp_path, "--keys", str(keys))
        assert (plan["to_send"], plan["plan"]["expected"][0]["unknown"]) == (2, 1)
        ends = await end_offsets(bus.connection, "data.person")
        (offsets := tmp_path / "offsets.txt").write_text(f"data.person:0:{ends[0] - 3}\n")
        plan = await planned(bus, tmp_path, "--offsets", str(offsets))
        assert plan["to_send"] == 3
        assert [r["note"] for r in plan["plan"]["ranges"]] == ["", *["not chosen"] * 3]
        plan = await planned(bus, tmp_path, "--all", "--dataset", "person")
        assert plan["to_send"] == 100
        # The town may have those that are about its own places.
        plan = await planned(bus, tmp_path, "--all", unit=GRID)
        (expected,) = plan["plan"]["expected"]
        mine = sum(n % 3 != 2 for n in range(100))
        assert (expected["upserts"], expected["without_right"]) == (mine, 100 - mine)


async def test_a_job_is_paused_resumed_and_cancelled_over_starts_of_the_office(new_bus, tmp_path):
    async with new_bus() as bus:
        policy = await bus.activate(contract())
        await bus.write(*(person(bus.codecs, n) for n in range(3000)))
        async with Agent(bus, "a", policy).alive():
            async with bus.office(keeper_interval_hours=None), Recipient(bus, HOUSING).running():
                await bus.job_done(HOUSING, 1)
            plan = await planned(bus, tmp_path, "--all")
            job = plan["job"]
            code, out, err = await run(bus, "replay", "apply", plan["file"], "--yes", "--no-wait")
            assert (code, err) == (0, "")
            assert "no operations process runs" in out
            steer = ("--reason", "their busy hour", "--operator", "wang")
            assert (await run(bus, "replay", "pause", job, *steer))[0] == 0
            async with bus.office(keeper_interval_hours=None), Recipient(bus, HOUSING).running():
                code, out, _ = await run(bus, "replay", "status", job, "--wait", "-o", "json")
                assert (code, json.loads(out)["state"]) == (1, "paused")
            async with (
                bus.office(keeper_interval_hours=None),
                Recipient(bus, HOUSING, seconds_a_record=0.01).running(),
            ):
                assert (await run(bus, "replay", "resume", job, *steer))[0] == 0
                while (
                    json.loads((await run(bus, "replay", "ls", "-o", "json"))[1])["jobs"][0][
                        "state"
                    ]
                    != "sending"
                ):
                    pass
                assert (await run(bus, "replay", "cancel", job, *steer))[0] == 0
                code, out, _ = await run(bus, "replay", "status", job, "--wait", "-o", "json")
                state = json.loads(out)
                assert (code, state["state"]) == (1, "cancelled")
                assert state["sent"] < 3000
            code, _, err = await run(bus, "replay", "resume", job, *steer)
            assert (code, "is cancelled already" in err) == (1, True)
        sent = [d for d in (await copy_of(bus, HOUSING)).rows.values() if d.job == job]
        assert len(sent) == 0  # equal versions: this copy keeps what it had first
