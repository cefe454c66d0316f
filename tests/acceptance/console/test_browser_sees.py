"""The eyes of the console's tests can see: each fault that they look for is planted once."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from browser import PHONE, visit
from playwright.async_api import Browser

pytestmark = [pytest.mark.service, pytest.mark.asyncio(loop_scope="session")]

WELL = """<!doctype html><title>well</title><link rel="icon" href="data:,">
<style>:focus-visible { outline: 2px solid blue }</style>
<a href="/well">a link</a> <button>a button</button>"""

FAULTS = {
    "script": WELL + "<script>nothing.there()</script>",
    "console": WELL + "<script>console.error('no')</script>",
    "missing": WELL + '<img src="/gone.png">',
    "leaves": WELL + '<img src="http://fonts.example.org/a.png">',
    "leaves_by_script": WELL + "<script>fetch('https://192.0.2.1/').catch(() => 0)</script>",
    "wide": WELL + '<div style="width: 900px">wide</div>',
    "boxed": WELL + '<div style="overflow-x: auto"><div style="width: 900px">wide</div></div>',
    "unreachable": WELL + '<button onfocus="this.blur()">cannot be reached</button>',
    "unseen": WELL + '<button style="outline: none">not seen</button>',
}


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"well": WELL, **FAULTS}.get(self.path.strip("/"))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_page_without_faults_passes(browser: Browser, base: str) -> None:
    async with visit(browser, base, size=PHONE) as seen:
        await seen.open("/well")
        seen.check()
        assert seen.requests == 1
        assert await seen.sideways() == []
        assert await seen.not_reached_by_keyboard() == []


@pytest.mark.parametrize(
    ("fault", "word"),
    [("script", "nothing is not defined"), ("console", "no"), ("missing", "404")],
)
async def test_what_goes_wrong_is_seen(browser: Browser, base: str, fault: str, word: str) -> None:
    async with visit(browser, base) as seen:
        await seen.open(f"/{fault}")
        await seen.page.wait_for_load_state("networkidle")
        with pytest.raises(AssertionError, match=word):
            seen.check()


@pytest.mark.parametrize("fault", ["leaves", "leaves_by_script"])
async def test_what_leaves_the_machine_is_seen_and_stopped(
    browser: Browser, base: str, fault: str
) -> None:
    async with visit(browser, base) as seen:
        await seen.open(f"/{fault}")
        await seen.page.wait_for_load_state("networkidle")
        assert len(seen.outside) == 1
        seen.errors.clear()
        with pytest.raises(AssertionError, match="asked for"):
            seen.check()


async def test_an_answer_that_is_meant_is_no_fault(browser: Browser, base: str) -> None:
    async with visit(browser, base) as seen:
        with seen.expecting(404, "gone"):
            await seen.open("/missing")
            await seen.page.wait_for_load_state("networkidle")
        seen.check()


async def test_what_is_too_wide_is_seen(browser: Browser, base: str) -> None:
    async with visit(browser, base, size=PHONE) as seen:
        await seen.open("/wide")
        assert any(name.startswith("div") for name in await seen.sideways())
        await seen.open("/boxed")
        assert await seen.sideways() == []


async def test_what_the_keyboard_does_not_reach_is_seen(browser: Browser, base: str) -> None:
    async with visit(browser, base) as seen:
        await seen.open("/unreachable")
        (missed,) = await seen.not_reached_by_keyboard()
        assert "cannot be reached" in missed
        await seen.open("/unseen")
        (unseen,) = await seen.not_reached_by_keyboard()
        assert unseen.startswith("no focus to be seen")
