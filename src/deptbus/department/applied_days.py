"""Tells the bus what a recipient applied, day by day, so that somebody can say how many entries
nobody typed.

The count itself is the database's: it was written in the very transactions that applied the
deliveries, so what came twice counts once and what was rolled back not at all. Here it is passed
on, under one key a day: told again, or by a later adapter, it replaces itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import structlog

from deptbus.change import Cause, Incarnation
from deptbus.department.fold import Outcome, Tally
from deptbus.department.store import day_of
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import control_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import AppliedDay, encode_control, key_of

log = structlog.get_logger(__name__)

TELL_SECONDS = 2.0
KEPT_DAYS = 400  # as far back as an adapter that starts tells again

# Dataset -> entries, all live upserts, other upserts: see wire.control.AppliedDay.
Counts = dict[str, tuple[int, int, int]]


class AppliedDays:
    """What is known of each day, and which of it was told."""

    def __init__(self) -> None:
        self._known: dict[str, Counts] = {}
        self._told: dict[str, Counts] = {}

    def since(self, now_us: int) -> str:
        """From which day on the database has to be asked: the last that is known may have grown."""
        return max(self._known, default=day_of(now_us - KEPT_DAYS * 86_400_000_000))

    def take(self, tallies: Mapping[str, Counter[Tally]]) -> None:
        self._known |= {day: counts_of(lines) for day, lines in tallies.items()}

    def untold(self) -> dict[str, Counts]:
        return {day: c for day, c in sorted(self._known.items()) if c != self._told.get(day, {})}

    def tell(self, told: Mapping[str, Counts]) -> None:
        """These lie on the bus now. What is known of all days but the last two is forgotten: it
        was told, and does not change any more."""
        self._told |= told
        for day in sorted(self._known)[:-2]:
            if self._told.get(day, {}) == self._known[day]:
                self._known.pop(day)
                self._told.pop(day, None)


def counts_of(lines: Mapping[Tally, int]) -> Counts:
    """Of one day: datasets of which nothing was applied are absent."""
    entries: Counter[str] = Counter()
    live: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for line, count in lines.items():
        if line.outcome == Outcome.REENTRY:
            entries[line.dataset] += count
        elif line.outcome == Outcome.APPLIED:
            (live if line.cause == Cause.LIVE else others)[line.dataset] += count
    return {d: (entries[d], live[d], others[d]) for d in sorted(live.keys() | others.keys())}


async def tell_days(
    sender: Sender, unit: str, system: str, incarnation: Incarnation, days: AppliedDays
) -> None:
    """Until cancelled. What cannot be told now is told later: it is said once."""
    said = False
    while True:
        untold = days.untold()
        told = [_record(unit, system, incarnation, day, c) for day, c in untold.items()]
        records = [Outgoing(control_topic(unit), 0, key_of(r), encode_control(r)) for r in told]
        try:
            if records:
                await sender.send(records)
            days.tell(untold)
            said = False
        except (BusUnreachable, BusRefused) as error:
            if not said:
                log.warning("days_not_told", unit=unit, system=system, error=error.what)
            said = True
        await asyncio.sleep(TELL_SECONDS)


def _record(
    unit: str, system: str, incarnation: Incarnation, day: str, counts: Counts
) -> AppliedDay:
    return AppliedDay(
        unit,
        system,
        incarnation,
        day,
        tuple(counts),
        tuple(entries for entries, _, _ in counts.values()),
        tuple(live for _, live, _ in counts.values()),
        tuple(others for _, _, others in counts.values()),
        time.time_ns() // 1000,
    )
