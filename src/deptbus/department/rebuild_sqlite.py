"""Rebuilds in an SQLite file; see `rebuild_port`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from deptbus import names
from deptbus.department import fence
from deptbus.department.bookkeeping import COLUMN_LIST
from deptbus.department.decide import Action, Decision
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.ledger import Entry, RecordId, Row
from deptbus.department.rebuild import COMPARED, Rebuild
from deptbus.department.rebuild_port import REBUILD_LIST, Shadows, rebuild_of, words_of
from deptbus.department.seen import Values
from deptbus.department.target import MappedTarget
from deptbus.errors import RowRefused
from deptbus.wire.digest import encode_values

if TYPE_CHECKING:
    from deptbus.department.store_sqlite import SqliteStore

_TIDIED_ROWS = 500  # some milliseconds, for which the department's program waits


def table_of(dataset: str) -> str:
    return f"deptbus_rebuilt_{dataset}"


class SqliteShadows(Shadows):
    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._within = False

    async def load(self) -> list[Rebuild]:
        sql = f"SELECT {REBUILD_LIST} FROM deptbus_rebuilds ORDER BY changed_at_us, job"
        rows = await self._run(lambda c: c.execute(sql).fetchall())
        return [rebuild_of(row) for row in rows]

    async def note(self, rebuild: Rebuild) -> None:
        if self._within:
            await self._run(lambda c: _note(c, rebuild))
        else:
            await self._fenced(lambda c: _note(c, rebuild))

    async def begin(self, rebuild: Rebuild) -> None:
        target = self._store.targets[rebuild.dataset]
        columns = (*target.columns, *(column for column, _ in target.insert_only))
        # Of the columns the declared types, which say how values are kept, and nothing else: what
        # refuses a row is the table in use, at the swap.
        declared = ", ".join(f"{quoted(c.name)} {c.declared}" for c in columns)
        keys = ", ".join(quoted(column.name) for column in target.key_columns)

        def make(c: sqlite3.Connection) -> None:
            table = quoted_table(table_of(rebuild.dataset))
            c.execute(f"CREATE TABLE {table} ({declared}, PRIMARY KEY ({keys}))")
            _note(c, rebuild)

        await self._fenced(make)

    async def attach(self, dataset: str) -> bool:
        return await self._run(lambda c: self._store.attach(c, dataset, table_of(dataset)))

    def detach(self, dataset: str) -> None:
        self._store.detach(dataset)

    async def tidy(self, rebuild: Rebuild) -> bool:
        table = table_of(rebuild.dataset)

        def take_away(c: sqlite3.Connection) -> bool:
            there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
            if _delete(c, "deptbus_ledger", "WHERE dataset = ?", rebuild.name):
                return False
            if c.execute(there, (table,)).fetchone():
                if _delete(c, quoted(table), ""):
                    return False
                c.execute(f"DROP TABLE {quoted(table)}")
            _note(c, rebuild._replace(is_tidy=True))
            return True

        return await self._fenced(take_away)

    # -- the swap ----------------------------------------------------------------------------------

    async def differing(self, dataset: str) -> list[RecordId]:
        """Nobody waits for it: a reader holds up no writer."""
        target, second = self._store.targets[dataset], names.rebuilt_copy(dataset)

        def look(c: sqlite3.Connection) -> list[RecordId]:
            found: dict[RecordId, None] = {}
            for sql in (_GONE, _OTHER_LINES):
                for row in c.execute(sql, (dataset, second)):
                    found[RecordId(dataset, *row)] = None
            for key in c.execute(_other_rows(target)).fetchall():
                row = c.execute(
                    "SELECT source_unit, key FROM deptbus_ledger WHERE dataset = ? "
                    "AND row_key = ? AND held",
                    (second, encode_values(key)),
                ).fetchone()
                if row is not None:
                    found[RecordId(dataset, *row)] = None
            return list(found)

        return await self._run(look)

    @asynccontextmanager
    async def swapping(self) -> AsyncIterator[None]:
        def begin(c: sqlite3.Connection) -> None:
            c.execute("BEGIN IMMEDIATE")
            fence.check_sqlite(c, self._store.token)

        def take_back(c: sqlite3.Connection) -> None:
            if c.in_transaction:
                c.execute("ROLLBACK")

        self._within = True
        try:
            await self._run(begin)
            yield
            await self._run(lambda c: c.execute("COMMIT"))
        except BaseException:
            await self._run(take_back)
            raise
        finally:
            self._within = False

    async def entries(self, name: str, ids: Collection[RecordId]) -> list[Entry]:
        sql = (
            f"SELECT {COLUMN_LIST} FROM deptbus_ledger "
            "WHERE dataset = ? AND source_unit = ? AND key = ?"
        )

        def read(c: sqlite3.Connection) -> list[tuple[Any, ...]]:
            words = [(name, rid.source_unit, rid.key) for rid in ids]
            return [row for some in words for row in c.execute(sql, some).fetchall()]

        return [self._store.entry_of_row(row) for row in await self._run(read)]

    async def real(self, dataset: str, rows: Collection[bytes]) -> dict[bytes, Values]:
        def read(c: sqlite3.Connection) -> dict[bytes, Values]:
            found = {row: self._store.real(c, Row(dataset, row)) for row in rows}
            return {row: values for row, values in found.items() if values is not None}

        return await self._run(read)

    async def carry_out(self, decision: Decision, now_us: int) -> None:
        def write(c: sqlite3.Connection) -> None:
            c.execute("SAVEPOINT deptbus_swap")
            try:
                self._store.write_decision(c, decision, now_us)
            except BaseException:
                if c.in_transaction:
                    c.execute("ROLLBACK TO deptbus_swap")
                    c.execute("RELEASE deptbus_swap")
                raise
            c.execute("RELEASE deptbus_swap")

        await self._run(write)

    async def refused(self, decision: Decision) -> list[tuple[Action, str]]:
        def look(c: sqlite3.Connection) -> list[tuple[Action, str]]:
            if not c.in_transaction:
                raise RowRefused("a trigger of the table takes back all that is written with a row")
            found = []
            c.execute("SAVEPOINT deptbus_look")
            for action in self._store.ordered(decision):
                reason = self._store.attempt(c, action)
                if reason is not None:
                    found.append((action, reason))
                if not c.in_transaction:
                    return found
            c.execute("ROLLBACK TO deptbus_look")
            c.execute("RELEASE deptbus_look")
            return found

        return await self._run(look)

    # -- parts -------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._store.database.run(work)

    async def _fenced(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        def checked(c: sqlite3.Connection) -> Any:
            fence.check_sqlite(c, self._store.token)
            return work(c)

        return await self._store.database.transaction(checked)


def _note(c: sqlite3.Connection, rebuild: Rebuild) -> None:
    c.execute(
        f"INSERT INTO deptbus_rebuilds ({REBUILD_LIST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (job) DO UPDATE SET state = excluded.state, reason = excluded.reason, "
        "ends = excluded.ends, counts = excluded.counts, is_tidy = excluded.is_tidy, "
        "changed_at_us = excluded.changed_at_us",
        words_of(rebuild),
    )


def _delete(c: sqlite3.Connection, table: str, where: str, *words: str) -> int:
    """Some rows of a table; how many there were."""
    return c.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} {where} LIMIT ?)",
        (*words, _TIDIED_ROWS),
    ).rowcount


# (?1: the dataset, ?2: the second copy)
_OTHER_LINES = (
    "SELECT s.source_unit, s.key FROM deptbus_ledger s LEFT JOIN deptbus_ledger o "
    "ON o.dataset = ?1 AND o.source_unit = s.source_unit AND o.key = s.key WHERE s.dataset = ?2 "
    f"AND (o.key IS NULL OR {' OR '.join(f'o.{c} IS NOT s.{c}' for c in COMPARED)})"
)
_GONE = (
    "SELECT o.source_unit, o.key FROM deptbus_ledger o WHERE o.dataset = ?1 "
    "AND (o.op = 'upsert' OR o.parked IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM deptbus_ledger s "
    "WHERE s.dataset = ?2 AND s.source_unit = o.source_unit AND s.key = o.key)"
)


def _other_rows(target: MappedTarget) -> str:
    """The keys of the second copy's rows that the table in use has not, or has otherwise: in value
    and in kind, whatever its collations call equal."""
    names_of_keys = [quoted(column.name) for column in target.key_columns]
    columns = [quoted(column.name) for column in target.columns]
    match = " AND ".join(f"t.{name} = s.{name}" for name in names_of_keys)
    differs = " OR ".join(
        f"s.{name} IS NOT t.{name} OR typeof(s.{name}) IS NOT typeof(t.{name})" for name in columns
    )
    return (
        f"SELECT {', '.join(f's.{name}' for name in names_of_keys)} "
        f"FROM {quoted_table(table_of(target.dataset))} s "
        f"LEFT JOIN {quoted_table(target.table)} t ON {match} "
        f"WHERE t.{names_of_keys[0]} IS NULL OR {differs}"
    )
