"""`deptbus contract activate` as a person runs it: killed, run again, refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from office_bus import HOUSING, SOURCE, Agent, contract, key_of_person

from deptbus import names
from deptbus.contract.bundled import bundled
from deptbus.contract.load import load
from deptbus.stream.log import read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.control import decode_control

pytestmark = pytest.mark.service


async def start(bus, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deptbus.cli.main",
        *arguments,
        "--bootstrap",
        bus.connection.bootstrap,
        env={k: v for k, v in os.environ.items() if not k.startswith("DEPTBUS_")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(bus, *arguments: str, answer: bytes = b"") -> tuple[int | None, str, str]:
    async with asyncio.timeout(90):
        process = await start(bus, *arguments)
        out, err = await process.communicate(answer)
    return process.returncode, out.decode(), err.decode()


async def line_with(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(90):
        while text not in (await process.stdout.readline()).decode():
            assert not process.stdout.at_eof(), f"ended without saying {text}"


async def test_an_activation_that_is_killed_is_gone_on_with_by_the_next(new_bus):
    bus = new_bus()
    killed = await start(bus, "contract", "activate", str(bundled()), "--yes")
    await line_with(killed, "no worker is running")
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    policy = (await read_policies(bus.connection)).current()
    assert policy.contract == load(bundled())
    # The third has nothing left to do, and says so.
    async with bus, Agent(bus, "a", policy).alive():
        for _ in range(2):
            code, out, err = await run(bus, "contract", "activate", str(bundled()), "--yes")
            assert (code, err) == (0, "")
            assert "in force already, as policy 1" in out
            assert "every recipient is brought up to the policy" in out
        jobs = await bus.last_progress()
    assert {job.state for job in jobs.values()} == {"done"}
    assert len(jobs) == 22


async def test_who_says_no_changes_nothing(new_bus):
    bus = new_bus()
    code, out, _ = await run(bus, "contract", "activate", str(bundled()), answer=b"n\n")
    assert code == 1
    assert "newly receives" in out
    assert (await read_policies(bus.connection)).last == 0
    code, _, _ = await run(bus, "contract", "activate", str(bundled()), "--no-wait", answer=b"y\n")
    assert code == 0
    assert (await read_policies(bus.connection)).last == 1


async def test_whom_nobody_answers_says_so_and_changes_nothing(new_bus):
    bus = new_bus()
    code, _, err = await run(bus, "contract", "activate", str(bundled()), answer=b"")
    assert code == 2
    assert err.endswith("deptbus: stopped before the end\n")
    assert (await read_policies(bus.connection)).last == 0


async def test_a_contract_with_problems_never_reaches_the_bus(new_bus, tmp_path: Path):
    bus = new_bus()
    (tmp_path / "topics.yml").write_text("datasets: 7\n")
    code, out, err = await run(bus, "contract", "activate", str(tmp_path), "--yes")
    assert (code, out) == (1, "")
    assert "problems found" in err


async def test_a_resend_is_asked_for_by_key(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        words = ("operations", "resend", "--unit", SOURCE, "--dataset", "person")
        code, out, err = await run(bus, *words, "--key", key_of_person(3).hex())
        assert (code, err) == (0, "")
        (record,) = await read_to_end(bus.connection, names.in_topic(SOURCE))
        request = decode_control(record.value)
        assert request.key == key_of_person(3)
        assert request.request in out
        code, out, err = await run(bus, "audit", "ls", "-o", "json")
        assert (code, err) == (0, "")
        (act,) = json.loads(out)["acts"]
        assert (act["verb"], act["key"]) == ("resend", key_of_person(3).hex())
        assert act["operator"]
        code, _, err = await run(bus, *words, "--key", "abc")
        assert (code, err.count("\n")) == (2, 1)
        assert len(await read_to_end(bus.connection, names.in_topic(SOURCE))) == 1


async def test_what_is_in_force_is_shown_from_the_bus(new_bus):
    async with new_bus() as bus:
        await bus.activate(contract())
        code, out, err = await run(bus, "contract", "show", "--unit", HOUSING)
    assert (code, err) == (0, "")
    assert "policy 1, in force since" in out
    assert "salary" in out
