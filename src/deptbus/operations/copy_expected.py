"""What a unit's copy of a dataset should be, by the canonical topic up to a cut and today's rights.

One line of 43 bytes a key goes into a file that has no name, so memory stays bounded: one partition
at a time is folded, the rest are sums. Keys that were delivered behind the cut before the copy was
looked at are moved on to the version that the copy was given.
"""

from __future__ import annotations

import asyncio
import copy
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from itertools import starmap
from operator import add
from types import TracebackType
from typing import IO, NamedTuple

from deptbus.change import Change, DeliveryOp
from deptbus.operations.carrier import Owed
from deptbus.operations.library import Library
from deptbus.operations.logs import CanonicalLogs, Span
from deptbus.operations.quick_fold import STRETCH, QuickFold
from deptbus.operations.reconcile_classes import DELETED, GIVEN, WITHHELD, Given
from deptbus.proof.item import DIGEST_BYTES, ITEM_BYTES, KEY_BYTES, Item, item_bytes
from deptbus.proof.leaves import LEAF_BITS, leaf_of
from deptbus.proof.tally import Tally
from deptbus.stream.log import LogRecord
from deptbus.wire.digest import copy_digest, delivered_digest, projection_hash, unit_hash
from deptbus.wire.fold_pass import VERSION_BYTES, FoldPass, FoldWay, Kept, pack_version
from deptbus.wire.passage import Cut, cut_of

_LINE = struct.Struct(">16sQ16sHB")
_TAIL = struct.Struct(">HB")
_KINDS = (GIVEN, DELETED, WITHHELD)
_IS_GIVEN = _KINDS.index(GIVEN)
_LINES_AT_ONCE = 10_000


class Entitled:
    """What of a change one unit is given, as a copy's bookkeeping would have it."""

    def __init__(self, library: Library, owed: Owed) -> None:
        self._library, self._owed = library, owed
        # (dataset, schema version, fields) -> their places in a record
        self._places: dict[tuple[str, int, tuple[str, ...]], tuple[int, ...]] = {}
        self._cuts: dict[tuple[str, int, tuple[str, ...]], Cut] = {}

    def of(self, change: Change) -> Given:
        delivery = self._owed.delivery(change)
        if delivery is None or delivery.op is DeliveryOp.WITHDRAW:
            return Given(WITHHELD, change.version, b"", ())
        if delivery.op is DeliveryOp.DELETE or change.record is None:
            return Given(DELETED, change.version, b"", ())
        shape = change.dataset, change.schema_version, delivery.fields
        places = self._places_of(*shape)
        delivered = delivered_digest(*shape, [change.record[at] for at in places])
        digest = copy_digest(change.source_unit, delivered)
        return Given(GIVEN, change.version, digest, delivery.fields)

    def way(self, change: Change, given: Given, tail: bytes) -> FoldWay:
        """How the quick pass comes to what `of` says of this change, and of all that are like it as
        long as `span` is the same; `tail` goes behind the digest."""
        is_upsert = change.record is not None
        if given.kind != GIVEN:
            return FoldWay(is_upsert, True, None, None, None, bytes(DIGEST_BYTES) + tail)
        shape = change.dataset, change.schema_version, given.fields
        cut = self._cuts.get(shape)
        if cut is None:
            cut = self._cuts[shape] = cut_of(self._places_of(*shape))
        return FoldWay(
            is_upsert, True, projection_hash(*shape), cut, unit_hash(change.source_unit), tail
        )

    def fold_pass(self, dataset: str, frame: bytes) -> FoldPass | None:
        return self._library.codecs.fold_pass(frame, dataset)

    def span(self) -> object:
        """What `of` says is said for as long as this is equal."""
        return self._owed.span()

    def _places_of(
        self, dataset: str, schema_version: int, fields: tuple[str, ...]
    ) -> tuple[int, ...]:
        shape = dataset, schema_version, fields
        places = self._places.get(shape)
        if places is None:
            names = self._library.codecs.record_codec(dataset, schema_version).names
            places = self._places[shape] = tuple(map(names.index, fields))
        return places


class _Line(NamedTuple):
    key: bytes
    given: Given


class Expected:
    """`fold` once, then `move` and the questions. A context manager: the file goes with it."""

    def __init__(self, logs: CanonicalLogs, entitled: Entitled, dataset: str, tally: Tally) -> None:
        self._logs, self._entitled, self._dataset = logs, entitled, dataset
        self.tally = tally
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._projections: dict[tuple[str, ...], int] = {(): 0}
        self._fields: list[tuple[str, ...]] = [()]
        self._moved: dict[bytes, Given] = {}
        self._quick = QuickFold(partial(entitled.fold_pass, dataset))
        self._span: object = None  # in which what is learnt holds
        self.rows = 0  # that are given

    def copy(self) -> Expected:
        """For another copy of the same unit, which may have been given other versions behind the
        cut. Before anything was moved; the file is shared, so it ends with either."""
        other = copy.copy(self)
        other.tally, other._moved = copy.deepcopy(self.tally), {}
        return other

    def __enter__(self) -> Expected:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()

    async def fold(self, spans: list[Span]) -> None:
        """Every partition up to its end. Raises BusUnreachable, BusRefused."""
        for partition, span in enumerate(spans):
            # Two source units never share a key: each has a secret of its own.
            lines: Kept = {}
            one = partial(self._one, lines=lines)
            async with aclosing(self._logs.read(self._dataset, partition, span)) as batches:
                async for records in batches:
                    if self._entitled.span() != self._span:
                        self._quick.forget()
                        self._span = self._entitled.span()
                    await self._quick.fold(records, lines, one)
            await self._keep(lines)

    async def _one(self, record: LogRecord, lines: Kept) -> bool:
        change = await self._logs.decode(record)
        if change is not None:
            given = self._entitled.of(change)
            known = lines.get(change.key)
            packed = self._packed(change.key, given)[KEY_BYTES:]
            if known is None or known[:VERSION_BYTES] <= packed[:VERSION_BYTES]:
                lines[change.key] = packed
            tail = self._tail(given)
            self._quick.learn(record, change, lambda: self._entitled.way(change, given, tail))
        return False

    async def _keep(self, lines: Kept) -> None:
        packed: list[bytes] = []
        for line in starmap(add, lines.items()):
            packed.append(line)
            if len(packed) == STRETCH:
                self._count(packed)
                packed.clear()
                await asyncio.sleep(0)
        self._count(packed)

    def _count(self, packed: list[bytes]) -> None:
        self._file.write(b"".join(packed))
        raws = [line[:ITEM_BYTES] for line in packed if line[-1] == _IS_GIVEN]
        self.tally.add_raws(raws)
        self.rows += len(raws)

    def _packed(self, key: bytes, given: Given) -> bytes:
        digest = given.digest or bytes(DIGEST_BYTES)
        return key + pack_version(given.version) + digest + self._tail(given)

    def _tail(self, given: Given) -> bytes:
        number = self._projections.get(given.fields)
        if number is None:
            number = self._projections[given.fields] = len(self._fields)
            self._fields.append(given.fields)
        return _TAIL.pack(number, _KINDS.index(given.kind))

    # -- behind the cut --------------------------------------------------------------------------

    async def move(self, delivered: Mapping[bytes, int], spans: list[Span]) -> None:
        """`delivered`: key -> the highest version that reached the copy behind the cut; `spans`:
        from the cut to where the topic ends now. What the copy was given is looked up there; a
        version that is not there is none that the bus has."""
        wanted = {
            key: version
            for key, version in delivered.items()
            if key not in self._moved or self._moved[key].version < version
        }
        if not wanted:
            return
        known = self.given_of(wanted)
        found: dict[bytes, Given] = {}
        for partition, span in enumerate(spans):
            async with aclosing(self._logs.read(self._dataset, partition, span)) as batches:
                async for records in batches:
                    for record in records:
                        if record.key not in wanted:
                            continue
                        change = await self._logs.decode(record)
                        if change is None or change.version > wanted[change.key]:
                            continue
                        best = found.get(change.key) or known.get(change.key)
                        if best is None or change.version > best.version:
                            found[change.key] = self._entitled.of(change)
                    await asyncio.sleep(0)
        for key, given in found.items():
            self._replace(key, known.get(key), given)

    def _replace(self, key: bytes, was: Given | None, now: Given) -> None:
        if was is not None and was.kind == GIVEN:
            self.tally.remove(Item(key, was.version, was.digest))
            self.rows -= 1
        if now.kind == GIVEN:
            self.tally.add_all([Item(key, now.version, now.digest)])
            self.rows += 1
        self._moved[key] = now

    # -- questions -------------------------------------------------------------------------------

    def given_of(self, keys: Collection[bytes]) -> dict[bytes, Given]:
        """Of these keys; one that the bus does not know is absent."""
        found = {key: self._moved[key] for key in keys if key in self._moved}
        left = {key for key in keys if key not in found}
        if left:
            found |= {line.key: line.given for line in self._lines(left)}
        return found

    def items_of(self, leaves: Collection[int], bits: int) -> set[bytes]:
        """`item_bytes` of what is given, of the keys in these leaves."""
        wanted, shift = frozenset(leaves), LEAF_BITS - bits
        found = {
            raw
            for raw in self._raws()
            if ((raw[0] << 8) | raw[1]) >> shift in wanted and raw[:KEY_BYTES] not in self._moved
        }
        return found | {
            item_bytes(Item(key, given.version, given.digest))
            for key, given in self._moved.items()
            if given.kind == GIVEN and leaf_of(key, bits) in wanted
        }

    def _raws(self) -> Iterator[bytes]:
        """`item_bytes` of what is given, as folded."""
        self._file.seek(0)
        while data := self._file.read(_LINE.size * _LINES_AT_ONCE):
            for at in range(0, len(data), _LINE.size):
                if data[at + _LINE.size - 1] == _IS_GIVEN:
                    yield data[at : at + ITEM_BYTES]
        self._file.seek(0, 2)

    def _lines(self, keys: Collection[bytes]) -> Iterator[_Line]:
        """Of these keys, as folded: those that were moved on are older here."""
        self._file.seek(0)
        while data := self._file.read(_LINE.size * _LINES_AT_ONCE):
            for at in range(0, len(data), _LINE.size):
                if data[at : at + KEY_BYTES] in keys:
                    key, version, digest, number, kind = _LINE.unpack_from(data, at)
                    digest = digest if kind == _IS_GIVEN else b""
                    yield _Line(key, Given(_KINDS[kind], version, digest, self._fields[number]))
        self._file.seek(0, 2)
