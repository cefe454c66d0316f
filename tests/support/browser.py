"""A real Chromium, headless, for the pages of the console: brought along where there is none.

A `Visit` is one person's window. What a page said wrong is written down (errors of its console, of
its scripts, answers that are refusals), and so is every request that would have left the machine,
which is stopped. `check` fails when there was any.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from debian import environment, unpacked
from playwright.async_api import Browser, BrowserContext, Page, Request, Route, async_playwright

PACKAGES = ("chromium", "fonts-wqy-microhei")  # the second has Latin and Chinese letters
SCREENSHOTS = "DEPTBUS_SCREENSHOTS"  # names the folder for them
_PROJECT = Path(__file__).resolve().parents[2]
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "::1"}

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}


@dataclass(frozen=True)
class Program:
    executable: str
    environment: dict[str, str]


def program() -> Program:
    """Chromium of this machine, or one that is unpacked into the cache. Raises NotToBeHad."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return Program(found, {})
    folder = unpacked("chromium", PACKAGES)
    fonts = folder / "fonts.conf"
    fonts.write_text(_FONTS.format(folder=folder))
    words = environment(folder) | {"FONTCONFIG_FILE": str(fonts)}
    return Program(str(folder / "usr/lib/chromium/chromium"), words)


_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{folder}/usr/share/fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir>{folder}/fonts-cache</cachedir>
  <match><edit name="family" mode="append_last"><string>WenQuanYi Micro Hei</string></edit></match>
  <alias><family>sans-serif</family><prefer><family>WenQuanYi Micro Hei</family></prefer></alias>
  <alias><family>system-ui</family><prefer><family>WenQuanYi Micro Hei</family></prefer></alias>
  <alias><family>monospace</family><prefer>
    <family>WenQuanYi Micro Hei Mono</family></prefer></alias>
</fontconfig>
"""


def screenshot_folder() -> Path:
    """Where pictures of pages are kept, for whoever looks at a build; git ignores it."""
    named = os.environ.get(SCREENSHOTS)
    folder = Path(named) if named else _PROJECT / ".make" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@asynccontextmanager
async def chromium(found: Program) -> AsyncIterator[Browser]:
    """One browser, for any number of visits."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found.executable,
            env={**os.environ, **found.environment},
            args=[
                # Root has no sandbox; and what the browser itself would ask the world for is
                # answered by nobody, because no name but this machine's is known.
                "--no-sandbox",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
                "--disable-dev-shm-usage",
                "--disable-gpu",
            ],
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """One window. `base` is the console's address; `expected` are answers that are no mistake:
    (status, part of the path)."""

    page: Page
    base: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    requests: int = 0
    _expected: list[tuple[int, str]] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Goes to a page and waits until it stands."""
        await self.page.goto(self.base + path, wait_until="load")

    async def press(self, selector: str) -> None:
        """Clicks what leads to another page, and waits until that one stands: its words are there
        before its style sheet is, and before its script hears anything."""
        async with self.page.expect_navigation(wait_until="load"):
            await self.page.click(selector)

    async def text(self) -> str:
        """All that the page says, hidden parts and attributes included."""
        return await self.page.content()

    async def shot(self, name: str) -> Path:
        path = screenshot_folder() / f"{name}.png"
        await self.page.screenshot(path=path, full_page=True, animations="disabled")
        return path

    @contextmanager
    def expecting(self, status: int, part: str = "") -> Iterator[None]:
        """Answers with this status, of paths with this part, are meant inside."""
        self._expected.append((status, part))
        try:
            yield
        finally:
            self._expected.pop()

    def check(self) -> None:
        """Nothing went wrong since the last check, and nothing left the machine."""
        errors, self.errors = self.errors, []
        outside, self.outside = self.outside, []
        assert not errors, f"{self.page.url}: {errors}"
        assert not outside, f"{self.page.url} asked for {outside}"

    async def sideways(self) -> list[str]:
        """What is wider than the window, outside of boxes that scroll by themselves; empty when
        the page does not scroll sideways."""
        found: list[str] = await self.page.evaluate(_SIDEWAYS)
        return found

    async def not_reached_by_keyboard(self, most_steps: int = 400) -> list[str]:
        """Visible links, buttons and fields that Tab does not come to; and those that it comes to
        without any sign of it."""
        await self.page.evaluate("document.activeElement && document.activeElement.blur()")
        wanted: list[str] = await self.page.evaluate(_MARK)
        reached: set[str] = set()
        unmarked: list[str] = []
        last = ""  # a field for a time has several places in it
        for _ in range(min(most_steps, len(wanted) + 40)):
            await self.page.keyboard.press("Tab")
            here = await self.page.evaluate(_FOCUSED)
            if here is None:
                continue
            if here["name"] == last:
                continue
            if here["name"] in reached:
                break
            last = here["name"]
            reached.add(here["name"])
            if not here["shows"]:
                unmarked.append(f"no focus to be seen: {here['name']}")
        return [name for name in wanted if name not in reached] + unmarked

    # --- what the browser tells ---------------------------------------------------------------

    def is_expected(self, status: int, url: str) -> bool:
        return any(status == s and part in urlsplit(url).path for s, part in self._expected)

    async def watch(self, context: BrowserContext) -> None:
        await context.route(re.compile(".*"), self._pass)
        self.page.on("pageerror", lambda error: self.errors.append(f"script: {error}"))
        self.page.on("console", lambda said: self._said(said.type, said.text, said.location))
        self.page.on("requestfailed", self._failed)

    async def _pass(self, route: Route, request: Request) -> None:
        self.requests += 1
        words = urlsplit(request.url)
        if words.scheme in ("data", "blob", "about") or words.hostname in _LOOPBACK:
            await route.continue_()
        else:
            self.outside.append(request.url)
            await route.abort()

    def _said(self, kind: str, text: str, location: dict[str, object]) -> None:
        if kind not in ("error", "warning"):
            return
        status = re.search(r"status of (\d+)", text)
        if status and self.is_expected(int(status[1]), str(location.get("url", ""))):
            return
        self.errors.append(f"{kind}: {text} ({location.get('url', '')})")

    def _failed(self, request: Request) -> None:
        """A stream that a page leaves behind is cut off, which is no mistake."""
        why = request.failure or ""
        if "ERR_ABORTED" not in why and request.url not in self.outside:
            self.errors.append(f"request: {request.url} {why}")


@asynccontextmanager
async def visit(
    browser: Browser,
    base: str,
    *,
    theme: Literal["light", "dark"] = "light",
    language: str = "en",
    size: dict[str, int] = DESK,
    calm: bool = False,
) -> AsyncIterator[Visit]:
    """A window of its own, with cookies of its own. `calm`: its owner wants nothing to move."""
    context = await browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        color_scheme=theme,
        locale="zh-CN" if language == "zh" else "en-GB",
        reduced_motion="reduce" if calm else "no-preference",
    )
    try:
        visitor = Visit(await context.new_page(), base)
        await visitor.watch(context)
        yield visitor
    finally:
        await context.close()


_SIDEWAYS = """() => {
  const root = document.documentElement, wide = [];
  if (root.scrollWidth <= root.clientWidth) return wide;
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 && box.width) {
      wide.push(e.tagName.toLowerCase() + (e.className ? '.' + e.className : '') + ' to ' +
                Math.round(box.right));
    }
  }
  return wide.length ? wide.slice(0, 8) : ['the page, to ' + root.scrollWidth];
}"""

_MARK = """() => {
  const found = [];
  let number = 0;
  const groups = new Set();
  for (const e of document.querySelectorAll(
      'a[href], button, input, select, textarea, summary, [tabindex]')) {
    if (e.disabled || e.type === 'hidden' || e.tabIndex < 0) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || !box.height || style.visibility === 'hidden') continue;
    if (e.type === 'radio') {           // Tab comes to one of a group
      if (groups.has(e.name)) continue;
      groups.add(e.name);
    }
    const name = (++number) + ' ' + e.tagName.toLowerCase() + ' ' +
      (e.getAttribute('href') || e.name || e.textContent || '').trim().slice(0, 60);
    const plain = getComputedStyle(e);
    // Not attributes: a page that renews itself takes away what its server did not send.
    e.walkName = name;
    e.walkPlain = [plain.outlineStyle, plain.outlineWidth, plain.boxShadow, plain.borderColor,
                   plain.backgroundColor].join('|');
    const inner = e.querySelector('rect');
    e.walkDrawn = inner ? getComputedStyle(inner).strokeWidth : '';
    found.push(name);
  }
  return found;
}"""

_FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || !e.walkName) return null;
  const now = getComputedStyle(e);
  const looks = [now.outlineStyle, now.outlineWidth, now.boxShadow, now.borderColor,
                 now.backgroundColor].join('|');
  const inner = e.querySelector('rect');       // a link in a drawing has no outline of its own
  const drawn = inner ? getComputedStyle(inner).strokeWidth : '';
  return {name: e.walkName, shows: looks !== e.walkPlain || drawn !== e.walkDrawn};
}"""
