"""Two departments that are measured: a register and a copy of it, their adapters, one worker.

As in a real set-up the two departments run an adapter process each (publisher and applier of one
department share one), and one worker does intake and routing. Both databases lie in one server, so
their commit times are by one clock.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg
import psutil
import yaml

from benchmarks import county
from benchmarks.bench import Bench, Bus, Child, CouldNot
from benchmarks.cpu import cpu_seconds, tree
from deptbus.cluster.postgres import PostgresServer

Kind = Literal["postgresql", "sqlite"]

TABLE, COPY = "residents", "copies"
OWN_WRITES = "the department's own writes, with capture"
# Room for a bulk, as a data office would give it; fsync and all that makes commits safe stay on.
SERVER_SETTINGS = {
    "track_commit_timestamp": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
}
_TYPES: dict[str, tuple[str, str]] = {  # column -> (PostgreSQL, SQLite); all others are text
    "birth_date": ("date", "TEXT"),
    "registered_on": ("date", "TEXT"),
    "household_size": ("int", "INTEGER"),
    "updated_at": ("timestamptz", "TEXT"),
}
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Town:
    """`source` and `copy` are URLs as department.yml has them."""

    bench: Bench
    bus: Bus
    kind: Kind
    source: str
    copy: str
    publisher: Child
    applier: Child
    worker: Child
    server: PostgresServer | None
    # One connection to each database, for as long as the town stands: a new one for each look
    # would cost the server more than what is measured.
    _connections: dict[str, asyncpg.Connection] = field(default_factory=dict)
    _clerk_seconds: float = 0.0  # CPU of bulks; where there is no server, the clerk writes himself

    @property
    def processes(self) -> dict[str, int]:
        """deptbus's own processes by name."""
        return {
            "source adapter": self.publisher.pid,
            "recipient adapter": self.applier.pid,
            "worker": self.worker.pid,
        }

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, of every process by name; a database's sessions by database."""
        spent = {name: cpu_seconds([pid]) for name, pid in self.processes.items()}
        assert self.bus.broker.pid is not None
        spent["broker"] = cpu_seconds([self.bus.broker.pid])
        if self.server is not None and self.server.pid is not None:
            spent |= _server_cpu(self.server.pid)
        else:
            spent[OWN_WRITES] = self._clerk_seconds
        return spent

    async def fetch(self, url: str, statement: str, *words: Any) -> list[tuple[Any, ...]]:
        if self.kind == "sqlite":
            return await asyncio.to_thread(_fetch_sqlite, url, statement, words)
        if url not in self._connections:
            self._connections[url] = await asyncpg.connect(url)
        return [tuple(row) for row in await self._connections[url].fetch(statement, *words)]

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()
        self._connections.clear()

    async def applied(self) -> int:
        """How many records of its inbox the recipient has applied."""
        prefix = "deptbus_" if self.kind == "sqlite" else "deptbus."
        ((count,),) = await self.fetch(
            self.copy, f"SELECT coalesce(sum(next_offset), 0) FROM {prefix}offsets"
        )
        return int(count)

    async def until_applied(self, count: int, seconds: float) -> None:
        """Returns when so many records are applied. Raises CouldNot after that time without any."""
        before, seen_at = -1, time.monotonic()
        while (now := await self.applied()) < count:
            for child in (self.publisher, self.applier, self.worker):
                if not child.is_running:
                    raise CouldNot(f"{child.name} ended by itself: {child.last_words()}")
            if now != before:
                before, seen_at = now, time.monotonic()
            if time.monotonic() - seen_at > seconds:
                raise CouldNot(f"nothing came for {seconds:.0f} s, {count - now} rows are missing")
            await asyncio.sleep(_POLL_SECONDS)

    async def until_there(self, seconds: float) -> None:
        """Returns when the copy has as many rows as the register, for bulks of which some rows
        travel twice; else as `until_applied`."""
        while True:
            applied = await self.applied()
            if await self._count(self.copy, COPY) >= await self._count(self.source, TABLE):
                return
            await self.until_applied(applied + 1, seconds)

    async def _count(self, database: str, table: str) -> int:
        ((count,),) = await self.fetch(database, f"SELECT count(*) FROM {table}")
        return int(count)

    async def load(self, rows: int) -> None:
        """Fill the register, and wait until the copy has it: that warms everything up."""
        start = await self.applied()
        await run_clerk(self, "clerk-load", "load", str(rows)).wait(600)
        await self.until_applied(start + rows, 60)

    async def bulk(self, rows: int, edition: int) -> float:
        """Seconds from the first transaction of a bulk to the last row in the copy."""
        start = await self.applied()
        clerk = run_clerk(self, "clerk-bulk", "bulk", str(rows), str(edition))
        # The clerk's own start is no part of it: it says when it begins.
        await clerk.ready()
        began, spent = time.monotonic(), cpu_seconds([clerk.pid])
        await self.until_applied(start + rows, 60)
        seconds = time.monotonic() - began
        # All is written; what has ended keeps its times until it is waited for.
        self._clerk_seconds += cpu_seconds([clerk.pid]) - spent
        await clerk.wait(60)
        return seconds

    async def check_copy(self) -> None:
        """Raises CouldNot when the copy differs from the register in any field that it receives."""
        select = f"SELECT {', '.join(county.MOST)} FROM {{}} ORDER BY resident_id"
        here = await self.fetch(self.source, select.format(TABLE))
        there = await self.fetch(self.copy, select.format(COPY))
        if here != there:
            missing = len(set(here) - set(there))
            raise CouldNot(f"the copy is not equal: {missing} of {len(here)} rows are not in it")


@asynccontextmanager
async def town(bench: Bench, kind: Kind) -> AsyncIterator[Town]:
    """Both departments with empty tables, capture installed, everything running and ready."""
    async with bench.bus(county.contract(1)) as bus:
        server = None
        if kind == "postgresql":
            folder = bench.folder / f"postgres-{bus.broker.port}"
            server = PostgresServer(folder, extra_settings=SERVER_SETTINGS)
            server.start()
        children: list[Child] = []
        try:
            source, copy = (_database(bench.folder, server, name) for name in ("source", "copy"))
            await make_table(source, TABLE, kind)
            await make_table(copy, COPY, kind)
            columns = {name: name for name in county.NAMES}
            publishes = {county.DATASET: {"table": TABLE, "columns": columns}}
            received = {name: name for name in county.MOST}
            receives = {county.DATASET: {"table": COPY, "columns": received}}
            first = _write(bench.folder, county.SOURCE, source, publishes=publishes)
            second = _write(bench.folder, county.HOUSING, copy, receives=receives)
            await asyncio.to_thread(_install, bus, first)
            children.append(_adapter(bench, bus, "source", first))
            children.append(_adapter(bench, bus, "recipient", second))
            children.append(bench.worker(bus))
            for child in children:
                await child.ready()
            place = Town(bench, bus, kind, source, copy, *children, server)
            try:
                yield place
            finally:
                await place.close()
        finally:
            for child in children:
                child.stop()
            if server is not None:
                server.stop()
                server.destroy()


def run_clerk(town: Town, name: str, *words: str) -> Child:
    """The department's own program, as a process of its own (see `benchmarks.clerk`)."""
    argv = [sys.executable, "-m", "benchmarks.clerk", town.source, *words]
    return town.bench.child(name, argv, {"PYTHONPATH": str(Path(__file__).resolve().parents[1])})


def _database(folder: Path, server: PostgresServer | None, name: str) -> str:
    if server is not None:
        return server.create_database(name)
    return f"sqlite:///{folder / name}.db"


async def make_table(url: str, table: str, kind: Kind) -> None:
    at = 0 if kind == "postgresql" else 1
    types = {name: _TYPES.get(name, ("text", "TEXT"))[at] for name in county.NAMES}
    columns = [f"{name} {kind}" for name, kind in types.items()]
    columns[0] += " PRIMARY KEY"
    if table == TABLE:
        columns.append("n int NOT NULL UNIQUE")  # by which the clerk finds rows; not published
    statement = f"CREATE TABLE {table} ({', '.join(columns)})"
    if kind == "sqlite":
        await asyncio.to_thread(_fetch_sqlite, url, statement, ())
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _fetch_sqlite(url: str, statement: str, words: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)
    try:
        rows = connection.execute(statement, words).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


def _write(folder: Path, unit: str, database: str, **words: Any) -> Path:
    home = folder / unit.replace("@", "-")
    home.mkdir(exist_ok=True)
    path = home / "department.yml"
    content = {"unit": unit, "systems": {"main": {"database": database, **words}}}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _deptbus(*words: str) -> list[str]:
    return [sys.executable, "-c", "from deptbus.cli.main import main; main()", *words]


def _install(bus: Bus, config: Path) -> None:
    argv = _deptbus("department", "install", "--config", str(config))
    argv += ["--bootstrap", bus.connection.bootstrap]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise CouldNot(f"capture could not be installed: {done.stderr.strip() or done.stdout}")


def _adapter(bench: Bench, bus: Bus, name: str, config: Path) -> Child:
    argv = _deptbus("department", "run", "--config", str(config))
    return bench.child(f"{name}-adapter", argv, bus.connection.environment())


def _server_cpu(pid: int) -> dict[str, float]:
    """Of the sessions in each database, and of the server's own processes. The clerk's session has
    ended by the time that it is asked for: the server has what it spent."""
    spent = dict.fromkeys(
        ("database of the source", "database of the copy", "database server", OWN_WRITES), 0.0
    )
    for process in tree(pid):
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        words = title.split()
        name = "server" if process.pid == pid else _database_of(words)
        if process.pid == pid:
            spent[OWN_WRITES] = times.children_user + times.children_system
        place = {"source": "database of the source", "copy": "database of the copy"}.get(
            name, "database server"
        )
        spent[place] += times.user + times.system
    return spent


def _database_of(title: list[str]) -> str:
    """`postgres: USER DATABASE HOST(PORT) STATE` is the title of a session."""
    return title[2] if len(title) > 3 and title[0] == "postgres:" and "(" in title[3] else "server"
