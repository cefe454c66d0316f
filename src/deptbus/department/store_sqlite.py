"""The store in an SQLite file: short transactions, since SQLite has one writer."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from deptbus.contract.department import Receive
from deptbus.department import fence
from deptbus.department.adoption import DROPPED_REMOVAL, DROPPED_WRITE, Existing, Found
from deptbus.department.adoption_sqlite import (
    SqliteRows,
    existing_of,
    is_referred_to,
    note_existing,
    primary_key,
    row_name,
    sqlite_existing_status,
)
from deptbus.department.bookkeeping import (
    COLUMN_LIST,
    ENTRY_COLUMNS,
    GLIMPSE_LIST,
    SQLITE_TABLES,
    newer_lines,
)
from deptbus.department.connect import SqliteDatabase, sqlite_translated
from deptbus.department.decide import Action, Clear, Decision, Remove, Write
from deptbus.department.fold import Tally
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import (
    NEVER_US,
    REASON_LETTERS,
    Entry,
    ParkedChoice,
    ParkedRow,
    RecordId,
    Row,
    Sender,
)
from deptbus.department.plain import Known, Lot, Sifted, entries_of
from deptbus.department.rebuild import Rebuild, second_receive
from deptbus.department.rebuild_desk import RebuildDesk
from deptbus.department.rebuild_sqlite import SqliteShadows
from deptbus.department.repairs import ORDER_KEPT_US, REMOVE, Looked, Order, OrderId, Repairs
from deptbus.department.seen import (
    LINE_LIST,
    SQLITE_OF_DATASET,
    Line,
    Values,
    row_digest,
    sqlite_select_rows,
)
from deptbus.department.several_tables import (
    make_sqlite,
    refuse_rows_sqlite,
    refuse_view_sqlite,
)
from deptbus.department.sqlite_references import references
from deptbus.department.sqlite_schema import has_early_triggers
from deptbus.department.store import (
    REFERENCE,
    Applied,
    BusIdentity,
    DatasetStatus,
    Mistaken,
    Pace,
    PartitionBatch,
    Position,
    RowsChanged,
    Store,
    Work,
    check_columns,
    day_of,
    floors_text,
    positions_of,
    put_back,
    tallies_of,
)
from deptbus.department.target import Column, MappedTarget, Shapes
from deptbus.department.values import own_column_type, sqlite_kind
from deptbus.errors import DatabaseUnavailable, RowRefused
from deptbus.names import rebuilt_copy
from deptbus.wire.digest import decode_values

LEAST_BATCH, MOST_BATCH = 50, 500
# A transaction of the adapter holds up every writer of the department for its length.
LONG_SECONDS = 0.010
# Of the time in which it only waits for a processor, or for a disk, so much counts: where the
# machine is busy, smaller batches make all of it longer.
_WAIT_SHARE = 0.25
# The write-ahead log is brought into the file between transactions, not at the end of one; by 4 MB
# at a time where rows are renewed, by 20 where they are new.
CHECKPOINT_ROWS = 4000
_SCANNED_ROWS = 2000
_VARIABLES = 900  # SQLite before 3.32 takes at most 999 in a statement


class SqliteStore(Store):
    """See Store. `mapping`: dataset -> (Receive, columns of the row's own key)."""

    presume_from = 10  # fewer are soon looked up, and soon mistaken

    def __init__(
        self,
        database: SqliteDatabase,
        topic: str,
        token: bytes,
        mapping: Mapping[str, tuple[Receive, tuple[str, ...]]],
        shapes: Shapes,
    ) -> None:
        super().__init__(topic, token)
        self._database, self._mapping, self._shapes = database, mapping, shapes
        self._wanted = mapping  # those with tables that are not fit now too
        self.declared = frozenset(mapping)
        self._statements: dict[str, _Statements] = {}
        self.rebuilds = RebuildDesk(self, SqliteShadows(self))
        self._seen: Known = {}  # what the batch's records were last seen as
        self._not_in_file = 0  # records applied since the last checkpoint
        self._pace = Pace(least=LEAST_BATCH, most=MOST_BATCH, start=200, seconds=LONG_SECONDS)

    @property
    def batch_limit(self) -> int:
        return self._pace.limit

    async def open(self, identity: BusIdentity, partitions: int) -> None:
        def prepare(connection: sqlite3.Connection) -> None:
            # What the last commits lose in a power cut is read from the inbox once more: their
            # offsets are lost with them. The publisher's own commits stay FULL.
            connection.execute("PRAGMA synchronous = NORMAL")
            # 8 MB of pages: a batch reads the indexes of the ledger all over.
            connection.execute("PRAGMA cache_size = -8000")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # `_checkpoint` does it
            connection.execute("BEGIN IMMEDIATE")
            try:
                fence.check_sqlite(connection, self.token)
                for statement in SQLITE_TABLES:
                    connection.execute(statement)
                unfit = self._look_at_tables(connection)
                self._leave_out(unfit, self._mapping)
                self._mapping = {d: m for d, m in self._mapping.items() if d not in unfit}
                for dataset, tables in self.several.items():
                    if dataset not in unfit:
                        for statement in make_sqlite(connection, dataset, tables):
                            connection.execute(statement)
                remembered = {
                    d for (d,) in connection.execute("SELECT dataset FROM deptbus_mapped")
                }
                for dataset, (receive, key) in self._mapping.items():
                    note_existing(
                        connection, dataset, receive.table, is_new=dataset not in remembered
                    )
                    self._make_table(connection, dataset, receive, key)
                positions = _positions(connection, self.topic, identity, partitions)
                self._begin(positions, remembered)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            existing = existing_of(connection)
            for dataset, (receive, key) in self._mapping.items():
                self._read_catalogue(connection, dataset, receive, key, existing[dataset])
            self._read_parents(connection)

        await self._database.run(prepare)
        assert self.rebuilds is not None
        await self.rebuilds.open(time.time_ns() // 1000)
        self.order_targets()
        self._next_retry_us = await self.next_retry_us()
        await self.look_at_existing()

    async def _note_begun(self, offsets: Mapping[int, int]) -> None:
        def note(connection: sqlite3.Connection) -> None:
            fence.check_sqlite(connection, self.token)
            connection.execute("DELETE FROM deptbus_mapped")
            connection.executemany(
                "INSERT INTO deptbus_mapped VALUES (?)", [(d,) for d in self.declared]
            )
            connection.executemany(
                "UPDATE deptbus_offsets SET next_offset = ? WHERE topic = ? AND part = ?",
                [(at, self.topic, number) for number, at in offsets.items()],
            )

        await self._database.transaction(note)

    def _look_at_tables(self, connection: sqlite3.Connection) -> dict[str, DatabaseUnavailable]:
        found: dict[str, DatabaseUnavailable] = {}
        for dataset, (receive, _) in self._wanted.items():
            try:
                if dataset in self.several:
                    make_sqlite(connection, dataset, self.several[dataset])
                    refuse_rows_sqlite(connection, dataset, self.several[dataset], receive)
                    continue
                refuse_view_sqlite(connection, dataset, receive)
                have = read_columns(connection, receive.table)
                check_columns(self._database.place, dataset, receive, have)
            except DatabaseUnavailable as error:
                found[dataset] = error
        return found

    async def are_mended(self) -> bool:
        return self.unfit.keys() > (await self._database.run(self._look_at_tables)).keys()

    async def close(self) -> None:
        await self._database.close()

    @property
    def database(self) -> SqliteDatabase:
        return self._database

    async def apply(
        self, batch: Mapping[int, PartitionBatch], now_us: int, sifted: Sifted | None = None
    ) -> Applied:
        apply = super().apply
        return await self._database.together(lambda: apply(batch, now_us, sifted))

    async def swap(self, now_us: int) -> Rebuild | None:
        swap = super().swap
        return await self._database.together(lambda: swap(now_us))

    # -- reading ---------------------------------------------------------------------------------

    async def glimpses(self, wanted: Mapping[Sender, Collection[bytes]]) -> Known:
        def read(connection: sqlite3.Connection) -> Known:
            found: dict[Sender, dict[bytes, tuple[Any, ...]]] = {}
            for sender, keys in wanted.items():
                mine = found[sender] = {}
                for some in _chunks(list(keys)):
                    rows = connection.execute(
                        f"SELECT {GLIMPSE_LIST}, {_KEEPS} FROM deptbus_ledger "
                        f"WHERE dataset = ? AND source_unit = ? AND key IN ({_marks(some)})",
                        (*sender, *some),
                    ).fetchall()
                    mine.update(zip(map(_KEY_OF, rows), rows, strict=True))
            return found

        self._seen = await self._database.run(read)
        return self._seen

    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        def read(connection: sqlite3.Connection) -> list[Entry]:
            names: list[RecordId] = []
            # IN alone says that the index has them: IS NOT NULL beside it would be taken for a
            # range, which is all of a dataset.
            for dataset, group in groupby(rows, key=lambda r: r.dataset):
                for keys in _chunks([r.key for r in group]):
                    found = connection.execute(
                        "SELECT dataset, source_unit, key FROM deptbus_ledger WHERE dataset = ? "
                        f"AND row_key IN ({_marks(keys)})",
                        (dataset, *keys),
                    )
                    names += [name for row in found if (name := RecordId(*row)) not in without]
            return [
                entry
                for name in names
                for entry in _entries(
                    connection, "dataset = ? AND source_unit = ? AND key = ?", name
                )
            ]

        return await self._database.run(read)

    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        names = tuple(datasets)
        mapped = tuple(self.targets)
        # By the index of what is parked (+): a dataset's lines may be many, and wait.
        wanted = (
            f"parked IS NOT NULL AND retry_at_us < {NEVER_US} "
            f"AND +dataset IN ({_marks(mapped)}) AND (retry_at_us <= ? "
            f"OR (dataset IN ({_marks(names)}) AND parked LIKE '%foreign key%')) "
            f"ORDER BY retry_at_us LIMIT ?"
        )
        words = (*mapped, -1 if due_us is None else due_us, *names, limit)
        return await self._database.run(lambda c: _entries(c, wanted, words))

    async def next_retry_us(self) -> int | None:
        mapped = tuple(self.targets)
        sql = (
            "SELECT min(retry_at_us) FROM deptbus_ledger WHERE parked IS NOT NULL "
            f"AND retry_at_us < {NEVER_US} AND +dataset IN ({_marks(mapped)})"
        )
        return await self._database.run(lambda c: c.execute(sql, mapped).fetchone()[0])

    async def parked_rows(self) -> dict[tuple[str, str], int]:
        mapped = self.datasets
        sql = (
            "SELECT dataset, parked, count(*) FROM deptbus_ledger WHERE parked IS NOT NULL "
            f"AND dataset IN ({_marks(mapped)}) GROUP BY dataset, parked"
        )
        rows = await self._database.run(lambda c: c.execute(sql, mapped).fetchall())
        return {(dataset, reason): count for dataset, reason, count in rows}

    async def parked_list(self, limit: int) -> list[ParkedRow]:
        mapped = self.datasets
        sql = (
            f"SELECT dataset, source_unit, key, version, substr(parked, 1, {REASON_LETTERS}), "
            "parked_since_us, attempts FROM deptbus_ledger WHERE parked IS NOT NULL "
            f"AND dataset IN ({_marks(mapped)}) ORDER BY parked_since_us, key LIMIT ?"
        )
        rows = await self._database.run(lambda c: c.execute(sql, (*mapped, limit)).fetchall())
        return [ParkedRow._make(row) for row in rows]

    async def make_due(self, choice: ParkedChoice, due_us: int, limit: int) -> int:
        mapped = [d for d in self.datasets if choice.dataset in ("", d)]
        where, words = "", list[Any]()
        if choice.key is not None:
            where, words = " AND key = ?", [choice.key]
        if choice.reason:
            where += f" AND substr(parked, 1, {REASON_LETTERS}) = ?"
            words.append(choice.reason)
        sql = (
            "UPDATE deptbus_ledger SET retry_at_us = ? WHERE rowid IN (SELECT rowid FROM "
            f"deptbus_ledger WHERE parked IS NOT NULL AND retry_at_us < {NEVER_US} "
            f"AND retry_at_us <> ? AND +dataset IN ({_marks(mapped)}){where} LIMIT ?)"
        )

        def write(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            try:
                fence.check_sqlite(connection, self.token)
                count = connection.execute(sql, (due_us, due_us, *mapped, *words, limit)).rowcount
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return count

        return await self._database.run(write)

    async def tallies_since(self, day: str) -> dict[str, Counter[Tally]]:
        sql = (
            "SELECT day, dataset, cause, direction, outcome, deliveries FROM deptbus_statistics "
            "WHERE day >= ?"
        )
        return tallies_of(await self._database.run(lambda c: c.execute(sql, (day,)).fetchall()))

    async def orders(self, wanted: Collection[OrderId]) -> dict[OrderId, Order]:
        def read(connection: sqlite3.Connection) -> dict[OrderId, Order]:
            found = {}
            for name in wanted:
                row = connection.execute(
                    "SELECT seen, action, overwrite FROM deptbus_repairs "
                    "WHERE job = ? AND dataset = ? AND key = ?",
                    name,
                ).fetchone()
                if row is not None:
                    found[name] = Order(name, row[0], row[1], bool(row[2]))
            return found

        return await self._database.run(read)

    async def look_at(self, orders: Collection[Order]) -> dict[OrderId, Looked]:
        def read(connection: sqlite3.Connection) -> dict[OrderId, Looked]:
            return {order.id: self._looked(connection, order) for order in orders}

        return await self._database.run(read)

    def _looked(self, connection: sqlite3.Connection, order: Order) -> Looked:
        _, dataset, key = order.id
        line, row = None, self.stranger_in(dataset, key) if order.action == REMOVE else None
        if order.action != REMOVE:
            found = connection.execute(
                f"SELECT {LINE_LIST} FROM deptbus_ledger WHERE {SQLITE_OF_DATASET} AND key = ?",
                (dataset, key),
            ).fetchone()
            line = None if found is None else Line._make(found)
            row = line.row if line is not None and line.held else None
        elif row is not None and self._is_held(connection, dataset, row):
            row = None
        values = None if row is None else self.real(connection, Row(dataset, row))
        return Looked(line, row, values)

    def _is_held(self, connection: sqlite3.Connection, dataset: str, row: bytes) -> bool:
        return bool(
            connection.execute(
                "SELECT count(*) FROM deptbus_ledger WHERE dataset = ? AND row_key = ? AND held",
                (dataset, row),
            ).fetchone()[0]
        )

    def real(self, connection: sqlite3.Connection, row: Row) -> Values | None:
        sql, words = sqlite_select_rows(self.targets[row.dataset], [row.key])
        found: Values | None = connection.execute(sql, words).fetchone()
        return found

    # -- rows that were here before the bus --------------------------------------------------------

    async def existing_tables(self) -> dict[str, Existing]:
        return await self._database.run(existing_of)

    async def lines_that_wait(self, dataset: str, limit: int) -> list[Entry]:
        where = f"parked IS NOT NULL AND retry_at_us = {NEVER_US} AND +dataset = ? LIMIT ?"
        return await self._database.run(lambda c: _entries(c, where, (dataset, limit)))

    async def parked_upserts(
        self, dataset: str, after: tuple[str, bytes], limit: int
    ) -> list[Entry]:
        where = (
            "dataset = ? AND (source_unit, key) > (?, ?) AND op = 'upsert' "
            "AND parked IS NOT NULL "
            "ORDER BY source_unit, key LIMIT ?"
        )
        return await self._database.run(lambda c: _entries(c, where, (dataset, *after, limit)))

    async def look_for(
        self, dataset: str, positions: Sequence[int], words: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], list[Found]]:
        rows = self._statements[dataset].rows
        return await self._database.run(lambda c: rows.look_for(c, positions, words))

    async def look_for_emptied(
        self, dataset: str, wanted: Mapping[RecordId, bytes]
    ) -> dict[RecordId, Found]:
        rows = self._statements[dataset].rows
        return await self._database.run(lambda c: rows.look_for_emptied(c, wanted))

    def left_behind(self, dataset: str) -> list[tuple[Any, ...]]:
        rows = self._statements[dataset].rows
        left, rows.left = rows.left, []
        return left

    async def read_columns_of(
        self, dataset: str, positions: Sequence[int]
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        rows = self._statements[dataset].rows
        cursor = await self._database.run(lambda c: rows.read(c, positions))
        while some := await self._database.run(lambda _: cursor.fetchmany(_SCANNED_ROWS)):
            yield some

    async def status(self, now_us: int) -> list[DatasetStatus]:
        return await self._database.run(lambda c: sqlite_status(c, tuple(self._mapping), now_us))

    # -- writing ---------------------------------------------------------------------------------

    async def commit(self, work: Work) -> None:
        def write(connection: sqlite3.Connection) -> float:
            self._checkpoint(connection)
            connection.execute("BEGIN IMMEDIATE")
            began, spent = time.monotonic(), time.thread_time()
            try:
                fence.check_sqlite(connection, self.token)
                # A table may refer to itself: no order of statements is right for all its rows.
                connection.execute("PRAGMA defer_foreign_keys = ON")
                if work.repairs is not None:
                    self._guard(connection, work.repairs, work.now_us)
                self._write_rows(connection, work)
                self._write_books(connection, work)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            spent = time.thread_time() - spent
            self._not_in_file += work.size
            return max(spent, (time.monotonic() - began) * _WAIT_SHARE)

        seconds = await self._database.run(write)
        self._pace.took(seconds, work.size)

    def _guard(self, connection: sqlite3.Connection, repairs: Repairs, now_us: int) -> None:
        """Behind BEGIN IMMEDIATE: nobody else writes."""
        changed = [
            row
            for row, digest in repairs.guards.items()
            if (None if (v := self.real(connection, row)) is None else row_digest(v)) != digest
        ]
        if changed:
            raise RowsChanged(changed)
        connection.executemany(
            "INSERT OR REPLACE INTO deptbus_repairs VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*o.id, o.seen, o.action, o.overwrite, now_us) for o in repairs.new.values()],
        )
        connection.executemany(
            "DELETE FROM deptbus_repairs WHERE job = ? AND dataset = ? AND key = ?",
            list(repairs.done),
        )
        connection.execute(
            "DELETE FROM deptbus_repairs WHERE ordered_at_us < ?", (now_us - ORDER_KEPT_US,)
        )

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Now and then; waits for nobody, and holds up no writer. Before a transaction: failing
        behind one it would speak of a batch that is applied as of one that is not."""
        if self._not_in_file >= CHECKPOINT_ROWS:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._not_in_file = 0

    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        def look(connection: sqlite3.Connection) -> list[tuple[Action, str]]:
            found: list[tuple[Action, str]] = []
            connection.execute("BEGIN IMMEDIATE")
            try:
                fence.check_sqlite(connection, self.token)
                # A statement that SQLite refuses undoes itself only: the others can go on.
                for action in self.ordered(decision):
                    reason = self.attempt(connection, action)
                    if reason is not None:
                        found.append((action, reason))
                    if not connection.in_transaction:  # a trigger said RAISE(ROLLBACK)
                        break
                if not found and connection.in_transaction:
                    found = self._deferred(connection, decision)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return found

        return await self._database.run(look)

    def attempt(self, connection: sqlite3.Connection, action: Action) -> str | None:
        statements = self._statements[action.row.dataset]
        try:
            with sqlite_translated(self._database.place), _applying(connection, action.row.dataset):
                statements.run(connection, [action], 0)
        except RowRefused as error:
            return error.what.removeprefix(f"{self._database.place}: ")
        return None

    def _deferred(
        self, connection: sqlite3.Connection, decision: Decision
    ) -> list[tuple[Action, str]]:
        """Rows that break a foreign key which SQLite checks at the end only: each action alone, in
        a transaction that is taken back."""
        found: list[tuple[Action, str]] = []
        connection.execute("ROLLBACK")
        actions = self.ordered(decision)
        known = {
            dataset: references(connection, self.targets[dataset].table)
            for dataset in {action.row.dataset for action in actions}
        }
        for action in actions:
            own, to_it = known[action.row.dataset]
            where, key = self._statements[action.row.dataset].where, decode_values(action.row.key)
            connection.execute("BEGIN IMMEDIATE")
            fence.check_sqlite(connection, self.token)
            # What is broken already is of programs that switch the check off.
            before = [one.is_broken_by(connection, where, key) for one in own]
            named = [one.named(connection, where, key) for one in to_it]
            self.attempt(connection, action)
            is_broken = any(
                one.is_broken_by(connection, where, key) and not was
                for one, was in zip(own, before, strict=True)
            ) or any(
                one.has_left_children(connection, name)
                for one, name in zip(to_it, named, strict=True)
            )
            connection.execute("ROLLBACK")
            if is_broken:
                found.append((action, f"{REFERENCE} (checked at the commit)"))
        return found

    def ordered(self, decision: Decision) -> list[Action]:
        return [
            *self.in_order(decision.removes, parents_first=False),
            *self.in_order(decision.clears, parents_first=True),
            *self.in_order(decision.writes, parents_first=True),
        ]

    def _write_rows(self, connection: sqlite3.Connection, work: Work) -> None:
        decision = work.decision
        for dataset in work.datasets():
            if self.targets[dataset].keeps:
                rows = self._statements[dataset].rows
                rows.keep_typed_over(connection, work.writes_of(dataset), work.now_us)
        for ordered in (
            self.in_order(decision.removes, parents_first=False),
            self.in_order(decision.clears, parents_first=True),
        ):
            for dataset, group in groupby(ordered, key=lambda a: a.row.dataset):
                with _applying(connection, dataset):
                    self._statements[dataset].run(connection, list(group), work.now_us)
        adopts = [write for write in decision.writes if write.adopts is not None]
        adopts.sort(key=lambda w: (w.row.dataset, w.row))
        for dataset, some in groupby(adopts, key=lambda w: w.row.dataset):
            with _applying(connection, dataset):
                self._statements[dataset].rows.adopt(connection, list(some), work.now_us)
        writes: dict[str, list[tuple[Any, ...]]] = {}
        for write in sorted(decision.writes, key=lambda w: w.row):
            writes.setdefault(write.row.dataset, []).append(write.values)
        for dataset, lot in work.lots.items():
            writes.setdefault(dataset, []).extend(one.payload for one in lot.plain)
        for dataset in sorted(writes, key=self._order.__getitem__):
            with _applying(connection, dataset):
                self._statements[dataset].write(connection, writes[dataset])

    def write_decision(
        self, connection: sqlite3.Connection, decision: Decision, now_us: int
    ) -> None:
        """Rows and lines of a decision alone."""
        self._write_rows(connection, Work({}, {}, now_us, decision=decision))
        connection.executemany(_WRITE_ENTRY, decision.entries)

    def entry_of_row(self, row: Sequence[Any]) -> Entry:
        return _entry(row)

    def _write_books(self, connection: sqlite3.Connection, work: Work) -> None:
        connection.executemany(_WRITE_ENTRY, work.decision.entries)
        for lot in work.lots.values():
            self._write_lot(connection, lot, work.now_us, is_presumed=work.is_presumed)
        connection.executemany(
            "INSERT INTO deptbus_statistics VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET deliveries = deliveries + excluded.deliveries",
            [(work.day, *line, count) for line, count in sorted(work.tallies.items())],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO deptbus_unreadable VALUES (?, ?, ?, ?, ?)",
            [
                (self.topic, number, place.offset, place.reason, work.now_us)
                for number, places in work.unreadable.items()
                for place in places
            ],
        )
        for number, (before, after) in work.positions.items():
            moved = connection.execute(
                "UPDATE deptbus_offsets SET next_offset = ?, floors = ? "
                "WHERE topic = ? AND part = ? AND next_offset = ?",
                (
                    after.next_offset,
                    floors_text(after.floors),
                    self.topic,
                    number,
                    before.next_offset,
                ),
            ).rowcount
            if moved != 1:
                raise put_back(self._database.place)

    def _write_lot(
        self, connection: sqlite3.Connection, lot: Lot, now_us: int, *, is_presumed: bool
    ) -> None:
        """A record that held its row before keeps what the indexes have of its line: no page of
        theirs is written then, and those are spread over all of the ledger. Raises Mistaken when
        one that is presumed to be so is not, or not older."""
        if is_presumed:
            lines = [(*_renewed(lot, at, now_us), one[0]) for at, one in enumerate(lot.plain)]
            if connection.executemany(_RENEW_PRESUMED, lines).rowcount != len(lines):
                raise Mistaken
            return
        seen = [self._seen.get((t.dataset, t.source_unit), {}) for t in lot.terms]
        kept: list[tuple[Any, ...]] = []
        others: list[int] = []
        for at, (one, place) in enumerate(zip(lot.plain, lot.places, strict=True)):
            glimpse = seen[place].get(one[1])
            if glimpse is not None and glimpse[-1]:
                kept.append(_renewed(lot, at, now_us))
            else:
                others.append(at)
        connection.executemany(_RENEW, kept)
        if others:
            rest = Lot(
                [lot.plain[at] for at in others], lot.terms, [lot.places[at] for at in others]
            )
            connection.executemany(_WRITE_ENTRY, entries_of(rest, now_us))

    # -- the recipient's own tables --------------------------------------------------------------

    def _make_table(
        self, connection: sqlite3.Connection, dataset: str, receive: Receive, key: tuple[str, ...]
    ) -> None:
        if read_columns(connection, receive.table):
            return
        types = self._shapes.newest_types(dataset)
        parts = []
        for field, column in receive.columns.items():
            kind = types.get(field)
            coded = field in receive.values or kind is None
            own = "TEXT" if coded or kind is None else own_column_type(kind, postgres=False)
            parts.append(f"{quoted(column)} {own}{' NOT NULL' if column in key else ''}")
        names = ", ".join(quoted(k) for k in key)
        connection.execute(
            f"CREATE TABLE {quoted_table(receive.table)} "
            f"({', '.join(parts)}, PRIMARY KEY ({names}))"
        )

    def _read_catalogue(
        self,
        connection: sqlite3.Connection,
        dataset: str,
        receive: Receive,
        key: tuple[str, ...],
        existing: Existing,
    ) -> None:
        catalogue = read_columns(connection, receive.table)
        target = MappedTarget(
            dataset,
            receive,
            key,
            catalogue,
            self._shapes,
            had_rows=existing.had_rows,
            waits=existing.waits,
        )
        target.has_bound_key = is_referred_to(connection, receive.table, key)
        target.identify(primary_key(connection, receive.table), catalogue)
        self.targets[dataset] = target
        unique = _has_unique_key(connection, receive.table, key)
        rows = SqliteRows(target, row_name(connection, receive.table, catalogue))
        self._statements[dataset] = _Statements(
            target, rows, is_unique=unique, habits=_habits_of(connection, receive.table)
        )

    def attach(self, connection: sqlite3.Connection, dataset: str, table: str) -> bool:
        """Have this table filled as a second copy of the dataset; False when it lacks columns."""
        receive, key = self._mapping[dataset]
        catalogue = read_columns(connection, table)
        if any(name not in catalogue for name in (*receive.columns.values(), *receive.defaults)):
            return False
        second = second_receive(receive, table)
        target = MappedTarget(dataset, second, key, catalogue, self._shapes)
        copy = rebuilt_copy(dataset)
        self.targets[copy] = target
        rows = SqliteRows(target, row_name(connection, table, catalogue))
        self._statements[copy] = _Statements(
            target, rows, is_unique=True, habits=_habits_of(connection, table)
        )
        self.parents[copy] = frozenset()
        self.order_targets()
        return True

    def detach(self, dataset: str) -> None:
        for of_copies in (self.targets, self._statements, self.parents):
            of_copies.pop(rebuilt_copy(dataset), None)
        self.order_targets()

    def _read_parents(self, connection: sqlite3.Connection) -> None:
        datasets_of: dict[str, set[str]] = {}
        for dataset, target in self.targets.items():
            datasets_of.setdefault(target.table.lower(), set()).add(dataset)
        for dataset, target in self.targets.items():
            refers = connection.execute(
                'SELECT "table" FROM pragma_foreign_key_list(?)', (target.table,)
            ).fetchall()
            self.parents[dataset] = frozenset(
                d for (table,) in refers for d in datasets_of.get(table.lower(), ())
            )


class _Habits(NamedTuple):
    """What a table does by itself. `has_conflict_clause`: it removes other rows, or drops what is
    written, where a constraint is broken, so it has to be told not to. `has_early_triggers`: they
    may drop what is written or removed (RAISE(IGNORE)), and say nothing of it."""

    has_conflict_clause: bool
    has_early_triggers: bool


def _habits_of(connection: sqlite3.Connection, table: str) -> _Habits:
    made = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
    ).fetchone()
    return _Habits(
        made is not None and _CONFLICT_CLAUSE.search(made[0]) is not None,
        made is not None and has_early_triggers(connection, table),
    )


class _Statements:
    """The SQL of one target. Update first, then insert where nothing was there: an upsert would
    need a unique index of its own and would trip over columns that no mapping names."""

    def __init__(
        self, target: MappedTarget, rows: SqliteRows, *, is_unique: bool, habits: _Habits
    ) -> None:
        """`is_unique`: the table has at most one row for a key."""
        self.rows, self._habits = rows, habits
        abort = " OR ABORT" if habits.has_conflict_clause else ""
        table = quoted_table(target.table)
        names = [quoted(c.name) for c in target.columns]
        keys = target.key_positions
        others = [at for at in range(len(names)) if at not in keys]
        where = " AND ".join(f"{names[at]} = ?" for at in keys)
        extra = [quoted(c.name) for c, _ in target.insert_only]
        self._target, self._keys, self._is_unique = target, keys, is_unique
        self._in_update_order = itemgetter(*others, *keys) if others else tuple
        self._extra = tuple(value for _, value in target.insert_only)
        self._update = (
            f"UPDATE{abort} {table} SET {', '.join(f'{names[at]} = ?' for at in others)} "
            f"WHERE {where}"
            if others
            else None
        )
        self._insert = (
            f"INSERT{abort} INTO {table} ({', '.join([*names, *extra])}) "
            f"SELECT {_marks([*names, *extra])} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {where})"
        )
        self._delete = f"DELETE FROM {table} WHERE {where}"
        self._table, self._names, self.where = table, names, where

    def run(self, connection: sqlite3.Connection, actions: Sequence[Action], now_us: int) -> None:
        """Actions of one kind, in one go. Raises RowsMoved."""
        first = actions[0]
        if isinstance(first, Write):
            writes = [a for a in actions if isinstance(a, Write)]
            self.rows.adopt(connection, [w for w in writes if w.adopts is not None], now_us)
            self.write(connection, [w.values for w in writes])
        elif isinstance(first, Remove):
            gone = self.rows.spared(connection, actions, now_us)
            keys = [decode_values(a.row.key) for a in gone]
            connection.executemany(self._delete, keys)
            if self._habits.has_early_triggers and any(self._is_there(connection, k) for k in keys):
                raise RowRefused(DROPPED_REMOVAL)
        else:
            for action in actions:
                self._clear(connection, action)

    def write(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Each becomes the row with its key; no two have the same."""
        found = 0
        if self._update is not None:
            found = connection.executemany(self._update, map(self._in_update_order, rows)).rowcount
            if found == len(rows) and self._is_unique:
                return  # each was there: nothing to insert
        keys = [tuple(v[at] for at in self._keys) for v in rows]
        made = connection.executemany(
            self._insert, [(*v, *self._extra, *k) for v, k in zip(rows, keys, strict=True)]
        ).rowcount
        if not self._habits.has_early_triggers:
            return
        if (self._update is not None and found + made < len(rows)) or not all(
            self._is_there(connection, k) for k in keys
        ):
            raise RowRefused(DROPPED_WRITE)

    def _is_there(self, connection: sqlite3.Connection, key: tuple[Any, ...]) -> bool:
        found = connection.execute(f"SELECT 1 FROM {self._table} WHERE {self.where}", key)
        return found.fetchone() is not None

    def _clear(self, connection: sqlite3.Connection, action: Action) -> None:
        assert isinstance(action, Clear)
        sets = ", ".join(f"{self._names[at]} = ?" for at in action.columns)
        values = [self._target.cleared(at) for at in action.columns]
        connection.execute(
            f"UPDATE {self._table} SET {sets} WHERE {self.where}",
            (*values, *decode_values(action.row.key)),
        )


_CONFLICT_CLAUSE = re.compile(r"\bON\s+CONFLICT\s+(REPLACE|IGNORE|FAIL|ROLLBACK)\b", re.IGNORECASE)

_WRITE_ENTRY = (
    f"INSERT INTO deptbus_ledger ({COLUMN_LIST}) VALUES ({', '.join('?' * len(ENTRY_COLUMNS))}) "
    f"ON CONFLICT DO UPDATE SET {newer_lines('deptbus_ledger')}"
)
_HELD = ENTRY_COLUMNS.index("held")
_KEY_OF = itemgetter(0)
_KEEPS = "held AND parked IS NULL"  # behind a glimpse: whether only the following is to be renewed
_RENEWED = (
    "version", "policy", "cause", "job", "direction", "rule", "grants", "source_time_us",
    "schema_version", "fields", "record", "delivered", "written", "applied_at_us",
)  # fmt: skip
_RENEW = (
    f"UPDATE deptbus_ledger SET {', '.join(f'{c} = ?{at}' for at, c in enumerate(_RENEWED, 4))} "
    "WHERE dataset = ?1 AND source_unit = ?2 AND key = ?3"
)
_RENEW_PRESUMED = f"{_RENEW} AND version < ?4 AND row_key = ?{4 + len(_RENEWED)} AND {_KEEPS}"


def _renewed(lot: Lot, at: int, now_us: int) -> tuple[Any, ...]:
    """What `_RENEW` is given of one record."""
    _, key, version, time_us, record, delivered, written, _, _ = lot.plain[at]
    dataset, unit, policy, cause, job, direction, rule, grants, schema, fields = lot.terms[
        lot.places[at]
    ]
    return (
        dataset, unit, key, version, policy, cause, job, direction, rule, grants, time_us, schema,
        fields, record, delivered, written, now_us,
    )  # fmt: skip


def _entries(connection: sqlite3.Connection, where: str, words: Sequence[Any]) -> list[Entry]:
    rows = connection.execute(f"SELECT {COLUMN_LIST} FROM deptbus_ledger WHERE {where}", words)
    return [_entry(row) for row in rows]


def _entry(row: Sequence[Any]) -> Entry:
    return Entry._make((*row[:_HELD], bool(row[_HELD]), *row[_HELD + 1 :]))


def read_columns(connection: sqlite3.Connection, table: str) -> dict[str, Column]:
    rows = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)', (table,)
    )
    return {
        name: Column(
            name,
            sqlite_kind(declared),
            declared,
            not_null=bool(not_null) or pk > 0,
            has_default=default is not None,
            generated=hidden in (2, 3),
        )
        for name, declared, not_null, default, pk, hidden in rows
    }


def _has_unique_key(connection: sqlite3.Connection, table: str, key: Sequence[str]) -> bool:
    """Whether no two rows can have the same key: a unique index over it, or the primary key."""
    wanted = {name.lower() for name in key}
    primary = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0", (table,)
    ).fetchall()
    found = [{name.lower() for (name,) in primary}] if primary else []
    for (index,) in connection.execute(
        'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (table,)
    ).fetchall():
        names = connection.execute(
            # An expression has no name, and is in no key.
            "SELECT coalesce(name, '') FROM pragma_index_info(?)",
            (index,),
        )
        found.append({name.lower() for (name,) in names})
    return any(names <= wanted for names in found)


@contextmanager
def _applying(connection: sqlite3.Connection, dataset: str) -> Iterator[None]:
    """Rows written within are received rows of this dataset."""
    fence.begin_applying_sqlite(connection, [dataset])
    yield
    fence.end_applying_sqlite(connection)


def _positions(
    connection: sqlite3.Connection, topic: str, identity: BusIdentity, partitions: int
) -> dict[int, Position]:
    connection.executemany(
        "INSERT OR IGNORE INTO deptbus_offsets VALUES (?, ?, 0, ?, ?, '{}')",
        [(topic, n, identity.cluster_id, identity.topic_id) for n in range(partitions)],
    )
    # Where nothing was applied yet, nothing is lost with a topic that was made again.
    connection.execute(
        "UPDATE deptbus_offsets SET cluster_id = ?, topic_id = ? "
        "WHERE topic = ? AND next_offset = 0",
        (identity.cluster_id, identity.topic_id, topic),
    )
    rows = connection.execute(
        "SELECT part, next_offset, floors, cluster_id, topic_id FROM deptbus_offsets "
        "WHERE topic = ?",
        (topic,),
    ).fetchall()
    return positions_of(rows, topic, identity)


def sqlite_status(
    connection: sqlite3.Connection, datasets: Sequence[str], now_us: int
) -> list[DatasetStatus]:
    """Needs the bookkeeping tables; any connection may ask."""
    found = []
    for dataset in datasets:
        rows, waiting, since = connection.execute(
            "SELECT coalesce(sum(held), 0), coalesce(sum(not held), 0), "
            "min(CASE WHEN NOT held THEN applied_at_us END) FROM deptbus_ledger "
            "WHERE dataset = ? AND row_key IS NOT NULL AND op = 'upsert' AND "
            "(parked IS NULL OR held)",
            (dataset,),
        ).fetchone()
        parked = connection.execute(
            "SELECT parked, count(*) FROM deptbus_ledger WHERE dataset = ? AND parked IS NOT NULL "
            "GROUP BY parked",
            (dataset,),
        ).fetchall()
        today = connection.execute(
            "SELECT outcome, sum(deliveries) FROM deptbus_statistics WHERE dataset = ? AND day = ? "
            "GROUP BY outcome",
            (dataset, day_of(now_us)),
        ).fetchall()
        counts = dict(parked), dict(today)
        existing = sqlite_existing_status(connection, dataset)
        found.append(DatasetStatus(dataset, rows, waiting, since, *counts, *existing))
    return found


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: list[bytes]) -> Iterable[list[bytes]]:
    return (values[at : at + _VARIABLES] for at in range(0, len(values), _VARIABLES))
