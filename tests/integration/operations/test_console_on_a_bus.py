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
from html import unescape
from pathlib import Path

import httpx2
import psutil
import pytest
from office_bus import HOUSING, Agent, Bus, Recipient, contract, person, until

from deptbus import names
from deptbus.change import Incarnation
from deptbus.cluster.ports import free_port
from deptbus.console.accounts import Account, password_hash, write_accounts
from deptbus.console.roles import Person, Role
from deptbus.contract.model import TwoPeople
from deptbus.operations.audit import read_acts
from deptbus.operations.proofs import keep_outcome
from deptbus.operations.proposal_desk import read_proposals
from deptbus.operations.proposal_duty import proposals_carried
from deptbus.operations.replay_desk import read_orders
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
            "omar": Account(Person("omar", frozenset({Role.OPERATOR})), hashed),
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
                told = f'id="proof-{HOUSING}-person-copy" data-proof="different"'
                is_ordered = f'id="job-{job}" data-job="ordered"' in (await vera.get("/jobs")).text
                return is_ordered and told in (await vera.get("/proof")).text

            await until(is_shown, "proof and order are shown")
            assert "3 stale" in (await vera.get("/proof")).text
            assert 'class="pulse person"' in (await vera.get("/")).text
            await vera.aclose()


async def test_a_replay_is_planned_proposed_and_confirmed_by_two(new_bus, accounts: Path) -> None:
    two = TwoPeople(acts=("replay",), datasets=("person",))
    async with new_bus() as bus:
        policy = await bus.activate(contract().model_copy(update={"two_people": two}))
        await bus.write(*(person(bus.codecs, n) for n in range(30)))
        async with (
            Agent(bus, "a", policy).alive(),
            Recipient(bus, HOUSING).running(),
            bus.office(
                keeper_interval_hours=None, further=(proposals_carried(bus.connection, None),)
            ),
            console(bus, accounts) as (address, _),
        ):
            await bus.job_done(HOUSING, 1)
            olga, omar = await signed_in(address, "olga"), await signed_in(address, "omar")
            await until(lambda: _says(olga, "/jobs", HOUSING), "the contract is known")
            form = {"unit": HOUSING, "all": "1", "reason": "their disk failed"}
            page = (await _post(olga, "/jobs/plan", **form)).text
            found = re.search(r'name="plan" value="([^"]+)"', page)
            assert found is not None, page
            assert "Two people are asked for here" in page
            answer = await _post(olga, "/jobs/propose", plan=unescape(found[1]))
            assert answer.headers["location"] == "/jobs?done=propose"
            (job,) = (await read_proposals(bus.connection)).proposals

            for browser in (olga, omar):
                told = f'id="proposal-{job}" data-proposal="waiting"'
                await until(lambda b=browser, t=told: _says(b, "/jobs", t), "it is shown")
            assert 'value="confirmed"' not in (await olga.get("/jobs")).text
            confirms = {"proposal": job, "word": "confirmed", "reason": "I looked at it"}
            alone = await _post(olga, "/jobs/decide", **confirms)
            assert (alone.status_code, "another person has to confirm" in alone.text) == (409, True)
            assert (await read_orders(bus.connection)).orders == {}
            assert (await _post(omar, "/jobs/decide", **confirms)).status_code == 303

            await until(
                lambda: _says(omar, "/jobs", f'id="job-{job}" data-job="done"'), "it is done"
            )
            late = await _post(omar, "/jobs/steer", job=job, wanted="paused", reason="too late")
            assert (late.status_code, "is done already" in late.text) == (409, True)
            acts = [(a.verb, a.operator) for a in await read_acts(bus.connection)]
            assert acts[:4] == [
                ("replay_plan", "olga"),
                ("proposal_made", "olga"),
                ("proposal_confirmed", "omar"),
                ("replay_apply", "olga"),
            ]
            await olga.aclose()
            await omar.aclose()


async def _says(browser: httpx2.AsyncClient, path: str, text: str) -> bool:
    return text in (await browser.get(path)).text


async def _post(browser: httpx2.AsyncClient, path: str, **form: str) -> httpx2.Response:
    token = token_of((await browser.get("/jobs")).text)
    return await browser.post(path, data={"csrf": token, **form})


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
