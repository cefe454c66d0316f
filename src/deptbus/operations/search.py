"""Finds records of named keys, or at named places, in one partition; bounded in time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from deptbus.connection import Connection
from deptbus.stream.brokers import consumer_of, partitions_of
from deptbus.stream.log import LogRecord, scan_to_end

SECONDS = 20.0  # of one command, by default
MOST = 20_000  # records kept of one partition
_GAP = 5_000  # offsets that are sooner read over than sought past


@dataclass(slots=True)
class Found:
    """`is_whole` false: time was up or there were too many, so what is not here may be there."""

    records: list[LogRecord] = field(default_factory=list)
    is_whole: bool = True


def deadline_in(seconds: float) -> float:
    """A deadline by the event loop's clock, for all searches of one command together."""
    return asyncio.get_running_loop().time() + seconds


async def find_keys(
    connection: Connection,
    topic: str,
    partition: int,
    keys: Collection[bytes],
    *,
    deadline: float,
    from_offset: int = 0,
) -> Found:
    """Every record of these keys, in order. Raises BusRefused (no such topic), BusUnreachable."""
    found, wanted = Found(), frozenset(keys)
    try:
        async with asyncio.timeout_at(deadline):
            # A generator, though its door promises an iterator only: it must be closed when left.
            batches: Any = scan_to_end(
                connection, topic, partitions=[partition], from_offsets={partition: from_offset}
            )
            async with aclosing(batches):
                async for batch in batches:
                    found.records += [r for r in batch if r.key in wanted]
                    if len(found.records) > MOST:
                        del found.records[MOST:]
                        found.is_whole = False
                        return found
    except TimeoutError:
        found.is_whole = False
    return found


async def offset_at(connection: Connection, topic: str, partition: int, time_ms: int) -> int:
    """The first offset that was written at that time or later; the end when there is none."""
    place = TopicPartition(topic, partition)
    async with consumer_of(connection) as consumer:
        await partitions_of(consumer, topic)
        found = (await consumer.offsets_for_times({place: time_ms}))[place]
        if found is not None:
            return int(found.offset)
        return int((await consumer.end_offsets([place]))[place])


async def read_places(
    connection: Connection,
    topic: str,
    partition: int,
    offsets: Collection[int],
    *,
    deadline: float,
) -> Found:
    """The records at these offsets that are still there. Raises as `find_keys`.

    A batch that could not be unpacked stands at its last offset, whichever of its own was asked."""
    found = Found()
    try:
        async with asyncio.timeout_at(deadline):
            for run in _runs(sorted(offsets)):
                found.records += await _read_run(connection, topic, partition, run)
    except TimeoutError:
        found.is_whole = False
    return found


async def _read_run(
    connection: Connection, topic: str, partition: int, run: list[int]
) -> list[LogRecord]:
    wanted, last, found = frozenset(run), run[-1], []
    batches: Any = scan_to_end(
        connection, topic, partitions=[partition], from_offsets={partition: run[0]}
    )
    async with aclosing(batches):
        async for batch in batches:
            found += [r for r in batch if r.offset in wanted]
            if batch[-1].offset >= last:
                break
    return found


def _runs(offsets: list[int]) -> Iterator[list[int]]:
    """Offsets, ascending, in stretches that are read in one go."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > _GAP:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run
