"""The port to the recipient's database: its bookkeeping and its rows, one transaction a batch.

What is the same in every database stands here: folding, deciding, and finding a way when rows are
refused. `store_sqlite` and `store_postgres` add the statements.
"""

from __future__ import annotations

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, cast

import structlog

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.contract.department import Receive
from deptbus.department.adoption import Existing, Found, RowsMoved
from deptbus.department.adoption_desk import ExistingDesk, adopting
from deptbus.department.decide import (
    Action,
    Clear,
    Decision,
    Refused,
    Write,
    decide,
    prepare,
    tally,
    touched_rows,
)
from deptbus.department.fold import Folded, Tally, add_retries, fold
from deptbus.department.ledger import (
    NEVER_US,
    Entry,
    ParkedChoice,
    ParkedRow,
    Prepared,
    RecordId,
    Row,
    Sender,
    Unfit,
    glimpsed,
)
from deptbus.department.plain import (
    Known,
    Lot,
    Plain,
    Presumed,
    Sifted,
    fresh_rows,
    judge,
    lot_of,
    presume,
    sift,
    tally_plain,
)
from deptbus.department.rebuild import Rebuild, fan_out
from deptbus.department.rebuild_desk import RebuildDesk
from deptbus.department.repairs import (
    DELIVER,
    Kept,
    Looked,
    Order,
    OrderId,
    Repairs,
    order_of,
    orders_in,
    weigh,
)
from deptbus.department.several_tables import Into
from deptbus.department.target import Column, MappedTarget
from deptbus.department.values import CHINA
from deptbus.errors import DatabaseUnavailable, RowRefused, SourceRefused
from deptbus.names import is_rebuilt_copy, rebuilt_copy
from deptbus.wire.control import PolicyMarker, RepairOrder

log = structlog.get_logger(__name__)

RETRIES_AT_ONCE = 100
ADOPTED_AT_ONCE = 500  # of a first load into a table that had rows; a batch's own limit is less
LOOKS_AT_ONCE = 3  # at rows that are to be adopted and are not what they were
MARKS_AT_ONCE = 500  # parked lines that are made due in one transaction, of a few ms
_SOURCE_TIME = attrgetter("source_time_us")
_SLICE_ROWS = 250  # prepared at a time while the batch before them is applied
REFERENCE = "foreign key"  # in the reason of a row whose parent is not there yet


class Pace:
    """How many deliveries a batch should have so that its transaction, whose locks the department's
    own program may meet, is short."""

    def __init__(self, *, least: int, most: int, start: int, seconds: float) -> None:
        self.limit = start
        self._least, self._most, self._seconds = least, most, seconds

    def took(self, seconds: float, rows: int) -> None:
        """A transaction over so many rows held its locks for so long."""
        if seconds > self._seconds:
            self.limit = max(self._least, min(self.limit, rows) // 2)
        elif seconds < self._seconds / 2 and rows >= self.limit // 2:
            self.limit = min(self._most, self.limit + self.limit // 4)


class RowsChanged(Exception):
    """Rows of a repair are not any more what they were; nothing of the batch was written."""

    def __init__(self, rows: Collection[Row]) -> None:
        super().__init__()
        self.rows = rows


class Mistaken(Exception):
    """What was presumed of a batch is not so of some record; nothing of it was written."""


class Unreadable(NamedTuple):
    """Bytes in the inbox that are no record of this bus: noted by their place, never kept."""

    offset: int
    reason: str


@dataclass(slots=True)
class PartitionBatch:
    """What was read from one partition, in its order, and where reading goes on behind it."""

    next_offset: int
    items: list[Received | PolicyMarker] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    orders: list[RepairOrder] = field(default_factory=list)
    has_rebuilt: bool = False  # deliveries for a second copy are among the items


@dataclass(frozen=True, slots=True)
class Position:
    """How far one partition is applied, and the least policy accepted in it by dataset."""

    next_offset: int
    floors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BusIdentity:
    """Of which cluster and which topic the offsets are: a rebuilt one has others."""

    cluster_id: str
    topic_id: str


@dataclass(slots=True)
class Applied:
    """What one batch did. `written`: datasets whose table changed."""

    tallies: Counter[Tally] = field(default_factory=Counter)
    written: frozenset[str] = frozenset()
    parked: tuple[Entry, ...] = ()  # newly parked
    # (dataset, direction) -> when the live changes among them were made at their sources.
    times_us: Mapping[tuple[str, str], list[int]] = field(default_factory=dict)
    # Of parked lines that were tried again: (when they were due, whether they are parked no more).
    retried: Counter[tuple[int, bool]] = field(default_factory=Counter)


class DatasetStatus(NamedTuple):
    """What `deptbus department status` shows of one received dataset."""

    dataset: str
    rows: int  # records whose copy stands in the table
    waiting: int  # live records whose row another one holds: conflicts when they stay
    waiting_since_us: int | None  # when the oldest of them was settled
    parked: Mapping[str, int]  # reason -> records
    today: Mapping[str, int]  # outcome -> deliveries
    waits_for_join: bool = False  # its first load waits for the department's yes
    kept: Mapping[str, int] = {}  # origin -> rows whose own values are kept, and were not restored


class Store(ABC):
    """One recipient's database. `open`, then `apply` one batch at a time, then `close`.

    `open`, `apply` and the readers raise DatabaseUnavailable (reopen with back-off), DatabaseBusy
    (a lock: apply the same batch again soon), Fenced (stop). After any of them nothing of the batch
    is in the database, or, when a commit's outcome is unknown, all of it: applying it again then
    says DatabaseUnavailable or is right, as the offsets tell.
    """

    # With so many deliveries in a batch the short way for plain ones pays.
    plain_from = 1
    # With so many they may be presumed newer than what is known, and holders of their rows: a
    # `commit` of such Work looks for itself. Without end where it cannot.
    presume_from = sys.maxsize
    # Whether `look_ahead` may run while `apply` does: not where that is on another thread.
    looks_ahead = False

    def __init__(self, topic: str, token: bytes) -> None:
        self.topic = topic
        self.token = token
        self.targets: dict[str, MappedTarget] = {}
        self.positions: dict[int, Position] = {}
        # Datasets that department.yml receives, also those that no contract has yet. Set before
        # `open`, which tells those of them that the inbox was never read for.
        self.declared: frozenset[str] = frozenset()
        self.fresh: frozenset[str] = frozenset()
        self.read_before: dict[int, int] = {}  # partition -> where reading stood, if it begins anew
        # Of repairs: the row that a proof gave this name, and where old values are kept.
        self.parents: dict[str, frozenset[str]] = {}  # dataset -> datasets its table refers to
        self._order: dict[str, int] = {}
        self._next_retry_us: int | None = None
        self.stranger: Callable[[str, bytes], bytes | None] = lambda dataset, name: None
        self.keep: Callable[[Sequence[Kept]], None] = lambda kept: None
        # Datasets that go into several tables by way of a view of ours; see `several_tables`.
        self.several: Mapping[str, tuple[Into, ...]] = {}
        # Datasets whose tables cannot be written as they are, and why; the others go on. Their
        # deliveries are passed over: once a table is mended the inbox is read again for them.
        self.unfit: dict[str, DatabaseUnavailable] = {}
        self._related = False
        self._marked_us = 0  # the last mark of `retry_now`
        self._presumes = False  # all that came last would have been presumed rightly
        self.rebuilds: RebuildDesk | None = None  # of a store that can make second copies
        self.existing = ExistingDesk(self)

    # -- what an implementation gives ------------------------------------------------------------

    @abstractmethod
    async def open(self, identity: BusIdentity, partitions: int) -> None:
        """Make absent tables, read the catalogue and the positions. Raises SourceRefused when the
        offsets are of another cluster or topic.

        With a dataset that was not received until now (`fresh`) the positions go back to the
        beginning: its deliveries lie before them, and to the other datasets they are nothing new.
        It is so again at the next `open`, for as long as reading did not begin."""

    async def begin_reading(self, begins: Mapping[int, int]) -> None:
        """What the inbox keeps is going to be read, from `positions` on, or from these offsets: the
        first that it keeps for `fresh` datasets, which has been told. From now on it is told as
        lost where less is kept."""
        positions = {
            number: replace(at, next_offset=begins.get(number, at.next_offset))
            for number, at in self.positions.items()
        }
        moved = {number: at.next_offset for number, at in positions.items() if self.fresh}
        await self._note_begun(moved)
        self.positions = positions

    @abstractmethod
    async def _note_begun(self, offsets: Mapping[int, int]) -> None:
        """In one transaction: what `declared` names is what was read, up to these offsets."""

    async def are_mended(self) -> bool:
        """Whether the tables of some `unfit` dataset can be written again: open anew then. A store
        that leaves none out has nothing to mend."""
        return False

    def _leave_out(self, unfit: dict[str, DatabaseUnavailable], mapped: Collection[str]) -> None:
        """Raises the first reason where no dataset is left."""
        if unfit and unfit.keys() == set(mapped):
            raise next(iter(unfit.values()))
        self.unfit = unfit
        self.declared -= unfit.keys()

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def batch_limit(self) -> int:
        """How many deliveries the next batch should have at most."""

    @abstractmethod
    async def glimpses(self, wanted: Mapping[Sender, Collection[bytes]]) -> Known:
        """What is known of the records with these keys."""

    @abstractmethod
    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        """All entries that name one of these rows, but for those of `without`."""

    @abstractmethod
    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        """Parked entries: those due by then, and those of `datasets` that lack a parent row."""

    @abstractmethod
    async def next_retry_us(self) -> int | None: ...

    def pack(self, dataset: str, lot: Lot) -> bytes | None:
        """The lot as `commit` hands it over, where that can be made before; it goes along with it
        in Work."""
        return None

    @abstractmethod
    async def parked_rows(self) -> dict[tuple[str, str], int]:
        """How many are parked, by dataset and reason."""

    @abstractmethod
    async def parked_list(self, limit: int) -> list[ParkedRow]:
        """The parked ones, those that wait the longest first."""

    @abstractmethod
    async def make_due(self, choice: ParkedChoice, due_us: int, limit: int) -> int:
        """Have so many of the parked ones due at this time that are not; behind the fence, durable
        before whatever is committed later. How many there were."""

    @abstractmethod
    async def tallies_since(self, day: str) -> dict[str, Counter[Tally]]:
        """What became of deliveries, by day, from `day` on."""

    @abstractmethod
    async def commit(self, work: Work) -> None:
        """All of it in one transaction, behind the fence. Raises RowRefused when the database
        refuses some row, Mistaken when presumed work is not as presumed; nothing is done then."""

    @abstractmethod
    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        """Which actions the database refuses, and why, by trying them; changes nothing."""

    async def orders(self, wanted: Collection[OrderId]) -> dict[OrderId, Order]:
        """Those of these orders that are kept; a store that keeps none repairs nothing."""
        return {}

    async def look_at(self, orders: Collection[Order]) -> dict[OrderId, Looked]:
        """The lines and rows of these orders as they are now."""
        return {}

    # Of tables that had rows before the bus; a store that knows of none needs no more than this.

    async def existing_tables(self) -> dict[str, Existing]:
        """What is remembered of the received datasets' tables."""
        return {}

    async def lines_that_wait(self, dataset: str, limit: int) -> list[Entry]:
        """Lines that were parked until the department said yes."""
        return []

    async def parked_upserts(
        self, dataset: str, after: tuple[str, bytes], limit: int
    ) -> list[Entry]:
        """Parked lines of upserts behind (source unit, key), in that order."""
        return []

    async def look_for(
        self, dataset: str, positions: Sequence[int], words: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], list[Found]]:
        """The rows that have just these values in the columns at `positions`, by those values."""
        return {}

    async def look_for_emptied(
        self, dataset: str, wanted: Mapping[RecordId, bytes]
    ) -> dict[RecordId, Found]:
        """Rows that the bus made, that were emptied as these records went, or another of the same
        own key (`wanted`: each record's, encoded), and to which nobody wrote since."""
        return {}

    def left_behind(self, dataset: str) -> list[tuple[Any, ...]]:
        """Mapped values that rows were given as their records went, since this was asked last; also
        of transactions that failed."""
        return []

    def read_columns_of(
        self, dataset: str, positions: Sequence[int]
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """These columns of every row; no lock is kept between two parts."""
        raise NotImplementedError

    @abstractmethod
    async def status(self, now_us: int) -> list[DatasetStatus]: ...

    # -- what is the same everywhere -------------------------------------------------------------

    async def apply(
        self,
        batch: Mapping[int, PartitionBatch],
        now_us: int,
        sifted: Sifted | None = None,
    ) -> Applied:
        """Apply what was read from some partitions, and parked entries whose time has come.
        `sifted`: what `look_ahead` said of this batch; it counts for one try."""
        jobs = {} if self.rebuilds is None else self.rebuilds.jobs
        if jobs or any(part.has_rebuilt for part in batch.values()):
            batch, sifted = _fanned_out(batch, jobs), None
        repairs = await self._repairs(batch)
        looks = 0
        while True:
            try:
                return await self._apply(batch, now_us, sifted, repairs)
            except RowsChanged as changed:
                assert repairs is not None
                repairs.without(changed.rows)
            except RowsMoved:
                looks += 1
                if looks >= LOOKS_AT_ONCE:
                    raise  # somebody writes there all the time: after a pause
                sifted = None  # it was used up

    async def _repairs(self, batch: Mapping[int, PartitionBatch]) -> Repairs | None:
        """What may be repaired of this batch; None: it has nothing of the kind."""
        new = orders_in(order for part in batch.values() for order in part.orders)
        arrived = {
            order_of(item)
            for part in batch.values()
            for item in part.items
            if isinstance(item, Received) and item.cause is Cause.REPAIR
        }
        if not new and not arrived:
            return None
        known = await self.orders([name for name in arrived if name not in new])
        due = {n: o for n, o in new.items() if o.action != DELIVER or n in arrived} | known
        repairs = weigh(due, await self.look_at(due.values()))
        repairs.new = {name: order for name, order in new.items() if name not in due}
        if repairs.kept:
            self.keep(repairs.kept)
        if repairs.left:
            log.warning("repairs_left_out", topic=self.topic, rows=repairs.left)
        return repairs

    async def _apply(
        self,
        batch: Mapping[int, PartitionBatch],
        now_us: int,
        sifted: Sifted | None,
        repairs: Repairs | None,
    ) -> Applied:
        positions = dict(self.positions)
        replacing = frozenset(d for d, t in self.targets.items() if t.replaces)
        due = self._next_retry_us is not None and self._next_retry_us <= now_us
        again: list[Entry] = []
        if due or self._related:
            children = self.parents if self._related else ()
            again = await self.parked(now_us if due else None, children, RETRIES_AT_ONCE)
        if self.existing.adopting:
            again += await self.existing.lines(min(ADOPTED_AT_ONCE, self.batch_limit))
        if again or repairs is not None:
            sifted = None
        elif sifted is None or sifted.floors != self._floors(batch):
            sifted = await self.look_ahead(batch)
        if sifted is not None and sifted.presumed is not None and self._presumes and not due:
            presumed = await self._apply_presumed(batch, sifted.presumed, now_us, replacing)
            if presumed is not None:
                return presumed
        known_of = await self._look(batch, sifted, repairs)
        plain = await self._judge(sifted, known_of) if sifted is not None else {}
        known: dict[RecordId, Entry] = {}
        folded = Folded()
        for number, part in sorted(batch.items()):
            floors = dict(positions[number].floors)
            items = part.items if sifted is None else sifted.others[number]
            recall(items, known_of, known)
            if repairs is not None:
                items = _allowed(items, repairs, known)
            fold(items, known, floors, now_us, replacing=replacing, into=folded)
            positions[number] = Position(part.next_offset, floors)
        if repairs is not None:
            _forget(repairs, folded, known_of, known, now_us)
        for entry in again:
            known[entry.id] = entry
        add_retries(folded, again)
        moves = {number: (self.positions[number], positions[number]) for number in batch}
        work = replace(_work(batch, moves, now_us), repairs=repairs)
        work = await self._settle(_Todo(folded, known, known_of, plain, replacing), work)
        self.positions = positions
        applied = self._applied(folded, work)
        if due or again:
            self._next_retry_us = await self.next_retry_us()
        return applied

    async def retry_now(self, choice: ParkedChoice, now_us: int) -> tuple[int, int]:
        """Have the next `apply` calls try these parked rows again, whatever their back-off. Returns
        the time at which they are due, which no others are, and how many they are. Raises as
        `apply`: do it again then."""
        due_us = self._marked_us = max(now_us, self._marked_us + 1)
        rows = 0
        while count := await self.make_due(choice, due_us, MARKS_AT_ONCE):
            rows += count
            if count < MARKS_AT_ONCE:
                break
        if rows and (self._next_retry_us is None or self._next_retry_us > due_us):
            self._next_retry_us = due_us
        return due_us, rows

    async def look_ahead(self, batch: Mapping[int, PartitionBatch]) -> Sifted | None:
        """Who may be plain, when anybody may: all that can be said of a batch while the one before
        it is applied. Lets other tasks go on between partitions."""
        received = {number: part.items for number, part in sorted(batch.items())}
        if sum(map(len, received.values())) < self.plain_from or any(
            item.__class__ is not Received or item.cause is Cause.REPAIR
            for items in received.values()
            for item in items
        ):
            return None
        sifted = Sifted(self._floors(batch))
        for number, items in received.items():
            sift({number: cast(list[Received], items)}, self.targets, sifted)
            await asyncio.sleep(0)
        if self._presumes and sum(map(len, sifted.keys.values())) >= self.presume_from:
            sifted.presumed = await self._presume(sifted)
        return sifted

    async def _presume(self, sifted: Sifted) -> Presumed | None:
        """A slice at a time: the transaction before this one must not wait for all of it."""
        plain: dict[str, dict[bytes, Plain]] = {}
        for sender, keys in sifted.keys.items():
            rows, pairs = plain.setdefault(sender[0], {}), list(keys.items())
            for start in range(0, len(pairs), _SLICE_ROWS):
                some = {sender: dict(pairs[start : start + _SLICE_ROWS])}
                found = presume(Sifted(sifted.floors, some, sifted.others))
                if found is None or not rows.keys().isdisjoint(found[sender[0]]):
                    return None
                rows |= found[sender[0]]
                await asyncio.sleep(0)
        lots, packed = {}, {}
        for dataset, rows in plain.items():
            lots[dataset] = lot = lot_of(rows.values())
            await asyncio.sleep(0)
            pack = self.pack(dataset, lot)
            if pack is not None:
                packed[dataset] = pack
        return Presumed(lots, packed)

    def _floors(self, batch: Iterable[int]) -> dict[int, Mapping[str, int]]:
        return {number: self.positions[number].floors for number in batch}

    async def _apply_presumed(
        self,
        batch: Mapping[int, PartitionBatch],
        presumed: Presumed,
        now_us: int,
        replacing: frozenset[str],
    ) -> Applied | None:
        """In a bulk each record is newer than what is known of it and holds its row: the database
        finds that out while it writes. None when it is not so; then nothing is done."""
        moves = {
            number: (at := self.positions[number], Position(part.next_offset, at.floors))
            for number, part in batch.items()
        }
        work = _work(batch, moves, now_us)
        tallies: Counter[Tally] = Counter()
        tally_plain(presumed.lots.values(), replacing, tallies)
        work = replace(
            work,
            lots=presumed.lots,
            packed=presumed.packed,
            tallies=_in_use(tallies),
            is_presumed=True,
        )
        try:
            await self.commit(work)
        except (Mistaken, RowRefused):
            self._presumes = False
            return None
        self.positions = self.positions | {number: after for number, (_, after) in moves.items()}
        return self._applied(Folded(), work)

    async def _look(
        self,
        batch: Mapping[int, PartitionBatch],
        sifted: Sifted | None,
        repairs: Repairs | None,
    ) -> Known:
        """What is known of the records of a batch."""
        wanted: dict[Sender, Any] = dict(sifted.keys) if sifted is not None else {}
        if sifted is None:
            for part in batch.values():
                for item in part.items:
                    if isinstance(item, Received):
                        wanted.setdefault((item.dataset, item.source_unit), {})[item.key] = None
        for rid in repairs.forgets.values() if repairs is not None else ():
            wanted.setdefault((rid.dataset, rid.source_unit), {})[rid.key] = None
        return await self.glimpses(wanted) if wanted else {}

    async def _judge(self, sifted: Sifted, known: Known) -> dict[str, dict[bytes, Plain]]:
        fresh = fresh_rows(sifted, known)
        named = {
            Row(e.dataset, e.row)
            for e in (await self.claimants(fresh, ()) if fresh else ())
            if e.row is not None
        }
        plain = judge(sifted, known, named, self.existing.datasets)
        self._presumes = not fresh and not any(sifted.others.values())
        return plain

    async def _settle(self, todo: _Todo, work: Work) -> Work:
        """Decide and commit, again for as long as the database refuses rows."""
        folded, known = todo.folded, todo.known
        fits: dict[RecordId, Prepared | Unfit] = {}
        await self._weigh(todo, fits, work.now_us)
        refused: dict[RecordId, Refused] = {}
        fruitless = 0
        while True:
            decision = decide(folded, known, fits, self.targets, work.now_us, refused)
            adopting(decision, todo.adopts, known)
            if work.repairs is not None:
                removes = work.repairs.removes.values()
                decision.removes += [one for one in removes if one.id not in refused]
            tallies = Folded(had_copy=folded.had_copy, candidates=folded.candidates)
            tallies.retries, tallies.tallies = folded.retries, folded.tallies.copy()
            tally(tallies, decision, todo.replacing)
            lots = {dataset: lot_of(rows.values()) for dataset, rows in todo.plain.items() if rows}
            tally_plain(lots.values(), todo.replacing, tallies.tallies)
            counted = _in_use(tallies.tallies)
            work = replace(work, decision=decision, lots=lots, tallies=counted)
            try:
                await self.commit(work)
            except RowRefused as error:
                if lots:
                    todo.take_back(None, work.now_us)
                    await self._weigh(todo, fits, work.now_us)
                    continue
                found = await self.find_refused(decision)
                fruitless = 0 if found else fruitless + 1
                if fruitless > 3:
                    raise DatabaseUnavailable(
                        f"{error.what} (and no single row is to blame)",
                        mend="Look at the triggers and constraints of the received tables",
                    ) from None
                for action, reason in found:
                    earlier = refused.get(action.id)
                    refused[action.id] = Refused(
                        action.level + 1, earlier.reason if earlier is not None else reason
                    )
                continue
            return work

    async def _weigh(
        self, todo: _Todo, fits: dict[RecordId, Prepared | Unfit], now_us: int
    ) -> None:
        """Fit the candidates of the long way, and read who else claims their rows."""
        prepare(todo.folded, self.targets, fits)
        rows = touched_rows(todo.folded, todo.known, fits)
        todo.take_back(rows, now_us)
        prepare(todo.folded, self.targets, fits)
        if rows:
            # Over glimpses: a record whose delivery was old news may have to be written back.
            for entry in await self.claimants(sorted(rows), todo.folded.candidates.keys()):
                todo.known[entry.id] = entry
        todo.adopts |= await self.existing.settle(todo.folded, todo.known, fits)

    async def look_at_existing(self) -> list[str]:
        """Whether the department has said yes meanwhile; the datasets whose first load begins."""
        return await self.existing.load(await self.existing_tables())

    def stranger_in(self, dataset: str, name: bytes) -> bytes | None:
        """The row to which a proof gave this name. None in a table that had rows before the bus:
        what no record stands for there is the department's own."""
        target = self.targets.get(dataset)
        return None if target is None or target.had_rows else self.stranger(dataset, name)

    def _begin(self, positions: dict[int, Position], remembered: Iterable[str]) -> None:
        """Where to go on from; `remembered`: the datasets of `mapped`."""
        self.fresh = self.declared - frozenset(remembered)
        self.read_before, self.positions = {}, positions
        if self.fresh and any(p.next_offset for p in positions.values()):
            self.read_before = {n: p.next_offset for n, p in positions.items()}
            self.positions = {n: Position(0, p.floors) for n, p in positions.items()}

    def _applied(self, folded: Folded, work: Work) -> Applied:
        written = frozenset(action.row.dataset for action in work.decision.actions)
        written |= work.lots.keys()
        written = frozenset(name for name in written if not is_rebuilt_copy(name))
        parked = [e for e in work.decision.entries if e.parked is not None]
        for entry in parked:
            if entry.retry_at_us == NEVER_US:
                continue
            if self._next_retry_us is None or (entry.retry_at_us or 0) < self._next_retry_us:
                self._next_retry_us = entry.retry_at_us
        # A parent row may have come: its children need not wait for their back-off.
        self._related = any(written & parents for parents in self.parents.values())
        new = tuple(
            e for e in parked if e.id not in folded.retries and not is_rebuilt_copy(e.dataset)
        )
        retried = Counter(
            (folded.candidates[e.id].retry_at_us or 0, e.parked is None)
            for e in work.decision.entries
            if e.id in folded.retries and not is_rebuilt_copy(e.dataset)
        )
        return Applied(work.tallies, written, new, _times_us(folded, work), retried)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What is received; second copies are not among it."""
        return tuple(name for name in self.targets if not is_rebuilt_copy(name))

    @property
    def is_rebuilding(self) -> bool:
        return self.rebuilds is not None and bool(self.rebuilds.jobs)

    def share_floors(self, dataset: str) -> None:
        """A second copy accepts what the one in use does: markers move both from here on."""
        copy = rebuilt_copy(dataset)
        self.positions = {
            number: replace(at, floors={**at.floors, copy: at.floors.get(dataset, 0)})
            for number, at in self.positions.items()
        }

    async def swap(self, now_us: int) -> Rebuild | None:
        """Carry out the swap that is due, if any; the job as it stands then. Raises as `apply`."""
        due = None if self.rebuilds is None else self.rebuilds.due
        if due is None:
            return None
        assert self.rebuilds is not None
        done = await self.rebuilds.swap(due, now_us)
        self._next_retry_us = await self.next_retry_us()
        self._related |= any(done.dataset in parents for parents in self.parents.values())
        return done

    @property
    def has_parked(self) -> bool:
        return self._next_retry_us is not None

    @property
    def next_due_us(self) -> int | None:
        """When the first parked row is to be tried again; None: nothing is parked."""
        return self._next_retry_us

    def retry_in_seconds(self, now_us: int) -> float | None:
        """When `apply` should be called even with an empty batch; None: no need."""
        if self._related or self.existing.adopting:
            return 0.0
        if self._next_retry_us is None:
            return None
        return max(0.0, (self._next_retry_us - now_us) / 1e6)

    def in_order(self, actions: Iterable[Action], *, parents_first: bool) -> list[Action]:
        """Grouped by dataset: tables that others refer to first, or last when rows go."""
        sign = 1 if parents_first else -1
        return sorted(actions, key=lambda a: (sign * self._order.get(a.row.dataset, 0), a.row))

    def order_targets(self) -> None:
        """Rank datasets so that a table comes after those that it refers to (but for cycles)."""
        self._order = {}
        left = dict(self.parents)
        while left:
            free = [d for d, p in left.items() if not (p & left.keys()) - {d}] or list(left)
            for dataset in free:
                self._order[dataset] = len(self._order)
                del left[dataset]


@dataclass(slots=True)
class _Todo:
    """A batch between its look-up and its commit: the candidates of the long way with what is known
    for them, and the plain ones (dataset -> row -> record)."""

    folded: Folded
    known: dict[RecordId, Entry]
    glimpses: Known
    plain: dict[str, dict[bytes, Plain]]
    replacing: frozenset[str]
    adopts: dict[RecordId, Found] = field(default_factory=dict)

    def take_back(self, rows: Collection[Row] | None, now_us: int) -> None:
        """Send those that hold these rows (None: all) the long way after all."""
        back = []
        for dataset, plain in self.plain.items():
            touched = list(plain) if rows is None else [r.key for r in rows if r.dataset == dataset]
            back += [plain.pop(key).received for key in touched if key in plain]
        if back:
            recall(back, self.glimpses, self.known)
            fold(back, self.known, {}, now_us, replacing=self.replacing, into=self.folded)


def _allowed(
    items: Iterable[Received | PolicyMarker], repairs: Repairs, known: dict[RecordId, Entry]
) -> list[Received | PolicyMarker]:
    """Without the deliveries of repairs that may not be applied; of those that may, whatever the
    line claims to have counts as older."""
    found = []
    for item in items:
        if isinstance(item, Received) and item.cause is Cause.REPAIR:
            if not repairs.is_allowed(item):
                continue
            rid = RecordId(item.dataset, item.source_unit, item.key)
            if rid in known:
                known[rid] = known[rid]._replace(version=0, policy=0)
        found.append(item)
    return found


def _forget(
    repairs: Repairs,
    folded: Folded,
    glimpses: Known,
    known: dict[RecordId, Entry],
    now_us: int,
) -> None:
    """Tombstones for lines that go, unless something newer for them is in the batch."""
    for entry in repairs.tombstones(now_us):
        rid = entry.id
        if rid in folded.candidates:
            continue
        glimpse = glimpses.get((rid.dataset, rid.source_unit), {}).get(rid.key)
        if glimpse is not None:
            known[rid] = glimpsed((rid.dataset, rid.source_unit), glimpse)
        folded.candidates[rid] = entry
        folded.had_copy[rid] = True


def recall(
    items: Iterable[Received | PolicyMarker], glimpses: Known, known: dict[RecordId, Entry]
) -> None:
    """Add to `known` what was read of these deliveries' records."""
    for item in items:
        if isinstance(item, Received):
            sender = item.dataset, item.source_unit
            glimpse = glimpses.get(sender, {}).get(item.key)
            if glimpse is not None:
                known[RecordId(*sender, item.key)] = glimpsed(sender, glimpse)


@dataclass(frozen=True, slots=True)
class Work:
    """One transaction: `positions` (partition -> before, after), the plain records and the decision
    on the others, the counts."""

    positions: Mapping[int, tuple[Position, Position]]
    unreadable: Mapping[int, list[Unreadable]]
    now_us: int
    decision: Decision = field(default_factory=Decision)
    lots: Mapping[str, Lot] = field(default_factory=dict)  # by dataset
    packed: Mapping[str, bytes] = field(default_factory=dict)  # of `pack`, by dataset
    tallies: Counter[Tally] = field(default_factory=Counter)
    repairs: Repairs | None = None  # whose guards hold when the transaction locks their rows
    is_presumed: bool = False  # that all are newer than what is known, and hold their rows

    @property
    def day(self) -> str:
        return day_of(self.now_us)

    @property
    def size(self) -> int:
        return len(self.decision.entries) + sum(len(lot.plain) for lot in self.lots.values())

    def datasets(self) -> set[str]:
        """Those whose tables are written to."""
        return {action.row.dataset for action in self.decision.actions} | self.lots.keys()

    def writes_of(self, dataset: str) -> list[tuple[RecordId, bytes]]:
        """Records of the dataset and the rows (encoded) that they are to fill, or to empty of what
        is closed."""
        actions: list[Write | Clear] = [*self.decision.writes, *self.decision.clears]
        found = [(a.id, a.row.key) for a in actions if a.row.dataset == dataset]
        lot = self.lots.get(dataset)
        if lot is not None:
            units = [terms.source_unit for terms in lot.terms]
            found += [
                (RecordId(dataset, units[place], one.key), one.row)
                for one, place in zip(lot.plain, lot.places, strict=True)
            ]
        return found


def _times_us(folded: Folded, work: Work) -> dict[tuple[str, str], list[int]]:
    """Of what was settled now and happened just so: neither loads nor repeats, and nothing that is
    only written again because another record's claim changed."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for lot in work.lots.values():
        live = [terms.cause == Cause.LIVE for terms in lot.terms]
        if len(lot.terms) == 1:
            if live[0]:
                place = lot.terms[0].dataset, lot.terms[0].direction
                found[place] += map(_SOURCE_TIME, lot.plain)
            continue
        times = [found[terms.dataset, terms.direction] for terms in lot.terms]
        for one, number in zip(lot.plain, lot.places, strict=True):
            if live[number]:
                times[number].append(one.source_time_us)
    for entry in work.decision.entries:
        is_settled = entry.parked is None and (entry.held or entry.op != DeliveryOp.UPSERT)
        if entry.cause == Cause.LIVE and is_settled and entry.id in folded.candidates:
            found[entry.dataset, entry.direction].append(entry.source_time_us)
    return {p: times for p, times in found.items() if times and not is_rebuilt_copy(p[0])}


def _work(
    batch: Mapping[int, PartitionBatch],
    moves: Mapping[int, tuple[Position, Position]],
    now_us: int,
) -> Work:
    unreadable = {number: part.unreadable for number, part in batch.items() if part.unreadable}
    return Work(moves, unreadable, now_us)


def _fanned_out(
    batch: Mapping[int, PartitionBatch], jobs: Mapping[str, str]
) -> dict[int, PartitionBatch]:
    return {n: replace(part, items=fan_out(part.items, jobs)) for n, part in batch.items()}


def _in_use(tallies: Counter[Tally]) -> Counter[Tally]:
    """What became of deliveries counts once, and by the copy in use."""
    if not any(is_rebuilt_copy(tally.dataset) for tally in tallies):
        return tallies
    return Counter({t: n for t, n in tallies.items() if not is_rebuilt_copy(t.dataset)})


def day_of(now_us: int) -> str:
    """The calendar day in China, as statistics name it."""
    return datetime.fromtimestamp(now_us / 1e6, CHINA).date().isoformat()


def tallies_of(rows: Iterable[Sequence[Any]]) -> dict[str, Counter[Tally]]:
    """From (day, dataset, cause, direction, outcome, deliveries)."""
    found: dict[str, Counter[Tally]] = defaultdict(Counter)
    for day, dataset, cause, direction, outcome, deliveries in rows:
        found[day][Tally(dataset, cause, direction, outcome)] += deliveries
    return dict(found)


def floors_text(floors: Mapping[str, int]) -> str:
    return json.dumps(dict(floors), sort_keys=True)


def check_columns(place: str, dataset: str, receive: Receive, have: Mapping[str, Column]) -> None:
    """Raises DatabaseUnavailable where the table has not, or computes itself, a column that is to
    be written. `have`: empty where there is no table yet."""
    for column in (*receive.columns.values(), *receive.defaults, *receive.mark) if have else ():
        if column not in have or have[column].generated:
            raise missing_column(place, dataset, receive.table, column)


def missing_column(place: str, dataset: str, table: str, column: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"{place}: table {table} has no column {column} to write to",
        mend=f"Add it, or change `receives: {dataset}` in department.yml",
    )


def put_back(place: str) -> DatabaseUnavailable:
    """The offsets are not those of the last batch, though nobody else can have moved them: the
    token, which comes back with a backup of the same incarnation, was checked in the same
    transaction."""
    return DatabaseUnavailable(
        f"{place}: the database was put back under a running adapter: what was applied last is not "
        "in it",
        mend="Nothing: it goes on where the database stands",
    )


def positions_of(
    rows: Iterable[Sequence[Any]], topic: str, identity: BusIdentity
) -> dict[int, Position]:
    """From (partition, next offset, floors, cluster id, topic id). Raises SourceRefused when they
    were counted on another cluster or in another topic of the same name."""
    found = {}
    for number, next_offset, floors, cluster_id, topic_id in rows:
        rebuilt = (
            "cluster" if cluster_id != identity.cluster_id
            else "topic" if topic_id != identity.topic_id
            else None
        )  # fmt: skip
        if rebuilt is not None and next_offset > 0:
            raise SourceRefused(
                f"rebuilt {rebuilt}: what was applied here came from another {rebuilt} than "
                f"{topic} is now",
                mend="If it was rebuilt on purpose, run `deptbus department rejoin --config FILE`, "
                "and then what that says",
            )
        found[number] = Position(next_offset, json.loads(floors))
    return found
