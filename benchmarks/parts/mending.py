"""A copy spoilt in every way: named key by key, mended and nothing else, beside traffic."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks import county, spoiling
from benchmarks.bench import Bench, CouldNot
from benchmarks.figures import Figure, at_most, plain
from benchmarks.parts.reconcile import (
    MOST_MEMORY_MB,
    TRAFFIC_A_SECOND,
    deptbus_command,
    until_told,
)
from benchmarks.town import COPY, TABLE, Town, run_clerk, town
from benchmarks.watched import Watched, watched

ABOUT = "PostgreSQL: 1,000 rows of a copy spoilt in every way, named, mended, gone; 0 to all differ"
BY_NAME_ONLY = True

_MOST_SECONDS = 3000
_MENDED_BY_ITSELF = "claimed"  # when the record goes that held its row
_THE_RECIPIENTS = "parked"
_REPAIR = ("--repair", "--delete-extra", "--overwrite-local", "--reason", "spoilt on purpose")
# How the sums of all rows are told apart by SQL alone.
_SUM = "sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint::numeric)"


@dataclass(slots=True)
class _Memory:
    """Greatest so far, in MB."""

    command: float = 0.0
    recipient: float = 0.0
    source: float = 0.0


async def run(bench: Bench) -> list[Figure]:
    rows = bench.rows or bench.scaled(1_000_000, 20_000)
    each = max(1, min(100, rows // 200))
    async with town(bench, "postgresql") as place:
        office = bench.child(
            "operations", deptbus_command("operations", "run"), place.bus.connection.environment()
        )
        try:
            await office.ready()
            c = await asyncpg.connect(place.copy)
            try:
                for statement in spoiling.NUMBERED:
                    await c.execute(statement)
                await place.load(rows)
                await until_told(place)
                run = _Run(bench, place, c, rows)
                figures = await run.mended(each)
                return figures + await run.how_many_ever() + run.memory_figures()
            finally:
                await c.close()
        finally:
            office.stop()


class _Run:
    def __init__(self, bench: Bench, place: Town, c: asyncpg.Connection, rows: int) -> None:
        self._bench, self._place, self._c, self._rows = bench, place, c, rows
        self._memory = _Memory()

    async def mended(self, each: int) -> list[Figure]:
        spoilt = await spoiling.spoil(self._c, self._rows, each)
        count = sum(spoilt.by_class.values())
        name = f"{self._rows:,} rows, {count} spoilt, {TRAFFIC_A_SECOND} changes/s"
        words = [self._rows // 2, self._rows // 2, TRAFFIC_A_SECOND, _MOST_SECONDS]
        clerk = run_clerk(self._place, "clerk-traffic", "type", *map(str, words))
        await clerk.ready()
        try:
            first = await self._reconcile(1)
            if wrong := spoiling.named_otherwise(spoilt, first.output):
                raise CouldNot(wrong)
            before = await self._c.fetchval("SELECT txid_current()")
            second = await self._reconcile(
                1, *_REPAIR, "--max-delete", str(spoilt.by_class["extra"])
            )
            self._check_repair(spoilt, json.loads(second.output))
            await self._check_untouched(spoilt, before)
            await self._unpark()
            last = await self._reconcile(0)
        finally:
            clerk.stop()
        await self._check_equal()
        kilobytes = json.loads(first.output)["bytes"] / 1000
        return [
            plain(f"{name}: both legs, all named", [first.seconds], "s"),
            plain(f"{name}: bytes of that", [kilobytes], "kB"),
            plain(f"{name}: proved, mended, proved", [second.seconds], "s"),
            plain(f"{name}: the next run says 0", [last.seconds], "s"),
        ]

    async def how_many_ever(self) -> list[Figure]:
        """Nothing moves now. Rows are stale by SQL, and as they were again."""
        found = []
        for count in (0, 1, 10, min(100_000, self._rows // 2), self._rows):
            change = (
                "UPDATE deptbus.ledger SET version = version {} 1 WHERE key IN "
                f"(SELECT key FROM deptbus.ledger WHERE op = 'upsert' ORDER BY key LIMIT {count})"
            )
            await self._c.execute(change.format("-"))
            done = await self._reconcile(1 if count else 0, "--leg", "copy")
            told = json.loads(done.output)
            by_class = {word: n for word, n in told["by_class"].items() if n}
            if by_class != ({"stale": count} if count else {}):
                raise CouldNot(f"{count} rows are stale, and named are {by_class}")
            await self._c.execute(change.format("+"))
            name = f"{self._rows:,} rows, {count:,} differ"
            found += [
                plain(f"{name}: time", [done.seconds], "s"),
                plain(f"{name}: bytes", [told["bytes"] / 1000], "kB"),
                at_most(f"{name}: memory of the command", [done.memory_mb], "MB", MOST_MEMORY_MB),
            ]
        return found

    def memory_figures(self) -> list[Figure]:
        name = f"{self._rows:,} rows: most memory of the"
        return [
            at_most(f"{name} command", [self._memory.command], "MB", MOST_MEMORY_MB),
            at_most(f"{name} recipient's adapter", [self._memory.recipient], "MB", MOST_MEMORY_MB),
            at_most(f"{name} source's adapter", [self._memory.source], "MB", MOST_MEMORY_MB),
        ]

    async def _reconcile(self, code: int, *words: str) -> Watched:
        deep = () if "--leg" in words else ("--deep",)
        argv = deptbus_command(
            "reconcile", "--unit", county.HOUSING, *deep, "--output", "json", *words
        )
        pids = [self._place.applier.pid, self._place.publisher.pid]
        done = await watched(argv, self._place.bus.connection.environment(), others=pids)
        if done.code != code:
            raise CouldNot(f"reconcile ended with {done.code}: {done.output[-500:].strip()}")
        memory = self._memory
        memory.command = max(memory.command, done.memory_mb)
        memory.recipient = max(memory.recipient, done.others_mb[pids[0]])
        memory.source = max(memory.source, done.others_mb[pids[1]])
        told = json.loads(done.output)
        self._bench.say(f"{done.seconds:.1f} s, {done.memory_mb:.0f} MB: {told['by_class']}")
        return done

    def _check_repair(self, spoilt: spoiling.Spoilt, told: dict[str, Any]) -> None:
        left = {word: n for word, n in told["by_class"].items() if n}
        expected = {_THE_RECIPIENTS: spoilt.by_class[_THE_RECIPIENTS]}
        if left != expected:
            raise CouldNot(f"after the repair {left} differ, and {expected} are not its matter")
        ordered = dict(spoilt.by_class)
        del ordered[_THE_RECIPIENTS], ordered[_MENDED_BY_ITSELF]
        if told["repair"]["ordered"] != ordered:
            raise CouldNot(f"ordered was {told['repair']['ordered']}, and not {ordered}")

    async def _check_untouched(self, spoilt: spoiling.Spoilt, before: int) -> None:
        """No row but the spoilt ones was written, outside of the traffic."""
        written = await self._c.fetch(
            f"SELECT n FROM {COPY} WHERE n < $1 AND xmin::text::bigint >= $2",
            self._rows // 2,
            before,
        )
        others = {row[0] for row in written} - spoilt.numbers
        if others or not written:
            raise CouldNot(f"{len(others)} rows were written that nobody had spoilt")

    async def _unpark(self) -> None:
        """By hand, as it was put there: the recipient does not know of it."""
        await self._c.execute(
            "UPDATE deptbus.ledger SET parked = NULL, parked_since_us = NULL, retry_at_us = NULL "
            "WHERE parked <> ''"
        )

    async def _check_equal(self) -> None:
        """By SQL alone, once all has come."""
        fields = ", ".join(county.MOST)
        until = time.monotonic() + 120
        while True:
            sums = [
                await self._place.fetch(
                    url, f"SELECT count(*), {_SUM} FROM (SELECT {fields} FROM {table}) t"
                )
                for url, table in ((self._place.source, TABLE), (self._place.copy, COPY))
            ]
            if sums[0] == sums[1]:
                return
            if time.monotonic() > until:
                raise CouldNot("by SQL the copy is not equal to the register")
            await asyncio.sleep(1)
