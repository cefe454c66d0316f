"""The source's part of a proof: what its table has, told to the data office as of one exact cut.

1. The publisher makes a cut (`cuts`): a snapshot of the database, and a marker behind all that was
   published of it. The office folds the canonical topic up to that marker.
2. Keys of rows that wait in the outbox of the snapshot, and those of parked rows, are named first:
   they are proved apart. So are keys whose removal is held, and nothing is proved of those. Every
   other row is an item, digested as it would be published.
3. Keys that waited are looked at again, they alone, in a snapshot of a further cut, until none
   waits: each is told with the moment of the cut that it is proved at. So nothing is ever
   "probably on its way".

Records (`wire.control_proof`), in this order: ProofRows `apart`; a ProofAnswer `working` that bears
the moment of the cut; leaves and sketch, or the items of the leaves asked for; ProofRows `found`
(with the moment of the cut as version, and no digest where the table has nothing), `refused`,
`held` (with the number of the hold as reason), `duplicate`; the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from deptbus.contract.department import Department
from deptbus.department.capture import HeldRemoval, Known, OutboxRow, RawKey
from deptbus.department.judge import find_keys
from deptbus.department.proof_desk import Reply
from deptbus.department.proof_look import ahead
from deptbus.department.proof_rows import NOTHING, TableRows
from deptbus.department.publication import DUPLICATE, NO_KEY, Publication
from deptbus.department.publisher import Publisher
from deptbus.department.raw import raw_of
from deptbus.department.source_view import SourceView, open_view
from deptbus.department.speakers import key_in
from deptbus.errors import BusRefused, DatabaseBusy
from deptbus.names import proof_marker
from deptbus.proof.leaves import leaf_of
from deptbus.proof.tally import Tally

T = TypeVar("T")

CUT_SECONDS = 60.0  # as long may the outbox be behind by more than a batch
MOST_APART = 20_000
ROUNDS = 100
_ROUND_SECONDS = (0.05, 1.0)  # between two of them, from the first to the longest
_BUSY_SECONDS = 30.0
_SOUGHT_SECONDS = 0.2
_ROWS = 2_000
_STRETCH = 250  # rows digested in one go: some milliseconds
_PIECE_BYTES = 400_000  # of a record; whole items
_NAMED_ROWS = 2_000  # in one record

FIRST_LOAD = "existing rows are still being published; ask again when that is done"
BEHIND = "for a minute more has waited in the outbox than one batch; ask again later"
TOO_MANY_APART = f"more than {MOST_APART} rows wait or are parked"
TOO_MANY_HELD = (
    f"removals of more than {MOST_APART} keys are held there: look at `deptbus department status`, "
    "and release them or bring the rows back"
)
UNSETTLED = "some rows were written all the time, so that no cut had them"

Row = tuple[bytes, str, int, bytes, bytes, str, str]


@dataclass(slots=True)
class Waiting:
    """Keys of which something waits: own keys of rows that may bear them. `blind`: a delete waits
    that names no row, so that whatever bears the key now has to be looked for."""

    raws: dict[bytes, set[RawKey]] = field(default_factory=dict)
    blind: set[bytes] = field(default_factory=set)

    def add(self, key: bytes, raw: RawKey | None) -> None:
        rows = self.raws.setdefault(key, set())
        if raw is None:
            self.blind.add(key)
        else:
            rows.add(raw)

    def proved(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            del self.raws[key]
            self.blind.discard(key)


class SourceProof:
    """`answer` one request after the other, beside the publisher of the same system. Raises
    BusRefused with the reason why it cannot be told, and what Cuts and SourceView raise."""

    def __init__(self, department: Department, system: str, publisher: Publisher) -> None:
        self._department, self._system = department, system
        self._publisher = publisher

    async def answer(self, reply: Reply) -> None:
        dataset = reply.request.dataset
        if dataset not in self._department.systems[self._system].publishes:
            await reply.end("not_here")
            return
        await _Answer(self._department, self._system, self._publisher, reply).run()


class _Answer:
    def __init__(
        self, department: Department, system: str, publisher: Publisher, reply: Reply
    ) -> None:
        self._department, self._system = department, system
        self._publisher, self._reply = publisher, reply
        self._request, self._dataset = reply.request, reply.request.dataset
        self._publication: Publication | None = None
        self._leaves = frozenset(reply.request.leaves)
        self._cut_us = 0

    async def run(self) -> None:
        await self._sought_are_found()
        async with open_view(self._department, self._system) as view:
            self._cut_us = await self._cut(view)
            if any(s.dataset == self._dataset for s in await view.open_snapshots()):
                raise BusRefused(FIRST_LOAD)
            waiting, parked = await self._waiting(view), await view.reasons(self._dataset)
            held = await self._held(view, waiting.raws.keys())
            apart = self._keys_of(parked) - held.keys()
            left_out = apart | waiting.raws.keys()
            if len(left_out) > MOST_APART:
                raise BusRefused(TOO_MANY_APART)
            left_out |= held.keys()
            await self._tell((key, "apart", 0, NOTHING, "") for key in left_out)
            await self._tell_held(held.values())
            # Behind what it needs to begin: it folds while the rows are walked here.
            await self._reply.end("working", snapshot_at_us=self._cut_us)
            rows = TableRows(
                self._mapped(),
                parked,
                left_out,
                self._request.leaves,
                self._request.bits,
            )
            count = await self._tell_items(view, rows)
        settled = apart - waiting.raws.keys()
        await self._tell_rows(rows, settled, but=waiting.raws.keys())
        reasons = dict(rows.reasons)
        await self._settle(waiting)
        await self._reply.end(rows=count, counts=reasons, snapshot_at_us=self._cut_us)

    def _mapped(self) -> Publication:
        assert self._publication is not None
        return self._publication

    async def _sought_are_found(self) -> None:
        """What is asked for by its bus key has no row yet by which it could be looked up: an order
        to publish such keys again is carried out first, if that is soon."""
        until = time.monotonic() + CUT_SECONDS
        capture = self._publisher.capture
        while any(one.raw is None for one in await capture.wanted(self._dataset, MOST_APART)):
            if time.monotonic() > until:
                return
            await asyncio.sleep(_SOUGHT_SECONDS)

    # --- the cut --------------------------------------------------------------------------

    async def _cut(self, view: SourceView) -> int:
        """Takes the view's moment; when the marker was sent (microseconds)."""

        async def look() -> Publication:
            publication = self._publisher.publications.get(self._dataset)
            if publication is None:
                raise BusRefused(self._publisher.why_held(self._dataset))
            await view.begin()
            return publication

        try:
            async with asyncio.timeout(CUT_SECONDS):
                marker, self._publication = await self._publisher.cuts.make(
                    proof_marker(self._system, self._dataset), look
                )
        except TimeoutError:
            raise BusRefused(BEHIND) from None
        return marker.sent_at_us

    async def _waiting(self, view: SourceView) -> Waiting:
        """What waits in the outbox as the snapshot has it, and what is wanted of it."""
        publication, found = self._mapped(), Waiting()
        others = (await view.layouts()).keys() - {self._dataset}
        rows = await view.read(MOST_APART + 1, hold=others)
        wanted = await view.wanted(self._dataset, MOST_APART + 1)
        if max(len(rows), len(wanted)) > MOST_APART:
            raise BusRefused(TOO_MANY_APART)
        for row in rows:
            if row.dataset == self._dataset:
                key = publication.key_of(row).key
                if key is not None and self._is_asked(key):
                    found.add(key, None if row.key is not None else row.raw)
        for one in wanted:
            raw = raw_of(one.raw) if one.raw is not None else None
            key = one.key if raw is None else publication.key_of_raw(raw).key
            if key is not None and self._is_asked(key):
                found.add(key, raw)
        return found

    def _is_asked(self, key: bytes) -> bool:
        asked = self._request
        return not asked.leaves or leaf_of(key, asked.bits) in self._leaves

    def _keys_of(self, parked: Mapping[str, str]) -> set[bytes]:
        """Keys that a parked row speaks for."""
        publication = self._mapped()
        found = (
            publication.key_of_raw(raw_of(raw)).key
            for raw, reason in parked.items()
            if reason not in (DUPLICATE, NO_KEY)
        )
        return {key for key in found if key is not None and self._is_asked(key)}

    # --- the walk -------------------------------------------------------------------------

    async def _tell_items(self, view: SourceView, rows: TableRows) -> int:
        """Every item of the table; returns how many."""
        count = 0
        if self._request.wanted == "items":
            told = bytearray()
            async with aclosing(self._walk(view, rows)) as walk:
                async for items in walk:
                    told += b"".join(items)
                    count += len(items)
                    while len(told) >= _PIECE_BYTES:
                        await self._reply.part("items", bytes(told[:_PIECE_BYTES]))
                        del told[:_PIECE_BYTES]
            if told:
                await self._reply.part("items", bytes(told))
            return count
        tally = Tally(self._request.cells, self._request.salt, self._request.bits)
        async with aclosing(self._walk(view, rows)) as walk:
            async for items in walk:
                tally.add_raws(items)
                count += len(items)
        await self._reply.part("leaves", tally.leaves.to_bytes())
        for some in _pieces(tally.sketch.to_bytes()):
            await self._reply.part("sketch", some)
        # It takes a second for each half million rows, in which others go on.
        await self._reply.part("root", await asyncio.to_thread(tally.root.root))
        return count

    async def _walk(self, view: SourceView, rows: TableRows) -> AsyncGenerator[list[bytes], None]:
        """Lists of `item_bytes`, some hundred rows at a time."""
        async with aclosing(ahead(self._chunks(view))) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _STRETCH):
                    yield await self._judged(view, rows, chunk[start : start + _STRETCH])
                    await asyncio.sleep(0)
        yield rows.rest(await self._borne(view, rows))

    async def _chunks(self, view: SourceView) -> AsyncGenerator[list[OutboxRow], None]:
        after: RawKey | None = None
        while chunk := await _when_free(partial(view.rows_after, self._dataset, after, _ROWS)):
            after = chunk[-1].raw
            yield chunk

    async def _judged(
        self, view: SourceView, rows: TableRows, some: Sequence[OutboxRow]
    ) -> list[bytes]:
        found = find_keys({self._dataset: self._mapped()}, some)
        keys = [key for one in found if (key := key_in(one)) is not None]
        known = await self._known(view, keys)
        return rows.rows(zip(some, found, strict=True), known)

    async def _known(self, view: SourceView, keys: Sequence[bytes]) -> Mapping[bytes, Known]:
        """Of nearly no key anything is remembered, and the publisher knows of which."""
        remembered = self._publisher.capture.remembered
        asked = [k for k in keys if remembered is None or k in remembered]
        if not asked:
            return {}
        known = await view.known([(self._dataset, key) for key in asked])
        return {key: one for (_, key), one in known.items()}

    async def _borne(self, view: SourceView, rows: TableRows) -> set[bytes]:
        return {k for k, raw in rows.plain.items() if await view.bears(self._dataset, raw)}

    # --- what is told row by row ----------------------------------------------------------

    async def _tell(self, rows: Iterable[tuple[bytes, str, int, bytes, str]]) -> None:
        """(key, state, moment of its cut, digest, reason) of each."""
        told: list[Row] = [(k, state, at, digest, b"", "", r) for k, state, at, digest, r in rows]
        for start in range(0, len(told), _NAMED_ROWS):
            await self._reply.rows(told[start : start + _NAMED_ROWS])

    async def _tell_rows(
        self, rows: TableRows, settled: Iterable[bytes], but: Iterable[bytes] = ()
    ) -> None:
        """What a look found of the keys that are settled by it, and of rows that are refused."""
        left_out = frozenset(but)
        refused = {r.key: r.reason for r in rows.refused if r.key not in left_out}
        if len(refused) > MOST_APART or len(rows.duplicates) > MOST_APART:
            raise BusRefused(TOO_MANY_APART)
        at = self._cut_us
        await self._tell((key, "refused", at, NOTHING, why) for key, why in refused.items())
        await self._tell(
            (key, "found", at, rows.found.get(key, NOTHING), "")
            for key in settled
            if key not in refused
        )
        await self._tell((r.key, "duplicate", at, NOTHING, r.reason) for r in rows.duplicates)

    # --- keys whose removal is held ---------------------------------------------------------------

    async def _held(self, view: SourceView, but: Collection[bytes]) -> dict[bytes, HeldRemoval]:
        """Whatever the bus has of them is as it was, on purpose. `but`: those of which something
        waits, for it may end the hold; they are looked at later."""
        held = await view.held_of(self._dataset, MOST_APART + 1)
        if len(held) > MOST_APART:
            raise BusRefused(TOO_MANY_HELD)
        return {o.key: o for o in held if o.key not in but and self._is_asked(o.key)}

    async def _tell_held(self, held: Iterable[HeldRemoval]) -> None:
        await self._tell((one.key, "held", self._cut_us, NOTHING, str(one.hold)) for one in held)

    # --- keys that waited -----------------------------------------------------------------

    async def _settle(self, waiting: Waiting) -> None:
        """Round by round, those alone."""
        pause = _ROUND_SECONDS[0]
        for _ in range(ROUNDS):
            if not waiting.raws:
                return
            async with open_view(self._department, self._system) as view:
                self._cut_us = await self._cut(view)
                again = await self._waiting(view)
                ready = waiting.raws.keys() - again.raws.keys()
                if again.blind & waiting.blind:
                    ready -= waiting.blind  # one walk for all of them, once none of them waits
                rows = await self._look(view, waiting, ready)
                held = await view.held([(self._dataset, key) for key in ready])
            await self._tell_held(held.values())
            rows.duplicates.clear()  # the walk has told them
            await self._tell_rows(rows, ready - {key for _, key in held})
            waiting.proved(ready)
            for key in waiting.raws.keys() & again.raws.keys():
                waiting.raws[key] |= again.raws[key]
            waiting.blind |= again.blind & waiting.raws.keys()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _ROUND_SECONDS[1])
        if waiting.raws:
            raise BusRefused(UNSETTLED)

    async def _look(self, view: SourceView, waiting: Waiting, ready: set[bytes]) -> TableRows:
        """Every row that can speak for one of these keys: one that waited, one that the source
        remembers as a variant, and the one whose own key is plain."""
        parked = await view.reasons(self._dataset)
        rows = TableRows(self._mapped(), parked, ready)
        if ready & waiting.blind:
            async with aclosing(self._walk(view, rows)) as walk:
                async for _ in walk:
                    pass
            rows.refused = [one for one in rows.refused if one.key in ready]
            return rows
        known = await view.known([(self._dataset, key) for key in ready])
        raws = {raw for key in ready for raw in waiting.raws[key]}
        raws |= {raw_of(v.raw) for one in known.values() for v in one.variants}
        raws |= {
            plain for raw in raws if (plain := self._mapped().key_of_raw(raw).plain) is not None
        }
        found = await _when_free(partial(view.rows_of, self._dataset, sorted(raws, key=repr)))
        for start in range(0, len(found), _STRETCH):
            await self._judged(view, rows, found[start : start + _STRETCH])
        rows.rest(await self._borne(view, rows))
        return rows


async def _when_free(work: Callable[[], Awaitable[T]]) -> T:
    """`work`, again while somebody else has a table to himself, for a while."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return await work()
        except DatabaseBusy:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


def _pieces(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), _PIECE_BYTES):
        yield content[at : at + _PIECE_BYTES]
