"""Proves that a canonical topic has what its source's table has, as of one exact cut.

1. The source's adapter is asked (`department.proof_source`); it names the cut and the keys that are
   proved apart, and walks its rows.
2. Meanwhile each partition of the canonical topic is folded up to the cut's marker, one by one.
3. Both sides' leaves and sketches are subtracted. Where too much differs to be read from the
   sketch, the items of the differing leaves are asked for, in groups, each as of a cut of its own.
4. Keys that are proved apart are looked up as of the cut that each of them names.

What cannot be told is CouldNotTell with the reason, never a difference.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import structlog

from deptbus import names
from deptbus.change import Change
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, DeptbusError, WireRefused
from deptbus.operations.inventory import MARKER_MISSING, TOPIC_MISSING, Shelves
from deptbus.operations.leg import Finding, LegResult
from deptbus.operations.office import Office
from deptbus.operations.source_repair import ORDER_PARTITION
from deptbus.operations.source_told import (
    PARKED,
    Told,
    Unequal,
    UnitFold,
    unequal,
    unequal_apart,
)
from deptbus.proof.certificate import Side
from deptbus.proof.item import Item
from deptbus.proof.leaves import BITS, Leaves, leaf_of
from deptbus.proof.sketch import SALT_BYTES, Difference, cells_for
from deptbus.proof.tally import Tally
from deptbus.stream.log import (
    LogReader,
    LogRecord,
    Outgoing,
    beginning_offsets,
    end_offsets,
)
from deptbus.wire.control import Marker, ProofRequest, decode_control, encode_control
from deptbus.wire.partitioner import partition_of

log = structlog.get_logger(__name__)

SIGN_SECONDS = 20.0  # a source that gives no sign of life for so long has stopped
ANSWER_SECONDS = 1800.0
ATTEMPTS = 3
NAMED_DIFFERENCES = 4_000  # that one sketch tells
MOST_NAMED = 50_000  # all are counted
_GROUP_ROWS = 400_000  # of leaves that are told row by row at a time: some 80 MB
_FOLDED_RECORDS = 300_000  # of several partitions: some 60 MB
_STRETCH = 500  # records folded before other tasks of the process come to their turn

NO_SIGN = "its adapter gives no sign: does it run?"
NOT_HERE = "none of its systems publishes this dataset"


class CouldNotTell(DeptbusError):
    """Neither equal nor different; `what` is the reason."""


class _Interrupted(Exception):
    """The source's adapter has gone, or an answer has a hole: asked again, it may be told."""


@dataclass(slots=True)
class _Found:
    """What is named so far; beyond MOST_NAMED it is counted only."""

    by_class: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, found: Sequence[Unequal]) -> None:
        self.by_class.update(one.kind for one in found)
        named = [Finding(one.key, one.kind, one.reason) for one in found if one.key]
        self.findings += named[: max(0, MOST_NAMED - len(self.findings))]


async def prove_source(
    office: Office, connection: Connection, unit: str, dataset: str
) -> LegResult:
    """Raises BusUnreachable, BusRefused."""
    known = office.policies.current().contract.unit_by_name.get(unit)
    systems = len(known.systems) if known is not None else 0
    try:
        return await prove_rows(office.shelves, unit, dataset, max(1, systems))
    except CouldNotTell as error:
        if error.what == NOT_HERE:
            return LegResult("source", unit, "", dataset, absent=NOT_HERE)
        return LegResult("source", unit, "", dataset, could_not_tell=error.what)


async def prove_rows(shelves: Shelves, unit: str, dataset: str, systems: int = 1) -> LegResult:
    """Raises CouldNotTell, BusUnreachable, BusRefused. `systems`: how many the unit has."""
    began, spent = time.monotonic(), 0
    for attempt in range(1, ATTEMPTS + 1):
        proof = _Proof(shelves, unit, dataset, systems)
        try:
            proved = await proof.run()
        except _Interrupted as interrupted:
            spent += proof.bytes
            log.warning("proof_interrupted", unit=unit, dataset=dataset, reason=str(interrupted))
            if attempt == ATTEMPTS:
                raise CouldNotTell(str(interrupted)) from None
            continue
        log.info("source_compared", unit=unit, dataset=dataset, seconds=time.monotonic() - began)
        return replace(proved, bytes=proof.bytes + spent, seconds=time.monotonic() - began)
    raise AssertionError


class _Proof:
    def __init__(self, shelves: Shelves, unit: str, dataset: str, systems: int) -> None:
        self._shelves = shelves
        self._unit, self._dataset, self._systems = unit, dataset, systems
        self.bytes = 0

    async def run(self) -> LegResult:
        salt = secrets.token_bytes(SALT_BYTES)
        cells = cells_for(2 * NAMED_DIFFERENCES)  # a changed row is an item on each side
        tally = Tally(cells, salt)
        asked = self._asked("sums", salt=salt, cells=cells)
        async with asked as asking, self._folds(asking) as folds:
            async for fold in folds.all():
                tally.add_all(fold.items(asking.told.apart))
            told = await asking.end()
            apart = await folds.apart(told)
        try:
            leaves, sketch = told.leaves(), told.sketch()
        except ValueError as error:
            raise _Interrupted(str(error)) from None
        found = _Found()
        found.add(told.parked())
        bad = (leaves - tally.leaves).bad()
        differ = (sketch - tally.sketch).decode() if bad else Difference([], [])
        if differ is not None:
            found.add(apart)
            found.add(unequal(differ.only_a, differ.only_b, told.refused))
        else:
            # What was apart in a leaf that is told anew is told anew, too.
            found.add([one for one in apart if leaf_of(one.key) not in frozenset(bad)])
            for group in _groups(bad, leaves, tally.leaves):
                found.add(await self._named_in(group, told.refused))
        return self._result(told, found, folds.cut, (tally, leaves))

    def _result(
        self, told: Told, found: _Found, cut: tuple[int, ...], sums: tuple[Tally, Leaves]
    ) -> LegResult:
        assert told.end is not None
        tally, leaves = sums
        live = sum(1 for settled in told.found.values() if settled.digest)
        return LegResult(
            "source",
            self._unit,
            told.system,
            self._dataset,
            rows=told.end.rows + live,
            by_class=dict(sorted(found.by_class.items())),
            findings=tuple(found.findings),
            cut={names.data_topic(self._dataset): cut},
            bus=Side(
                rows=tally.leaves.rows,
                leaf_root=tally.leaves.root().hex(),
                sorted_root=tally.root.root().hex(),
            ),
            other=Side(
                rows=told.end.rows, leaf_root=leaves.root().hex(), sorted_root=told.root.hex()
            ),
        )

    async def _named_in(
        self, leaves: frozenset[int], refused: Mapping[bytes, str]
    ) -> list[Unequal]:
        """The differences in some leaves, row by row, as of a cut of their own. `refused`: rows
        that are told as parked already."""
        async with self._asked("items", leaves=leaves) as asking, self._folds(asking) as folds:
            table: dict[bytes, list[Item]] = {}
            held: list[Item] = []
            told = await asking.end()
            for item in told.items():
                table.setdefault(item.key, []).append(item)
            async for fold in folds.all():
                for item in fold.items(told.apart):
                    if leaf_of(item.key) in leaves:
                        if table.get(item.key) == [item]:
                            del table[item.key]
                        else:
                            held.append(item)
            only = [item for items in table.values() for item in items]
            fresh = told.refused.items() - refused.items()
            return [
                *unequal(only, held, told.refused),
                *await folds.apart(told),
                *(Unequal(key, PARKED, why) for key, why in fresh if key not in refused),
            ]

    # --- the question ---------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(
        self,
        wanted: str,
        *,
        salt: bytes = b"",
        cells: int = 0,
        leaves: frozenset[int] = frozenset(),
    ) -> AsyncIterator[_Asking]:
        topic = names.control_topic(self._unit)
        request = ProofRequest(
            uuid.uuid4().hex,
            "source",
            wanted,  # type: ignore[arg-type]
            self._dataset,
            False,
            (),
            BITS,
            cells,
            salt,
            tuple(sorted(leaves)),
            (),
            0,
            time.time_ns() // 1000 + int(ANSWER_SECONDS * 1e6),
        )
        told = Told(request.request, self._dataset)
        ends = dict(enumerate(await end_offsets(self._shelves.connection, topic)))
        async with LogReader(self._shelves.connection, topic, from_offsets=ends) as reader:
            await self._send(request)
            asking = _Asking(told, reader, self._systems)
            listening = asyncio.create_task(asking.listen())
            try:
                yield asking
            finally:
                self.bytes += told.bytes
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                with suppress(BusUnreachable, BusRefused):  # it is tidied up by the next answer
                    await self._send(replace(request, request=uuid.uuid4().hex, wanted="done"))

    async def _send(self, request: ProofRequest) -> None:
        """Behind the orders of a repair, in their partition: it is proved what comes of them."""
        topic, value = names.in_topic(self._unit), encode_control(request)
        await self._shelves.sender.send([Outgoing(topic, ORDER_PARTITION, None, value)])

    @asynccontextmanager
    async def _folds(self, asking: _Asking) -> AsyncIterator[_Folds]:
        await asking.begun()
        try:
            count = await self._shelves.sender.partitions(names.data_topic(self._dataset))
        except BusRefused:
            raise CouldNotTell(TOPIC_MISSING) from None
        async with self._shelves.folding:
            yield _Folds(self._shelves, self._unit, asking, count)


class _Asking:
    """What comes of one question. `begun` and `end` return when it has come so far; they raise
    CouldNotTell for a refusal and _Interrupted when nothing comes any more."""

    def __init__(self, told: Told, reader: LogReader, systems: int) -> None:
        self.told = told
        self._reader, self._systems = reader, systems
        self._news = asyncio.Condition()
        self._failed: Exception | None = None

    async def listen(self) -> None:
        try:
            await self._listen()
        except (DeptbusError, _Interrupted) as error:
            self._failed = error
        async with self._news:
            self._news.notify_all()

    async def _listen(self) -> None:
        clock = asyncio.get_running_loop().time
        heard = clock()
        while self.told.end is None:
            is_ours = False
            for record in await self._reader.poll(0.5):
                try:
                    said = decode_control(record.value)
                except WireRefused:
                    continue  # another record's fault; a hole in the answer shows by itself
                try:
                    is_ours = self.told.take(said, len(record.value or b"")) or is_ours
                except WireRefused as error:
                    raise _Interrupted(error.what) from None
            if is_ours:
                heard = clock()
                async with self._news:
                    self._news.notify_all()
            if len(self.told.not_here) >= self._systems:
                raise CouldNotTell(NOT_HERE)
            if clock() - heard > SIGN_SECONDS:
                raise _Interrupted(NO_SIGN)

    async def begun(self) -> None:
        await self._until(lambda: self.told.has_begun)
        if not self.told.has_begun:
            await self.end()  # raises: it has ended without a cut

    async def end(self) -> Told:
        await self._until(lambda: self.told.end is not None)
        assert self.told.end is not None
        if self.told.end.state == "refused":
            raise CouldNotTell(self.told.end.reason)
        return self.told

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(
                lambda: is_so() or self._failed is not None or self.told.end is not None
            )
        if self._failed is not None and not is_so():
            raise self._failed


class _Folds:
    """The partitions of a canonical topic up to a cut, and a little further where keys are proved
    apart. One partition at a time is held whole, or several where they are small."""

    def __init__(self, shelves: Shelves, unit: str, asking: _Asking, count: int) -> None:
        self._shelves, self._unit, self._asking, self._count = shelves, unit, asking, count
        self._kept: list[UnitFold] = []  # of each partition, with the keys that are apart
        self._offsets: dict[int, int] = {}  # partition -> where reading goes on

    async def all(self) -> AsyncIterator[UnitFold]:
        told = self._asking.told
        for group in await self._groups():
            folds = {partition: UnitFold(self._unit) for partition in group}
            open_now = set(group)
            async with aclosing(self._read(dict.fromkeys(group, 0))) as records:
                async for record, found in records:
                    partition = record.partition
                    if partition not in open_now:
                        continue  # behind the cut: it is read again where it is needed
                    if isinstance(found, Change):
                        folds[partition].add(found)
                    elif self._cut_of(found) == told.cut_us:
                        self._offsets[partition] = record.offset + 1
                        open_now.remove(partition)
                        if not open_now:
                            break
            for fold in folds.values():
                yield fold
                fold.keep(told.apart)
                self._kept.append(fold)

    async def _groups(self) -> list[list[int]]:
        """Partitions, so many together that what they hold can be held."""
        connection, topic = self._shelves.connection, names.data_topic(self._asking.told.dataset)
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

    async def apart(self, told: Told) -> list[Unequal]:
        """The differences among keys that are proved apart, each as of its own cut. There are few,
        so that all partitions are read on side by side."""
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
        async with aclosing(self._read(self._offsets)) as records:
            async for record, said in records:
                if isinstance(said, Change):
                    if said.key in told.apart:
                        self._kept[record.partition].add(said)
                else:
                    judge(self._cut_of(said), record.partition)
                    if not asked:
                        break
        return found

    async def _read(
        self, offsets: Mapping[int, int]
    ) -> AsyncGenerator[tuple[LogRecord, Change | Marker], None]:
        """Changes and markers of some partitions from there on, also those that are still to come.
        Raises CouldNotTell when whoever reads has not met what he looks for some time after all was
        read that lay there at the beginning, whatever comes meanwhile."""
        clock: Callable[[], float] = asyncio.get_running_loop().time
        connection, topic = self._shelves.connection, names.data_topic(self._asking.told.dataset)
        ends = await end_offsets(connection, topic)
        unread = {n for n, offset in offsets.items() if offset < ends[n]}
        async with LogReader(connection, topic, partitions=offsets, from_offsets=offsets) as reader:
            until: float | None = None
            while until is None or clock() < until:
                records = await reader.poll(1.0)
                for number, record in enumerate(records, 1):
                    found = await self._shelves.library.read(record)
                    if found is not None:
                        yield record, found
                    if number % _STRETCH == 0:
                        await asyncio.sleep(0)
                unread -= {r.partition for r in records if r.offset + 1 >= ends[r.partition]}
                if until is None and (not unread or not records):  # the last offset may be a hole
                    until = clock() + self._shelves.marker_seconds
        raise CouldNotTell(MARKER_MISSING)

    def _cut_of(self, marker: Marker) -> int:
        """The moment of the cut that a marker of this proof's source is of; else 0."""
        told = self._asking.told
        name = names.proof_marker(told.system, told.dataset)
        is_ours = (marker.unit, marker.marker, marker.kind) == (self._unit, name, "cut")
        return marker.sent_at_us if is_ours else 0


def _groups(bad: Sequence[int], table: Leaves, bus: Leaves) -> Iterator[frozenset[int]]:
    """Leaves, so many together that their rows can be held."""
    group: set[int] = set()
    rows = 0
    for leaf in bad:
        here = max(table.count_and_sum(leaf)[0], bus.count_and_sum(leaf)[0])
        if group and rows + here > _GROUP_ROWS:
            yield frozenset(group)
            group, rows = set(), 0
        group.add(leaf)
        rows += here
    yield frozenset(group)
