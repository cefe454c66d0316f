"""Takes the pictures of the READMEs from the demonstration's own console: `make screenshots`.

Everything in them is synthetic. The county is drawn by a seed, so that they differ from run to run
only in what just flowed.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "support"))

from browser import Visit, chromium, program, visit  # noqa: E402

PICTURES = PROJECT / "docs" / "pictures"
MOST_BYTES = 200_000
SIZE = {"width": 1180, "height": 740}
START_SECONDS = 300.0


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deptbus-pictures-") as folder:
        said = Path(folder) / "said.log"
        demo = _demo(said)
        try:
            base, data = _where(demo, said)
            asyncio.run(_open(base, data))
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)


def _demo(said: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "deptbus.cli.main", "demo", "--console"]
    argv += ["--residents", "400", "--seconds", "8"]
    with said.open("wb") as output:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _where(demo: subprocess.Popen[bytes], said: Path) -> tuple[str, str]:
    """The console's address and the bus's folder, once the clerks go on calmly."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        found = re.search(r"the console is at (\S+);.* --data (\S+)", said.read_text())
        if found is not None and "stays open" in said.read_text():
            return found[1], found[2]
        if demo.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the demonstration did not come so far:\n{said.read_text()}")
        time.sleep(0.5)


async def _open(base: str, data: str) -> None:
    async with chromium(program()) as browser:
        await _take(browser, base, data)


_IS_CALM = """() => {
  const ways = document.querySelectorAll('#edges path').length;
  return ways > 20 && ways < 75 && document.querySelectorAll('#dots circle').length > 3;
}"""


async def _take(browser: Browser, base: str, data: str) -> None:
    async with _entered(browser, base, data, "light", "en") as seen:
        # The day's own bustle is over after a minute.
        await seen.page.wait_for_function(_IS_CALM, timeout=150_000)
        await _shot(seen, "console-map")
        await seen.open("/units/civil_affairs@330106")
        await seen.page.evaluate(
            "document.getElementById('h-not').scrollIntoView({block: 'center'})"
        )
        await _shot(seen, "console-unit")
    async with _entered(browser, base, data, "dark", "zh") as seen:
        await seen.open("/quarantine")
        await _shot(seen, "console-quarantine-zh")


@asynccontextmanager
async def _entered(
    browser: Browser, base: str, data: str, theme: Literal["light", "dark"], language: str
) -> AsyncIterator[Visit]:
    """A window that came in by a link of its own."""
    argv = [sys.executable, "-m", "deptbus.cli.main", "console", "link", "--data", data]
    argv += ["--operator", "data-office"]
    link = await asyncio.to_thread(subprocess.check_output, argv, text=True)
    async with visit(browser, base, theme=theme, language=language, size=SIZE) as seen:
        await seen.page.goto(link.strip())
        await seen.page.wait_for_selector("#map")
        yield seen


async def _shot(seen: Visit, name: str) -> None:
    seen.check()
    path = PICTURES / f"{name}.png"
    await seen.page.screenshot(path=path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MOST_BYTES}")
    print(f"{path.relative_to(PROJECT)}: {size // 1000} kB")


if __name__ == "__main__":
    main()
