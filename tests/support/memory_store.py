"""A Store whose database is some dicts, for tests of what is the same in every database."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from recipient_world import PlainTarget, carry_out

from deptbus.department.decide import Action, Decision, Write
from deptbus.department.fold import Tally
from deptbus.department.ledger import Entry, ParkedChoice, ParkedRow, RecordId, Row, Sender
from deptbus.department.plain import Known, entries_of
from deptbus.department.store import (
    BusIdentity,
    DatasetStatus,
    Mistaken,
    Position,
    Store,
    Work,
)
from deptbus.errors import RowRefused


class MemoryStore(Store):
    """`refuse`: (kind of action, row) that the database refuses now. `plain`: how many records went
    the short way, `presumed` of them without being looked up. `presumes`: every batch is tried
    so."""

    def __init__(self, plain_from: int, *, presumes: bool = False) -> None:
        super().__init__("in.audit-330106", b"token")
        self.plain_from = plain_from
        self.targets = {"resident": PlainTarget()}  # type: ignore[dict-item]
        self.parents = {"resident": frozenset()}
        self.order_targets()
        self.positions = {number: Position(0, {}) for number in (0, 1)}
        self.ledger: dict[RecordId, Entry] = {}
        self.rows: dict[Row, list[Any]] = {}
        self.tallies: Counter[Tally] = Counter()
        self.refuse: set[tuple[type, Row]] = set()
        self.plain = self.presumed = 0
        self.presume_from = 1 if presumes else sys.maxsize

    @property
    def _presumes(self) -> bool:  # type: ignore[override]
        return self.presume_from == 1

    @_presumes.setter
    def _presumes(self, seems_so: bool) -> None: ...

    async def open(self, identity: BusIdentity, partitions: int) -> None: ...

    async def _note_begun(self, offsets: Mapping[int, int]) -> None: ...

    async def close(self) -> None: ...

    @property
    def batch_limit(self) -> int:
        return 100

    async def glimpses(self, wanted: Mapping[Sender, Collection[bytes]]) -> Known:
        return {
            sender: {
                key: (key, *e.pair, e.op, e.row, e.held)
                for key in keys
                if (e := self.ledger.get(RecordId(*sender, key))) is not None
            }
            for sender, keys in wanted.items()
        }

    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        return [
            e
            for e in self.ledger.values()
            if e.row is not None and Row(e.dataset, e.row) in rows and e.id not in without
        ]

    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        return [
            e
            for e in self.ledger.values()
            if e.parked is not None and due_us is not None and (e.retry_at_us or 0) <= due_us
        ][:limit]

    async def next_retry_us(self) -> int | None:
        times = [e.retry_at_us for e in self.ledger.values() if e.retry_at_us is not None]
        return min(times, default=None)

    async def tallies_since(self, day: str) -> dict[str, Counter[Tally]]:
        return {day: self.tallies}

    async def parked_rows(self) -> dict[tuple[str, str], int]:
        parked = [e for e in self.ledger.values() if e.parked is not None]
        return dict(Counter((e.dataset, e.parked) for e in parked if e.parked is not None))

    async def parked_list(self, limit: int) -> list[ParkedRow]:
        raise NotImplementedError("nobody asks")

    async def make_due(self, choice: ParkedChoice, due_us: int, limit: int) -> int:
        raise NotImplementedError("nobody asks")

    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        return [(a, "refused") for a in decision.actions if (type(a), a.row) in self.refuse]

    async def commit(self, work: Work) -> None:
        plain = [
            (Row(dataset, one.row), one) for dataset, lot in work.lots.items() for one in lot.plain
        ]
        if work.is_presumed:
            for row, one in plain:
                found = self.ledger.get(RecordId(row.dataset, one.received.source_unit, one.key))
                if found is None or (found.row, found.held) != (row.key, True):
                    raise Mistaken
                if found.version >= one.version:
                    raise Mistaken
            self.presumed += len(plain)
        touched = [(type(a), a.row) for a in work.decision.actions]
        if self.refuse & {*touched, *((Write, row) for row, _ in plain)}:
            raise RowRefused("refused")
        carry_out(self.rows, work.decision.actions)
        for row, one in plain:
            self.rows[row] = list(one.payload)
        self.plain += len(plain)
        entries = [
            Entry._make(e) for lot in work.lots.values() for e in entries_of(lot, work.now_us)
        ]
        self.ledger.update({e.id: e for e in (*work.decision.entries, *entries)})
        self.tallies.update(work.tallies)

    async def status(self, now_us: int) -> list[DatasetStatus]:
        raise NotImplementedError("nobody asks")
