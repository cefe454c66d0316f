"""The console as it is started, on a real bus: what it shows is there, and what is done in it is an
act with the person's name before it is done."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from office_bus import HOUSING, Bus, contract, until

from deptbus import names
from deptbus.change import Incarnation
from deptbus.cluster.ports import free_port
from deptbus.console.accounts import Account, password_hash, write_accounts
from deptbus.console.roles import Person, Role
from deptbus.operations.audit import read_acts
from deptbus.operations.proofs import keep_outcome
from deptbus.stream.log import Outgoing
from deptbus.stream.policies import read_policies
from deptbus.wire.control import AppliedBeat, JobOrder, ProofOutcome, encode_control, key_of

pytestmark = pytest.mark.service
PASSWORD = "correct horse battery"


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.json"
    hashed = password_hash(PASSWORD)
    write_accounts(
        path,
        {
            "olga": Account(Person("olga", frozenset({Role.OPERATOR})), hashed),
            "vera": Account(Person("vera", frozenset({Role.VIEWER})), hashed),
        },
    )
    return path


@asynccontextmanager
async def console(bus: Bus, accounts: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Its address, and its process."""
    listen = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deptbus.cli.main", "console", "--listen", listen,
        "--accounts", str(accounts), "--bootstrap", bus.connection.bootstrap,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "DEPTBUS_LOG_LEVEL": "WARNING"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while b"console at" not in await process.stderr.readline():
                assert process.returncode is None
        yield f"http://{listen}", psutil.Process(process.pid)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            said = await process.stderr.read()
            assert await process.wait() == 0, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def signed_in(address: str, name: str) -> httpx2.AsyncClient:
    browser = httpx2.AsyncClient(base_url=address, timeout=30)
    form = {"csrf": token_of((await browser.get("/login")).text), "name": name}
    answer = await browser.post("/login", data={**form, "password": PASSWORD})
    assert answer.status_code == 303
    return browser


def token_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


async def test_what_is_done_on_a_page_is_an_act_and_shows_without_reload(
    new_bus, accounts: Path
) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        async with console(bus, accounts) as (address, process):
            olga, vera = await signed_in(address, "olga"), await signed_in(address, "vera")

            async def is_drawn() -> bool:
                return f'data-unit="{HOUSING}"' in (await vera.get("/")).text

            await until(is_drawn, "the map is drawn")
            async with vera.stream("GET", "/events") as stream:
                events = stream.aiter_lines()
                assert await anext(events) == "event: changed"
                form = {"csrf": token_of((await olga.get("/holds")).text), "unit": HOUSING}
                form["reason"] = "its database moves"
                refused = {**form, "csrf": token_of((await vera.get("/holds")).text)}
                assert (await vera.post("/holds/hold", data=refused)).status_code == 403
                assert await read_acts(bus.connection) == []
                answer = await olga.post("/holds/hold", data=form)
                assert answer.headers["location"] == "/holds?done=hold"
                (act,) = await read_acts(bus.connection)
                assert (act.operator, act.verb, act.unit) == ("olga", "hold", HOUSING)
                assert act.reason == "its database moves"
                policy = (await read_policies(bus.connection)).current()
                assert [hold.unit for hold in policy.holds] == [HOUSING]

                async def is_told() -> bool:
                    await anext(events)
                    return "its database moves" in (await vera.get("/holds")).text

                await until(is_told, "the hold is shown")
            again = await olga.post("/holds/hold", data=form)
            assert again.status_code == 409
            assert "is held already" in again.text
            assert process.memory_info().rss < 130 * 2**20
            await olga.aclose()
            await vera.aclose()


async def test_what_was_proved_and_what_was_ordered_is_shown(new_bus, accounts: Path) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        now_us = time.time_ns() // 1000
        beat = AppliedBeat(HOUSING, "main", Incarnation(1, b"\1" * 8), None, now_us)
        topic = names.control_topic(HOUSING)
        await bus.sender.send([Outgoing(topic, 0, key_of(beat), encode_control(beat))])
        outcome = ProofOutcome(
            HOUSING, "person", "copy", "different", 1, now_us, False, 40, ("stale",), (3,), "wang",
            b"",
        )  # fmt: skip
        await keep_outcome(bus.sender, outcome)
        job = "repair-0123456789ab"
        order = JobOrder(
            job, HOUSING, "repair", ("person",), ("id",), (), (), (), 1, 1, "", 1, "wang", "",
            "a proof found it", now_us,
        )  # fmt: skip
        await bus.sender.send([Outgoing(names.JOBS, 0, key_of(order), encode_control(order))])
        async with console(bus, accounts) as (address, _):
            vera = await signed_in(address, "vera")

            async def is_shown() -> bool:
                page = (await vera.get("/proof")).text
                told = f'id="proof-{HOUSING}-person-copy" data-proof="different"'
                return told in page and f'id="job-{job}" data-job="ordered"' in page

            await until(is_shown, "proof and order are shown")
            assert "3 stale" in (await vera.get("/proof")).text
            assert 'class="pulse person"' in (await vera.get("/")).text
            await vera.aclose()


async def test_a_bus_that_is_not_there_is_said_on_the_page(accounts: Path) -> None:
    class Nowhere:
        class connection:
            bootstrap = f"127.0.0.1:{free_port()}"

    async with console(Nowhere(), accounts) as (address, _):  # type: ignore[arg-type]
        vera = await signed_in(address, "vera")

        async def is_said() -> bool:
            return 'id="trouble"' in (await vera.get("/")).text

        await until(is_said, "the page says it")
        await vera.aclose()
