"""A console on a running bus, with an account for each role, as the tests of its pages use it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from browser import Visit
from installed import Up, sql

PASSWORD = "correct horse battery staple"
CLERKS_UNIT = "housing@330106"


@dataclass(frozen=True)
class Office:
    """A county's bus and its console; accounts are called by their roles and have one password."""

    up: Up
    base: str
    log: Path

    async def log_in(self, visitor: Visit, name: str) -> None:
        await visitor.open("/login")
        await visitor.page.fill("#name", name)
        await visitor.page.fill("#password", PASSWORD)
        await visitor.page.click("#login button.main")
        await visitor.page.wait_for_selector("#logout")

    def file(self, department: str) -> Path:
        return self.up.data / "departments" / department / "own.db"

    def residents(self) -> list[str]:
        """Every personal number of the county."""
        found: set[str] = set()
        for department in ("public_security-330106", "public_security-330105"):
            found |= {row[0] for row in sql(self.file(department), "SELECT sfzh FROM rkjbxx")}
        return sorted(found)

    def logs(self) -> Iterator[Path]:
        """Of all that runs; the broker's records are no logs."""
        yield from (self.log, self.up.data / "up.log")
        yield from (self.up.data / "logs").glob("*.log*")


def is_alive(base: str) -> bool:
    # Not by a proxy that whoever runs the tests may have set.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{base}/alive", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
