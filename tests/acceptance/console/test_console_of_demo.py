"""`deptbus demo --console`: a visitor comes in by the link and sees the map alive, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest
from browser import visit
from installed import Room, last_json, wait_until
from installed import Said as Told
from playwright.async_api import Browser

pytestmark = [pytest.mark.service, pytest.mark.asyncio(loop_scope="session")]

_PLACE = re.compile(r"the console is at (\S+);.* --data (\S+)")
_COUNT_DOTS = """() => {
  window.dots = 0;
  new MutationObserver(all => all.forEach(m => window.dots += m.addedNodes.length))
    .observe(document.getElementById('dots'), {childList: true});
}"""


async def test_a_visitor_sees_the_map_alive(browser: Browser, room: Room) -> None:
    process, said = room.start("demo", "--console", "--residents", "60", "--seconds", "1")

    def is_open() -> bool:
        return "stays open" in said.read_text() and _PLACE.search(said.read_text()) is not None

    await asyncio.to_thread(wait_until, is_open, 240, lambda: said.read_text())
    base, folder = _PLACE.findall(said.read_text())[0]
    link = (await asyncio.to_thread(room.run, "console", "link", "--data", folder)).out.strip()
    assert link.startswith(f"{base}/enter#")
    async with visit(browser, base) as seen:
        await seen.page.goto(link)
        await seen.page.wait_for_selector("#map", timeout=30_000)
        assert "#" not in seen.page.url, "the ticket stays in no history"
        await seen.page.evaluate("window.stayed = true")
        await seen.page.evaluate(_COUNT_DOTS)
        for dots in (3, 20):  # it goes on: nothing of it is left over from the day
            await seen.page.wait_for_function(f"() => window.dots >= {dots}", timeout=60_000)
        assert await seen.page.evaluate("window.stayed") is True
        await seen.page.wait_for_selector("#flows tbody tr")
        seen.check()
    async with visit(browser, base) as other:
        await other.page.goto(link)
        with other.expecting(403), other.expecting(401):
            await other.page.wait_for_selector("[role=alert]", timeout=30_000)
        assert await other.page.locator("#map").count() == 0, "a link works once"
    process.send_signal(signal.SIGINT)
    code = await asyncio.to_thread(process.wait, 60)
    words = said.read_text()
    assert code == 0, words
    assert "Traceback" not in words
    # The day was proved before, and its last line stands where it always does but for two.
    lines = [line for line in words.splitlines() if line.startswith("{")]
    outcome = last_json(Told((), 0, lines[-1], "", 0))
    assert outcome["copies_equal"] is True
