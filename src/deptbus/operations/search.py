"""Finds records of named keys, or at named places, in one partition; bounded in time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from deptbus.connection import Connection
from deptbus.stream.brokers import consumer_of, partitions_of
from deptbus.stream.log import LogRecord, scan_to_end

SECONDS = 20.0  # of one command, by default
MOST = 20_000  # records that are kept of one key in one topic
_BYTES = 64 * 1024 * 1024  # of them: a stranger's may have a megabyte each
_GAP = 5_000  # offsets that are sooner read over than sought past


@dataclass(slots=True)
class Found:
    """`is_whole` false: time was up or there were too many, so what is not here may be there."""

    records: list[LogRecord] = field(default_factory=list)
    is_whole: bool = True


def deadline_in(seconds: float) -> float:
    """A deadline by the event loop's clock, for all searches of one command together."""
    return asyncio.get_running_loop().time() + seconds


async def each_of_keys(
    connection: Connection,
    topic: str,
    partition: int,
    keys: Collection[bytes],
    take: Callable[[LogRecord], bool],
    *,
    deadline: float,
    from_offset: int = 0,
) -> bool:
    """Gives every record of these keys, in order, to `take`, which answers whether it wants more;
    keeps none. Whether the end was reached. Raises BusRefused (no such topic), BusUnreachable."""
    wanted = frozenset(keys)
    try:
        async with asyncio.timeout_at(deadline):
            # A generator, though its door promises an iterator only: it must be closed when left.
            batches = scan_to_end(
                connection, topic, partitions=[partition], from_offsets={partition: from_offset}
            )
            async with aclosing(batches):
                async for batch in batches:
                    if not all(take(record) for record in batch if record.key in wanted):
                        return False
    except TimeoutError:
        return False
    return True


async def find_key(
    connection: Connection,
    topic: str,
    partition: int,
    key: bytes,
    *,
    deadline: float,
    from_offset: int = 0,
) -> Found:
    """The records of one key. Raises as `each_of_keys`."""
    found, left = Found(), _BYTES

    def take(record: LogRecord) -> bool:
        nonlocal left
        left -= len(record.value or b"")
        found.records.append(record)
        return left > 0 and len(found.records) < MOST

    found.is_whole = await each_of_keys(
        connection, topic, partition, [key], take, deadline=deadline, from_offset=from_offset
    )
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
    batches = scan_to_end(
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
