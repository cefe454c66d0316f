"""The recipient's part of a proof: what its copy of a dataset is, told from one snapshot.

1. The snapshot is opened after all that the question names was applied, and tells itself how far
   each partition of the inbox was applied in it: whoever asks knows what may be newer than its cut.
2. An item stands for every live or parked line of the bookkeeping: the key, the version, the digest
   of source unit and delivered projection.
3. Beside the sums each row is named, and all are counted, that is not as its item says (`State`).
   With `deep` the real columns are compared with what was written, row by row; as the columns keep
   it: what a column rounds or pads was not edited.
   A row that no record stands for is named by a digest under a secret of this process, because a
   bare digest of a resident number could be found out by trying; and is remembered, so that an
   order to remove it can be understood.
4. `seen` binds all that a row and its line were: who orders a repair names it, and the repair is
   left out when either has changed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from enum import StrEnum
from hashlib import blake2b
from typing import Any, NamedTuple

from deptbus.change import DeliveryOp
from deptbus.contract.department import Department
from deptbus.contract.model import Contract
from deptbus.department.applier import mapping_of
from deptbus.department.copy_view import Applied, CopyView, open_copy_view
from deptbus.department.ledger import Prepared
from deptbus.department.proof_desk import Reply
from deptbus.department.seen import Line, Values, row_digest, row_of, seen_of
from deptbus.department.store import missing_column
from deptbus.department.target import ContractShapes, MappedTarget
from deptbus.errors import DatabaseBusy
from deptbus.names import in_topic
from deptbus.proof.item import Item, item_bytes
from deptbus.proof.leaves import leaf_of
from deptbus.proof.tally import Tally
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.digest import DIGEST_BYTES, copy_digest, encode_values

_LOOK_SECONDS = (0.02, 0.5)  # between two looks at how far the inbox is applied
_PART_ITEMS = 10_000  # 400 kB
_PART_ROWS = 1_000
_BUSY_SECONDS = 10.0

_NOTHING = b""


class State(StrEnum):
    """What is told of a row beside its item."""

    EQUAL = "equal"  # nothing: only where rows are asked for by their keys
    PARKED = "parked"  # the newest delivery could not be written
    CLAIMED = "claimed"  # another record holds its row
    EDITED = "edited"  # the real columns are not what was written (deep)
    REMOVED = "removed"  # its row is not there (deep)
    UNKNOWN = "unknown"  # a row that no record stands for (deep)
    ABSENT = "absent"  # no line, or a tombstone: only where rows are asked for by their keys


Row = tuple[bytes, str, int, bytes, bytes, str, str]


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
    ) -> None:
        self._department, self._system = department, system
        self._follower, self._codecs = follower, codecs
        self._strangers = strangers

    async def answer(self, reply: Reply) -> None:
        asked = reply.request
        history = self._follower.history()
        contracts = [history[number].contract for number in sorted(history, reverse=True)]
        mapping = mapping_of(self._department, self._system, contracts)
        if asked.dataset not in mapping:
            await reply.end("not_here")
            return
        topic = in_topic(self._department.unit)
        async with open_copy_view(self._department, self._system) as view:
            await _until_applied(view, topic, asked.ends)
            await view.begin()
            now_us = time.time_ns() // 1000
            applied = await view.applied(topic)
            target = await self._target(view, contracts, asked.dataset)
            telling = _Telling(view, target, reply, self._strangers)
            if asked.wanted == "rows":
                await telling.rows()
            elif asked.wanted == "items":
                await telling.items()
            else:
                await telling.sums()
        await reply.end(
            rows=telling.count,
            applied=_by_partition(applied, lambda a: a.next_offset),
            floors=_by_partition(applied, lambda a: a.floors.get(asked.dataset, 0)),
            counts=dict(telling.states),
            snapshot_at_us=now_us,
        )

    async def _target(
        self, view: CopyView, contracts: Sequence[Contract], dataset: str
    ) -> MappedTarget:
        receive, key = mapping_of(self._department, self._system, contracts)[dataset]
        catalogue = await view.catalogue(receive.table)
        for name in receive.columns.values():
            if name not in catalogue:
                raise missing_column(self._system, dataset, receive.table, name)
        shapes = ContractShapes(contracts[0], self._codecs, contracts[1:])
        return MappedTarget(dataset, receive, key, catalogue, shapes)


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
        self, view: CopyView, target: MappedTarget, reply: Reply, strangers: Strangers
    ) -> None:
        self._view, self._target, self._reply = view, target, reply
        self._strangers = strangers
        self._asked = reply.request
        self.count = 0  # items
        self.states: Counter[str] = Counter()
        self._told: list[Told] = []

    # -- what is asked for -----------------------------------------------------------------------

    async def sums(self) -> None:
        asked, matched = self._asked, 0
        tally = Tally(asked.cells, asked.salt, asked.bits)
        async with aclosing(self._view.lines(asked.dataset)) as chunks:  # type: ignore[type-var]
            async for lines in chunks:
                items = [item for line in lines if (item := item_of(line)) is not None]
                tally.add_all(items)
                self.count += len(items)
                matched += await self._look(lines)
                await asyncio.sleep(0)
        if asked.deep and await _when_free(self._view.count_rows, self._target) > matched:
            await self._unknown_rows()
        await self._reply.part("leaves", tally.leaves.to_bytes())
        await self._reply.part("sketch", tally.sketch.to_bytes())
        # On another thread: it sorts every hash, which takes a second of a million.
        await self._reply.part("root", await asyncio.to_thread(tally.root.root))
        await self._tell(at_end=True)

    async def items(self) -> None:
        asked, found = self._asked, bytearray()
        wanted = frozenset(asked.leaves)
        async with aclosing(self._view.lines(asked.dataset)) as chunks:  # type: ignore[type-var]
            async for lines in chunks:
                for line in lines:
                    item = item_of(line)
                    if item is not None and leaf_of(line.key, asked.bits) in wanted:
                        found += item_bytes(item)
                        self.count += 1
                if self.count and len(found) >= _PART_ITEMS * len(item_bytes(_ANY)):
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
        real = await self._real(known.values())
        for key in asked.keys:
            line = known.get(key)
            values = _held_values(line, real)
            await self._row(key, line, values)
        await self._tell(at_end=True)

    async def _row(self, key: bytes, line: Line | None, values: Values | None) -> None:
        seen = seen_of(line, values)
        if line is None or (line.op != DeliveryOp.UPSERT and line.parked is None):
            version = 0 if line is None else line.version
            await self._say(Told(key, State.ABSENT, version, _NOTHING, seen, "", ""))
            return
        item = item_of(line)
        state, reason = await self._state(line, values, looked=True)
        digest = _NOTHING if item is None else item.digest
        await self._say(Told(key, state, line.version, digest, seen, line.fields, reason))

    # -- parts -----------------------------------------------------------------------------------

    async def _look(self, lines: Sequence[Line]) -> int:
        """Name what is not as its item says; how many real rows were found (deep)."""
        deep = self._asked.deep
        real = await self._real(lines) if deep else {}
        for line in lines:
            values = _held_values(line, real)
            state, reason = await self._state(line, values, looked=deep)
            if state is not State.EQUAL:
                item = item_of(line)
                digest = _NOTHING if item is None else item.digest
                await self._say(
                    Told(line.key, state, line.version, digest, _NOTHING, line.fields, reason)
                )
        return len(real)

    async def _real(self, lines: Iterable[Line]) -> dict[bytes, Values]:
        rows = {line.row for line in lines if line.held and line.row is not None}
        return await _when_free(lambda t: self._view.rows_of(t, rows), self._target)

    async def _state(self, line: Line, values: Values | None, *, looked: bool) -> tuple[State, str]:
        """Rule 3. `looked`: at the real row, which `values` is."""
        if line.parked is not None:
            return State.PARKED, line.parked
        if not line.held:
            return State.CLAIMED, "another record holds its row"
        if not looked:
            return State.EQUAL, ""
        if values is None:
            return State.REMOVED, "its row is not in the table"
        if line.written is None or row_digest(values) == line.written:
            return State.EQUAL, ""
        edited = await self._edited(line, values)
        return (State.EDITED, f"columns: {', '.join(edited)}") if edited else (State.EQUAL, "")

    async def _edited(self, line: Line, values: Values) -> list[str]:
        """The columns that are not what was written, as the columns keep it. The projection is at
        hand, so what was written can be made once more; where the mapping changed since it was
        written, that is all that can be said."""
        (entry,) = [
            e
            for e in await self._view.entries_of(self._asked.dataset, [line.key])
            if e.source_unit == line.source_unit
        ]
        fit = self._target.prepare(entry)
        if not isinstance(fit, Prepared) or fit.written != line.written:
            return ["any, as the mapping was changed since"]
        kept = await _when_free(lambda t: self._view.as_kept(t, fit.values), self._target)
        return [
            column.name
            for column, was, now in zip(self._target.columns, kept, values, strict=True)
            if row_digest((was,)) != row_digest((now,))
        ]

    async def _unknown_rows(self) -> None:
        self._strangers.forget(self._asked.dataset)
        async with aclosing(self._view.all_rows(self._target)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                rows = {row_of(self._target, values): values for values in chunk}
                held = await self._view.held_rows(self._asked.dataset, list(rows))
                for row, values in rows.items():
                    if row not in held:
                        name = self._strangers.name(self._asked.dataset, row)
                        seen = seen_of(None, values)
                        await self._say(
                            Told(name, State.UNKNOWN, 0, _NOTHING, seen, "", "no record's row")
                        )
                await asyncio.sleep(0)

    async def _say(self, told: Told) -> None:
        self.states[told.state] += 1
        if self.states[told.state] <= self._asked.most or self._asked.wanted == "rows":
            self._told.append(told)
            await self._tell()

    async def _tell(self, *, at_end: bool = False) -> None:
        while len(self._told) >= _PART_ROWS or (at_end and self._told):
            now, self._told = self._told[:_PART_ROWS], self._told[_PART_ROWS:]
            await self._reply.rows([tuple(told) for told in now])  # type: ignore[misc]


def _held_values(line: Line | None, real: dict[bytes, Values]) -> Values | None:
    """Of the row that the line holds; the row of another record is not its own."""
    if line is None or not line.held or line.row is None:
        return None
    return real.get(line.row)


async def _when_free(read: Any, target: MappedTarget) -> Any:
    """`read(target)`, again while somebody else has the table to himself, for a while."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return await read(target)
        except DatabaseBusy:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


_ANY = Item(bytes(DIGEST_BYTES), 0, bytes(DIGEST_BYTES))
