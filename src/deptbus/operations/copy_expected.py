"""What a unit's copy of a dataset should be, by the canonical topic up to a cut and today's rights.

One line of 44 bytes a key goes into a file that has no name, so memory stays bounded: one partition
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
from types import TracebackType
from typing import IO, NamedTuple

from deptbus.change import Change, DeliveryOp
from deptbus.operations.carrier import Owed
from deptbus.operations.library import Library
from deptbus.operations.logs import CanonicalLogs, Span
from deptbus.operations.reconcile_classes import DELETED, GIVEN, WITHHELD, Given
from deptbus.proof.item import Item
from deptbus.proof.leaves import leaf_of
from deptbus.proof.tally import Tally
from deptbus.wire.digest import copy_digest, delivered_digest

_LINE = struct.Struct(">16sQ16sHBx")
_KINDS = (GIVEN, DELETED, WITHHELD)
_LINES_AT_ONCE = 10_000
_STRETCH = 500  # records handled before other tasks of the process come to their turn


class Entitled:
    """What of a change one unit is given, as a copy's bookkeeping would have it."""

    def __init__(self, library: Library, owed: Owed) -> None:
        self._library, self._owed = library, owed
        # (dataset, schema version, fields) -> their places in a record
        self._places: dict[tuple[str, int, tuple[str, ...]], tuple[int, ...]] = {}

    def of(self, change: Change) -> Given:
        delivery = self._owed.delivery(change)
        if delivery is None or delivery.op is DeliveryOp.WITHDRAW:
            return Given(WITHHELD, change.version, b"", ())
        if delivery.op is DeliveryOp.DELETE or change.record is None:
            return Given(DELETED, change.version, b"", ())
        shape = change.dataset, change.schema_version, delivery.fields
        places = self._places.get(shape)
        if places is None:
            names = self._library.codecs.record_codec(change.dataset, change.schema_version).names
            places = self._places[shape] = tuple(map(names.index, delivery.fields))
        delivered = delivered_digest(*shape, [change.record[at] for at in places])
        digest = copy_digest(change.source_unit, delivered)
        return Given(GIVEN, change.version, digest, delivery.fields)


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
            lines: dict[bytes, Given] = {}
            async with aclosing(self._logs.read(self._dataset, partition, span)) as batches:
                async for records in batches:
                    for number, record in enumerate(records, 1):
                        change = await self._logs.decode(record)
                        if change is not None:
                            known = lines.get(change.key)
                            if known is None or change.version >= known.version:
                                lines[change.key] = self._entitled.of(change)
                        if number % _STRETCH == 0:
                            await asyncio.sleep(0)
            await self._keep(lines)

    async def _keep(self, lines: Mapping[bytes, Given]) -> None:
        items: list[Item] = []
        for key, given in lines.items():
            if given.kind == GIVEN:
                items.append(Item(key, given.version, given.digest))
            self._file.write(self._packed(key, given))
            if len(items) >= _STRETCH:
                self.tally.add_all(items)
                self.rows += len(items)
                items.clear()
                await asyncio.sleep(0)
        self.tally.add_all(items)
        self.rows += len(items)

    def _packed(self, key: bytes, given: Given) -> bytes:
        number = self._projections.get(given.fields)
        if number is None:
            number = self._projections[given.fields] = len(self._fields)
            self._fields.append(given.fields)
        kind = _KINDS.index(given.kind)
        return _LINE.pack(key, given.version, given.digest or bytes(16), number, kind)

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
            found |= {line.key: line.given for line in self._lines() if line.key in left}
        return found

    def items_of(self, leaves: Collection[int], bits: int) -> dict[bytes, Item]:
        """What is given, of the keys in these leaves."""
        wanted = frozenset(leaves)
        found = {}
        for line in self._lines():
            if leaf_of(line.key, bits) in wanted and line.given.kind == GIVEN:
                found[line.key] = Item(line.key, line.given.version, line.given.digest)
        for key, given in self._moved.items():
            if leaf_of(key, bits) in wanted:
                found.pop(key, None)
                if given.kind == GIVEN:
                    found[key] = Item(key, given.version, given.digest)
        return found

    def _lines(self) -> Iterator[_Line]:
        """As folded: keys that were moved on are older here."""
        self._file.seek(0)
        while data := self._file.read(_LINE.size * _LINES_AT_ONCE):
            for key, version, digest, number, kind in _LINE.iter_unpack(data):
                given = kind == 0
                yield _Line(
                    key,
                    Given(_KINDS[kind], version, digest if given else b"", self._fields[number]),
                )
        self._file.seek(0, 2)
