"""Databases fail under the adapters: the departments' writes go on, and every copy ends right.

The sources' clerks are asked how long their slowest commit took wherever their own database is not
the one that is broken: the bus never makes a department's write wait. Another thing that is broken
all the while is the clock of the sources' adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import asyncpg

from .county import ARCHIVE, AUDIT, BELOW, HOUSING, REGISTRY, SOURCES, held
from .disks import NoSmallDisk, mounted
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import World

PER_SECOND = 100
# Of one commit on a machine that is busy with everything else; who waits for the bus waits longer.
PROMPT_SECONDS = 2.0
LONG_SECONDS = 60.0
SOON_SECONDS = 60.0

Fault = Callable[[World, bool], None]


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    world.watch()
    others = [u for u in world.county.units(world.witness.rights) if u not in SOURCES]
    started = [
        world.worker(),
        world.operations(),
        world.adapter("adapter-sources", [REGISTRY, HOUSING], ["databases:set_clock_back"]),
        world.adapter("adapter-others", others),
    ]
    for child in started:
        child.wait_ready()
    world.write_on(per_second=PER_SECOND)
    arriving(world)
    for fault in SHORT if short else (*SHORT, *FULL):
        fault(world, short)
        told = world.tend()
        world.verdict.check(not told, f"{fault.__name__}: ended by it: {told}")
        if world.has_shown(0.0):
            break
    world.write_until(0 if short else 6_000)
    return world.conclude()


@contextlib.contextmanager
def nobody_waits(world: World, *units: str) -> Iterator[None]:
    """Promise 9, for the clerks of these units."""
    for unit in units:
        world.writers[unit].slowest_seconds = 0.0
    yield
    for unit in units:
        took = world.writers[unit].slowest_seconds
        world.verdict.check(
            took < PROMPT_SECONDS, f"a write of {unit} waited for {took:.1f} s because of the bus"
        )


def typed(world: World, changes: int, seconds: float = 0.0) -> None:
    """Until so many more changes were made, and for so long at the least."""
    goal, until = world.changes + changes, time.monotonic() + seconds
    settled(
        lambda: world.changes >= goal and time.monotonic() > until,
        SOON_SECONDS + seconds,
        f"{changes} changes more",
    )


def arriving(world: World) -> None:
    """Until changes come to a copy: what is broken then is broken under way."""
    desk = world.county.desk(ARCHIVE, read_only=True)
    count = f"SELECT count(*) FROM {held('account')}"
    settled(lambda: desk.rows(count)[0][0] > 0, SOON_SECONDS, "changes arrive")
    desk.close()


# -- PostgreSQL -----------------------------------------------------------------------------------


def postgres_restarts(world: World, short: bool) -> None:
    """A source and a recipient lose their server in the midst of what they do."""
    with nobody_waits(world, REGISTRY):
        for _ in range(1 if short else 5):
            world.postgres.stop()
            typed(world, 20, 1.0)
            world.postgres.start()
            typed(world, 60, 1.0)
    world.did("PostgreSQL was restarted under a source and a recipient")


def copies_are_locked(world: World, short: bool) -> None:
    """Programs of two recipients hold their tables, and one its whole file."""
    seconds = 3.0 if short else LONG_SECONDS
    with nobody_waits(world, REGISTRY, HOUSING), contextlib.ExitStack() as held_open:
        desk = held_open.enter_context(_session(world.county.urls[ARCHIVE]))
        desk("BEGIN")
        desk(f"LOCK TABLE {held('account')} IN EXCLUSIVE MODE")
        file = held_open.enter_context(
            closing(sqlite3.connect(world.county.file(AUDIT), timeout=30, isolation_level=None))
        )
        file.execute("BEGIN IMMEDIATE")
        typed(world, 60, seconds)
        file.execute("COMMIT")
        desk("COMMIT")
    world.did(f"two recipients' programs held locks for {seconds:.0f} s")


def a_copy_is_altered(world: World, short: bool) -> None:
    """A column of a received table has another name for a while, and the table has one more."""
    world.witness.stop()  # it reads that table
    with nobody_waits(world, REGISTRY, HOUSING), _session(world.county.urls[ARCHIVE]) as desk:
        desk(f"ALTER TABLE {held('account')} RENAME COLUMN amount TO betrag")
        typed(world, 60, 2.0 if short else 20.0)
        desk(f"ALTER TABLE {held('account')} RENAME COLUMN betrag TO amount")
        desk(f"ALTER TABLE {held('account')} ADD COLUMN remark text")
        desk(f"ALTER TABLE {held('account')} ALTER COLUMN owner TYPE varchar(90)")
    world.witness.start()
    world.did("a recipient's table had a renamed column, then another type and one column more")


def out_of_connections(world: World, short: bool) -> None:
    """Others take every place that the server has; the adapters' connections are cut."""
    with nobody_waits(world, REGISTRY), _crowd(world.county.urls[ARCHIVE]):
        typed(world, 60, 2.0 if short else 20.0)
    world.did("others took every connection of PostgreSQL")


def a_disk_is_full(world: World, short: bool) -> None:
    """The tablespace of a received table lies on a small disk, which somebody fills."""
    facts = (world.folder / "postgres").stat()
    try:
        with mounted(8, owner=(facts.st_uid, facts.st_gid)) as folder:
            _fill_and_free(world, str(folder))
    except NoSmallDisk as error:
        world.did(f"left out: the disk of a recipient is full ({error})")


def _fill_and_free(world: World, folder: str) -> None:
    with nobody_waits(world, REGISTRY), _session(world.county.urls[ARCHIVE]) as desk:
        desk(f"CREATE TABLESPACE small LOCATION '{folder}'")
        desk(f"ALTER TABLE {held('account')} SET TABLESPACE small")
        desk("CREATE TABLE filler (t text) TABLESPACE small")
        with contextlib.suppress(asyncpg.DiskFullError):
            for _ in range(10_000):
                desk("INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, 20)")
        typed(world, 800, 20.0)
        desk("DROP TABLE filler")
        typed(world, 100, 2.0)
        # The witness does not lose its table with the disk.
        desk(f"ALTER TABLE {held('account')} SET TABLESPACE pg_default")
        desk("DROP TABLESPACE small")
    world.did("the disk of a recipient was full, and room was made")


@contextlib.contextmanager
def _session(url: str) -> Iterator[Callable[[str], None]]:
    """Statements of a department's own program; a lock is waited for by trying again."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))

        def execute(statement: str) -> None:
            runner.run(connection.execute(statement))

        try:
            yield execute
        finally:
            runner.run(connection.close())


@contextlib.contextmanager
def _crowd(url: str) -> Iterator[None]:
    async def take(kept: list[asyncpg.Connection]) -> None:
        while True:
            try:
                kept.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                return

    with asyncio.Runner() as runner:
        kept: list[asyncpg.Connection] = []
        runner.run(take(kept))
        runner.run(
            kept[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'deptbus %'"
            )
        )
        runner.run(take(kept))
        try:
            yield
        finally:
            for connection in kept:
                runner.run(connection.close())


# -- SQLite ---------------------------------------------------------------------------------------


def a_folder_goes_away(world: World, short: bool) -> None:
    """A recipient's whole folder, with its database, is not there for a while."""
    folder = world.county.folder(BELOW)
    aside = folder.with_name("aside")
    with nobody_waits(world, REGISTRY, HOUSING):
        folder.rename(aside)
        typed(world, 60, 2.0 if short else 20.0)
        aside.rename(folder)
    world.did("a recipient's folder went away and came back")


# -- the clock, and what is planted ---------------------------------------------------------------


def set_clock_back() -> None:
    """In a child: some seconds after its start its clock is a day behind."""
    real, begun = time.time_ns, time.monotonic()

    def time_ns() -> int:
        back = 86_400 * 10**9 if time.monotonic() - begun > 6 else 0
        return real() - back

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def skips_what_is_locked() -> None:
    """In an adapter: a batch that meets a lock is left out."""
    from deptbus.department import store
    from deptbus.department.store_sqlite import SqliteStore
    from deptbus.errors import DatabaseBusy

    for kind in (store.Store, SqliteStore):
        kind.apply = _skipping(kind.apply, store.Applied, DatabaseBusy)  # type: ignore[method-assign]


def _skipping(apply: Any, nothing: type, busy: type[Exception]) -> Any:
    async def skip(self: Any, *args: Any) -> Any:
        try:
            return await apply(self, *args)
        except busy:
            return nothing()

    return skip


def dawdles_in_transactions() -> None:
    """In an adapter: a transaction in a department's file takes its time now and then."""
    from deptbus.department.connect import SqliteDatabase

    transaction = SqliteDatabase.transaction
    count = iter(range(10**9))

    async def slow(self: SqliteDatabase, work: Callable[..., object], **words: bool) -> object:
        def dawdling(connection: sqlite3.Connection) -> object:
            result = work(connection)
            if next(count) % 50 == 49:
                time.sleep(PROMPT_SECONDS * 1.5)
            return result

        return await transaction(self, dawdling, **words)

    SqliteDatabase.transaction = slow  # type: ignore[method-assign]


# The lock behind the altered copy, for which the whole inbox is read again: that would make good
# what an adapter left out.
SHORT: tuple[Fault, ...] = (
    a_copy_is_altered,
    copies_are_locked,
    a_folder_goes_away,
    postgres_restarts,
)
FULL: tuple[Fault, ...] = (out_of_connections, a_disk_is_full)

BUGS = {
    "dawdles_in_transactions": Bug(
        "an adapter keeps the department's file locked for seconds",
        ("other",),
        {"adapter": ["databases:dawdles_in_transactions"]},
    ),
    "skips_what_is_locked": Bug(
        "an adapter leaves out what its database does not take at once",
        ("lost",),
        {"adapter": ["databases:skips_what_is_locked"]},
    ),
}

SCENARIO = Scenario(
    "databases", "databases restart, are locked, altered, full, gone; a clock goes back", run, BUGS
)
