"""Capture on SQLite: one writer at a time, so what is not there now is gone; short transactions."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from deptbus.contract.department import CAP_MIB
from deptbus.department import fence, pulse, sqlite_show
from deptbus.department import removal_guard_sqlite as removals
from deptbus.department import sqlite_rows as rows_of
from deptbus.department import sqlite_triggers as sql
from deptbus.department.bus_memory import was_restored
from deptbus.department.capture import (
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
    T,
    Variant,
    Waiting,
    Wanted,
    is_asked,
    refuse_doubled,
)
from deptbus.department.capture_check import Broken, broken_sqlite
from deptbus.department.connect import SqliteDatabase, sqlite_translated
from deptbus.department.layout import Layout, comma, quoted
from deptbus.department.outdated import outdated_sqlite
from deptbus.department.raw import raw_of, raw_text
from deptbus.department.removal_guard import MOVED, RELEASE
from deptbus.department.sqlite_schema import doubled_keys, examine_table
from deptbus.department.sqlite_view import TABLE_NAMES as VIEW_TABLES
from deptbus.department.sqlite_watch import Watch, end_watch, watch_database
from deptbus.errors import SourceRefused

log = structlog.get_logger(__name__)

# Once we are told of a write, its commit is looked for: at first every millisecond, then ever less
# often, for the file is written to before the disk has it and the commit can be seen.
_LOOK_SECONDS, _PATIENCE = 0.001, 0.25
_SAFETY_SECONDS = 0.25  # though nobody told of a write
# Where the system does not tell:
_POLL_SECONDS = 0.005
_IDLE_POLL_SECONDS = 0.02
_ACTIVE_SECONDS = 2.0  # after a commit somebody is likely to commit again soon
_WORK_OFF_ROWS = 100
_FORGOTTEN_AT_ONCE = 300  # of what a view showed: in one short transaction


class SqliteCapture(Capture):
    """See Capture. Owns `database`; closes it."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._place = database.place
        self._layouts: dict[int, Layout] = {}  # every layout that rows may name, by number
        self._watcher: sqlite3.Connection | None = None
        # Of two threads: a turn that nobody awaits any more goes on while others wait for writes.
        self._watching = threading.Lock()
        self._seen: int | None = None  # data_version when something was last read
        self._schema: int | None = None  # schema_version when we last saw that ours is whole
        self._watch: Watch | None = None
        self._written_at = float("-inf")  # when we were told of a write whose commit is not seen
        self._seen_at = float("-inf")  # when a commit was last seen

    @property
    def database(self) -> SqliteDatabase:
        return self._database

    async def together(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._database.together(work)

    # --- triggers -------------------------------------------------------------------------

    async def examine(self, layouts: Sequence[Layout]) -> list[str]:
        return await self._database.run(lambda c: [w for x in layouts for w in examine_table(c, x)])

    async def sql(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> list[str]:
        return await self._database.run(
            lambda c: rows_of.install_sql(c, layouts, cap_rows, cap_mib)
        )

    async def install(
        self, layouts: Sequence[Layout], cap_rows: int, cap_mib: int = CAP_MIB
    ) -> None:
        def work(c: sqlite3.Connection) -> None:
            wrong = [w for x in layouts for w in examine_table(c, x)]
            if wrong:
                raise SourceRefused(
                    f"{self._place}: {wrong[0]}", mend="Mend it, then install again"
                )
            refuse_doubled(self._place, {x: doubled_keys(c, x) for x in layouts if is_asked(x)})
            for statement in rows_of.install_sql(c, layouts, cap_rows, cap_mib):
                c.execute(statement)

        await self._database.transaction(work)
        self._layouts.clear()
        self._known_views = None

    async def uninstall(self) -> None:
        def work(c: sqlite3.Connection) -> None:
            for statement in [
                *rows_of.drop_triggers(c),
                *(
                    f"DROP TABLE IF EXISTS {t}"
                    for t in (*sql.TABLE_NAMES, *VIEW_TABLES, *removals.TABLE_NAMES)
                ),
                "DROP TABLE IF EXISTS deptbus_shape",
            ]:
                c.execute(statement)

        await self._database.transaction(work)
        self._layouts.clear()
        self._known_views = None

    async def pause(self) -> None:
        def work(c: sqlite3.Connection) -> None:
            for statement in rows_of.drop_triggers(c):
                c.execute(statement)
            if rows_of.is_installed(c):
                c.execute("UPDATE deptbus_published SET gave_way = gave_way + 1")

        await self._database.transaction(work)

    async def _let_go(self) -> None:
        """See `sqlite_rows.orphaned`."""
        if not await self._database.run(rows_of.orphaned):
            return

        def work(c: sqlite3.Connection) -> None:
            for statement in rows_of.orphaned(c):
                c.execute(statement)

        await self._database.transaction(work)
        log.error(
            "capture_torn",
            place=self._place,
            reason="tables of deptbus were dropped: its triggers are removed, so that writes go on",
            mend="Run `deptbus department install`, then `deptbus department resync`",
        )

    async def layouts(self) -> dict[str, Layout]:
        await self._let_go()

        def work(c: sqlite3.Connection) -> dict[str, Layout]:
            if not rows_of.is_installed(c):
                return {}
            rows = c.execute("SELECT layout FROM deptbus_layout WHERE is_current").fetchall()
            return {x.dataset: x for x in (Layout.from_json(text) for (text,) in rows)}

        return await self._database.run(work)

    async def broken(self) -> list[Broken]:
        current = (await self.layouts()).values()
        return await self._database.run(lambda c: broken_sqlite(c, current))

    async def outdated(self) -> str:
        current = (await self.layouts()).values()
        return await self._database.run(lambda c: outdated_sqlite(c, current))

    async def give_way(self) -> None:
        await self._database.transaction(
            lambda c: c.execute("UPDATE deptbus_published SET gave_way = gave_way + 1")
        )

    # --- the queue ------------------------------------------------------------------------

    async def read(
        self, limit: int, in_flight: Collection[int] = (), hold: Collection[str] = ()
    ) -> list[OutboxRow]:
        if not self._known_views:  # else `look_again` has looked
            await self._look_at_version()

        def work(c: sqlite3.Connection) -> list[OutboxRow]:
            heads, rows = rows_of.next_rows(c, limit, in_flight, hold)
            return self._rows(c, heads, rows)

        return await self._database.run(work)

    def _rows(
        self, c: sqlite3.Connection, heads: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> list[OutboxRow]:
        # Columns k0.. and v0.. may lie mixed after a wider mapping was installed: find by name.
        at = {name: i for i, name in enumerate(heads)}
        ways: dict[int, tuple[Layout, rows_of.Pick, rows_of.Pick]] = {}
        found = []
        for r in rows:
            way = ways.get(r[1])
            if way is None:
                layout = self._layouts.get(r[1]) or self._load_layout(c, r[1])
                ways[r[1]] = way = (
                    layout,
                    rows_of.pick([at[n] for n in sql.names("k", len(layout.keys))]),
                    rows_of.pick([at[n] for n in sql.names("v", len(layout.columns))]),
                )
            layout, keys, cells = way
            position, _, op, cause, job, stamp, was, key = r[:8]
            head = position, layout.dataset, op, cause, job, stamp, was, key
            columns, values = layout.columns, cells(r)
            if op == "d" and all(value is None for value in values):
                columns = values = ()
            found.append(OutboxRow(*head, keys(r), columns, values))
        return found

    def _load_layout(self, c: sqlite3.Connection, number: int) -> Layout:
        (text,) = c.execute(
            "SELECT layout FROM deptbus_layout WHERE number = ?", (number,)
        ).fetchone()
        self._layouts[number] = Layout.from_json(text)
        return self._layouts[number]

    async def look_again(self, token: bytes, limit: int, hold: Collection[str]) -> int:
        views = await self._views()
        if not views:
            return 0
        await self._look_at_version()
        query = "SELECT EXISTS (SELECT 1 FROM deptbus_touched)"
        if not await self._database.run(lambda c: c.execute(query).fetchone()[0]):
            return 0

        def work(c: sqlite3.Connection) -> int:
            fence.check_sqlite(c, token)
            return sqlite_show.look_again(c, views, limit, hold)

        return await self._database.transaction(work)

    async def parked(self) -> set[tuple[str, str]]:
        return await self._database.run(
            lambda c: set(c.execute("SELECT dataset, raw FROM deptbus_parked"))
        )

    async def reasons(self, dataset: str) -> dict[str, str]:
        query = "SELECT raw, reason FROM deptbus_parked WHERE dataset = ?"
        return await self._database.run(lambda c: dict(c.execute(query, (dataset,))))

    async def wanted(self, dataset: str, at_most: int) -> list[Wanted]:
        views = await self._views()
        return await self._database.run(
            lambda c: [
                *rows_of.wanted(c, dataset, at_most),
                *(sqlite_show.touched(c, views[dataset], at_most) if dataset in views else ()),
            ]
        )

    async def known(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], Known]:
        def work(c: sqlite3.Connection) -> dict[tuple[str, bytes], Known]:
            found: dict[tuple[str, bytes], Known] = {}
            for pair in keys:
                places = c.execute(
                    "SELECT places FROM deptbus_places WHERE dataset = ? AND bus_key = ?", pair
                ).fetchone()
                variants = c.execute(
                    "SELECT raw, state FROM deptbus_variants WHERE dataset = ? AND bus_key = ?",
                    pair,
                ).fetchall()
                if places or variants:
                    found[pair] = Known(
                        tuple(places[0].split(",")) if places else (),
                        tuple(Variant(*v) for v in variants),
                    )
            return found

        return await self._database.run(work)

    async def _remembered_keys(self, at_most: int) -> list[bytes]:
        def work(c: sqlite3.Connection) -> list[bytes]:
            found = c.execute(
                "SELECT bus_key FROM deptbus_places UNION ALL "
                "SELECT bus_key FROM deptbus_variants LIMIT ?",
                (at_most,),
            )
            return [key for (key,) in found]

        return await self._database.run(work)

    async def prepare(self, token: bytes, prepared: Prepared, *, sends: bool) -> int:
        def work(c: sqlite3.Connection) -> int:
            fence.check_sqlite(c, token)
            c.executemany(
                "DELETE FROM deptbus_outbox WHERE position = ?", [(p,) for p in prepared.drop]
            )
            c.executemany(
                "REPLACE INTO deptbus_places VALUES (?, ?, ?)",
                [(*pair, ",".join(places)) for pair, places in prepared.places.items()],
            )
            for pair, variants in prepared.variants.items():
                c.executemany(
                    "REPLACE INTO deptbus_variants VALUES (?, ?, ?, ?)",
                    [(*pair, v.raw, v.state) for v in variants],
                )
            c.executemany(
                "DELETE FROM deptbus_parked WHERE dataset = ? AND raw = ?", prepared.unpark
            )
            c.executemany(
                "INSERT INTO deptbus_parked VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (dataset, raw) "
                "DO UPDATE SET reason = excluded.reason, own_column = excluded.own_column, "
                "position = excluded.position",
                [(*p, time.time_ns() // 1000) for p in prepared.park],
            )
            rows_of.want(c, prepared.wanted)
            if prepared.holding is not None:
                removals.write(c, prepared.holding)
            if prepared.drop:
                c.execute(sql.LIFT_LIMIT)
            if not sends:
                return 0
            c.execute(
                "UPDATE deptbus_published SET publication = publication + 1, "
                "version = max(version, ?)",
                (prepared.version,),
            )
            (number,) = c.execute("SELECT publication FROM deptbus_published").fetchone()
            if prepared.publication not in (0, number):
                raise was_restored(self._database.place, prepared.publication - 1, number - 1)
            return int(number)

        number = await self._database.transaction(work)
        self._remember_keys(prepared)
        return number

    async def delete(self, token: bytes, positions: Sequence[int]) -> None:
        # A thousand rows a transaction: the department's program never waits for more than that.
        for start in range(0, len(positions), 1000):
            part = positions[start : start + 1000]
            # Lost in a power cut, they are sent again: no reason to keep the disk waiting.
            await self._database.transaction(
                partial(rows_of.delete_published, token, part), is_durable=False
            )

    async def wait(self, timeout_seconds: float) -> bool:
        if self._watch is None:
            self._watch = watch_database(Path(self._database.target.location))
        until = time.monotonic() + timeout_seconds
        while True:
            now = time.monotonic()
            was_told = self._watch.written.is_set()
            if was_told:
                self._watch.written.clear()  # before the look: the next write must wake us again
                self._written_at = now
            if self._data_version() != self._seen:
                self._seen_at = now
                if not was_told:  # else the write may be that of a next commit
                    self._written_at = float("-inf")
                return True
            if now >= until:
                return False
            await self._pause(self._watch, now, until - now)

    async def _pause(self, watch: Watch, now: float, longest: float) -> None:
        if not watch.is_told:
            is_active = now - self._seen_at < _ACTIVE_SECONDS
            pause = _POLL_SECONDS if is_active else _IDLE_POLL_SECONDS
            await asyncio.sleep(min(pause, longest))
            return
        pause = (now - self._written_at) * _PATIENCE
        if pause < _LOOK_SECONDS:
            # Not woken by more writes: a program that writes a lot must not keep us busy.
            await asyncio.sleep(min(_LOOK_SECONDS, longest))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(min(pause, _SAFETY_SECONDS, longest)):
                await watch.written.wait()

    async def _look_at_version(self) -> None:
        """Before reading: what commits meanwhile must wake us again. Whoever drops a table of ours
        changes the schema, and from then on the department's writes fail: no moment is lost."""
        version = self._data_version()
        if version == self._seen:
            return
        schema = self._asked("PRAGMA schema_version")
        if schema != self._schema:
            await self._let_go()
            self._schema = schema
        self._seen = version

    def _data_version(self) -> int:
        """Changes whenever any other connection commits."""
        return self._asked("PRAGMA data_version")

    def _asked(self, pragma: str) -> int:
        """Takes microseconds and waits for nobody: fit for the event loop's own thread."""
        with self._watching, sqlite_translated(self._place):
            if self._watcher is None:
                path = Path(self._database.target.location).absolute()
                self._watcher = sqlite3.connect(
                    path.as_uri() + "?mode=rw",
                    uri=True,
                    isolation_level=None,
                    timeout=0,
                    check_same_thread=False,  # also asked within `together`
                )
            return int(self._watcher.execute(pragma).fetchone()[0])

    # --- existing rows --------------------------------------------------------------------

    async def begin_snapshot(self, dataset: str, cause: str, job: str | None) -> None:
        await self._database.transaction(
            lambda c: c.execute(
                "INSERT INTO deptbus_snapshot VALUES (?, ?, ?, NULL, 0, 0, 0) "
                "ON CONFLICT (dataset) DO UPDATE SET cause = excluded.cause, job = excluded.job, "
                "after = NULL, enqueued = 0, skipped = 0, done = 0 "
                "WHERE done OR cause <> excluded.cause OR job IS NOT excluded.job",
                (dataset, cause, job),
            )
        )

    async def advance_snapshot(self, dataset: str, limit: int) -> Snapshot:
        layout = (await self.layouts())[dataset]
        return await self._database.transaction(
            lambda c: rows_of.advance_snapshot(c, layout, limit)
        )

    async def unshown(self) -> list[str]:
        views = await self._views()
        return await self._database.run(lambda c: sqlite_show.unshown(c, views))

    async def open_snapshots(self) -> tuple[Snapshot, ...]:
        return await self._database.run(lambda c: rows_of.snapshots(c, "WHERE NOT done"))

    async def want(self, wanted: Iterable[Wanted]) -> None:
        await self._database.transaction(lambda c: rows_of.want(c, wanted))

    async def want_keys(
        self, dataset: str, keys: Collection[bytes], cause: str, job: str | None
    ) -> None:
        await self._database.transaction(lambda c: rows_of.want_keys(c, dataset, keys, cause, job))

    async def work_off(self, limit: int, hold: Collection[str] = ()) -> tuple[int, list[Wanted]]:
        current = await self.layouts()
        few = min(limit, _WORK_OFF_ROWS)
        return await self._database.transaction(lambda c: rows_of.work_off(c, current, few, hold))

    async def backlog(self, at_most: int) -> int:
        return await self._database.run(
            lambda c: c.execute(
                "SELECT count(*) FROM (SELECT 1 FROM deptbus_outbox LIMIT ?)", (at_most,)
            ).fetchone()[0]
        )

    async def waiting(self, at_most: int) -> Waiting:
        return await self._database.run(lambda c: rows_of.waiting(c, at_most))

    async def resolve(self, dataset: str, sought: Sequence[Sought]) -> None:
        layout = (await self.layouts())[dataset]
        await self._database.transaction(lambda c: rows_of.resolve(c, layout, sought))

    async def keys_after(self, dataset: str, after: RawKey | None, limit: int) -> list[RawKey]:
        layout = (await self.layouts())[dataset]

        def work(c: sqlite3.Connection) -> list[RawKey]:
            where, bound = rows_of.after_key(c, layout, raw_text(after) if after else None)
            return c.execute(
                f"SELECT {comma(map(quoted, layout.keys))} FROM {quoted(layout.table)} "
                f"WHERE {where} ORDER BY {rows_of.key_order(c, layout)} LIMIT ?",
                (*bound, limit),
            ).fetchall()

        return await self._database.run(work)

    async def bears(self, dataset: str, raw: RawKey) -> bool:
        layout = (await self.layouts())[dataset]
        return await self._database.run(lambda c: rows_of.bears(c, layout, raw))

    async def retry_parked(self, cause: str) -> int:
        def work(c: sqlite3.Connection) -> int:
            return c.execute(
                "INSERT INTO deptbus_wanted (dataset, raw, cause) "
                "SELECT dataset, raw, ? FROM deptbus_parked AS p WHERE (dataset, raw) NOT IN "
                "(SELECT dataset, raw FROM deptbus_wanted WHERE raw IS NOT NULL)",
                (cause,),
            ).rowcount

        return await self._database.transaction(work)

    # --- resync ---------------------------------------------------------------------------

    async def lift(self, token: bytes, publication: int, version: int) -> None:
        await self._database.transaction(lambda c: rows_of.lift(c, token, publication, version))

    async def reserve(self, token: bytes, count: int) -> int:
        return await self._database.transaction(lambda c: rows_of.reserve_block(c, token, count))

    async def rows_after(self, dataset: str, after: RawKey | None, limit: int) -> list[OutboxRow]:
        layout = (await self.layouts())[dataset]
        return await self._database.run(lambda c: rows_of.rows_after(c, layout, after, limit))

    async def rows_of(self, dataset: str, raws: Sequence[RawKey]) -> list[OutboxRow]:
        layout = (await self.layouts())[dataset]
        return await self._database.run(lambda c: rows_of.rows_of(c, layout, raws))

    async def enqueue(
        self, dataset: str, raws: Sequence[RawKey], cause: str, job: str | None
    ) -> None:
        layout = (await self.layouts())[dataset]

        def work(c: sqlite3.Connection) -> None:
            for raw in raws:
                rows_of.enqueue_one(c, layout, raw, cause, job)

        await self._database.transaction(work)

    async def enqueue_deletes(
        self, token: bytes, dataset: str, keys: Sequence[tuple[bytes, int]], cause: str, job: str
    ) -> None:
        layout = (await self.layouts())[dataset]

        def work(c: sqlite3.Connection) -> None:
            fence.check_sqlite(c, token)
            c.executemany(
                "INSERT INTO deptbus_outbox "
                "(position, layout, op, cause, job, source_time_us, bus_key, mark) "
                f"VALUES (?, {layout.number}, 'd', ?, ?, {sql.NOW_US}, ?, {sql.MARK})",
                [(position, cause, job, key) for key, position in keys],
            )

        await self._database.transaction(work)

    async def is_pending(self, job: str) -> bool:
        query = (
            "SELECT EXISTS (SELECT 1 FROM deptbus_outbox WHERE job = ?) "
            "OR EXISTS (SELECT 1 FROM deptbus_wanted WHERE job = ?)"
        )
        return await self._database.run(lambda c: bool(c.execute(query, (job, job)).fetchone()[0]))

    async def forgive(self, token: bytes, count: int) -> None:
        views = await self._views()
        for layout in views.values():
            await self._forget_unshown(layout)
        last: int | None = 0 if views else None

        def work(c: sqlite3.Connection) -> None:
            nonlocal last
            fence.check_sqlite(c, token)
            if last is not None:
                last = sqlite_show.forget_touched(c, views, last, _FORGOTTEN_AT_ONCE)
            if last is None:
                how = "UPDATE deptbus_published SET gave_way_seen = gave_way_seen + ?"
                c.execute(how, (count,))

        await self._database.transaction(work)
        while last is not None:
            await self._database.transaction(work)

    async def _forget_unshown(self, layout: Layout) -> None:
        """Looks without the write lock, and looks again with it."""

        def absent(c: sqlite3.Connection, raws: Sequence[str]) -> list[str]:
            return [raw for raw in raws if not rows_of.bears(c, layout, raw_of(raw))]

        def forget(c: sqlite3.Connection, raws: Sequence[str]) -> None:
            sqlite_show.forget(c, layout.dataset, absent(c, raws))

        look = partial(sqlite_show.shown_after, dataset=layout.dataset, limit=_FORGOTTEN_AT_ONCE)
        after = ""
        while raws := await self._database.run(partial(look, after=after)):
            after = raws[-1]
            if gone := await self._database.run(partial(absent, raws=raws)):
                await self._database.transaction(partial(forget, raws=gone))

    # --- removals that are held -----------------------------------------------------------

    async def holds(self) -> tuple[Hold, ...]:
        return await self._database.run(removals.holds)

    async def next_hold(self) -> int:
        return await self._database.run(removals.next_hold)

    async def held(self, keys: Sequence[tuple[str, bytes]]) -> dict[tuple[str, bytes], HeldRemoval]:
        return await self._database.run(lambda c: removals.held(c, keys))

    async def held_of(self, dataset: str, at_most: int) -> list[HeldRemoval]:
        return await self._database.run(lambda c: removals.held_of(c, dataset, at_most))

    async def removals_lately(self) -> dict[tuple[str, int], int]:
        return await self._database.run(removals.lately)

    async def removals_ahead(
        self, dataset: str, position: int
    ) -> tuple[dict[int, tuple[int, int]], int]:
        words = dataset, position, RELEASE, MOVED
        return await self._database.run(lambda c: removals.ahead(c, *words))

    async def count(self, dataset: str, at_most: int) -> int:
        layout = (await self.layouts())[dataset]
        query = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(layout.table)} LIMIT ?)"
        return await self._database.run(lambda c: int(c.execute(query, (at_most,)).fetchone()[0]))

    async def release(self, number: int) -> Hold | None:
        return await self._database.transaction(lambda c: removals.release(c, number))

    async def released(self, at_most: int, datasets: Collection[str]) -> list[HeldRemoval]:
        return await self._database.run(lambda c: removals.released(c, at_most, datasets))

    async def publish_released(
        self, token: bytes, version: int, some: Sequence[HeldRemoval], cause: str, job: str
    ) -> None:
        layout = (await self.layouts())[some[0].dataset]

        def work(c: sqlite3.Connection) -> None:
            fence.check_sqlite(c, token)
            for one in some:
                if one.raw:
                    rows_of.enqueue_one(c, layout, raw_of(one.raw), cause, job)
                else:
                    rows_of.want(c, [Wanted(one.dataset, None, one.key, cause, job)])
            removals.give_back(c, [(one.dataset, one.key) for one in some])

        await self._database.transaction(work)

    async def want_released(
        self, token: bytes, some: Sequence[HeldRemoval], wanted: Sequence[Wanted]
    ) -> None:
        def work(c: sqlite3.Connection) -> None:
            fence.check_sqlite(c, token)
            rows_of.want(c, wanted)
            removals.give_back(c, [(one.dataset, one.key) for one in some])

        await self._database.transaction(work)

    # --- state ----------------------------------------------------------------------------

    async def check(self, token: bytes) -> None:
        await self._database.run(lambda c: fence.check_sqlite(c, token))

    async def tell(self, token: bytes | None, said: pulse.Pulse) -> None:
        await self._database.transaction(
            lambda c: pulse.write_sqlite(c, token, said), is_durable=False
        )

    async def state(self) -> SourceState:
        row = await self._database.run(
            lambda c: c.execute(
                "SELECT publication, version, gave_way - gave_way_seen FROM deptbus_published"
            ).fetchone()
        )
        return SourceState(*row)

    async def status(self) -> CaptureStatus:
        if outdated := await self.outdated():
            return CaptureStatus(installed=True, outdated=outdated)
        return await self._database.run(rows_of.status)

    async def close(self) -> None:
        if self._watch is not None:
            end_watch(self._watch)
            self._watch = None
        # On the database's thread: a turn whose awaiter was cancelled may still be at work there.
        await self._database.close(also=self._close_watcher)

    def _close_watcher(self) -> None:
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
