"""The recipient's part of a proof: what its copy of a dataset is, told from one snapshot.

1. The snapshot is opened after all that the question names was applied, and tells itself how far
   each partition of the inbox was applied in it: whoever asks knows what may be newer than its cut.
2. An item stands for every live or parked line of the bookkeeping: the key, the version, the digest
   of source unit and delivered projection.
3. Beside the sums each row is named, and all are counted, that is not as its item says (`State`).
   With `deep` the real columns are compared with what was written, row by row; as the columns keep
   it: what a column rounds or pads was not edited.
   A row that no record stands for (but in a table that had rows before the bus: those are the
   department's own) is named by a digest under a secret of this process, because a
   bare digest of a resident number could be found out by trying; and is remembered, so that an
   order to remove it can be understood.
   Of a folder the file is compared, too (`exported.py`), of the same moment: people see that.
4. The second copy of a rebuild is asked for by its own name (`names.rebuilt_copy`); it has no file.
5. `seen` binds all that a row and its line were: who orders a repair names it, and the repair is
   left out when either has changed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, NamedTuple

from deptbus.change import DeliveryOp
from deptbus.contract.department import Department, Receive
from deptbus.contract.model import Contract
from deptbus.department.applier import mapping_of
from deptbus.department.copy_view import HELD, Applied, Bare, CopyView, open_copy_view
from deptbus.department.export import FolderExport
from deptbus.department.exported import FileRows, read_rows
from deptbus.department.proof_desk import Reply
from deptbus.department.proof_look import (
    PARKED,
    WRITTEN,
    RowLook,
    Said,
    State,
    ahead,
    brief_of,
    state_of,
)
from deptbus.department.rebuild import second_receive
from deptbus.department.seen import Brief, Line, Values, row_of, seen_of
from deptbus.department.store import missing_column
from deptbus.department.target import ContractShapes, MappedTarget
from deptbus.errors import DatabaseUnavailable
from deptbus.names import dataset_of_copy, in_topic, is_rebuilt_copy
from deptbus.proof.item import ITEM_BYTES, Item
from deptbus.proof.leaves import LEAF_BITS
from deptbus.proof.tally import Tally
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import ProofRequest
from deptbus.wire.digest import DIGEST_BYTES, copy_digest, encode_values, unit_hash
from deptbus.wire.fold_pass import pack_version

_LOOK_SECONDS = (0.02, 0.5)  # between two looks at how far the inbox is applied
_PART_ITEMS = 10_000  # 400 kB
_PART_ROWS = 1_000

_NOTHING = b""
_FOR_ITEM = Brief._fields.index("delivered") + 1


# Lines, and of each its real row, or what that one's digest is; nothing where no row is looked at.
Looked = tuple[Sequence[Bare], Sequence[Values | bytes | None]]


class Told(NamedTuple):
    """What is said of one row; `ProofRows` has these fields."""

    key: bytes
    state: str
    version: int
    digest: bytes
    seen: bytes
    fields: str
    reason: str


def item_of(line: Line) -> Item | None:
    """Rule 2; None for a tombstone."""
    if line.op != DeliveryOp.UPSERT:
        return None
    return Item(line.key, line.version, copy_digest(line.source_unit, line.delivered or _NOTHING))


class Strangers:
    """Rows that no record stands for, by the names that proofs gave them; gone with the process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(DIGEST_BYTES)
        self._rows: dict[tuple[str, bytes], bytes] = {}

    def name(self, dataset: str, row: bytes) -> bytes:
        """16 bytes; the row is found by them from now on."""
        text = encode_values((dataset, row))
        name = blake2b(text, digest_size=DIGEST_BYTES, key=self._secret).digest()
        self._rows[dataset, name] = row
        return name

    def row(self, dataset: str, name: bytes) -> bytes | None:
        return self._rows.get((dataset, name))

    def forget(self, dataset: str) -> None:
        self._rows = {k: row for k, row in self._rows.items() if k[0] != dataset}


class CopyProof:
    """`answer` one question after the other. Raises DatabaseUnavailable, ContractUnreadable."""

    def __init__(
        self,
        department: Department,
        system: str,
        follower: PolicyFollower,
        codecs: Codecs,
        strangers: Strangers,
        export: Callable[[], FolderExport | None] = lambda: None,
    ) -> None:
        """`export`: who keeps the files of a folder, now."""
        self._department, self._system = department, system
        self._follower, self._codecs = follower, codecs
        self._strangers, self._export = strangers, export

    async def answer(self, reply: Reply) -> None:
        asked = reply.request
        history = self._follower.history()
        contracts = [history[number].contract for number in sorted(history, reverse=True)]
        mapping = mapping_of(self._department, self._system, contracts)
        dataset = dataset_of_copy(asked.dataset)
        if dataset not in mapping:
            await reply.end("not_here")
            return
        topic = in_topic(self._department.unit)
        async with open_copy_view(self._department, self._system) as view:
            if is_rebuilt_copy(asked.dataset):
                table = await view.second_table(dataset)
                if table is None:
                    await reply.end("not_here")
                    return
                receive, key = mapping[dataset]
                mapping[dataset] = second_receive(receive, table), key
            await _until_applied(view, topic, asked.ends)
            file = await self._begin(view, contracts, asked, mapping[dataset])
            now_us = time.time_ns() // 1000
            applied = await view.applied(topic)
            target = await self._target(view, contracts, dataset, *mapping[dataset])
            telling = _Telling(view, target, reply, self._strangers, file)
            if asked.wanted == "rows":
                await telling.rows()
            elif asked.wanted == "items":
                await telling.items()
            else:
                await telling.sums()
        await reply.end(
            rows=telling.count,
            applied=_by_partition(applied, lambda a: a.next_offset),
            floors=_by_partition(applied, lambda a: a.floors.get(dataset, 0)),
            counts=dict(telling.states),
            snapshot_at_us=now_us,
        )

    async def _begin(
        self,
        view: CopyView,
        contracts: Sequence[Contract],
        asked: ProofRequest,
        mapped: tuple[Receive, tuple[str, ...]],
    ) -> FileRows | None:
        """The snapshot; and of a folder's real rows the file of the same moment."""
        is_folder = self._department.systems[self._system].kind == "folder"
        if not is_folder or not asked.deep or is_rebuilt_copy(asked.dataset):
            await view.begin()
            return None
        export = self._export()
        if export is None:
            raise DatabaseUnavailable(
                "the folder's files are not kept now", mend="Ask again when its adapter applies"
            )
        async with export.still(asked.dataset) as path:
            await view.begin()
            target = await self._target(view, contracts, asked.dataset, *mapped)
            return await asyncio.to_thread(read_rows, path, target)

    async def _target(
        self,
        view: CopyView,
        contracts: Sequence[Contract],
        dataset: str,
        receive: Receive,
        key: tuple[str, ...],
    ) -> MappedTarget:
        catalogue = await view.catalogue(receive.table)
        for name in (*receive.columns.values(), *receive.mark):
            if name not in catalogue:
                raise missing_column(self._system, dataset, receive.table, name)
        shapes = ContractShapes(contracts[0], self._codecs, contracts[1:])
        had_rows = await view.had_rows(dataset)
        return MappedTarget(dataset, receive, key, catalogue, shapes, had_rows=had_rows)


def _by_partition(
    applied: dict[int, Applied], number_of: Callable[[Applied], int]
) -> tuple[int, ...]:
    return tuple(number_of(applied[number]) for number in sorted(applied))


async def _until_applied(view: CopyView, topic: str, ends: Sequence[int]) -> None:
    """Rule 1. Whoever asked has a deadline."""
    pause = _LOOK_SECONDS[0]
    while True:
        applied = await view.applied(topic)
        if all(n in applied and applied[n].next_offset >= end for n, end in enumerate(ends)):
            return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SECONDS[1])


class _Telling:
    """One answer from one snapshot."""

    def __init__(
        self,
        view: CopyView,
        target: MappedTarget,
        reply: Reply,
        strangers: Strangers,
        file: FileRows | None,
    ) -> None:
        self._view, self._target, self._reply = view, target, reply
        self._strangers, self._file = strangers, file
        self._look = RowLook(view, target, reply.request.dataset, file)
        self._asked = reply.request
        self.count = 0  # items
        self.states: Counter[str] = Counter()
        self._told: list[Told] = []

    # -- what is asked for -----------------------------------------------------------------------

    async def sums(self) -> None:
        asked = self._asked
        tally = Tally(asked.cells, asked.salt, asked.bits)
        async with aclosing(ahead(self._looked())) as chunks:
            async for lines, real in chunks:
                raws = list(_raw_items(lines))
                tally.add_raws(raws)
                self.count += len(raws)
                await asyncio.sleep(0)
                await self._tell_odd(lines, real)
                await asyncio.sleep(0)
        if asked.deep and (not self._target.had_rows or is_rebuilt_copy(asked.dataset)):
            await self._unknown_rows()
            if self._file is not None:
                await self._unknown_in(self._file)
        await self._reply.part("leaves", tally.leaves.to_bytes())
        await self._reply.part("sketch", tally.sketch.to_bytes())
        # On another thread: it sorts every hash, which takes a second of a million.
        await self._reply.part("root", await asyncio.to_thread(tally.root.root))
        await self._tell(at_end=True)

    async def items(self) -> None:
        asked, found = self._asked, bytearray()
        wanted, shift = frozenset(asked.leaves), LEAF_BITS - asked.bits
        async with aclosing(ahead(self._view.lines(asked.dataset))) as chunks:
            async for lines in chunks:
                for raw in _raw_items(lines):
                    if ((raw[0] << 8) | raw[1]) >> shift in wanted:
                        found += raw
                        self.count += 1
                if len(found) >= _PART_ITEMS * ITEM_BYTES:
                    await self._reply.part("items", bytes(found))
                    found.clear()
                await asyncio.sleep(0)
        if found:
            await self._reply.part("items", bytes(found))

    async def rows(self) -> None:
        """Of each key its line, and its real row whether or not `deep`."""
        asked = self._asked
        known = {line.key: line for line in await self._view.lines_of(asked.dataset, asked.keys)}
        self.count = len(known)
        lines = list(known.values())
        real = dict(zip(known, await self._look.at(lines), strict=True))
        live = [line for line in lines if line.op == DeliveryOp.UPSERT or line.parked is not None]
        judged = await self._look.judged([(line, real[line.key]) for line in live])
        said = {line.key: one for line, one in zip(live, judged, strict=True)}
        for key in asked.keys:
            line, seen = known.get(key), seen_of(known.get(key), real.get(key))
            if line is None or key not in said:
                version = 0 if line is None else line.version
                await self._say(Told(key, State.ABSENT, version, _NOTHING, seen, "", ""))
            else:
                await self._say(_told(line, said[key], seen))
        await self._tell(at_end=True)

    # -- parts -----------------------------------------------------------------------------------

    async def _looked(self) -> AsyncGenerator[Looked, None]:
        """Lines, and (deep) the rows that they hold: their digests, or where a file is to be
        compared with them, they themselves."""
        copy, deep = self._asked.dataset, self._asked.deep
        if deep and self._file is None:
            async with aclosing(self._view.digested(copy, self._target)) as digested:
                async for lines, digests in digested:
                    yield lines, digests
            return
        async with aclosing(self._view.lines(copy)) as chunks:
            async for lines in chunks:
                yield lines, await self._look.at(lines) if deep else ()

    async def _tell_odd(self, lines: Sequence[Bare], real: Sequence[Values | bytes | None]) -> None:
        """Name what is not as its item says."""
        suspects: list[tuple[Bare, Any]] = []
        for line, row in zip_longest(lines, real):
            if line[PARKED] is not None or not line[HELD]:
                odd = brief_of(line)
                await self._name(odd, state_of(odd))
            elif row is None or row != line[WRITTEN]:
                suspects.append((line, row))
        if not self._asked.deep:
            return
        if self._file is None:
            found = await self._look.odd([line for line, _ in suspects])
        else:
            found = await self._look.unequal([(brief_of(line), row) for line, row in suspects])
        for odd, said in found:
            await self._name(odd, said)

    async def _name(self, line: Brief, said: Said) -> None:
        """Shortly: whoever asked looks at what is named once more."""
        await self._say(Told(line.key, said[0], 0, _NOTHING, _NOTHING, "", said[1]))

    async def _unknown_rows(self) -> None:
        self._strangers.forget(self._asked.dataset)
        async with aclosing(self._view.rest(self._target)) as chunks:
            async for chunk in chunks:
                rows = {row_of(self._target, values): values for values in chunk}
                held = await self._view.held_rows(self._asked.dataset, list(rows))
                for row, values in rows.items():
                    if self._file is not None:
                        self._file.differs(values)  # it was exported, whosoever it is
                    if row not in held:
                        name = self._strangers.name(self._asked.dataset, row)
                        seen = seen_of(None, values)
                        await self._say(
                            Told(name, State.UNKNOWN, 0, _NOTHING, seen, "", "no record's row")
                        )
                await asyncio.sleep(0)

    async def _unknown_in(self, file: FileRows) -> None:
        """Rows of the file that no row of the table was exported as."""
        for key in file.strangers:
            name = self._strangers.name(self._asked.dataset, encode_values(key))
            reason = f"no record's row, in {file.name}"
            nothing = seen_of(None, None)
            await self._say(Told(name, State.UNKNOWN, 0, _NOTHING, nothing, "", reason))

    async def _say(self, told: Told) -> None:
        self.states[told.state] += 1
        if self.states[told.state] <= self._asked.most or self._asked.wanted == "rows":
            self._told.append(told)
            await self._tell()

    async def _tell(self, *, at_end: bool = False) -> None:
        while len(self._told) >= _PART_ROWS or (at_end and self._told):
            now, self._told = self._told[:_PART_ROWS], self._told[_PART_ROWS:]
            await self._reply.rows([tuple(told) for told in now])  # type: ignore[misc]


def _raw_items(lines: Iterable[Bare]) -> Iterator[bytes]:
    """`item_bytes` of `item_of` each line that has one. Runs once a row."""
    upsert, known, begin = DeliveryOp.UPSERT.value, None, unit_hash("").copy
    for line in lines:
        unit, key, version, op, _, _, delivered = line[:_FOR_ITEM]
        if op == upsert:
            if unit != known:
                known, begin = unit, unit_hash(unit).copy
            made = begin()
            made.update(delivered or _NOTHING)
            yield key + pack_version(version) + made.digest()


def _told(line: Line, said: Said, seen: bytes) -> Told:
    item = item_of(line)
    digest = _NOTHING if item is None else item.digest
    return Told(line.key, said[0], line.version, digest, seen, line.fields, said[1])
