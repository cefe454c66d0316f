"""Folds the partitions of a canonical topic up to the markers of a source's cuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from itertools import groupby
from operator import attrgetter

from deptbus import names
from deptbus.change import Change
from deptbus.operations.inventory import MARKER_MISSING, Shelves
from deptbus.operations.quick_fold import QuickFold
from deptbus.operations.source_asking import CouldNotTell
from deptbus.operations.source_told import Told, Unequal, UnitFold, unequal_apart
from deptbus.stream.data import is_marker_key
from deptbus.stream.log import LogReader, LogRecord, beginning_offsets, end_offsets
from deptbus.wire.control import Marker
from deptbus.wire.partitioner import partition_of

_FOLDED_RECORDS = 300_000  # of several partitions: some 60 MB


class Folds:
    """The partitions of a canonical topic up to a cut, and a little further where keys are proved
    apart. One partition at a time is held whole, or several where they are small."""

    def __init__(self, shelves: Shelves, unit: str, told: Told, count: int) -> None:
        self._shelves, self._unit, self._told, self._count = shelves, unit, told, count
        codecs = shelves.library.codecs
        self._quick = QuickFold(lambda frame: codecs.fold_pass(frame, told.dataset))
        self._kept: list[UnitFold] = []  # of each partition, with the keys that are apart
        self._offsets: dict[int, int] = {}  # partition -> where reading goes on

    async def all(self) -> AsyncIterator[UnitFold]:
        told = self._told
        for group in await self._groups():
            folds = {partition: UnitFold(self._unit) for partition in group}
            open_now = set(group)
            async with aclosing(self._read(dict.fromkeys(group, 0))) as batches:
                async for records in batches:
                    partition = records[0].partition
                    if partition not in open_now:
                        continue  # behind the cut: it is read again where it is needed
                    other = partial(self._other, folds[partition])
                    if await self._quick.fold(records, folds[partition].kept, other):
                        open_now.remove(partition)
                        if not open_now:
                            break
            for fold in folds.values():
                yield fold
                fold.keep(told.apart)
                self._kept.append(fold)

    async def _other(self, fold: UnitFold, record: LogRecord) -> bool:
        """Whether it is the cut's marker."""
        found = await self._shelves.library.read(record)
        if isinstance(found, Change):
            fold.add(found)
            self._quick.learn(record, found, partial(fold.way, found))
        elif found is not None and self._cut_of(found) == self._told.cut_us:
            self._offsets[record.partition] = record.offset + 1
            return True
        return False

    async def _groups(self) -> list[list[int]]:
        """Partitions, so many together that what they hold can be held."""
        connection, topic = self._shelves.connection, names.data_topic(self._told.dataset)
        starts, ends = (
            await beginning_offsets(connection, topic),
            await end_offsets(connection, topic),
        )
        groups: list[list[int]] = []
        held = _FOLDED_RECORDS
        for partition in range(self._count):
            held += ends[partition] - starts[partition]
            if held > _FOLDED_RECORDS:
                groups.append([])
                held = ends[partition] - starts[partition]
            groups[-1].append(partition)
        return groups

    @property
    def cut(self) -> tuple[int, ...]:
        """Of each partition the offset behind the cut's marker."""
        return tuple(self._offsets[n] for n in range(self._count))

    async def apart(self) -> list[Unequal]:
        """The differences among keys that are proved apart, each as of its own cut. There are few,
        so that all partitions are read on side by side."""
        told = self._told
        asked: dict[tuple[int, int], list[bytes]] = {}  # (cut, partition) -> keys
        for key, settled in told.found.items():
            asked.setdefault((settled.cut_us, partition_of(key, self._count)), []).append(key)
        found: list[Unequal] = []

        def judge(cut_us: int, partition: int) -> None:
            for key in asked.pop((cut_us, partition), ()):
                on_bus = self._kept[partition].digest(key)
                one = unequal_apart(key, told.found[key], on_bus)
                found.extend([one] if one is not None else [])

        for partition in range(self._count):
            judge(told.cut_us, partition)
        if not asked:
            return found
        async with aclosing(self._read(self._offsets)) as batches:
            async for records in batches:
                for record in records:
                    if record.key in told.apart or is_marker_key(record.key):
                        said = await self._shelves.library.read(record)
                        if isinstance(said, Change):
                            self._kept[record.partition].add(said)
                        elif said is not None:
                            judge(self._cut_of(said), record.partition)
                if not asked:
                    break
                await asyncio.sleep(0)
        return found

    async def _read(self, offsets: Mapping[int, int]) -> AsyncGenerator[list[LogRecord], None]:
        """Records of some partitions from there on, also those that are still to come; each list is
        of one partition. Raises CouldNotTell when whoever reads has not met what he looks for some
        time after all was read that lay there at the beginning, whatever comes meanwhile."""
        clock: Callable[[], float] = asyncio.get_running_loop().time
        connection, topic = self._shelves.connection, names.data_topic(self._told.dataset)
        ends = await end_offsets(connection, topic)
        unread = {n for n, offset in offsets.items() if offset < ends[n]}
        async with LogReader(connection, topic, partitions=offsets, from_offsets=offsets) as reader:
            until: float | None = None
            while until is None or clock() < until:
                records = await reader.poll(1.0)
                for _, of_partition in groupby(records, attrgetter("partition")):
                    yield list(of_partition)
                unread -= {r.partition for r in records if r.offset + 1 >= ends[r.partition]}
                if until is None and (not unread or not records):  # the last offset may be a hole
                    until = clock() + self._shelves.marker_seconds
        raise CouldNotTell(MARKER_MISSING)

    def _cut_of(self, marker: Marker) -> int:
        """The moment of the cut that a marker of this proof's source is of; else 0."""
        told = self._told
        name = names.proof_marker(told.system, told.dataset)
        is_ours = (marker.unit, marker.marker, marker.kind) == (self._unit, name, "cut")
        return marker.sent_at_us if is_ours else 0
