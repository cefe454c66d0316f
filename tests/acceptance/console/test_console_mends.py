"""Two operators at the console of a running county: a proof's certificate, what it found mended by
both of them, a replay planned and watched; by keyboard, on a phone, by day and by night."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from browser import DESK, PHONE, Visit, visit
from installed import sql
from playwright.async_api import Browser
from running_console import CLERKS_UNIT, Office
from test_console_walked import leaks

from deptbus.connection import find_connection
from deptbus.contract.department import Receive, load_department
from deptbus.contract.model import Policy, TwoPeople
from deptbus.operations.audit import read_acts
from deptbus.stream.policies import append_policy, read_policies

pytestmark = [pytest.mark.service, pytest.mark.asyncio(loop_scope="session")]

SMALL = "grassroots@330106005"


def copy_of(office: Office) -> Receive:
    """How the residents lie at housing."""
    file = office.up.data / "departments" / CLERKS_UNIT.replace("@", "-") / "department.yml"
    return load_department(file).systems["main"].receives["resident"]


def prove(office: Office, code: int) -> None:
    said = office.up.room.run(
        "reconcile", "--unit", CLERKS_UNIT, "--dataset", "resident", "--leg", "copy", "--deep",
        "--certificate", office.up.room.folder / "proved.json", "--data", office.up.data,
        "--operator", "nobody",
    )  # fmt: skip
    assert said.code == code, str(said)


@asynccontextmanager
async def two_people(office: Office, asked: TwoPeople) -> AsyncIterator[None]:
    """The contract in force asks for two; afterwards it does not."""
    connection = find_connection(data=office.up.data)

    async def put(wanted: TwoPeople | None) -> None:
        now = (await read_policies(connection)).current()
        contract = now.contract.model_copy(update={"two_people": wanted})
        number = now.number + 1
        policy = Policy(
            number=number, activated_at=datetime.now(UTC), activated_by="test", contract=contract
        )
        await append_policy(connection, policy)

    await put(asked)
    try:
        yield
    finally:
        await put(None)


async def _looks_well(seen: Visit, name: str, residents: list[str]) -> None:
    """The page that stands, on a desk and on a phone, by keyboard, light and dark."""
    assert leaks(await seen.text(), residents) == [], name
    assert await seen.not_reached_by_keyboard() == [], name
    for size in (PHONE, DESK):
        await seen.page.set_viewport_size(size)  # type: ignore[arg-type]
        assert await seen.sideways() == [], (name, size)
    for theme in ("dark", "light"):
        await seen.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        await seen.shot(f"mends-{name}-{theme}")


async def test_a_certificate_is_downloaded_and_verified(
    browser: Browser, office: Office, tmp_path: Path
) -> None:
    prove(office, 0)
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "viewer")
        await seen.open("/proof")
        row = seen.page.locator(f"[id='proof-{CLERKS_UNIT}-resident-copy'][data-proof=equal]")
        await row.wait_for(timeout=30_000)
        async with seen.page.expect_download() as waiting:
            await row.locator("a[download]").click()
        download = await waiting.value
        file = tmp_path / download.suggested_filename
        await download.save_as(file)
        seen.check()
    assert file.name.startswith("certificate-housing-330106-resident-copy-")
    run = office.up.room.run
    words = ("certificate", "verify", file, "--unit", CLERKS_UNIT, "--equal", "-o", "json")
    said = run(*words, "--data", office.up.data)
    assert (said.code, json.loads(said.out)["unit"]) == (0, CLERKS_UNIT), str(said)
    # With one byte changed it is none any more.
    file.write_bytes(file.read_bytes().replace(b"resident", b"residenz", 1))
    assert run(*words, "--data", office.up.data).code == 1


async def test_what_a_proof_found_is_mended_by_two(browser: Browser, office: Office) -> None:
    residents, receive = office.residents(), copy_of(office)
    database, name = office.file("housing-330106"), receive.columns["name"]
    (before,) = sql(database, f"SELECT max(rowid), {name} FROM {receive.table}")
    sql(database, f"UPDATE {receive.table} SET {name} = '改' WHERE rowid = ?", before[:1])
    prove(office, 1)
    asked = TwoPeople(acts=("repair",), datasets=("resident",))
    async with (
        two_people(office, asked),
        visit(browser, office.base) as first,
        visit(browser, office.base, language="zh") as second,
    ):
        await office.log_in(first, "operator")
        await first.open("/proof")
        row = first.page.locator(f"[id='proof-{CLERKS_UNIT}-resident-copy'][data-proof=different]")
        await row.wait_for(timeout=30_000)
        await _looks_well(first, "proof", residents)
        await row.locator("a[data-differences]").focus()
        async with first.page.expect_navigation(wait_until="load"):
            await first.page.keyboard.press("Enter")
        await first.page.wait_for_selector("[data-class=edited_locally]")
        assert await first.page.locator("#keys tbody tr").count() == 1
        while not await first.page.locator("text=Two people are asked for here").count():
            await first.open(first.page.url.removeprefix(office.base))  # the contract is news yet
        await _looks_well(first, "repair", residents)
        await first.page.check("input[name=overwrite_local]")
        await first.page.fill("#repair-reason", "the clerk typed it by mistake")
        await first.press("#repair")
        mine = first.page.locator("article[data-proposal=waiting]")
        await mine.wait_for(timeout=30_000)
        assert await mine.locator("button[value=confirmed]").count() == 0
        assert await mine.locator("button[value=declined]").count() == 1
        await _looks_well(first, "jobs", residents)

        await office.log_in(second, "colleague")
        await second.open("/jobs")
        card = second.page.locator("article[data-proposal=waiting]")
        await card.wait_for(timeout=30_000)
        await card.locator("input[name=reason]").fill("我看过了")
        button = card.locator("button[value=confirmed]")
        await button.focus()
        async with second.page.expect_navigation(wait_until="load"):
            await second.page.keyboard.press("Enter")
        assert "已确认" in str(await second.page.text_content("#done"))
        # Both pages follow by themselves.
        for one in (first, second):
            done = one.page.locator(
                "#closed-proposals tr[data-proposal=done]", has_text="0 differences left"
            )
            await done.first.wait_for(timeout=90_000)
        await first.open("/proof")
        await first.page.locator(
            f"[id='proof-{CLERKS_UNIT}-resident-copy'][data-proof=equal]"
        ).wait_for(timeout=30_000)
        first.check()
        second.check()
    after = sql(database, f"SELECT rowid, {name} FROM {receive.table} WHERE rowid = ?", before[:1])
    assert after == [before]
    acts = await read_acts(find_connection(data=office.up.data))
    said = [(a.verb, a.operator) for a in acts if a.verb.startswith(("proposal", "reconcile"))]
    assert said == [
        ("proposal_made", "operator"),
        ("proposal_confirmed", "colleague"),
        ("reconcile_repair", "operator"),
    ]


async def test_a_replay_is_planned_applied_and_watched(browser: Browser, office: Office) -> None:
    residents = office.residents()
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "operator")
        await seen.open("/jobs")
        while not await seen.page.locator(f"#plan-unit option[value='{SMALL}']").count():
            await seen.open("/jobs")  # the bus was not looked at yet
        await seen.page.select_option("#plan-unit", SMALL)
        await seen.page.fill("#plan-from", "2026-01-01T08:00")
        await seen.page.fill("#plan-reason", "their disk failed")
        await seen.press("#plan")
        await seen.page.wait_for_selector("#expected tbody tr")
        await _looks_well(seen, "plan", residents)
        job = str(await seen.page.text_content("#plan-facts code"))
        await seen.press("#propose")
        await seen.page.locator(f"[id='job-{job}'][data-job=done]").wait_for(timeout=60_000)
        assert "their disk failed" in await seen.text()
        # What is over is not steered any more, whoever asks.
        assert await seen.page.locator(f"[id='steer-{job}']").count() == 0
        seen.check()
