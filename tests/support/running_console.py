"""A console on a running bus, with an account for each role, as the tests of its pages use it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from browser import Visit
from installed import Up, sql

from deptbus.cluster.up import TARGETS_FILE

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
        await visitor.press("#login button.main")
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

    def figures(self) -> dict[str, str]:
        """What every process of the bus tells Prometheus, by address."""
        told = json.loads((self.up.data / TARGETS_FILE).read_text())
        return {
            address: _asked(f"http://{address}/metrics")
            for entry in told
            for address in entry["targets"]
        }


def _asked(address: str) -> str:
    # Not by a proxy that whoever runs the tests may have set.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        return str(answer.read().decode())


def is_alive(base: str) -> bool:
    try:
        return _asked(f"{base}/alive").strip() == "alive"
    except OSError:
        return False
