"""Opens a department's database, SQLite or PostgreSQL, and translates what its driver says.

Nothing of a driver leaves this room: a refused row becomes `RowRefused`, a lock that somebody holds
`DatabaseBusy`, all else `DatabaseUnavailable`. A driver's own message may quote the row, so it is
never passed on: only the names of constraint, table and column are, and the kind of the error.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import asyncpg

from deptbus.errors import DatabaseBusy, DatabaseUnavailable, DeptbusError, RowRefused

T = TypeVar("T")

FOLDER_STATE = Path(".deptbus") / "state.db"
# Below PostgreSQL's deadlock_timeout (1 s), so that we give way and never the department; and so
# short because whoever wants what we hold, or stands behind us in a queue, waits as long as we do.
LOCK_TIMEOUT_MS = 20
BUSY_TIMEOUT_S = 5.0
LOWEST_POSTGRES = 15  # the lowest version that the tests run on
LOWEST_SQLITE = (3, 35)  # RETURNING, and what else the adapter's own statements use


@dataclass(frozen=True, slots=True)
class Target:
    """Where a system's database is. `folder` is set when it is the state of a folder system."""

    kind: Literal["sqlite", "postgresql"]
    location: str  # path of the file, or the URL with its password
    folder: Path | None = None

    def __str__(self) -> str:
        """The place without its password, fit for a log or a screen."""
        return redacted(self.location) if self.kind == "postgresql" else self.location

    __repr__ = __str__


def target_of(database: str, base: Path = Path()) -> Target:
    """`sqlite:///path`, `postgresql://...` or `folder:path`; relative paths are relative to `base`.

    Raises DeptbusError for any other form.
    """
    if database.startswith(("postgresql://", "postgres://")):
        return Target("postgresql", database)
    if database.startswith("sqlite:///"):
        return Target("sqlite", str(base / database.removeprefix("sqlite:///")))
    if database.startswith("folder:"):
        folder = base / database.removeprefix("folder:")
        return Target("sqlite", str(folder / FOLDER_STATE), folder)
    raise DeptbusError(
        f"database {redacted(database)!r} is of no known kind",
        mend="Write sqlite:///PATH, postgresql://USER@HOST/NAME or folder:PATH",
    )


def redacted(url: str) -> str:
    """The URL with its password replaced, wherever the password stands in it, and whatever is in
    it that should have been percent-encoded."""
    hidden = re.sub(r"(//[^:@/?#]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


@contextmanager
def sqlite_translated(place: str) -> Iterator[None]:
    """Turns sqlite3's errors into ours; `place` names the database in what a person reads."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
            # What RAISE says is its author's, and since SQLite 3.47 it may quote the row.
            raise RowRefused(f"{place}: a trigger refuses it") from None
        # SQLite's message names the constraint or table.column and never a value.
        raise RowRefused(f"{place}: {error}") from None
    except (
        sqlite3.DataError,
        sqlite3.InterfaceError,
        OverflowError,
        UnicodeEncodeError,
    ) as error:
        raise RowRefused(f"{place}: a value does not fit ({type(error).__name__})") from None
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        ):
            raise DatabaseBusy(f"{place}: another program holds the database") from None
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_ERROR and not _OF_THE_CATALOGUE.match(str(error)):
            # An expression of the table's (json_extract in an index, a check, a trigger), whose
            # message may quote the value.
            raise RowRefused(f"{place}: an expression of the table refuses it") from None
        raise DatabaseUnavailable(
            f"{place}: {error}",
            mend=_SQLITE_MENDS.get(code, "Check the file, its rights and its tables"),
        ) from None
    except sqlite3.DatabaseError as error:
        raise DatabaseUnavailable(
            f"{place}: {error}", mend="Check that it is a sound database"
        ) from None


# What SQLite says of statements and tables; all else is of values.
_OF_THE_CATALOGUE = re.compile(
    r"no such|near |table |foreign key mismatch|cannot |error in |view |too many |unable |index |"
    r"duplicate column|there is already|ambiguous|SQL logic error|wrong number|unrecognized token|"
    r"incomplete input|database |no query solution|parser stack|temporary |unknown |Safety level"
)

# What a person can do, by the primary code of the error; all else is the file or its tables.
_SQLITE_MENDS = {
    sqlite3.SQLITE_FULL: "Make room on the disk; it goes on by itself",
    sqlite3.SQLITE_IOERR: "Check the disk and its room; it goes on by itself",
    sqlite3.SQLITE_READONLY: "Make file and folder writable for this user; it goes on by itself",
    sqlite3.SQLITE_CANTOPEN: "Check folder and file, and this user's right to write both",
}


class SqliteDatabase:
    """One SQLite connection on a thread of its own; all work runs there, one after another."""

    kind: Literal["sqlite"] = "sqlite"

    def __init__(self, target: Target) -> None:
        self.target = target
        self._ident = 0  # of the thread, once it has opened the connection
        self.place = str(target)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # which file the connection has open

    @classmethod
    async def open(cls, target: Target, *, create: bool = False) -> SqliteDatabase:
        """Raises DatabaseUnavailable when the file is absent (unless `create`) or no database."""
        database = cls(target)
        try:
            await database.run(lambda _: None, _open=lambda: database._connect(create))
        except BaseException:
            database._end()  # who gave up waiting for it leaves no open file behind
            raise
        return database

    def _connect(self, create: bool) -> None:
        self._ident = threading.get_ident()
        if sqlite3.sqlite_version_info < LOWEST_SQLITE:
            raise DatabaseUnavailable(
                f"this Python has SQLite {sqlite3.sqlite_version}, which is too old",
                mend="Use a Python with SQLite 3.35 or later",
            )
        path = Path(self.target.location)
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise DatabaseUnavailable(
                f"{self.place}: there is no such file",
                mend="Check `database:` in department.yml; for a system that only receives, "
                "`deptbus department install` makes the file",
            )
        connection = sqlite3.connect(
            path.absolute().as_uri() + f"?mode={'rwc' if create else 'rw'}",
            uri=True,
            isolation_level=None,  # we say BEGIN and COMMIT ourselves
            check_same_thread=False,  # opened, used and closed on one thread, which is ours
            timeout=BUSY_TIMEOUT_S,
        )
        # Old programs write text that is no UTF-8; such a row is parked, so it must be readable.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        self._connection, self._file = connection, _file_of(path)

    async def run(
        self, work: Callable[[sqlite3.Connection], T], *, _open: Callable[[], None] | None = None
    ) -> T:
        """Runs `work(connection)` on the database's thread, without a transaction of its own."""

        def on_thread() -> T:
            with sqlite_translated(self.place):
                if _open is not None:
                    _open()
                if self._connection is None:
                    raise DatabaseUnavailable(f"{self.place}: the connection is closed")
                if _file_of(Path(self.target.location)) != self._file:
                    # A backup was put in its place: ours is a file that nobody writes any more.
                    raise DatabaseUnavailable(
                        f"{self.place}: the file was replaced or removed",
                        mend="It is opened anew; if it is gone, put it back",
                    )
                return work(self._connection)

        if threading.get_ident() == self._ident:  # within `together`
            return on_thread()
        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    async def together(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Awaits `work()`, which awaits nothing but this database, in one visit to its thread. Each
        `run` of its own is a way there and back, which on a busy machine takes longer than the
        statement that it is for. `asyncio.sleep(0)` lets other threads run."""

        def on_thread() -> T:
            running = work()
            try:
                while running.send(None) is None:
                    time.sleep(0)
            except StopIteration as done:
                return cast(T, done.value)
            running.close()
            raise RuntimeError("waits for something else than this database")

        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread)

    async def transaction(
        self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = True
    ) -> T:
        """Runs `work` between BEGIN IMMEDIATE and COMMIT; any exception rolls back. Keep it short:
        SQLite has one writer, and the department's program waits meanwhile (aim below 10 ms).
        What is not `is_durable` may be lost in a power cut, never in a crash of the process.
        """

        def bracketed(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        def lightly(connection: sqlite3.Connection) -> T:
            connection.execute("PRAGMA synchronous = NORMAL")
            try:
                return bracketed(connection)
            finally:
                connection.execute("PRAGMA synchronous = FULL")

        return await self.run(bracketed if is_durable else lightly)

    async def close(self, *, also: Callable[[], None] = lambda: None) -> None:
        """Behind all that was begun, on the database's own thread: a connection that is closed
        under a thread that uses it brings the process down. It is closed also when nobody awaits
        this to its end. `also` is called there, for what is used in `together` as well."""
        await asyncio.shield(asyncio.wrap_future(self._end(also)))

    def _end(self, also: Callable[[], None] = lambda: None) -> Future[None]:
        def shut() -> None:
            also()
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

        ended = self._thread.submit(shut)
        self._thread.shutdown(wait=False)
        return ended


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# What `datetime` says of it.
_BEYOND = re.compile(r"is out of range|must be in \d|ordinal must be")


def _beyond(place: str) -> RowRefused:
    """What Python's own types say of a value that PostgreSQL takes, and the driver passes on."""
    return RowRefused(
        f"{place}: a value that stands there is beyond what can be read",
        mend="Look in the mapped columns for days before the year 1 or behind 9999, and for 24:00",
    )


@contextmanager
def postgres_translated(place: str) -> Iterator[None]:
    """Turns asyncpg's errors into ours; `place` names the database in what a person reads."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _translated(place, error) from None
    except OverflowError:
        raise _beyond(place) from None
    except ValueError as error:
        if not _BEYOND.search(str(error)):
            raise  # our own bug
        raise _beyond(place) from None
    except asyncpg.InternalClientError:
        # What the driver says when the server ended the connection between two messages.
        raise DatabaseUnavailable(
            f"{place}: the connection was lost", mend="Check that the server runs"
        ) from None
    except asyncpg.InterfaceError as error:
        if "another operation" in str(error):
            raise  # our own bug: two tasks on one connection
        raise DatabaseUnavailable(
            f"{place}: the connection was lost", mend="Check that the server runs"
        ) from None
    except (OSError, TimeoutError) as error:
        raise DatabaseUnavailable(
            f"{place}: cannot be reached ({type(error).__name__})",
            mend="Check that the server runs and that the address is right",
        ) from None


# Classes of SQLSTATE (its first two characters) that speak of one row: cardinality, data,
# constraints, what a trigger or a function made of it, a value too large for an index, RAISE.
_OF_A_ROW = frozenset(("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"))
# Those of the server, which nobody raises for a row: connection, resources, operator, system.
_OF_THE_SERVER = frozenset(("08", "53", "57", "58", "F0", "XX"))


def _translated(place: str, error: asyncpg.PostgresError) -> DeptbusError:
    """By the class of its SQLSTATE. One that PostgreSQL does not know was chosen by a trigger of
    the department: that refuses a row (if none is found to blame, applying stops all the same)."""
    kind = (error.sqlstate or "")[:2]
    own = isinstance(error, asyncpg.UnknownPostgresError) and kind not in _OF_THE_SERVER
    if kind in _OF_A_ROW or own:
        return RowRefused(f"{place}: {_named(error)}")
    if kind == "40" or isinstance(error, _OF_THE_MOMENT):
        return DatabaseBusy(f"{place}: {_named(error)}")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return DatabaseUnavailable(
            f"{place}: no right to do this ({_named(error)})",
            mend="Grant it; what capture needs, the tables' owner can install from the SQL that "
            "`deptbus department install --dry-run` prints",
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return DatabaseUnavailable(
            f"{place}: the database refuses user or password", mend="Check `database:`"
        )
    state = error.sqlstate or ""
    mend = _POSTGRES_MENDS.get(state) or _POSTGRES_MENDS.get(kind) or _ELSE
    return DatabaseUnavailable(f"{place}: {_named(error)}", mend=mend)


# What a person can do, by SQLSTATE or by its class (PostgreSQL, appendix A).
_POSTGRES_MENDS = {
    "53300": "Raise max_connections or end connections of others; it goes on by itself",
    "53100": "Make room on the server's disk; it goes on by itself",
    "53": "Give the server more of what it lacks; it goes on by itself",
    "57": "It goes on by itself when the server runs again",
    "58": "Look at the server's log and its disk; it goes on by itself",
    "25": "Make the database writable again; it goes on by itself",
    "42": "A table was altered: look at the tables that department.yml names, and run `deptbus "
    "department install` again where it is one that is published",
}
_ELSE = "Look at the server's log"
# A statement that was prepared before a table was altered is prepared anew at the next try.
_OF_THE_MOMENT = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCachedStatementError,
)


def _named(error: asyncpg.PostgresError) -> str:
    """Kind of the error and the names in it; the server's message may quote values, so it stays."""
    names = [
        f"{word} {value}"
        for word, value in (
            ("constraint", getattr(error, "constraint_name", None)),
            ("table", getattr(error, "table_name", None)),
            ("column", getattr(error, "column_name", None)),
        )
        if value
    ]
    kind = type(error).__name__.removesuffix("Error")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
    if isinstance(error, asyncpg.UnknownPostgresError):
        words = f"SQLSTATE {error.sqlstate} of a trigger"
    # Errors about the catalogue name tables and columns and never quote a row; those that a
    # function raises (they have a context) say what its author liked.
    about = isinstance(error, asyncpg.SyntaxOrAccessError) and not error.context
    if about and not names:
        names = [str(error).splitlines()[0]]
    return f"{words}: {', '.join(names)}" if names else words


class PostgresDatabase:
    """One PostgreSQL connection. Its application name tells a successor whose it is (see fence)."""

    kind: Literal["postgresql"] = "postgresql"

    def __init__(self, target: Target, connection: asyncpg.Connection) -> None:
        self.target = target
        self.place = str(target)
        self.connection = connection

    @classmethod
    async def open(cls, target: Target, *, application_name: str = "deptbus") -> PostgresDatabase:
        """Raises DatabaseUnavailable when the server is not there or refuses us."""
        with postgres_translated(str(target)):
            connection = await asyncpg.connect(
                target.location,
                timeout=10,
                server_settings={
                    "application_name": application_name,
                    "lock_timeout": str(LOCK_TIMEOUT_MS),
                    "timezone": "UTC",
                    "datestyle": "ISO, YMD",
                    "client_encoding": "UTF8",
                },
            )
        version = connection.get_server_version()
        if version.major < LOWEST_POSTGRES:
            await connection.close()
            raise DatabaseUnavailable(
                f"{target}: PostgreSQL {version.major} is too old",
                mend=f"{LOWEST_POSTGRES} is the lowest version that deptbus is tested on",
            )
        return cls(target, connection)

    @asynccontextmanager
    async def transaction(self, *, synchronous: bool = True) -> AsyncIterator[asyncpg.Connection]:
        """BEGIN ... COMMIT with errors translated. `synchronous=False` only where losing the last
        half second in a crash means no more than doing it again."""
        with postgres_translated(self.place):
            async with self.connection.transaction():
                if not synchronous:
                    await self.connection.execute("SET LOCAL synchronous_commit = off")
                yield self.connection

    async def close(self) -> None:
        try:
            await self.connection.close(timeout=2)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            self.connection.terminate()


Database = SqliteDatabase | PostgresDatabase

_PROCESS = secrets.token_hex(4)  # tells our own connections from those of an older adapter


def application_name(unit: str, system: str) -> str:
    """Below PostgreSQL's 63 bytes: `deptbus`, a digest of whose adapter, and this very process."""
    return f"{application_prefix(unit, system)}{_PROCESS}"


def application_prefix(unit: str, system: str) -> str:
    return f"deptbus {hashlib.sha256(f'{unit}/{system}'.encode()).hexdigest()[:12]} "


async def open_database(
    target: Target, *, unit: str, system: str, create: bool = False
) -> Database:
    """Opens the database of one system. `create` makes an absent SQLite file (folder systems)."""
    if target.kind == "sqlite":
        return await SqliteDatabase.open(target, create=create)
    return await PostgresDatabase.open(target, application_name=application_name(unit, system))
