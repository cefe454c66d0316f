"""The keeper: puts the highest version of a key last again where a late send left a lower one.

Compaction keeps the last record of a key once it is older than `min.compaction.lag.ms`. So every
partition is folded whole at least twice within that time, and an alarm tells when the keeper or a
reader of the canonical topics is nearly that far behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from deptbus import names
from deptbus.errors import DeptbusError
from deptbus.operations.logs import CanonicalLogs, Span
from deptbus.stream.log import Outgoing, Sender

log = structlog.get_logger(__name__)

COMPACTION_LAG_HOURS = 48.0  # min.compaction.lag.ms of canonical topics
INTERVAL_HOURS = 6.0
ALARM_SHARE = 0.75  # of the compaction lag

CommittedOf = Callable[[str, list[tuple[str, int]]], Awaitable[dict[int, int]]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What one run found in one partition."""

    dataset: str
    partition: int
    appended: int
    reader_lag_seconds: float | None  # age of the first record that agents have not acked


class Keeper:
    def __init__(
        self,
        logs: CanonicalLogs,
        sender: Sender,
        committed_of: CommittedOf,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._logs = logs
        self._sender = sender
        self._committed_of = committed_of
        self._wall = wall

    async def keep(self, dataset: str) -> list[Kept]:
        """One run over every partition of a dataset. Raises BusUnreachable, BusRefused."""
        topic = names.data_topic(dataset)
        spans = await self._logs.spans(dataset)
        places = [(topic, partition) for partition in range(len(spans))]
        committed = await self._committed_of(names.WORKER_GROUP, places)
        found = []
        for partition, span in enumerate(spans):
            appended = await self._keep_partition(dataset, partition, span)
            unread = Span(max(span.start, committed.get(partition, span.start)), span.end)
            lag = await self._age_seconds(dataset, partition, unread)
            found.append(Kept(dataset, partition, appended, lag))
        return found

    async def _keep_partition(self, dataset: str, partition: int, span: Span) -> int:
        """Append the very bytes of the highest version again; its version is the same, so that to
        agents and recipients it is a delivery that came twice."""
        fold = await self._logs.fold(dataset, partition, span)
        misplaced = fold.misplaced()
        for offset in misplaced:
            there = Span(offset, offset + 1)
            async with aclosing(self._logs.read(dataset, partition, there)) as batches:
                async for records in batches:
                    await self._sender.send(
                        [
                            Outgoing(r.topic, r.partition, r.key, r.value)
                            for r in records
                            if r.value is not None
                        ]
                    )
        if misplaced:
            log.warning(
                "late_versions_repaired",
                dataset=dataset,
                partition=partition,
                appended=len(misplaced),
            )
        return len(misplaced)

    async def _age_seconds(self, dataset: str, partition: int, unread: Span) -> float | None:
        async with aclosing(self._logs.read(dataset, partition, unread)) as batches:
            async for records in batches:
                if records:
                    return max(0.0, self._wall() - records[0].timestamp_ms / 1000)
        return None


async def keep_always(
    keeper: Keeper,
    datasets: Callable[[], list[str]],
    *,
    interval_hours: float = INTERVAL_HOURS,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs the keeper over every dataset at an interval, until cancelled; a failed run is tried
    again and told, with an alarm when compaction may soon lose what it should have saved."""
    kept_at: dict[str, float] = {}
    begun = clock()
    while True:
        for dataset in datasets():
            if clock() - kept_at.get(dataset, -1e12) < interval_hours * 3600:
                continue
            try:
                started = clock()
                _tell(await keeper.keep(dataset))
                kept_at[dataset] = started
            except DeptbusError as error:
                log.warning("keeper_failed", dataset=dataset, error=error.what)
            behind_hours = (clock() - kept_at.get(dataset, begun)) / 3600
            if behind_hours > ALARM_SHARE * COMPACTION_LAG_HOURS:
                log.error("keeper_fell_behind", dataset=dataset, hours=round(behind_hours, 1))
        await asyncio.sleep(min(60.0, interval_hours * 3600))


def _tell(found: list[Kept]) -> None:
    for kept in found:
        lag = kept.reader_lag_seconds
        if lag is not None and lag > ALARM_SHARE * COMPACTION_LAG_HOURS * 3600:
            log.error(
                "reader_fell_behind",
                dataset=kept.dataset,
                partition=kept.partition,
                hours=round(lag / 3600, 1),
            )
