"""A clerk's desk: plain SQL against one department's own database, as its own program would do it.

Knows nothing of the bus. One desk is used by one thread at a time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

# How long a clerk's program waits for another writer of its SQLite file. Programs that use SQLite
# with several writers need such a time-out with or without the bus.
_BUSY_SECONDS = 5.0


class Desk:
    """`?` stands for a parameter in every statement, whatever the database."""

    def __init__(self, database: str, folder: Path) -> None:
        """`database` as in department.yml; a relative SQLite path is relative to `folder`."""
        self._sqlite: sqlite3.Connection | None = None
        self._postgres: asyncpg.Connection | None = None
        if database.startswith("sqlite:///"):
            path = folder / database.removeprefix("sqlite:///")
            self._sqlite = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._sqlite.execute("PRAGMA journal_mode=WAL")
            self._sqlite.execute("PRAGMA synchronous=FULL")
        else:
            self._runner = asyncio.Runner()
            self._postgres = self._complete(asyncpg.connect(database))

    @property
    def is_postgres(self) -> bool:
        return self._postgres is not None

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Runs and commits one statement."""
        if self._sqlite is not None:
            self._sqlite.execute(statement, [_plain(p) for p in parameters])
        else:
            self._run(statement, parameters, "execute")

    def script(self, statements: Sequence[str]) -> None:
        for statement in statements:
            self.execute(statement)

    def insert_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One transaction for all rows."""
        if self._sqlite is not None:
            self._sqlite.execute("BEGIN IMMEDIATE")
            self._sqlite.executemany(statement, [[_plain(v) for v in row] for row in rows])
            self._sqlite.execute("COMMIT")
        elif self._postgres is not None:
            self._complete(self._postgres.executemany(_numbered(statement), rows))

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self._sqlite is not None:
            return self._sqlite.execute(statement, [_plain(p) for p in parameters]).fetchall()
        return [tuple(r) for r in self._run(statement, parameters, "fetch")]

    def close(self) -> None:
        if self._sqlite is not None:
            self._sqlite.close()
        elif self._postgres is not None:
            try:
                self._complete(self._postgres.close())
            finally:
                self._runner.close()

    def _run(self, statement: str, parameters: Sequence[Any], method: str) -> Any:
        call = getattr(self._postgres, method)
        return self._complete(call(_numbered(statement), *parameters))

    def _complete(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs `work` to its end. Ctrl-C in the midst of it ends the desk in order: work left half
        done would be told of with a traceback when the program ends."""
        try:
            return self._runner.run(work)
        except (KeyboardInterrupt, SystemExit):
            self._postgres = None
            self._runner.close()
            raise


def _numbered(statement: str) -> str:
    head, *tail = statement.split("?")
    return head + "".join(f"${n}{part}" for n, part in enumerate(tail, 1))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
