"""The store in PostgreSQL: a batch is a few statements over sets, in one short transaction."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import asyncpg

from deptbus.contract.department import Receive
from deptbus.department import fence
from deptbus.department.adoption import Existing, Found
from deptbus.department.adoption_postgres import (
    is_referred_to,
    note_existing,
    postgres_existing_status,
    primary_key,
    read_existing,
)
from deptbus.department.bookkeeping import (
    COLUMN_LIST,
    GLIMPSE_LIST,
    POSTGRES_OF_ROWS,
    POSTGRES_TABLES,
)
from deptbus.department.connect import PostgresDatabase, postgres_translated
from deptbus.department.decide import Action, Decision, Write
from deptbus.department.fold import Tally
from deptbus.department.ledger import (
    NEVER_US,
    REASON_LETTERS,
    Entry,
    ParkedChoice,
    ParkedRow,
    Prepared,
    RecordId,
    Row,
    Sender,
    entry_of,
)
from deptbus.department.plain import Known, Lot, entries_of
from deptbus.department.postgres_binary import copy_field
from deptbus.department.postgres_plain import WRITE_ENTRIES
from deptbus.department.postgres_table import (
    PostgresTable,
    has_early_triggers,
    make_table,
    read_columns,
    read_parents,
    upsertable,
)
from deptbus.department.rebuild import second_receive
from deptbus.department.rebuild_desk import RebuildDesk
from deptbus.department.rebuild_postgres import PostgresShadows
from deptbus.department.repairs import ORDER_KEPT_US, REMOVE, Looked, Order, OrderId, Repairs
from deptbus.department.seen import (
    LINE_LIST,
    POSTGRES_OF_DATASET,
    Line,
    Values,
    postgres_join_rows,
    postgres_select_rows,
    row_digest,
    row_of,
)
from deptbus.department.several_tables import (
    make_postgres,
    postgres_locks,
    refuse_rows_postgres,
    refuse_view_postgres,
)
from deptbus.department.store import (
    BusIdentity,
    DatasetStatus,
    Mistaken,
    Pace,
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
from deptbus.errors import DatabaseUnavailable, RowRefused
from deptbus.names import rebuilt_copy

LEAST_BATCH, MOST_BATCH = 200, 2000
# With so many rows one binary COPY costs less than arrays do (1 us a row against 5).
COPY_ROWS = 64
# Somebody who wants a row that a batch has just written waits for its end.
LONG_SECONDS = 0.025


class PostgresStore(Store):
    """See Store. `mapping`: dataset -> (Receive, columns of the row's own key)."""

    def __init__(
        self,
        database: PostgresDatabase,
        topic: str,
        token: bytes,
        mapping: Mapping[str, tuple[Receive, tuple[str, ...]]],
        shapes: Shapes,
    ) -> None:
        super().__init__(topic, token)
        self.looks_ahead = True  # the session works meanwhile
        self._database, self._mapping, self._shapes = database, mapping, shapes
        self._wanted = mapping  # those with tables that are not fit now too
        self.declared = frozenset(mapping)
        self._tables: dict[str, PostgresTable] = {}
        self._stages = 0  # that were ever made: a name belongs to the columns of one table
        self.rebuilds = RebuildDesk(self, PostgresShadows(self))
        self.copy_rows = self.presume_from = COPY_ROWS  # so many plain rows are copied
        self._pace = Pace(least=LEAST_BATCH, most=MOST_BATCH, start=1000, seconds=LONG_SECONDS)

    @property
    def batch_limit(self) -> int:
        return self._pace.limit

    @property
    def _connection(self) -> asyncpg.Connection:
        return self._database.connection

    @property
    def connection(self) -> asyncpg.Connection:
        return self._database.connection

    @property
    def place(self) -> str:
        return self._database.place

    async def open(self, identity: BusIdentity, partitions: int) -> None:
        # A batch whose commit is lost in a crash is read from the inbox once more: its offsets are
        # lost with it. Compiling these small statements costs more than it saves. Of a temporary
        # table nothing is known when it is joined: not to scan the other one for it.
        with postgres_translated(self._database.place):
            await self._connection.execute(
                "SET synchronous_commit = off; SET standard_conforming_strings = on; "
                "SET jit = off; SET enable_seqscan = off; SET random_page_cost = 1.1"
            )
        async with self.fenced() as connection:
            if await connection.fetchval("SELECT to_regclass('deptbus.emptied')") is None:
                for statement in POSTGRES_TABLES:
                    await connection.execute(statement)
            unfit = await self._look_at_tables(connection)
            self._leave_out(unfit, self._mapping)
            self._mapping = {d: m for d, m in self._mapping.items() if d not in unfit}
            for dataset, tables in self.several.items():
                if dataset not in unfit:
                    for statement in await make_postgres(connection, dataset, tables):
                        await connection.execute(statement)
            remembered = {
                r[0] for r in await connection.fetch("SELECT dataset FROM deptbus.mapped")
            }
            for dataset, (receive, _) in self._mapping.items():
                is_new = dataset not in remembered
                await note_existing(connection, dataset, receive.table, is_new=is_new)
            existing = await read_existing(connection)
            for dataset, (receive, key) in self._mapping.items():
                await self._open_table(connection, dataset, receive, key, existing[dataset])
            await connection.executemany(
                # Where nothing was applied yet, nothing is lost with a topic that was made again.
                "INSERT INTO deptbus.offsets AS o VALUES ($1, $2, 0, $3, $4, '{}') "
                "ON CONFLICT (topic, part) DO UPDATE SET cluster_id = excluded.cluster_id, "
                "topic_id = excluded.topic_id WHERE o.next_offset = 0",
                [
                    (self.topic, n, identity.cluster_id, identity.topic_id)
                    for n in range(partitions)
                ],
            )
            rows = await connection.fetch(
                "SELECT part, next_offset, floors, cluster_id, topic_id FROM deptbus.offsets "
                "WHERE topic = $1",
                self.topic,
            )
            self._begin(positions_of(rows, self.topic, identity), remembered)
            self.parents = await read_parents(connection, self.targets)
            may_stage = await connection.fetchval(
                "SELECT has_database_privilege(current_database(), 'TEMP')"
            )
        if not may_stage:
            # This user may not make temporary tables.
            self.copy_rows = self.presume_from = sys.maxsize
        assert self.rebuilds is not None
        await self.rebuilds.open(time.time_ns() // 1000)
        self.order_targets()
        self._next_retry_us = await self.next_retry_us()
        await self.look_at_existing()

    async def _note_begun(self, offsets: Mapping[int, int]) -> None:
        async with self.fenced() as connection:
            await connection.execute("DELETE FROM deptbus.mapped")
            await connection.executemany(
                "INSERT INTO deptbus.mapped VALUES ($1)", [(d,) for d in sorted(self.declared)]
            )
            await connection.executemany(
                "UPDATE deptbus.offsets SET next_offset = $1 WHERE topic = $2 AND part = $3",
                [(at, self.topic, number) for number, at in offsets.items()],
            )

    async def _look_at_tables(
        self, connection: asyncpg.Connection
    ) -> dict[str, DatabaseUnavailable]:
        found: dict[str, DatabaseUnavailable] = {}
        for dataset, (receive, _) in self._wanted.items():
            try:
                if dataset in self.several:
                    tables = self.several[dataset]
                    await make_postgres(connection, dataset, tables)
                    await refuse_rows_postgres(connection, dataset, tables, receive)
                    continue
                await refuse_view_postgres(connection, dataset, receive)
                have = await read_columns(connection, receive.table)
                check_columns(self._database.place, dataset, receive, have)
            except DatabaseUnavailable as error:
                found[dataset] = error
        return found

    async def are_mended(self) -> bool:
        with postgres_translated(self._database.place):
            return self.unfit.keys() > (await self._look_at_tables(self._connection)).keys()

    async def _open_table(
        self,
        connection: asyncpg.Connection,
        dataset: str,
        receive: Receive,
        key: tuple[str, ...],
        existing: Existing,
    ) -> None:
        columns = await read_columns(connection, receive.table)
        if not columns:
            await make_table(connection, receive, key, self._shapes.newest_types(dataset))
            columns = await read_columns(connection, receive.table)
        target = MappedTarget(
            dataset,
            receive,
            key,
            columns,
            self._shapes,
            copy_field,
            had_rows=existing.had_rows,
            waits=existing.waits,
        )
        target.has_bound_key = await is_referred_to(connection, receive.table, key)
        target.identify(await primary_key(connection, receive.table), columns)
        at_once = await upsertable(connection, target, columns)
        early = await has_early_triggers(connection, receive.table)
        self._put(dataset, target, upsert=at_once, has_early_triggers=early)

    def _put(
        self, name: str, target: MappedTarget, *, upsert: bool, has_early_triggers: bool = False
    ) -> None:
        self.targets[name] = target
        self._tables[name] = PostgresTable(
            target, self._stages, upsert=upsert, has_early_triggers=has_early_triggers
        )
        self._stages += 1

    async def attach(self, dataset: str, table: str, columns: Mapping[str, Column]) -> bool:
        """Have this table filled as a second copy of the dataset; False when it lacks columns."""
        receive, key = self._mapping[dataset]
        if any(name not in columns for name in (*receive.columns.values(), *receive.defaults)):
            return False
        second = second_receive(receive, table)
        target = MappedTarget(dataset, second, key, columns, self._shapes, copy_field)
        self._put(rebuilt_copy(dataset), target, upsert=True)
        self.parents[rebuilt_copy(dataset)] = frozenset()
        self.order_targets()
        return True

    def detach(self, dataset: str) -> None:
        for of_copies in (self.targets, self._tables, self.parents):
            of_copies.pop(rebuilt_copy(dataset), None)
        self.order_targets()

    async def close(self) -> None:
        await self._database.close()

    @asynccontextmanager
    async def fenced(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._database.transaction() as connection:
            await fence.check_postgres(connection, self.token)
            yield connection

    # -- reading ---------------------------------------------------------------------------------

    async def glimpses(self, wanted: Mapping[Sender, Collection[bytes]]) -> Known:
        found = {}
        with postgres_translated(self._database.place):
            for sender, keys in wanted.items():
                rows = await self._connection.fetch(_GLIMPSE, *sender, list(keys))
                found[sender] = {row[0]: row for row in rows}
        return found

    async def claimants(self, rows: Sequence[Row], without: Collection[RecordId]) -> list[Entry]:
        found: list[Entry] = []
        for dataset, group in groupby(rows, key=lambda r: r.dataset):
            mine = [i for i in without if i.dataset == dataset]
            found += await self._entries(
                f"{POSTGRES_OF_ROWS} AND "
                "(source_unit, key) NOT IN (SELECT * FROM unnest($3::text[], $4::bytea[]))",
                dataset,
                [r.key for r in group],
                [i.source_unit for i in mine],
                [i.key for i in mine],
            )
        return found

    async def parked(self, due_us: int | None, datasets: Iterable[str], limit: int) -> list[Entry]:
        return await self._entries(
            f"parked IS NOT NULL AND retry_at_us < {NEVER_US} AND (dataset = ANY($1)) IS TRUE "
            "AND (retry_at_us <= $2 OR "
            "(dataset = ANY($3) AND parked LIKE '%foreign key%')) ORDER BY retry_at_us LIMIT $4",
            list(self.targets),
            -1 if due_us is None else due_us,
            list(datasets),
            limit,
        )

    async def _entries(self, where: str, *words: Any) -> list[Entry]:
        with postgres_translated(self._database.place):
            rows = await self._connection.fetch(
                f"SELECT {COLUMN_LIST} FROM deptbus.ledger WHERE {where}", *words
            )
        return [Entry._make(row) for row in rows]

    async def next_retry_us(self) -> int | None:
        with postgres_translated(self._database.place):
            return await self._connection.fetchval(
                "SELECT min(retry_at_us) FROM deptbus.ledger WHERE parked IS NOT NULL "
                f"AND retry_at_us < {NEVER_US} AND (dataset = ANY($1)) IS TRUE",
                list(self.targets),
            )

    async def parked_rows(self) -> dict[tuple[str, str], int]:
        with postgres_translated(self._database.place):
            rows = await self._connection.fetch(
                "SELECT dataset, parked, count(*) FROM deptbus.ledger WHERE parked IS NOT NULL "
                "AND dataset = ANY($1) GROUP BY dataset, parked",
                list(self.datasets),
            )
        return {(dataset, reason): count for dataset, reason, count in rows}

    async def parked_list(self, limit: int) -> list[ParkedRow]:
        with postgres_translated(self._database.place):
            rows = await self._connection.fetch(
                f"SELECT dataset, source_unit, key, version, left(parked, {REASON_LETTERS}), "
                "parked_since_us, attempts FROM deptbus.ledger WHERE parked IS NOT NULL "
                "AND dataset = ANY($1) ORDER BY parked_since_us, key LIMIT $2",
                list(self.datasets),
                limit,
            )
        return [ParkedRow._make(row) for row in rows]

    async def make_due(self, choice: ParkedChoice, due_us: int, limit: int) -> int:
        async with self.fenced() as connection:
            done = await connection.execute(
                "UPDATE deptbus.ledger SET retry_at_us = $1 WHERE ctid = ANY(ARRAY("
                "SELECT ctid FROM deptbus.ledger WHERE parked IS NOT NULL AND retry_at_us <> $1 "
                f"AND retry_at_us < {NEVER_US} "
                "AND dataset = ANY($2) AND ($3::bytea IS NULL OR key = $3) "
                f"AND ($4 = '' OR left(parked, {REASON_LETTERS}) = $4) LIMIT $5))",
                due_us,
                [d for d in self.datasets if choice.dataset in ("", d)],
                choice.key,
                choice.reason,
                limit,
            )
        return int(done.removeprefix("UPDATE "))

    async def tallies_since(self, day: str) -> dict[str, Counter[Tally]]:
        with postgres_translated(self._database.place):
            rows = await self._connection.fetch(
                "SELECT day, dataset, cause, direction, outcome, deliveries "
                "FROM deptbus.statistics WHERE day >= $1",
                day,
            )
        return tallies_of(rows)

    async def orders(self, wanted: Collection[OrderId]) -> dict[OrderId, Order]:
        if not wanted:
            return {}
        with postgres_translated(self._database.place):
            rows = await self._connection.fetch(
                "SELECT r.job, r.dataset, r.key, r.seen, r.action, r.overwrite "
                "FROM deptbus.repairs r JOIN unnest($1::text[], $2::text[], $3::bytea[]) "
                "AS s(job, dataset, key) USING (job, dataset, key)",
                *map(list, zip(*wanted, strict=True)),
            )
        return {(name := OrderId(*row[:3])): Order(name, *row[3:]) for row in rows}

    async def look_at(self, orders: Collection[Order]) -> dict[OrderId, Looked]:
        found: dict[OrderId, Looked] = {}
        with postgres_translated(self._database.place):
            for dataset in {order.id.dataset for order in orders}:
                mine = [order for order in orders if order.id.dataset == dataset]
                found |= await self._looked(dataset, mine)
        return found

    async def _looked(self, dataset: str, orders: Collection[Order]) -> dict[OrderId, Looked]:
        """A few ways there and back for all of them."""
        keys = [order.id.key for order in orders if order.action != REMOVE]
        known = await self._connection.fetch(
            f"SELECT {LINE_LIST} FROM deptbus.ledger WHERE {POSTGRES_OF_DATASET} "
            "AND key = ANY($2::bytea[])",
            dataset,
            keys,
        )
        lines = {line.key: line for line in map(Line._make, known)}
        rows = {
            order.id: row
            for order in orders
            if order.action == REMOVE
            and (row := self.stranger_in(dataset, order.id.key)) is not None
        }
        held = await self._connection.fetch(
            f"SELECT row_key FROM deptbus.ledger WHERE {POSTGRES_OF_ROWS} AND held",
            dataset,
            list(rows.values()),
        )
        taken = {row[0] for row in held}
        rows = {name: row for name, row in rows.items() if row not in taken}
        for order in orders:
            line = lines.get(order.id.key) if order.action != REMOVE else None
            if line is not None and line.held and line.row is not None:
                rows[order.id] = line.row
        real = await self.real(dataset, set(rows.values()))
        return {
            order.id: Looked(
                lines.get(order.id.key) if order.action != REMOVE else None,
                rows.get(order.id),
                real.get(rows[order.id]) if order.id in rows else None,
            )
            for order in orders
        }

    async def real(
        self, dataset: str, rows: Collection[bytes], *, locks: bool = False
    ) -> dict[bytes, Values]:
        """`locks`: for the rest of the caller's transaction."""
        if not rows:
            return {}
        target = self.targets[dataset]
        sql, words = postgres_select_rows(target, rows)
        if locks and dataset in self.several:
            joined, _ = postgres_join_rows(target, rows)
            for statement in postgres_locks(self.several[dataset], joined):
                await self._connection.execute(statement, *words)
        elif locks:
            sql += " FOR UPDATE OF t"
        found = map(tuple, await self._connection.fetch(sql, *words))
        return {row_of(target, values): values for values in found}

    async def _guard(self, repairs: Repairs, now_us: int) -> None:
        """Within the transaction: the rows are locked from here on."""
        changed = []
        for dataset in {row.dataset for row in repairs.guards}:
            mine = {r.key: d for r, d in repairs.guards.items() if r.dataset == dataset}
            now = await self.real(dataset, mine, locks=True)
            for key, digest in mine.items():
                if (row_digest(now[key]) if key in now else None) != digest:
                    changed.append(Row(dataset, key))
        if changed:
            raise RowsChanged(changed)
        await self._connection.executemany(
            "INSERT INTO deptbus.repairs VALUES ($1, $2, $3, $4, $5, $6, $7) "
            "ON CONFLICT (job, dataset, key) DO UPDATE SET seen = excluded.seen, "
            "action = excluded.action, overwrite = excluded.overwrite",
            [(*o.id, o.seen, o.action, o.overwrite, now_us) for o in repairs.new.values()],
        )
        await self._connection.executemany(
            "DELETE FROM deptbus.repairs WHERE job = $1 AND dataset = $2 AND key = $3",
            list(repairs.done),
        )
        await self._connection.execute(
            "DELETE FROM deptbus.repairs WHERE ordered_at_us < $1", now_us - ORDER_KEPT_US
        )

    # -- rows that were here before the bus --------------------------------------------------------

    async def existing_tables(self) -> dict[str, Existing]:
        with postgres_translated(self._database.place):
            return await read_existing(self._connection)

    async def lines_that_wait(self, dataset: str, limit: int) -> list[Entry]:
        where = (
            f"parked IS NOT NULL AND retry_at_us = {NEVER_US} AND (dataset = $1) IS TRUE LIMIT $2"
        )
        return await self._entries(where, dataset, limit)

    async def parked_upserts(
        self, dataset: str, after: tuple[str, bytes], limit: int
    ) -> list[Entry]:
        return await self._entries(
            "dataset = $1 AND (source_unit, key) > ($2, $3) AND op = 'upsert' "
            "AND parked IS NOT NULL "
            "ORDER BY source_unit, key LIMIT $4",
            dataset,
            *after,
            limit,
        )

    async def look_for(
        self, dataset: str, positions: Sequence[int], words: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], list[Found]]:
        with postgres_translated(self._database.place):
            return await self._tables[dataset].rows.look_for(self._connection, positions, words)

    async def look_for_emptied(
        self, dataset: str, wanted: Mapping[RecordId, bytes]
    ) -> dict[RecordId, Found]:
        with postgres_translated(self._database.place):
            return await self._tables[dataset].rows.look_for_emptied(self._connection, wanted)

    def left_behind(self, dataset: str) -> list[tuple[Any, ...]]:
        rows = self._tables[dataset].rows
        left, rows.left = rows.left, []
        return left

    async def read_columns_of(
        self, dataset: str, positions: Sequence[int]
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        with postgres_translated(self._database.place):
            async for some in self._tables[dataset].rows.read(self._connection, positions):
                yield some

    async def status(self, now_us: int) -> list[DatasetStatus]:
        with postgres_translated(self._database.place):
            return await postgres_status(self._connection, tuple(self._mapping), now_us)

    # -- writing ---------------------------------------------------------------------------------

    def pack(self, dataset: str, lot: Lot) -> bytes:
        return self._tables[dataset].stage.pack(lot)

    async def commit(self, work: Work) -> None:
        """Few plain records go with the others, in one statement for rows and ledger."""
        few = {
            dataset: lot
            for dataset, lot in work.lots.items()
            if len(lot.plain) < self.copy_rows and not work.is_presumed
        }
        groups = [*self._groups(work.decision, few), *self._copied(work, few)]
        groups.sort(key=_PLACE)
        entries = [*work.decision.entries]
        for lot in few.values():
            entries += map(Entry._make, entries_of(lot, work.now_us))
        with postgres_translated(self._database.place):
            copied = {dataset: lot for dataset, lot in work.lots.items() if dataset not in few}
            for dataset in copied:
                await self._tables[dataset].stage.make(self._connection)
            try:
                await self._begin_work(work, [dataset for _, dataset, _ in groups])
                if work.repairs is not None:
                    await self._guard(work.repairs, work.now_us)
                for dataset, lot in copied.items():
                    stage = self._tables[dataset].stage
                    packed = work.packed.get(dataset) or stage.pack(lot)
                    await stage.fill(self._connection, packed)
                began = time.monotonic()  # until here nothing of the department's is locked
                left = await self.write_rows(groups, entries, work)
                await self._write_books(work, left)
            except BaseException:
                if self._connection.is_in_transaction():
                    await self._connection.execute("ROLLBACK")
                raise
        self._pace.took(time.monotonic() - began, work.size)

    async def _begin_work(self, work: Work, datasets: list[str]) -> None:
        """BEGIN, the fence and the offsets in one way there and back: no offset moves but behind
        the fence's locked row."""
        lock = fence.lock_postgres(self.token)
        if work.positions:
            moves = ", ".join(
                f"({number}, {before.next_offset}, {after.next_offset}, "
                f"{literal(floors_text(after.floors))})"
                for number, (before, after) in work.positions.items()
            )
            lock = (
                f"WITH fence AS MATERIALIZED ({lock}) UPDATE deptbus.offsets o "
                "SET next_offset = s.after, floors = s.floors "
                f"FROM fence, (VALUES {moves}) AS s(part, before, after, floors) "
                f"WHERE o.topic = {literal(self.topic)} AND o.part = s.part "
                "AND o.next_offset = s.before"
            )
        expected = f"UPDATE {len(work.positions)}" if work.positions else "SELECT 1"
        setting, value = fence.applying_postgres(datasets[:1])
        done = await self._connection.execute(
            f"BEGIN; SELECT set_config('{setting}', {literal(value)}, true); {lock}"
        )
        if done != expected:
            await fence.check_postgres(self._connection, self.token)
            raise put_back(self._database.place)

    async def write_rows(
        self, groups: list[_Group], entries: list[Entry], work: Work
    ) -> list[Entry]:
        """Returns the ledger lines that are still to be written: none where they went along with
        the last rows."""
        for dataset in {dataset for _, dataset, _ in groups}:
            if self.targets[dataset].keeps:
                rows = self._tables[dataset].rows
                await rows.keep_typed_over(self._connection, work.writes_of(dataset), work.now_us)
        now = groups[0][1] if groups else ""
        for number, (_, dataset, group) in enumerate(groups, 1):
            if dataset != now:
                now = dataset
                await fence.begin_applying_postgres(self._connection, [now])
            table = self._tables[dataset]
            if isinstance(group, Adopts):
                await table.rows.adopt(self._connection, group.writes, work.now_us)
            elif isinstance(group, Lot) and work.is_presumed:
                count = len(group.plain)
                if await table.renew_plain(self._connection, group, work.now_us) != (count, count):
                    raise Mistaken
            elif isinstance(group, Lot):
                await table.write_plain(self._connection, group, work.now_us)
            elif isinstance(group, Rows):
                books = entries if number == len(groups) else []
                await table.write(self._connection, group.values, books)
                if books:
                    return []
            else:
                await table.run(self._connection, group, work.now_us)
        return entries

    def groups(self, decision: Decision) -> list[_Group]:
        return sorted(self._groups(decision, {}), key=_PLACE)

    def _groups(self, decision: Decision, few: Mapping[str, Lot]) -> Iterator[_Group]:
        """(place in the order, dataset, what is to be done): what makes room first, then parents
        before children."""
        for place, actions, sign in ((0, decision.removes, -1), (1, decision.clears, 1)):
            ordered = self.in_order(actions, parents_first=sign > 0)
            for dataset, group in groupby(ordered, key=lambda a: a.row.dataset):
                yield (place, sign * self._order[dataset]), dataset, list(group)
        adopts = [write for write in decision.writes if write.adopts is not None]
        for dataset, some in groupby(
            sorted(adopts, key=lambda w: (w.row.dataset, w.row)), key=lambda w: w.row.dataset
        ):
            yield (1.5, self._order[dataset]), dataset, Adopts(list(some))
        rows: dict[str, list[tuple[bytes, tuple[Any, ...]]]] = {}
        for write in decision.writes:
            rows.setdefault(write.row.dataset, []).append((write.row.key, write.values))
        for dataset, lot in few.items():
            mine = rows.setdefault(dataset, [])
            for one in lot.plain:
                fit = self.targets[dataset].prepare(entry_of(one.received, 0), one.received.record)
                assert isinstance(fit, Prepared)
                mine.append((fit.row, fit.values))
        for dataset, found in rows.items():
            values = [values for _, values in sorted(found, key=itemgetter(0))]
            yield (2, self._order[dataset]), dataset, Rows(values)

    def _copied(self, work: Work, few: Mapping[str, Lot]) -> Iterator[_Group]:
        for dataset, lot in work.lots.items():
            if dataset not in few:
                yield (2, self._order[dataset]), dataset, lot

    async def _write_books(self, work: Work, entries: list[Entry]) -> None:
        """The other ledger lines; then constraints, counts and COMMIT in one way there and back."""
        if entries:
            await self._connection.execute(WRITE_ENTRIES, *zip(*entries, strict=True))
        last = []
        if work.decision.actions or work.lots:
            # Keys that are checked at the end otherwise: their refusal must be met here.
            last.append("SET CONSTRAINTS ALL IMMEDIATE")
        if work.tallies:
            counts = ", ".join(
                f"({literal(work.day)}, {', '.join(map(literal, line))}, {count})"
                for line, count in sorted(work.tallies.items())
            )
            last.append(
                f"INSERT INTO deptbus.statistics AS s VALUES {counts} "
                "ON CONFLICT (day, dataset, cause, direction, outcome) DO UPDATE "
                "SET deliveries = s.deliveries + excluded.deliveries"
            )
        if work.unreadable:
            places = ", ".join(
                f"({literal(self.topic)}, {number}, {place.offset}, {literal(place.reason)}, "
                f"{work.now_us})"
                for number, places in work.unreadable.items()
                for place in places
            )
            last.append(f"INSERT INTO deptbus.unreadable VALUES {places} ON CONFLICT DO NOTHING")
        await self._connection.execute("; ".join((*last, "COMMIT")))

    async def find_refused(self, decision: Decision) -> list[tuple[Action, str]]:
        found: list[tuple[Action, str]] = []
        with postgres_translated(self._database.place):
            outer = self._connection.transaction()
            await outer.start()
            try:
                await fence.check_postgres(self._connection, self.token)
                await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                actions: list[Action] = [
                    *self.in_order(decision.removes, parents_first=False),
                    *self.in_order(decision.clears, parents_first=True),
                    *self.in_order(decision.writes, parents_first=True),
                ]
                for (dataset, _), group in groupby(actions, key=lambda a: (a.row.dataset, type(a))):
                    await fence.begin_applying_postgres(self._connection, [dataset])
                    await self._halve(self._tables[dataset], list(group), found)
            finally:
                await outer.rollback()
        return found

    async def _halve(
        self, table: PostgresTable, actions: list[Action], found: list[tuple[Action, str]]
    ) -> None:
        """Bisection under savepoints: what passes stays for the rest to be tried on top of it."""
        try:
            with postgres_translated(self._database.place):
                async with self._connection.transaction():
                    await table.run(self._connection, actions, 0)
        except RowRefused as error:
            if len(actions) == 1:
                reason = error.what.removeprefix(f"{self._database.place}: ")
                found.append((actions[0], reason))
                return
            middle = len(actions) // 2
            await self._halve(table, actions[:middle], found)
            await self._halve(table, actions[middle:], found)


class Rows(NamedTuple):
    """Values of rows that are to be written as they are, in the order of the target's columns."""

    values: list[tuple[Any, ...]]


class Adopts(NamedTuple):
    """Writes whose rows were the department's until now."""

    writes: list[Write]


_Group = tuple[tuple[float, int], str, list[Action] | Adopts | Rows | Lot]
_PLACE = itemgetter(0)
_GLIMPSE = (
    f"SELECT {GLIMPSE_LIST} FROM deptbus.ledger "
    "WHERE dataset = $1 AND source_unit = $2 AND key = ANY($3::bytea[])"
)


def literal(text: str) -> str:
    """For statements that are sent several at once, which take no arguments."""
    return "'" + text.replace("'", "''") + "'"


async def postgres_status(
    connection: asyncpg.Connection, datasets: Sequence[str], now_us: int
) -> list[DatasetStatus]:
    """Needs the bookkeeping tables; any connection may ask."""
    found = []
    for dataset in datasets:
        rows, waiting, since = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE held), count(*) FILTER (WHERE NOT held), "
            "min(applied_at_us) FILTER (WHERE NOT held) FROM deptbus.ledger WHERE dataset = $1 "
            "AND row_key IS NOT NULL AND op = 'upsert' AND (parked IS NULL OR held)",
            dataset,
        )
        parked = await connection.fetch(
            "SELECT parked, count(*) FROM deptbus.ledger WHERE dataset = $1 AND parked IS NOT NULL "
            "GROUP BY parked",
            dataset,
        )
        today = await connection.fetch(
            "SELECT outcome, sum(deliveries)::bigint FROM deptbus.statistics WHERE dataset = $1 "
            "AND day = $2 GROUP BY outcome",
            dataset,
            day_of(now_us),
        )
        counts = (dict(map(tuple, parked)), dict(map(tuple, today)))
        existing = await postgres_existing_status(connection, dataset)
        found.append(DatasetStatus(dataset, rows, waiting, since, *counts, *existing))
    return found
