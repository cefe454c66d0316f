"""Canonical topics as jobs and the keeper read them: where they begin and end, and their folds."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from deptbus import names
from deptbus.change import Change
from deptbus.connection import Connection
from deptbus.operations.fold import Fold, Winners
from deptbus.stream.brokers import open_consumer, partitions_of, translate
from deptbus.stream.log import LogRecord, scan_to_end

_KEPT_FOLDS = 64  # each is one bit an offset


class Span(NamedTuple):
    """What one partition holds at a moment: offsets from `start` up to, not including, `end`."""

    start: int
    end: int


class Chosen(NamedTuple):
    """Of one partition."""

    winners: Winners  # one for each key
    records: int  # that were wanted: several states of a key are several


class CanonicalLogs:
    """One reader of `data.*` for all jobs of a process. `start` before, `stop` after."""

    def __init__(
        self, connection: Connection, decode: Callable[[LogRecord], Awaitable[Change | None]]
    ) -> None:
        """`decode` answers None for a record that is refused; it has told so itself."""
        self._connection = connection
        self._decode = decode
        self._consumer: AIOKafkaConsumer | None = None
        self._folding = asyncio.Lock()  # one fold at a time bounds the memory
        self._folds: OrderedDict[tuple[str, int], Winners] = OrderedDict()

    async def start(self) -> None:
        self._consumer = await open_consumer(self._connection)

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def spans(self, dataset: str) -> list[Span]:
        """By partition number. Raises BusRefused when there is no such topic, BusUnreachable."""
        return await self.spans_of(names.data_topic(dataset))

    async def spans_of(self, topic: str) -> list[Span]:
        """As `spans`, of any topic."""
        if self._consumer is None:
            raise RuntimeError("CanonicalLogs is not started")
        try:
            places = await partitions_of(self._consumer, topic)
            starts = await self._consumer.beginning_offsets(places)
            ends = await self._consumer.end_offsets(places)
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=topic) from error
        return [Span(starts[place], ends[place]) for place in places]

    async def winners(self, dataset: str, partition: int, at_least: int) -> Winners:
        """The highest version of every key, folded up to `at_least` or further.

        Twenty recipients of one policy ask for the same fold within a moment: it is made once.
        """
        asked = (dataset, partition)
        async with self._folding:
            known = self._folds.get(asked)
            span = (await self.spans(dataset))[partition]
            # A log that is shorter than its fold is another one: the topic was made again.
            if known is None or not at_least <= known.end <= span.end:
                fold = await self.fold(dataset, partition, span)
                known = self._folds[asked] = fold.winners(*span)
                if len(self._folds) > _KEPT_FOLDS:
                    self._folds.popitem(last=False)
            self._folds.move_to_end(asked)
            return known

    async def choose(
        self, dataset: str, partition: int, wants: Callable[[LogRecord], bool]
    ) -> Chosen:
        """The last states of the keys that have a record which `wants` takes, as the partition
        stands now. A state may lie outside of what was wanted, when the key changed since."""
        async with self._folding:
            span = (await self.spans(dataset))[partition]
            fold, keys, records = Fold(), set[tuple[str, bytes]](), 0
            async with aclosing(self.read(dataset, partition, span)) as batches:
                async for batch in batches:
                    for record in batch:
                        change = await self._decode(record)
                        if change is not None:
                            fold.add(record.offset, change.source_unit, change.key, change.version)
                            if wants(record):
                                keys.add((change.source_unit, change.key))
                                records += 1
                    await asyncio.sleep(0)
            return Chosen(fold.chosen(keys, *span), records)

    async def fold(self, dataset: str, partition: int, span: Span) -> Fold:
        """The fold of one partition over `span`; holds no content."""
        fold = Fold()
        async with aclosing(self.read(dataset, partition, span)) as batches:
            async for records in batches:
                for record in records:
                    change = await self._decode(record)
                    if change is not None:
                        fold.add(record.offset, change.source_unit, change.key, change.version)
                await asyncio.sleep(0)
        return fold

    async def read(
        self, dataset: str, partition: int, span: Span
    ) -> AsyncGenerator[list[LogRecord], None]:
        """The records of `span`, batch by batch; close it (`aclosing`) when leaving early."""
        if span.start >= span.end:
            return
        topic = names.data_topic(dataset)
        batches = scan_to_end(
            self._connection, topic, partitions=[partition], from_offsets={partition: span.start}
        )
        async with aclosing(batches):
            async for records in batches:
                yield [r for r in records if r.offset < span.end]
                if records[-1].offset >= span.end - 1:
                    return

    async def decode(self, record: LogRecord) -> Change | None:
        return await self._decode(record)
