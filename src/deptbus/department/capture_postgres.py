"""Capture on PostgreSQL: many writers at once, so what is not visible may still be coming.

Two connections: one for what must be durable, one for what may be lost in a crash (deleting rows
that were published) and for the doorbell.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from deptbus.contract.department import CAP_MIB
from deptbus.department import fence, pulse
from deptbus.department import postgres_rows as rows_of
from deptbus.department import postgres_triggers as sql
from deptbus.department import removal_guard_postgres as removals
from deptbus.department.bus_memory import was_restored
from deptbus.department.capture import (
    LIVE,
    MOST_SOUGHT,
    Capture,
    CaptureStatus,
    HeldRemoval,
    Hold,
    Known,
    OutboxRow,
    Prepared,
    RawKey,
    Snapshot,
    Sought,
    SourceState,
    Variant,
    Waiting,
    Wanted,
    is_asked,
    refuse_doubled,
)
from deptbus.department.capture_check import Broken, broken_postgres
from deptbus.department.connect import PostgresDatabase, postgres_translated
from deptbus.department.layout import Layout, quoted, quoted_table
from deptbus.department.outdated import outdated_postgres
from deptbus.department.postgres_install import (
    drop_statements,
    install_statements,
    pause_statements,
)
from deptbus.department.postgres_schema import doubled_keys, examine_table, table_facts
from deptbus.department.postgres_view import (
    ALONE,
    AS_TOUCHED,
    REACH,
    UNSHOWN,
    forget_unshown,
    reach,
    touched_keys,
)
from deptbus.department.raw import raw_of, raw_text
from deptbus.department.removal_guard import MOVED, RELEASE
from deptbus.errors import DatabaseBusy, Fenced, SourceRefused

_POLL_SECONDS = (0.001, 0.02)  # while writers hold the doorbell, from the first to the longest
_INSTALL_SECONDS = 30.0  # how long a lock on the department's tables is tried for
_WORK_OFF_ROWS = 200
_DRAWN_MEANWHILE = 1_000_000
_LIFTS_A_CAP = 10  # room is made for others after each tenth of the cap that was published


class PostgresCapture(Capture):
    """See Capture. Owns both connections; closes them."""

    def __init__(self, database: PostgresDatabase, light: PostgresDatabase) -> None:
        self._database = database
        self._light = light
        self._place = database.place
        self._durable_lock = asyncio.Lock()
        self._light_lock = asyncio.Lock()
        self._forgotten = 0  # rows since room was last made for others
        self._cap_rows = 0  # not known yet
        self._layouts: dict[int, Layout] = {}
        self._numbers: dict[str, list[int]] = {}  # dataset -> numbers of its layouts
        self._rung = asyncio.Event()
        self._is_idle = False  # we hold the doorbell: whoever commits rings
        self._polls = 0

    @classmethod
    async def open(cls, database: PostgresDatabase, light: PostgresDatabase) -> PostgresCapture:
        """Takes over two fresh connections to one database."""
        made = cls(database, light)
        with postgres_translated(database.place):
            await database.connection.execute(rows_of.SESSION)
            await light.connection.execute(rows_of.SESSION)
            await light.connection.execute("SET synchronous_commit = off")
            await light.connection.add_listener(sql.CHANNEL, lambda *_: made._rung.set())
        return made

    @property
    def database(self) -> PostgresDatabase:
        return self._database

    @asynccontextmanager
    async def _durable(self, *, transaction: bool = False) -> AsyncIterator[asyncpg.Connection]:
        async with self._durable_lock:
            with postgres_translated(self._place):
                if not transaction:
                    yield self._database.connection
                    return
                async with self._database.connection.transaction():
                    yield self._database.connection

    @asynccontextmanager
    async def _lightly(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._light_lock:
            with postgres_translated(self._place):
                yield self._light.connection

    # --- triggers -------------------------------------------------------------------------

    async def examine(self, layouts: Sequence[Layout]) -> list[str]:
        async with self._durable() as c:
            return [wrong for layout in layouts for wrong in await examine_table(c, layout)]

    async def sql(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> list[str]:
        async with self._durable() as c:
            return await install_statements(c, layouts, cap_rows, cap_mib)

    async def install(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> None:
        wrong = await self.examine(layouts)
        if wrong:
            raise SourceRefused(f"{self._place}: {wrong[0]}", mend="Mend it, then install again")

        async with self._durable() as c:
            refuse_doubled(
                self._place, {x: await doubled_keys(c, x) for x in layouts if is_asked(x)}
            )

        async def run(c: asyncpg.Connection) -> None:
            for statement in await install_statements(c, layouts, cap_rows, cap_mib):
                await c.execute(statement)

        await self._with_locks(run)

    async def uninstall(self) -> None:
        async def run(c: asyncpg.Connection) -> None:
            for statement in await drop_statements(c):
                await c.execute(statement)

        await self._with_locks(run)

    async def pause(self) -> None:
        async with self._durable(transaction=True) as c:
            for statement in await pause_statements(c):
                await c.execute(statement)

    async def _with_locks(self, run: Any) -> None:
        """One transaction that needs locks on the department's tables. It never waits in their
        queue for long, where it would hold up everybody behind it: it tries again instead."""
        until = time.monotonic() + _INSTALL_SECONDS
        while True:
            try:
                async with self._durable(transaction=True) as c:
                    await run(c)
                self._layouts.clear()
                self._numbers.clear()
                self._known_views = None
                return
            except DatabaseBusy as busy:
                if time.monotonic() > until:
                    raise DatabaseBusy(
                        f"{busy.what}: the tables are in use all the time",
                        mend="Run it again when no long transaction is open",
                    ) from None
                await asyncio.sleep(0.5)

    async def layouts(self) -> dict[str, Layout]:
        async with self._durable() as c:
            if await c.fetchval("SELECT to_regclass('deptbus.layout')") is None:
                return {}
            rows = await c.fetch("SELECT layout FROM deptbus.layout WHERE is_current")
        return {x.dataset: x for x in (Layout.from_json(r[0]) for r in rows)}

    async def broken(self) -> list[Broken]:
        current = (await self.layouts()).values()
        async with self._durable() as c:
            return await broken_postgres(c, current)

    async def outdated(self) -> str:
        current = (await self.layouts()).values()
        async with self._durable() as c:
            return await outdated_postgres(c, current)

    async def give_way(self) -> None:
        async with self._durable() as c:
            await c.execute("SELECT nextval('deptbus.gave_way')")

    async def _load_layouts(self, c: asyncpg.Connection) -> None:
        self._numbers.clear()
        for number, text in await c.fetch("SELECT number, layout FROM deptbus.layout"):
            self._layouts[number] = Layout.from_json(text)
            self._numbers.setdefault(self._layouts[number].dataset, []).append(number)

    # --- the queue ------------------------------------------------------------------------

    async def read(
        self, limit: int, in_flight: Collection[int] = (), hold: Collection[str] = ()
    ) -> list[OutboxRow]:
        async with self._durable() as c:
            if not self._numbers or any(d not in self._numbers for d in hold):
                await self._load_layouts(c)
            held = [n for d in hold for n in self._numbers.get(d, ())]
            found = await c.fetch(rows_of.READ, limit, list(in_flight), held)
            if any(r[1] not in self._layouts for r in found):
                await self._load_layouts(c)
        if found and self._is_idle:
            await self._leave_bell()
        rows = []
        for position, number, op, cause, job, stamp, was, key, raw, vals in found:
            dataset, columns = self._layouts[number].dataset, self._layouts[number].columns
            if vals is None:
                columns = vals = ()
            rows.append(
                OutboxRow(
                    *(position, dataset, op, cause, job, stamp, was, key),
                    tuple(raw),
                    columns,
                    vals,
                )
            )
        return rows

    async def look_again(self, token: bytes, limit: int, hold: Collection[str]) -> int:
        views = [d for d in await self._views() if d not in hold]
        if not views:
            return 0
        async with self._durable(transaction=True) as c:
            notes = await c.fetch(rows_of.TOUCHED, views, limit)
            if not notes:
                return 0
            await fence.check_postgres(c, token)
            taken = len(notes)
            if any(part is not None for _, _, _, part in notes):
                await self._reach(c, notes)
                notes = await c.fetch(rows_of.TOUCHED, views, limit)
            touched: dict[str, dict[RawKey, None]] = defaultdict(dict)
            for _, dataset, raw, part in notes:
                if part is None:
                    touched[dataset][tuple(raw)] = None
            missed = await c.fetchval(f"SELECT {rows_of.GAVE_WAY} FROM deptbus.published")
            cause = LIVE if missed else AS_TOUCHED
            loading = {s.dataset for s in await rows_of.snapshots(c, "WHERE NOT done")}
            for dataset, raws in touched.items():
                outcomes = await self._enqueue(c, dataset, list(raws), cause, None)
                if dataset in loading:  # it may have been published and not been met yet
                    gone = [raw for raw, outcome in outcomes.items() if outcome == "gone"]
                    await rows_of.want(c, [Wanted(dataset, raw, None, LIVE, None) for raw in gone])
            # Not before: what is written meanwhile must stay noted.
            await c.execute(
                "DELETE FROM deptbus.touched WHERE position = ANY($1::bigint[])",
                [position for position, _, _, part in notes if part is None],
            )
        return taken

    async def _reach(self, c: asyncpg.Connection, notes: Sequence[asyncpg.Record]) -> None:
        """Notes of the records in the place of those of rows."""
        await c.execute(ALONE)
        rows: dict[str, list[int]] = defaultdict(list)
        for position, dataset, _, part in notes:
            if part is not None:
                rows[dataset].append(position)
        for dataset, positions in rows.items():
            try:
                async with c.transaction():
                    await c.execute(REACH.format(reach=reach(dataset)), positions, dataset)
            except asyncpg.DataError:
                # A column of the join was retyped since, and they are no values of it any more: a
                # resync finds what they meant.
                await c.execute(
                    "DELETE FROM deptbus.touched WHERE position = ANY($1::bigint[])", positions
                )
                await c.execute("SELECT nextval('deptbus.gave_way')")

    async def parked(self) -> set[tuple[str, str]]:
        async with self._durable() as c:
            return {(r[0], r[1]) for r in await c.fetch("SELECT dataset, raw FROM deptbus.parked")}

    async def reasons(self, dataset: str) -> dict[str, str]:
        async with self._durable() as c:
            rows = await c.fetch(
                "SELECT raw, reason FROM deptbus.parked WHERE dataset = $1", dataset
            )
        return {r[0]: r[1] for r in rows}

    async def wanted(self, dataset: str, at_most: int) -> list[Wanted]:
        is_view = dataset in await self._views()
        async with self._durable() as c:
            rows = await c.fetch(
                "SELECT dataset, raw, bus_key, cause, job FROM deptbus.wanted "
                "WHERE dataset = $1 LIMIT $2",
                dataset,
                at_most,
            )
            touched = []
            if is_view:
                touched = await c.fetch(f"{touched_keys(dataset)} LIMIT $1", at_most)
        seen = [Wanted(dataset, raw_text(tuple(raw)), None, LIVE, None) for (raw,) in touched]
        return [*(Wanted(*row) for row in rows), *seen]

    async def known(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], Known]:
        asked = ([d for d, _ in keys], [k for _, k in keys])
        by_key: dict[tuple[str, bytes], list[Variant]] = defaultdict(list)
        named: dict[tuple[str, bytes], tuple[str, ...]] = {}
        async with self._durable() as c:
            rows = await c.fetch(rows_of.KNOWN, *asked)
        for dataset, key, places, raw, state in rows:
            if places is not None:
                named[dataset, key] = tuple(places.split(","))
            else:
                by_key[dataset, key].append(Variant(raw, state))
        return {
            pair: Known(named.get(pair, ()), tuple(by_key.get(pair, ())))
            for pair in (*named, *by_key)
        }

    async def _remembered_keys(self, at_most: int) -> list[bytes]:
        async with self._durable() as c:
            return [bytes(r[0]) for r in await c.fetch(rows_of.REMEMBERED, at_most)]

    async def prepare(self, token: bytes, prepared: Prepared, *, sends: bool) -> int:
        if sends and not prepared.needs_writing:
            # The common case in one round trip: the fence and the number.
            async with self._durable() as c:
                return await self._count(c, token, prepared)
        number = 0
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            await rows_of.write_prepared(c, prepared)
            if sends:
                number = await self._count(c, token, prepared)
        self._remember_keys(prepared)
        return number

    async def _count(self, c: asyncpg.Connection, token: bytes, prepared: Prepared) -> int:
        words = token, prepared.version, prepared.publication
        number: int | None = await c.fetchval(rows_of.COUNT, *words)
        if number is None:
            await fence.check_postgres(c, token)
            have = await c.fetchval("SELECT publication FROM deptbus.published")
            raise was_restored(self._database.place, prepared.publication - 1, have)
        return number

    async def delete(self, token: bytes, positions: Sequence[int]) -> None:
        if not positions:
            return
        async with self._lightly() as c:
            if not await c.fetchval(rows_of.FORGET, token, list(positions)):
                raise Fenced(fence.FENCED, mend=fence.FENCED_MEND)
            self._forgotten += len(positions)
            if self._forgotten * _LIFTS_A_CAP >= self._cap_rows:
                await c.execute(rows_of.LIFT)
                self._forgotten = 0

    async def wait(self, timeout_seconds: float) -> bool:
        if self._is_idle:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._rung.wait()
            except TimeoutError:
                return False
            await self._leave_bell()
            return True
        self._rung.clear()
        async with self._lightly() as c:
            self._is_idle = await c.fetchval(f"SELECT pg_try_advisory_lock({sql.DOORBELL})")
        if self._is_idle:
            self._polls = 0
            return True  # one more look: whoever committed just before did not ring
        # Somebody who wrote is about to commit, without ringing.
        await asyncio.sleep(min(_POLL_SECONDS[0] * 2**self._polls, _POLL_SECONDS[1]))
        self._polls = min(self._polls + 1, 8)
        return True

    async def _leave_bell(self) -> None:
        async with self._lightly() as c:
            await c.execute(f"SELECT pg_advisory_unlock({sql.DOORBELL})")
        self._is_idle = False

    # --- existing rows --------------------------------------------------------------------

    async def begin_snapshot(self, dataset: str, cause: str, job: str | None) -> None:
        async with self._durable() as c:
            await c.execute(
                "INSERT INTO deptbus.snapshot AS s VALUES ($1, $2, $3, NULL, 0, 0, false) "
                "ON CONFLICT (dataset) DO UPDATE SET cause = excluded.cause, job = excluded.job, "
                "after = NULL, enqueued = 0, skipped = 0, done = false "
                "WHERE s.done OR s.cause <> excluded.cause OR s.job IS DISTINCT FROM excluded.job",
                dataset,
                cause,
                job,
            )

    async def advance_snapshot(self, dataset: str, limit: int) -> Snapshot:
        # Beside the durable connection, which live rows need. Nor does it wait for the disk, while
        # it holds rows: what a crash takes back is enqueued again, and whatever was read of it and
        # is to be sent has been made durable by the number of its batch.
        async with self._lightly() as c, c.transaction():
            cause, job, after, done = await c.fetchrow(
                "SELECT cause, job, after, done FROM deptbus.snapshot "
                "WHERE dataset = $1 FOR UPDATE",
                dataset,
            )
            if done:
                return (await rows_of.snapshots(c, "WHERE dataset = $1", dataset))[0]
            function = f"deptbus.{quoted(f'{dataset}_advance')}"
            enqueued, last, done, skipped = await c.fetchrow(
                f"SELECT * FROM {function}($1, $2, $3, $4)", after, limit, cause, job
            )
            raws = [raw_text(tuple(raw)) for raw in skipped or ()]
            await rows_of.want(c, [Wanted(dataset, raw, None, cause, job) for raw in raws])
            row = await c.fetchrow(
                "UPDATE deptbus.snapshot SET after = coalesce($2, after), "
                "enqueued = enqueued + $3, skipped = skipped + $4, done = $5 "
                "WHERE dataset = $1 "
                "RETURNING dataset, enqueued, skipped, done, pg_notify($6, '')",
                *(dataset, last, enqueued, len(raws), done, sql.CHANNEL),
            )
            return Snapshot(*row[:4])

    async def _keys(
        self, c: asyncpg.Connection, dataset: str, after: str | None, limit: int
    ) -> list[list[str]]:
        function = f"deptbus.{quoted(f'{dataset}_keys')}"
        return [r[0] for r in await c.fetch(f"SELECT * FROM {function}($1, $2)", after, limit)]

    async def _enqueue(
        self,
        c: asyncpg.Connection,
        dataset: str,
        raws: Sequence[RawKey],
        cause: str,
        job: str | None,
    ) -> dict[str, str]:
        """`raw_text` -> done, locked or gone."""
        if not raws:
            return {}
        function = f"deptbus.{quoted(f'{dataset}_enqueue')}"
        asked = json.dumps([list(raw) for raw in raws])
        rows = await c.fetch(f"SELECT * FROM {function}($1, $2, $3)", asked, cause, job)
        return {raw_text(tuple(json.loads(key))): outcome for key, outcome in rows}

    async def unshown(self) -> list[str]:
        views = list(await self._views())
        async with self._durable() as c:
            return [r[0] for r in await c.fetch(UNSHOWN, views)]

    async def open_snapshots(self) -> tuple[Snapshot, ...]:
        async with self._durable() as c:
            return await rows_of.snapshots(c, "WHERE NOT done")

    async def want(self, wanted: Iterable[Wanted]) -> None:
        async with self._durable(transaction=True) as c:
            await rows_of.want(c, wanted)

    async def want_keys(
        self, dataset: str, keys: Collection[bytes], cause: str, job: str | None
    ) -> None:
        async with self._durable(transaction=True) as c:
            await c.execute(
                "INSERT INTO deptbus.wanted (dataset, bus_key, cause, job) "
                "SELECT $1, k.bus_key, $3, $4 FROM unnest($2::bytea[]) AS k(bus_key) "
                "EXCEPT SELECT dataset, bus_key, cause, job FROM deptbus.wanted "
                "WHERE raw IS NULL AND dataset = $1",
                *(dataset, list(keys), cause, job),
            )

    async def work_off(self, limit: int, hold: Collection[str] = ()) -> tuple[int, list[Wanted]]:
        """A row that is gone, and a key whose row is not known, go through three transactions:
        a version is drawn; a transaction id is taken, above that of every transaction which may
        have drawn a lesser version; once all those have ended, what is not there is gone."""
        current = await self.layouts()
        async with self._durable(transaction=True) as c:
            rows = await c.fetch(
                "SELECT number, dataset, raw, bus_key, cause, job, position, "
                f"{rows_of.SETTLED} AS settled, after_xid IS NOT NULL AS is_waiting "
                f"FROM deptbus.wanted WHERE NOT (raw IS NULL AND {rows_of.SETTLED}) "
                "AND NOT dataset = ANY($2::text[]) "
                "ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED",
                *(min(limit, _WORK_OFF_ROWS), list(hold)),
            )
            absent, done = [], 0
            groups: dict[tuple[str, str, str | None], list[asyncpg.Record]] = defaultdict(list)
            for row in rows:
                if row["dataset"] not in current:
                    await c.execute("DELETE FROM deptbus.wanted WHERE number = $1", row["number"])
                elif row["raw"] is None:
                    absent.append(row)
                else:
                    groups[row["dataset"], row["cause"], row["job"]].append(row)
            for (dataset, cause, job), members in groups.items():
                raws = [raw_of(m["raw"]) for m in members]
                outcomes = await self._enqueue(c, dataset, raws, cause, job)
                for m in members:
                    outcome = outcomes[m["raw"]]
                    if outcome == "gone" and not m["settled"]:
                        absent.append(m)
                        continue
                    if outcome == "locked":
                        # To the end of the queue: those behind it are not to wait for it.
                        await c.execute(rows_of.LATER, m["number"])
                        continue
                    if outcome == "gone":
                        await self._enqueue_delete(c, current[dataset], m)
                    await c.execute("DELETE FROM deptbus.wanted WHERE number = $1", m["number"])
                    done += 1
            done += await rows_of.advance_absent(c, absent)
            to_find = await c.fetch(
                "SELECT dataset, raw, bus_key, cause, job FROM deptbus.wanted "
                f"WHERE raw IS NULL AND {rows_of.SETTLED} AND dataset = ANY($1::text[]) "
                "ORDER BY number LIMIT $2",
                [dataset for dataset in current if dataset not in hold],
                MOST_SOUGHT,
            )
        return done, [Wanted(*row) for row in to_find]

    async def _enqueue_delete(
        self, c: asyncpg.Connection, layout: Layout, wanted: asyncpg.Record
    ) -> None:
        raw = list(raw_of(wanted["raw"])) if wanted["raw"] is not None else []
        await c.execute(
            "INSERT INTO deptbus.outbox "
            "(position, layout, op, cause, job, source_time_us, bus_key, raw) "
            "VALUES ($1, $2, 'd', $3, $4, $5, $6, $7)",
            wanted["position"],
            layout.number,
            wanted["cause"],
            wanted["job"],
            time.time_ns() // 1000,
            wanted["bus_key"],
            raw,
        )
        await c.execute("SELECT pg_notify($1, '')", sql.CHANNEL)

    async def resolve(self, dataset: str, sought: Sequence[Sought]) -> None:
        layout = (await self.layouts())[dataset]
        found: dict[tuple[str, str | None], list[RawKey]] = defaultdict(list)
        for one in sought:
            if one.raw is not None:
                found[one.wanted.cause, one.wanted.job].append(one.raw)
        gone = [s.wanted.key for s in sought if s.raw is None and s.is_remembered]
        mine = "WHERE raw IS NULL AND dataset = $1 AND bus_key = ANY($2::bytea[])"
        async with self._durable(transaction=True) as c:
            for (cause, job), raws in found.items():
                outcome = await self._enqueue(c, dataset, raws, cause, job)
                # Locked, or went while we looked: its own key is known now.
                left = [raw for raw in map(raw_text, raws) if outcome[raw] != "done"]
                await rows_of.want(c, [Wanted(dataset, raw, None, cause, job) for raw in left])
            rows = await c.fetch(
                f"SELECT DISTINCT ON (bus_key) * FROM deptbus.wanted {mine}", dataset, gone
            )
            for row in rows:
                await self._enqueue_delete(c, layout, row)
            keys = [one.wanted.key for one in sought]
            await c.execute(f"DELETE FROM deptbus.wanted {mine}", dataset, keys)

    async def backlog(self, at_most: int) -> int:
        async with self._lightly() as c:
            return int(
                await c.fetchval(
                    "SELECT count(*) FROM (SELECT 1 FROM deptbus.outbox LIMIT $1) s", at_most
                )
            )

    async def waiting(self, at_most: int) -> Waiting:
        async with self._lightly() as c:
            first, last, counted, oldest = await c.fetchrow(
                "SELECT (SELECT min(position) FROM deptbus.outbox), "
                "(SELECT max(position) FROM deptbus.outbox), "
                "(SELECT count(*) FROM (SELECT 1 FROM deptbus.outbox LIMIT $1) s), "
                "(SELECT source_time_us FROM deptbus.outbox ORDER BY position LIMIT 1)",
                at_most,
            )
        return Waiting(last - first + 1 if counted >= at_most > 0 else counted, oldest)

    async def keys_after(self, dataset: str, after: RawKey | None, limit: int) -> list[RawKey]:
        async with self._durable() as c:
            text = raw_text(after) if after is not None else None
            return [tuple(k) for k in await self._keys(c, dataset, text, limit)]

    async def bears(self, dataset: str, raw: RawKey) -> bool:
        layout = (await self.layouts())[dataset]
        async with self._durable() as c:
            facts = await table_facts(c, layout)
            where = rows_of.own_key(layout, facts)
            try:
                found = await c.fetchval(f"SELECT true FROM {facts.table} t WHERE {where}", *raw)
            except asyncpg.DataError:
                return False  # not a value of the column's type: no row can bear it
            return found is not None

    async def retry_parked(self, cause: str) -> int:
        async with self._durable() as c:
            tag = await c.execute(
                "INSERT INTO deptbus.wanted (dataset, raw, cause) "
                "SELECT dataset, raw, $1 FROM deptbus.parked p WHERE NOT EXISTS (SELECT 1 "
                "FROM deptbus.wanted w WHERE w.dataset = p.dataset AND w.raw = p.raw)",
                cause,
            )
        return int(tag.split()[-1])

    # --- resync ---------------------------------------------------------------------------

    async def lift(self, token: bytes, publication: int, version: int) -> None:
        while not await self._lift(token, publication, version):
            pass  # what open transactions had written has come to light: it is counted now

    async def _lift(self, token: bytes, publication: int, version: int) -> bool:
        """False, and nothing but numbers drawn, where more rows wait than there is room for. They
        are numbered one by one: what is left free is lost for good at every resync."""
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            # What others draw before the next statement must not come to lie between.
            top, room = await c.fetchrow(
                "SELECT greatest(last_value, $1) + $2, "
                "(SELECT count(*) FROM deptbus.outbox) + $2 FROM deptbus.position",
                version,
                _DRAWN_MEANWHILE,
            )
        await self._draw_to(token, top + room)
        await self._older_ended(token)
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            waiting = "FROM deptbus.outbox WHERE position <= $1"
            if await c.fetchval(f"SELECT count(*) {waiting}", top) > room:
                return False
            await c.execute("SELECT nextval('deptbus.gave_way')")
            await c.execute(
                "UPDATE deptbus.published SET publication = greatest(publication, $1), "
                "version = greatest(version, $2)",
                publication,
                version,
            )
            await c.execute("UPDATE deptbus.wanted SET position = NULL, after_xid = NULL")
            # By way of negative numbers: a new position may be another row's old one.
            await c.execute(
                "UPDATE deptbus.outbox o SET position = -($1 + n.number) FROM (SELECT position, "
                f"row_number() OVER (ORDER BY position) AS number {waiting}) n "
                "WHERE o.position = n.position",
                top,
            )
            await c.execute("UPDATE deptbus.outbox SET position = -position WHERE position < 0")
        return True

    async def _draw_to(self, token: bytes, position: int) -> None:
        """The next version is above `position`. The limit of capture goes first: in between a live
        change would be thought to be beyond it."""
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            await c.execute(
                "UPDATE deptbus.published SET limit_position = greatest(limit_position, "
                "$1 + cap_rows)",
                position,
            )
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            await c.execute("SELECT setval('deptbus.position', $1)", position)

    async def _older_ended(self, token: bytes) -> None:
        """Returns when every transaction that was open at the call has ended."""
        # Whoever drew a version before has an id below one that is taken now.
        async with self._durable(transaction=True) as c:
            mark = await c.fetchval("SELECT pg_current_xact_id()::text")
        while True:
            async with self._durable(transaction=True) as c:
                await fence.check_postgres(c, token)
                if await c.fetchval(
                    "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8", mark
                ):
                    return
            await asyncio.sleep(0.2)

    async def reserve(self, token: bytes, count: int) -> int:
        async with self._durable() as c:
            drawn: int = await c.fetchval("SELECT last_value FROM deptbus.position")
        await self._draw_to(token, drawn + _DRAWN_MEANWHILE + count)
        await self._older_ended(token)
        return drawn + _DRAWN_MEANWHILE + 1

    async def rows_after(self, dataset: str, after: RawKey | None, limit: int) -> list[OutboxRow]:
        layout = (await self.layouts())[dataset]
        async with self._durable(transaction=True) as c:
            facts = await table_facts(c, layout)
            await rows_of.set_form(c)
            return await rows_of.rows_after(c, layout, facts, after, limit)

    async def rows_of(self, dataset: str, raws: Sequence[RawKey]) -> list[OutboxRow]:
        layout = (await self.layouts())[dataset]
        async with self._durable(transaction=True) as c:
            facts = await table_facts(c, layout)
            await rows_of.set_form(c)
            return await rows_of.rows_of(c, layout, facts, raws)

    async def enqueue(
        self, dataset: str, raws: Sequence[RawKey], cause: str, job: str | None
    ) -> None:
        async with self._durable(transaction=True) as c:
            outcomes = await self._enqueue(c, dataset, raws, cause, job)
            left = [raw for raw, outcome in outcomes.items() if outcome != "done"]
            await rows_of.want(c, [Wanted(dataset, raw, None, cause, job) for raw in left])

    async def enqueue_deletes(
        self, token: bytes, dataset: str, keys: Sequence[tuple[bytes, int]], cause: str, job: str
    ) -> None:
        layout = (await self.layouts())[dataset]
        stamp = time.time_ns() // 1000
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            await c.executemany(
                "INSERT INTO deptbus.outbox "
                "(position, layout, op, cause, job, source_time_us, bus_key, raw) "
                "VALUES ($1, $2, 'd', $3, $4, $5, $6, '{}')",
                [(position, layout.number, cause, job, stamp, key) for key, position in keys],
            )
            await c.execute("SELECT pg_notify($1, '')", sql.CHANNEL)

    async def is_pending(self, job: str) -> bool:
        async with self._durable() as c:
            return bool(
                await c.fetchval(
                    "SELECT EXISTS (SELECT 1 FROM deptbus.outbox WHERE job = $1) "
                    "OR EXISTS (SELECT 1 FROM deptbus.wanted WHERE job = $1)",
                    job,
                )
            )

    async def forgive(self, token: bytes, count: int) -> None:
        views = await self._views()
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            facts = [(layout, await table_facts(c, layout)) for layout in views.values()]
            await rows_of.set_form(c)  # hides the department's own schema
            for statement in (s for one in facts for s in forget_unshown(*one)):
                await c.execute(statement)
            await c.execute(
                "UPDATE deptbus.published SET gave_way_seen = gave_way_seen + $1", count
            )

    # --- removals that are held -----------------------------------------------------------

    async def holds(self) -> tuple[Hold, ...]:
        async with self._durable() as c:
            return await removals.holds(c)

    async def next_hold(self) -> int:
        async with self._durable() as c:
            return await removals.next_hold(c)

    async def held(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], HeldRemoval]:
        async with self._durable() as c:
            return await removals.held(c, keys)

    async def held_of(self, dataset: str, at_most: int) -> list[HeldRemoval]:
        async with self._durable() as c:
            return await removals.held_of(c, dataset, at_most)

    async def removals_lately(self) -> dict[tuple[str, int], int]:
        async with self._durable() as c:
            return await removals.lately(c)

    async def removals_ahead(
        self, dataset: str, position: int
    ) -> tuple[dict[int, tuple[int, int]], int]:
        async with self._durable() as c:
            return await removals.ahead(c, self._numbers[dataset], position, RELEASE, MOVED)

    async def count(self, dataset: str, at_most: int) -> int:
        layout = (await self.layouts())[dataset]
        async with self._durable() as c:
            counted = f"SELECT 1 FROM {quoted_table(layout.table)} LIMIT $1"
            return int(await c.fetchval(f"SELECT count(*) FROM ({counted}) AS s", at_most))

    async def release(self, number: int) -> Hold | None:
        async with self._durable(transaction=True) as c:
            return await removals.release(c, number)

    async def released(self, at_most: int, datasets: Collection[str]) -> list[HeldRemoval]:
        async with self._durable() as c:
            return await removals.released(c, at_most, datasets)

    async def publish_released(
        self, token: bytes, version: int, some: Sequence[HeldRemoval], cause: str, job: str
    ) -> None:
        dataset = some[0].dataset
        layout = (await self.layouts())[dataset]
        stamp = time.time_ns() // 1000
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            raws = [raw_of(one.raw) for one in some if one.raw]
            outcomes = await self._enqueue(c, dataset, raws, cause, job)
            await c.executemany(
                "INSERT INTO deptbus.outbox "
                "(position, layout, op, cause, job, source_time_us, raw) "
                "VALUES ($1, $2, 'd', $3, $4, $5, $6)",
                [
                    (version + n, layout.number, cause, job, stamp, list(raw_of(one.raw)))
                    for n, one in enumerate(some)
                    if outcomes.get(one.raw) == "gone"
                ],
            )
            locked = [raw for raw, outcome in outcomes.items() if outcome == "locked"]
            await rows_of.want(c, [Wanted(dataset, raw, None, cause, job) for raw in locked])
            nameless = [one.key for one in some if not one.raw]
            await rows_of.want(c, [Wanted(dataset, None, key, cause, job) for key in nameless])
            await removals.give_back(c, [(dataset, one.key) for one in some])
            await c.execute("SELECT pg_notify($1, '')", sql.CHANNEL)

    async def want_released(
        self, token: bytes, some: Sequence[HeldRemoval], wanted: Sequence[Wanted]
    ) -> None:
        async with self._durable(transaction=True) as c:
            await fence.check_postgres(c, token)
            await rows_of.want(c, wanted)
            await removals.give_back(c, [(one.dataset, one.key) for one in some])

    # --- state ----------------------------------------------------------------------------

    async def check(self, token: bytes) -> None:
        async with self._lightly() as c:
            await fence.check_postgres(c, token)

    async def tell(self, token: bytes | None, said: pulse.Pulse) -> None:
        async with self._lightly() as c:
            await pulse.write_postgres(c, token, said)

    async def state(self) -> SourceState:
        async with self._lightly() as c:
            await c.execute(rows_of.LIFT)
            row = await c.fetchrow(
                f"SELECT publication, version, {rows_of.GAVE_WAY}, cap_rows FROM deptbus.published"
            )
        *state, self._cap_rows = row
        return SourceState(*state)

    async def status(self) -> CaptureStatus:
        async with self._durable() as c:
            if await c.fetchval("SELECT to_regclass('deptbus.outbox')") is None:
                return CaptureStatus(installed=False)
        if outdated := await self.outdated():
            return CaptureStatus(installed=True, outdated=outdated)
        async with self._durable() as c:
            row = await c.fetchrow(
                f"SELECT publication, version, {rows_of.GAVE_WAY} AS gave_way, "
                "(SELECT count(*) FROM deptbus.outbox) AS outbox_rows, "
                "(SELECT source_time_us FROM deptbus.outbox ORDER BY position LIMIT 1) AS oldest, "
                "(SELECT count(*) FROM deptbus.wanted) AS wanted, cap_rows, "
                "greatest(0, limit_position - (SELECT last_value FROM deptbus.position)) AS room, "
                "cap_kib, greatest(0, (SELECT last_value FROM deptbus.volume) "
                "- limit_kib + cap_kib) AS kib FROM deptbus.published"
            )
            parked = await c.fetch("SELECT reason, count(*) FROM deptbus.parked GROUP BY reason")
            runs = await rows_of.snapshots(c, "")
            said = await pulse.read_postgres(c)
            has_views = await c.fetchval("SELECT to_regclass('deptbus.touched')") is not None
            touched = "SELECT count(*) FROM deptbus.touched"
            noted = await c.fetchval(touched) if has_views else 0
            held = await removals.holds(c, counted=True)
        oldest = row["oldest"]
        return CaptureStatus(
            installed=True,
            outbox_rows=row["outbox_rows"] + noted,
            oldest_age_seconds=None if oldest is None else max(0.0, time.time() - oldest / 1e6),
            parked={r[0]: r[1] for r in parked},
            wanted=row["wanted"],
            publication=row["publication"],
            version=row["version"],
            gave_way=row["gave_way"],
            snapshots=runs,
            cap_rows=row["cap_rows"],
            room_rows=row["room"],
            cap_kib=row["cap_kib"],
            outbox_kib=row["kib"],
            pulse=said,
            holds=held,
        )

    async def close(self) -> None:
        try:
            await self._light.close()
        finally:
            await self._database.close()
