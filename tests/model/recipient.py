"""A recipient department: its database as dicts, and the adapter that applies its inbox.

`ModelStore` is one more implementation of the product's `Store`: folding, deciding and finding a
way around refused rows are the product's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deptbus.change import Received
from deptbus.department.decide import Action, Clear, Decision, Remove, Write
from deptbus.department.fold import Tally
from deptbus.department.ledger import Entry, ParkedChoice, ParkedRow, RecordId, Row, Sender
from deptbus.department.plain import Known, entries_of
from deptbus.department.store import (
    BusIdentity,
    DatasetStatus,
    PartitionBatch,
    Position,
    Store,
    Work,
    put_back,
)
from deptbus.errors import Fenced, RowRefused
from deptbus.names import in_topic
from deptbus.stream.log import LogRecord
from deptbus.wire.control import PolicyMarker

from .county import CODECS, DATASET, FIELDS, TARGET
from .simulation import Instance, rest, step

if TYPE_CHECKING:
    from .world import World

_PLACE_OF_ID = FIELDS.index("id")


class RecipientDatabase:
    """Durable: rows, ledger, offset, and the token of the adapter that may write."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.rows: dict[Row, list[Any]] = {}
        self.ledger: dict[RecordId, Entry] = {}
        self.position = Position(0, {})
        self.token = b""
        self.refuses: set[str] = set()  # own keys that a constraint does not allow now

    def is_refused(self, action: Action) -> bool:
        return isinstance(action, Write) and action.values[_PLACE_OF_ID] in self.refuses


class ModelStore(Store):
    def __init__(self, world: World, database: RecipientDatabase, token: bytes) -> None:
        super().__init__(in_topic(database.unit), token)
        self.world, self.database = world, database

    async def open(self, identity: BusIdentity, partitions: int) -> None:
        await step()
        self.positions = {0: self.database.position}
        self.targets = {DATASET: TARGET}
        self.parents = {DATASET: frozenset()}
        self.order_targets()
        self._next_retry_us = await self.next_retry_us()

    async def _note_begun(self, offsets: Mapping[int, int]) -> None: ...

    async def close(self) -> None: ...

    @property
    def batch_limit(self) -> int:
        return 5

    async def glimpses(self, wanted: Mapping[Sender, Collection[bytes]]) -> Known:
        await step()
        ledger = self.database.ledger
        return {
            sender: {
                key: (key, *e.pair, e.op, e.row, e.held)
                for key in keys
                if (e := ledger.get(RecordId(*sender, key))) is not None
            }
            for sender, keys in wanted.items()
        }

    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        await step()
        return [
            e
            for e in self.database.ledger.values()
            if e.row is not None and Row(e.dataset, e.row) in rows and e.id not in without
        ]

    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        await step()
        due = [
            e
            for e in self.database.ledger.values()
            if e.parked is not None and due_us is not None and (e.retry_at_us or 0) <= due_us
        ]
        return due[:limit]

    async def next_retry_us(self) -> int | None:
        entries = self.database.ledger.values()
        return min((e.retry_at_us for e in entries if e.retry_at_us is not None), default=None)

    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        await step()
        refused = self.database.is_refused
        return [(action, "a constraint") for action in decision.actions if refused(action)]

    async def commit(self, work: Work) -> None:
        await step()
        database, bugs = self.database, self.world.bugs
        if not bugs.no_fence:
            if database.token != self.token:
                raise Fenced("another adapter has taken over")
            for before, _ in work.positions.values():
                if before != database.position:
                    raise put_back("model")
        plain = [Entry._make(e) for lot in work.lots.values() for e in entries_of(lot, 0)]
        writes = [
            Write(
                RecordId(dataset, one.received.source_unit, one.key),
                Row(dataset, one.row),
                0,
                one.payload,
            )
            for dataset, lot in work.lots.items()
            for one in lot.plain
        ]
        actions = [*work.decision.actions, *writes]
        entries = [*work.decision.entries, *plain]
        if any(database.is_refused(action) for action in actions):
            raise RowRefused("a constraint")
        for action in actions:
            if isinstance(action, Remove):
                database.rows.pop(action.row, None)
            elif isinstance(action, Clear) and action.row in database.rows:
                for at in action.columns:
                    database.rows[action.row][at] = TARGET.cleared(at)
            elif isinstance(action, Write):
                old = database.rows.get(action.row)
                database.rows[action.row] = self._row(action, old, entries)
        self._notice_stale(entries)
        database.ledger |= {entry.id: entry for entry in entries}
        for _, after in work.positions.values():
            database.position = after
        await step()

    def _notice_stale(self, entries: Iterable[Entry]) -> None:
        """Never, not even for a moment, does an older state overwrite a newer one."""
        for entry in entries:
            old = self.database.ledger.get(entry.id)
            if old is not None and entry.pair < old.pair:
                self.world.wrong.append(
                    f"{self.database.unit}: {entry.pair} was written over {old.pair}"
                )

    def _row(self, action: Write, old: list[Any] | None, entries: Iterable[Entry]) -> list[Any]:
        values = list(action.values)
        if self.world.bugs.closed_column_stands and old is not None:
            entry = next(e for e in entries if e.id == action.id)
            for at in TARGET.closed_columns(entry.field_names):
                values[at] = old[at]
        return values

    async def status(self, now_us: int) -> list[DatasetStatus]:
        raise NotImplementedError("nobody asks in the model")

    async def parked_rows(self) -> dict[tuple[str, str], int]:
        raise NotImplementedError("nobody asks in the model")

    async def parked_list(self, limit: int) -> list[ParkedRow]:
        raise NotImplementedError("nobody asks in the model")

    async def make_due(self, choice: ParkedChoice, due_us: int, limit: int) -> int:
        raise NotImplementedError("nobody asks in the model")

    async def tallies_since(self, day: str) -> dict[str, Counter[Tally]]:
        raise NotImplementedError("nobody asks in the model")


async def apply_inbox(world: World, database: RecipientDatabase, me: Instance) -> None:
    """The adapter of one start: take over, then apply for ever."""
    await step()
    token = database.token = world.chance.randbytes(8)
    store = ModelStore(world, database, token)
    await store.open(BusIdentity("cluster", "topic"), 1)
    records: list[LogRecord] = []
    while True:
        await (step() if records else rest())
        start = store.positions[0].next_offset
        records = world.bus.read(store.topic, start, world.chance.randint(1, store.batch_limit))
        retry = store.retry_in_seconds(world.now_us)
        if not records and (retry is None or retry > 0):
            if database.token != token and not world.bugs.no_fence:
                raise Fenced("another adapter has taken over")
            continue
        items: list[Received | PolicyMarker] = []
        for record in records:
            found = CODECS.decode_inbox(record.key, record.value)
            assert isinstance(found, Received | PolicyMarker)
            items.append(found)
        batch = {0: PartitionBatch(start + len(records), items)} if records else {}
        await store.apply(batch, world.now_us)
