"""Joins a department's systems to the bus: the secret, the triggers, the tables of a folder.

What `deptbus department install`, `snapshot`, `status` and `uninstall` do for the source side.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deptbus.connection import Connection
from deptbus.contract.department import Department, System, receive_key
from deptbus.contract.department_check import check_department
from deptbus.contract.model import Contract
from deptbus.department.capture import Capture, CaptureStatus, Hold, Snapshot, Wanted
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, target_of
from deptbus.department.fence import read_adapter
from deptbus.department.folder_tables import make_folder_tables
from deptbus.department.layout import Layout, layouts_of
from deptbus.department.opening import open_capture, open_system, read_secret
from deptbus.department.publication import Publication
from deptbus.department.publisher import Publisher
from deptbus.department.raw import raw_text
from deptbus.department.recipient_install import (
    give_rights,
    install_recipient,
    recipient_sql,
    role_of,
)
from deptbus.department.remove import remove_all
from deptbus.department.resync import Resynced, resync
from deptbus.department.several_tables import make_sqlite, refuse_view_sqlite, tables_of
from deptbus.errors import DeptbusError, FileProblems, SourceRefused
from deptbus.stream.log import Sender
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.keys import fingerprint, new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SNAPSHOT_ROWS = 500
_WAIT_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0  # with an adapter that seems to run and enqueues nothing


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The source side of one system as `department status` shows it."""

    system: str
    capture: CaptureStatus
    incarnation: int = 0


def ensure_secret(path: Path) -> tuple[bytes, bool]:
    """The unit's key secret, made when there is none; True when it was. Mode 0600.

    Made without a moment in which others may read it, and never replaced: another secret would
    give every record another key. Raises SourceRefused when the file is no secret.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(path), False
    except OSError as error:
        raise DeptbusError(
            f"the key secret {path} cannot be written ({error.strerror})",
            mend="Make the folder writable, or name another file by `secret_file:`",
        ) from None
    secret = new_secret()
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret, True


def secret_fingerprint(department: Department) -> str:
    return fingerprint(read_secret(department.secret_file))


def layouts_for(department: Department, system: str, contract: Contract) -> tuple[Layout, ...]:
    return layouts_of(department.systems[system].publishes, contract)


def check(department: Department, contract: Contract) -> None:
    """Raises FileProblems with everything in department.yml that does not fit the contract."""
    problems = check_department(department, contract)
    if problems:
        raise FileProblems(problems)


async def install_sql(
    department: Department, system: str, contract: Contract, owner: str | None = None
) -> list[str]:
    """The statements that `install_system` would run; changes nothing (a folder's state database
    that is not there has none yet)."""
    settings = department.systems[system]
    layouts = layouts_for(department, system, contract)
    is_server = settings.kind == "postgresql"
    if not (layouts or is_server) or _has_no_state_yet(settings.database):
        return []
    async with capture_of(as_owner(department, system, owner), system) as capture:
        made: list[str] = []
        if layouts:
            wrong = await capture.examine(layouts)
            if wrong:
                raise SourceRefused(f"{capture.database.place}: {wrong[0]}", mend="Mend it first")
            made = await capture.sql(layouts, settings.outbox_cap_rows, settings.outbox_cap_mib)
        if isinstance(capture.database, PostgresDatabase):
            made += await recipient_sql(
                capture.database, settings, layouts, contract, has_owner=owner is not None
            )
        return made


def as_owner(department: Department, system: str, owner: str | None) -> Department:
    """The department with this system's database at `owner`, an address of the same database with
    an account that owns its tables; None: as it is."""
    if owner is None:
        return department
    settings = department.systems[system]
    if settings.kind != "postgresql":
        raise DeptbusError(
            f"system {system} is no PostgreSQL database, so it has no accounts",
            mend="Leave --owner out, or name the system by --system",
        )
    changed = settings.model_copy(update={"database": owner})
    return department.model_copy(update={"systems": {**department.systems, system: changed}})


def _has_no_state_yet(database: str) -> bool:
    target = target_of(database)
    return target.folder is not None and not Path(target.location).exists()


async def install_system(
    department: Department, system: str, contract: Contract, owner: str | None = None
) -> list[str]:
    """Installs capture of what this system publishes, and on PostgreSQL what it needs to receive;
    returns what a person should know. `owner`: the address to do that with; the account of
    `database:` then gets the rights to run the adapter, and no others.

    Idempotent. Raises DatabaseUnavailable, SourceRefused (one clear line).
    """
    settings = department.systems[system]
    layouts = layouts_for(department, system, contract)
    notes = []
    if await make_database(department, system):
        notes.append(f"made the empty database {settings.path}")
    if settings.kind == "sqlite":
        await _refuse_unfit(department, system, contract)
    if not layouts and settings.kind != "postgresql":
        return notes
    async with capture_of(as_owner(department, system, owner), system) as capture:
        database = capture.database
        if isinstance(database, PostgresDatabase):
            await install_recipient(database, settings, contract)
        if layouts:
            notes += await _install_capture(settings, layouts, capture)
        if isinstance(database, PostgresDatabase) and owner is not None:
            await give_rights(database, settings, layouts, contract)
            notes.append(f"gave account {role_of(settings.database)} what it needs to run")
    return notes


async def _refuse_unfit(department: Department, system: str, contract: Contract) -> None:
    """What an adapter would leave out: said now, though an adapter itself makes what is received
    into."""
    receives = department.systems[system].receives
    database = await open_system(department, system)
    try:
        assert isinstance(database, SqliteDatabase)
        for dataset, receive in receives.items():
            await database.run(partial(refuse_view_sqlite, dataset=dataset, receive=receive))
            if receive.tables and dataset in contract.datasets:
                tables = tables_of(receive, receive_key(receive, contract.datasets[dataset].key))
                await database.run(partial(make_sqlite, dataset=dataset, tables=tables))
    finally:
        await database.close()


async def _install_capture(
    settings: System, layouts: Sequence[Layout], capture: Capture
) -> list[str]:
    notes = []
    if settings.kind == "folder":
        assert isinstance(capture.database, SqliteDatabase)
        await make_folder_tables(capture.database, layouts, settings.path)
    elif settings.kind == "sqlite":
        notes.append(
            "SQLite has one writer: give the department's program a busy time-out of some "
            "seconds (PRAGMA busy_timeout = 5000)"
        )
    broken = await capture.broken()
    await capture.install(layouts, settings.outbox_cap_rows, settings.outbox_cap_mib)
    if any(one.is_blind or one.is_retyped for one in broken):
        await capture.give_way()
        notes.append(
            "what was written while the triggers were away was not captured, and what a "
            "column of another type holds may read otherwise: run `deptbus department resync`"
        )
    return notes


async def make_database(department: Department, system: str) -> bool:
    """Makes the SQLite file of a system that only receives, where there is none; True if so.

    On request only, never by a running adapter: to that one an absent file is a disk that is not
    there. What publishes has its rows, so an absent file is always a mistake.
    """
    settings = department.systems[system]
    if settings.kind != "sqlite" or settings.publishes or not settings.receives:
        return False
    if settings.path.exists() or not settings.path.parent.is_dir():
        return False
    database = await SqliteDatabase.open(target_of(settings.database), create=True)
    await database.close()
    return True


async def join_system(department: Department, system: str, contract: Contract) -> bool:
    """Secret, triggers and an open snapshot of every dataset, where capture is not installed yet;
    False when there was nothing to do. The adapter advances the snapshots.

    Raises FileProblems, DatabaseUnavailable, SourceRefused.
    """
    if not department.systems[system].publishes:
        return False
    async with capture_of(department, system) as capture:
        if (await capture.status()).installed:
            return False
    check(department, contract)
    ensure_secret(department.secret_file)
    await install_system(department, system, contract)
    async with capture_of(department, system) as capture:
        for dataset in department.systems[system].publishes:
            await capture.begin_snapshot(dataset, "snapshot", None)
    return True


async def uninstall_system(department: Department, system: str, owner: str | None = None) -> None:
    """Removes everything of deptbus from this system's database; own tables stay as they are.
    `owner`: as in `install_system`."""
    database = await open_system(as_owner(department, system, owner), system)
    try:
        await remove_all(database)
    finally:
        await database.close()


async def pause_system(department: Department, system: str, owner: str | None = None) -> None:
    """Capture does nothing until `install_system`; at once, whatever else goes on."""
    async with capture_of(as_owner(department, system, owner), system) as capture:
        if not await capture.layouts():
            raise SourceRefused(
                f"{capture.database.place}: capture is not installed",
                mend="There is nothing to pause",
            )
        await capture.pause()


async def snapshot_dataset(
    department: Department, system: str, dataset: str, tell: Callable[[Snapshot, bool], None]
) -> Snapshot:
    """Enqueues every existing row; goes on where one that was killed stopped. An adapter that runs
    does it itself, at a pace from which live changes do not suffer, and is waited for. `tell` is
    called after each look or chunk, with True while the outbox is full and the adapter has to
    publish first."""
    cap = department.systems[system].outbox_cap_rows
    room = max(1, cap // 2)
    moved, moved_at = -1, time.monotonic()
    async with capture_of(department, system) as capture:
        if dataset not in await capture.layouts():
            raise SourceRefused(
                f"{capture.database.place}: dataset {dataset} is not captured",
                mend="Run `deptbus department install` first",
            )
        await capture.refuse_outdated()
        await capture.begin_snapshot(dataset, "snapshot", None)
        while time.monotonic() - moved_at < _PATIENCE_SECONDS:
            status = await capture.status()
            snapshot = next(s for s in status.snapshots if s.dataset == dataset)
            tell(snapshot, False)
            if snapshot.done:
                return snapshot
            if status.pulse is None or not status.pulse.is_going_on(time.time_ns() // 1000):
                break
            if snapshot.enqueued + snapshot.skipped != moved:
                moved, moved_at = snapshot.enqueued + snapshot.skipped, time.monotonic()
            await asyncio.sleep(_WAIT_SECONDS)
        while True:
            if await capture.backlog(room) >= room:
                tell(Snapshot(dataset, 0, 0, False), True)
                await asyncio.sleep(_WAIT_SECONDS)
                continue
            snapshot = await capture.advance_snapshot(dataset, min(_SNAPSHOT_ROWS, room))
            tell(snapshot, False)
            if snapshot.done:
                return snapshot


async def resync_system(connection: Connection, department: Department, system: str) -> Resynced:
    """Takes the system over and publishes what differs; a running adapter of it ends, fenced."""
    secret = read_secret(department.secret_file)
    follower = PolicyFollower(connection)
    await follower.start()
    try:
        async with Sender(connection) as sender, capture_of(department, system) as capture:
            publisher = Publisher(
                connection,
                department,
                system,
                capture=capture,
                sender=sender,
                follower=follower,
                secret=secret,
            )
            return await resync(connection, department, system, publisher)
    finally:
        await follower.stop()


def key_of_natural(
    department: Department, dataset: str, contract: Contract, natural: tuple[str, ...]
) -> bytes:
    """The bus key of a natural key as it is typed in the own table, under the unit's own secret,
    which is here and nowhere else. Raises DeptbusError, SourceRefused; none quotes what was typed.
    """
    settings = department.systems[system_of(department, dataset)]
    secret = read_secret(department.secret_file)
    known = contract.unit_by_name.get(department.unit)
    if known is not None and known.key_fingerprint not in (None, fingerprint(secret)):
        raise SourceRefused(
            f"the key secret of {department.unit} is not the one that the contract names",
            mend="Put the unit's own secret back",
        )
    parts = contract.datasets[dataset].key if dataset in contract.datasets else ()
    if len(natural) != len(parts):
        raise DeptbusError(
            f"the natural key of {dataset} has {len(parts)} parts",
            mend=f"Give --natural for each of: {', '.join(parts)}",
        )
    publish = settings.publishes[dataset]
    found = Publication(department.unit, dataset, publish, contract, secret).key_of_raw(natural)
    if found.key is None:
        raise DeptbusError("that is not a natural key", mend="Check what was typed")
    return found.key


async def ask_resend(
    department: Department,
    system: str,
    dataset: str,
    contract: Contract,
    *,
    key: bytes | None = None,
    natural: tuple[str, ...] | None = None,
) -> bytes:
    """Asks this system's adapter for the present state of one record, by bus key or by natural key
    as it is typed in the own table. Returns the bus key."""
    settings = department.systems[system]
    publication = Publication(
        department.unit,
        dataset,
        settings.publishes[dataset],
        contract,
        read_secret(department.secret_file),
    )
    async with capture_of(department, system) as capture:
        if natural is None:
            if key is None:
                raise DeptbusError("no record named", mend="Give --key or --natural")
            await capture.want([Wanted(dataset, None, key, "resend", None)])
            return key
        if len(natural) != len(contract.datasets[dataset].key):
            raise DeptbusError(
                f"the natural key of {dataset} has {len(contract.datasets[dataset].key)} parts",
                mend=f"Give --natural for each of: {', '.join(contract.datasets[dataset].key)}",
            )
        found = publication.key_of_raw(natural)
        if found.key is None:
            raise DeptbusError("that is not a natural key", mend="Check what was typed")
        # By bus key, so that it does not matter how the own table has it typed.
        if await capture.bears(dataset, natural):
            await capture.want([Wanted(dataset, raw_text(natural), None, "resend", None)])
        else:
            await capture.want([Wanted(dataset, None, found.key, "resend", None)])
        return found.key


async def release_removals(
    department: Department, system: str, number: int, *, is_meant: bool
) -> Hold | None:
    """The hold of this number; where the removals are meant, its adapter publishes them from now
    on. None: nothing is held under that number."""
    async with capture_of(department, system) as capture:
        await capture.refuse_outdated()
        if is_meant:
            return await capture.release(number)
        holds = (await capture.status()).holds
        return next((hold for hold in holds if hold.number == number), None)


async def source_status(department: Department, system: str) -> SourceStatus:
    """Raises DatabaseUnavailable."""
    async with capture_of(department, system) as capture:
        status = await capture.status()
        if not status.installed or status.outdated:
            return SourceStatus(system, status)
        adapter = await read_adapter(capture.database)
        return SourceStatus(system, status, adapter.incarnation.number)


@asynccontextmanager
async def capture_of(department: Department, system: str) -> AsyncIterator[Capture]:
    capture = await open_capture(department, system)
    try:
        yield capture
    finally:
        await capture.close()


def system_of(department: Department, dataset: str) -> str:
    """The system that publishes a dataset. Raises DeptbusError."""
    for name, system in department.systems.items():
        if dataset in system.publishes:
            return name
    raise DeptbusError(
        f"{department.unit} does not publish {dataset}", mend="Check `publishes:` and --dataset"
    )
