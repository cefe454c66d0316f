"""Plain SQL against one department's own database; what writers and witness stand on.

Shares no code with the bus. One desk is used by one thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg

Statement = tuple[str, Sequence[Any]]

# What a desk raises when its database is away, or went away in the midst of something.
AWAY = (
    OSError,
    TimeoutError,
    sqlite3.OperationalError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
)


class Desk(Protocol):
    """`?` stands for a parameter. After one of AWAY the desk connects anew at its next use."""

    def rows(self, query: str, words: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    def commit(self, statements: Sequence[Statement]) -> None:
        """All in one transaction. When it raises one of AWAY nobody knows what became of it."""

    def close(self) -> None: ...


class SqliteDesk:
    def __init__(self, file: Path, *, read_only: bool = False, busy_seconds: float = 30.0) -> None:
        self._file, self._read_only, self._busy = file, read_only, busy_seconds
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            mode = "ro" if self._read_only else "rw"
            self._connection = sqlite3.connect(
                f"file:{self._file}?mode={mode}",
                uri=True,
                timeout=self._busy,
                isolation_level=None,
                check_same_thread=False,
            )
        return self._connection

    def rows(self, query: str, words: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._open().execute(query, words).fetchall()
        except sqlite3.OperationalError:
            self.close()
            raise

    def commit(self, statements: Sequence[Statement]) -> None:
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, words in statements:
                connection.execute(statement, words)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class PostgresDesk:
    def __init__(self, url: str, *, patience_seconds: float = 30.0) -> None:
        self._url, self._patience = url, patience_seconds
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection | None = None

    async def _open(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._url, timeout=5)
        return self._connection

    def rows(self, query: str, words: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        async def read() -> list[tuple[Any, ...]]:
            connection = await self._open()
            return [tuple(r) for r in await connection.fetch(numbered(query), *words)]

        return self._run(read())

    def commit(self, statements: Sequence[Statement]) -> None:
        async def write() -> None:
            connection = await self._open()
            async with connection.transaction():
                for statement, words in statements:
                    await connection.execute(numbered(statement), *words)

        self._run(write())

    def script(self, text: str) -> None:
        async def run() -> None:
            await (await self._open()).execute(text)

        self._run(run())

    def _run(self, work: Any) -> Any:
        try:
            return self._runner.run(asyncio.wait_for(work, self._patience))
        except AWAY:
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None

        async def end(open_one: asyncpg.Connection) -> None:
            open_one.terminate()

        if connection is not None and not connection.is_closed():
            self._runner.run(end(connection))

    def close(self) -> None:
        self._drop()
        self._runner.close()


def numbered(statement: str) -> str:
    head, *tail = statement.split("?")
    return head + "".join(f"${n}{part}" for n, part in enumerate(tail, 1))
