"""The port to the recipient's database: its bookkeeping and its rows, one transaction a batch.

What is the same in every database stands here: folding, deciding, and finding a way when rows are
refused. `store_sqlite` and `store_postgres` add the statements.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from deptbus.change import Received
from deptbus.department.decide import (
    Action,
    Decision,
    Refused,
    decide,
    prepare,
    tally,
    touched_rows,
)
from deptbus.department.fold import Folded, Tally, add_retries, fold
from deptbus.department.ledger import Entry, RecordId, Row
from deptbus.department.target import MappedTarget
from deptbus.department.values import CHINA
from deptbus.errors import DatabaseUnavailable, Fenced, RowRefused, SourceRefused
from deptbus.wire.control import PolicyMarker

log = structlog.get_logger(__name__)

RETRIES_AT_ONCE = 100
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


class DatasetStatus(NamedTuple):
    """What `deptbus department status` shows of one received dataset."""

    dataset: str
    rows: int  # records whose copy stands in the table
    waiting: int  # live records whose row another one holds: conflicts when they stay
    waiting_since_us: int | None  # when the oldest of them was settled
    parked: Mapping[str, int]  # reason -> records
    today: Mapping[str, int]  # outcome -> deliveries


class Store(ABC):
    """One recipient's database. `open`, then `apply` one batch at a time, then `close`.

    `open`, `apply` and the readers raise DatabaseUnavailable (reopen with back-off), DatabaseBusy
    (a lock: apply the same batch again soon), Fenced (stop). After any of them nothing of the batch
    is in the database, or, when a commit's outcome is unknown, all of it: applying it again then
    says Fenced or is right, as the offsets tell.
    """

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
        self.parents: dict[str, frozenset[str]] = {}  # dataset -> datasets its table refers to
        self._order: dict[str, int] = {}
        self._next_retry_us: int | None = None
        self._related = False

    # -- what an implementation gives ------------------------------------------------------------

    @abstractmethod
    async def open(self, identity: BusIdentity, partitions: int) -> None:
        """Make absent tables, read the catalogue and the positions. Raises SourceRefused when the
        offsets are of another cluster or topic.

        With a dataset that was not received until now the positions go back to the beginning: its
        deliveries lie before them, and to the other datasets they are nothing new."""

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def batch_limit(self) -> int:
        """How many deliveries the next batch should have at most."""

    @abstractmethod
    async def glimpses(self, ids: Sequence[RecordId]) -> list[Entry]:
        """What is known of these records (`ledger.glimpse`)."""

    @abstractmethod
    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        """All entries that name one of these rows, but for those of `without`."""

    @abstractmethod
    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        """Parked entries: those due by then, and those of `datasets` that lack a parent row."""

    @abstractmethod
    async def next_retry_us(self) -> int | None: ...

    @abstractmethod
    async def commit(self, work: Work) -> None:
        """All of it in one transaction, behind the fence. Raises RowRefused when the database
        refuses some row; nothing is done then."""

    @abstractmethod
    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        """Which actions the database refuses, and why, by trying them; changes nothing."""

    @abstractmethod
    async def status(self, now_us: int) -> list[DatasetStatus]: ...

    # -- what is the same everywhere -------------------------------------------------------------

    async def apply(self, batch: Mapping[int, PartitionBatch], now_us: int) -> Applied:
        """Apply what was read from some partitions, and parked entries whose time has come."""
        positions = dict(self.positions)
        ids = {
            RecordId(item.dataset, item.source_unit, item.key)
            for part in batch.values()
            for item in part.items
            if isinstance(item, Received)
        }
        known = {entry.id: entry for entry in await self.glimpses(sorted(ids))} if ids else {}
        folded = Folded()
        replacing = frozenset(d for d, t in self.targets.items() if t.replaces)
        for number, part in sorted(batch.items()):
            floors = dict(positions[number].floors)
            fold(part.items, known, floors, now_us, replacing=replacing, into=folded)
            positions[number] = Position(part.next_offset, floors)
        due = self._next_retry_us is not None and self._next_retry_us <= now_us
        again: list[Entry] = []
        if due or self._related:
            children = self.parents if self._related else ()
            again = await self.parked(now_us if due else None, children, RETRIES_AT_ONCE)
            for entry in again:
                known[entry.id] = entry
            add_retries(folded, again)
        unreadable = {number: part.unreadable for number, part in batch.items() if part.unreadable}
        work = Work(
            {number: (self.positions[number], positions[number]) for number in batch},
            unreadable,
            now_us,
        )
        decision = await self._settle(folded, known, work, replacing)
        self.positions = positions
        applied = self._applied(folded, decision)
        if due or again:
            self._next_retry_us = await self.next_retry_us()
        return applied

    async def _settle(
        self,
        folded: Folded,
        known: dict[RecordId, Entry],
        work: Work,
        replacing: frozenset[str],
    ) -> Decision:
        """Decide and commit, again for as long as the database refuses rows."""
        fits = prepare(folded, self.targets)
        rows = touched_rows(folded, known, fits)
        if rows:
            # Over glimpses: a record whose delivery was old news may have to be written back.
            for entry in await self.claimants(sorted(rows), folded.candidates.keys()):
                known[entry.id] = entry
        refused: dict[RecordId, Refused] = {}
        fruitless = 0
        while True:
            decision = decide(folded, known, fits, self.targets, work.now_us, refused)
            tallies = Folded(had_copy=folded.had_copy, candidates=folded.candidates)
            tallies.retries, tallies.tallies = folded.retries, folded.tallies.copy()
            tally(tallies, decision, replacing)
            try:
                await self.commit(replace(work, decision=decision, tallies=tallies.tallies))
            except RowRefused as error:
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
            folded.tallies = tallies.tallies
            return decision

    def _begin(self, positions: dict[int, Position], remembered: Iterable[str]) -> None:
        """Where to go on from; `remembered`: the datasets of `mapped`."""
        self.fresh = self.declared - frozenset(remembered)
        self.read_before, self.positions = {}, positions
        if self.fresh and any(p.next_offset for p in positions.values()):
            self.read_before = {n: p.next_offset for n, p in positions.items()}
            self.positions = {n: Position(0, p.floors) for n, p in positions.items()}

    def _applied(self, folded: Folded, decision: Decision) -> Applied:
        written = frozenset(action.row.dataset for action in decision.actions)
        parked = [e for e in decision.entries if e.parked is not None]
        for entry in parked:
            if self._next_retry_us is None or (entry.retry_at_us or 0) < self._next_retry_us:
                self._next_retry_us = entry.retry_at_us
        # A parent row may have come: its children need not wait for their back-off.
        self._related = any(written & parents for parents in self.parents.values())
        new = tuple(e for e in parked if e.id not in folded.retries)
        return Applied(folded.tallies, written, new)

    def retry_in_seconds(self, now_us: int) -> float | None:
        """When `apply` should be called even with an empty batch; None: no need."""
        if self._related:
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


@dataclass(frozen=True, slots=True)
class Work:
    """One transaction: `positions` (partition -> before, after), the decision, the counts."""

    positions: Mapping[int, tuple[Position, Position]]
    unreadable: Mapping[int, list[Unreadable]]
    now_us: int
    decision: Decision = field(default_factory=Decision)
    tallies: Counter[Tally] = field(default_factory=Counter)

    @property
    def day(self) -> str:
        return day_of(self.now_us)


def day_of(now_us: int) -> str:
    """The calendar day in China, as statistics name it."""
    return datetime.fromtimestamp(now_us / 1e6, CHINA).date().isoformat()


def floors_text(floors: Mapping[str, int]) -> str:
    return json.dumps(dict(floors), sort_keys=True)


def missing_column(place: str, dataset: str, table: str, column: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"{place}: table {table} has no column {column} to write to",
        mend=f"Add it, or change `receives: {dataset}` in department.yml",
    )


def moved_offsets() -> Fenced:
    return Fenced(
        "another adapter moved this inbox's offsets",
        mend="Run one adapter per system; this one stops",
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
                mend="If it was rebuilt on purpose, run `deptbus department rejoin --config FILE`",
            )
        found[number] = Position(next_offset, json.loads(floors))
    return found
