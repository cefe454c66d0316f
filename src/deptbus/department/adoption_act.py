"""What a person of the department does about rows that were here before the bus: says yes to a
first load, looks at what was kept of his own rows, and puts it back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from deptbus.contract.department import Department, receive_match
from deptbus.contract.model import Contract
from deptbus.department.adoption import Existing
from deptbus.department.adoption_postgres import read_existing
from deptbus.department.adoption_sqlite import existing_of, has_table, settings
from deptbus.department.applier import mapping_of
from deptbus.department.connect import PostgresDatabase, SqliteDatabase, postgres_translated
from deptbus.department.kept_rows import Own, own_of
from deptbus.department.layout import quoted, quoted_table
from deptbus.department.opening import open_system
from deptbus.department.postgres_table import read_columns
from deptbus.department.store_sqlite import read_columns as read_sqlite_columns
from deptbus.department.target import Column
from deptbus.department.values import STAGED, ColumnKind
from deptbus.errors import DeptbusError
from deptbus.wire.digest import decode_values

_KEPT = "number, dataset, origin, own, kept_at_us, restored_at_us"


class KeptLine(NamedTuple):
    """One row of which something is kept."""

    number: int
    dataset: str
    origin: str
    own: Own
    kept_at_us: int
    restored_at_us: int | None


class Waiting(NamedTuple):
    """A first load that waits, and why it cannot be allowed yet (empty: it can)."""

    dataset: str
    obstacle: str


async def waiting_loads(department: Department, system: str, contract: Contract) -> list[Waiting]:
    """Raises DatabaseUnavailable."""
    mapping = mapping_of(department, system, [contract])
    database = await open_system(department, system)
    try:
        existing = await _existing(database)
        found = []
        for dataset, (receive, key) in mapping.items():
            if dataset not in existing or not existing[dataset].waits:
                continue
            obstacle = ""
            for columns in dict.fromkeys((receive_match(receive, key), key)):
                if not await _has_index(database, receive.table, columns):
                    obstacle = (
                        f"table {receive.table} has no index that begins with "
                        f"{' or '.join(columns)}: each record would read all of it. Make one first"
                    )
            found.append(Waiting(dataset, obstacle))
        return found
    finally:
        await database.close()


async def say_yes(department: Department, system: str, dataset: str) -> bool:
    """The department's yes to one first load; False where none waits. An adapter that runs takes it
    up within seconds."""
    now_us = time.time_ns() // 1000
    database = await open_system(department, system)
    try:
        if isinstance(database, SqliteDatabase):
            done = await database.transaction(
                lambda c: (
                    c.execute(
                        "UPDATE deptbus_existing SET waits = 0, changed_at_us = ? "
                        "WHERE dataset = ? AND waits",
                        (now_us, dataset),
                    ).rowcount
                )
            )
            return done > 0
        async with database.transaction() as connection:
            said = await connection.execute(
                "UPDATE deptbus.existing SET waits = false, changed_at_us = $1 "
                "WHERE dataset = $2 AND waits",
                now_us,
                dataset,
            )
        return said == "UPDATE 1"
    finally:
        await database.close()


async def kept_lines(
    department: Department, system: str, dataset: str | None, limit: int
) -> list[KeptLine]:
    """The newest first; empty where no adapter has run."""
    database = await open_system(department, system)
    try:
        rows: Sequence[Any]
        if isinstance(database, SqliteDatabase):
            rows = await database.run(lambda c: _kept_sqlite(c, dataset, limit))
        else:
            with postgres_translated(database.place):
                c = database.connection
                if await c.fetchval("SELECT to_regclass('deptbus.kept')") is None:
                    return []
                rows = await c.fetch(
                    f"SELECT {_KEPT} FROM deptbus.kept WHERE $1::text IS NULL OR dataset = $1 "
                    "ORDER BY number DESC LIMIT $2",
                    dataset,
                    limit,
                )
        return [
            KeptLine(number, name, origin, own_of(own), kept_at_us, restored_at_us)
            for number, name, origin, own, kept_at_us, restored_at_us in rows
        ]
    finally:
        await database.close()


def _kept_sqlite(c: sqlite3.Connection, dataset: str | None, limit: int) -> list[Any]:
    if not has_table(c, "deptbus_kept"):
        return []
    return c.execute(
        f"SELECT {_KEPT} FROM deptbus_kept WHERE ?1 IS NULL OR dataset = ?1 "
        "ORDER BY number DESC LIMIT ?2",
        (dataset, limit),
    ).fetchall()


async def restore(department: Department, system: str, number: int, contract: Contract) -> bool:
    """Writes what is kept under this number back into its row, but for its own key; False where
    that row is not there. What the bus brings next overwrites it again, and keeps it again.

    Raises DeptbusError where nothing is kept under this number, RowRefused, DatabaseUnavailable.
    """
    mapping = mapping_of(department, system, [contract])
    database = await open_system(department, system)
    try:
        if isinstance(database, SqliteDatabase):
            return await database.transaction(lambda c: _restore_sqlite(c, number, mapping))
        async with database.transaction() as connection:
            return await _restore_postgres(connection, number, mapping)
    finally:
        await database.close()


def _restore_sqlite(c: sqlite3.Connection, number: int, mapping: Mapping[str, Any]) -> bool:
    kept = (
        has_table(c, "deptbus_kept")
        and c.execute(
            "SELECT dataset, source_unit, key, row_key, own FROM deptbus_kept WHERE number = ?",
            (number,),
        ).fetchone()
    )
    if not kept:
        raise _not_kept(number)
    dataset, unit, key, row, own = kept
    receive, key_columns = _mapped(mapping, dataset)
    held = c.execute(
        "SELECT row_key FROM deptbus_ledger WHERE dataset = ? AND source_unit = ? AND key = ? "
        "AND held",
        (dataset, unit, key),
    ).fetchone()
    sets = _sets(own_of(own), key_columns, read_sqlite_columns(c, receive.table))
    words = dict(zip(key_columns, decode_values(held[0] if held else row), strict=True))
    if None in words.values():
        words = _place(
            c.execute(
                "SELECT place FROM deptbus_emptied "
                "WHERE dataset = ? AND source_unit = ? AND key = ?",
                (dataset, unit, key),
            ).fetchone()
        )
    where = " AND ".join(f"{quoted(name)} = ?" for name in words)
    changed, values = settings({quoted(column.name): value for column, value in sets})
    done = (
        words
        and c.execute(
            f"UPDATE {quoted_table(receive.table)} SET {changed} WHERE {where}",
            (*values, *words.values()),
        ).rowcount
    )
    if done:
        c.execute(
            "UPDATE deptbus_kept SET restored_at_us = ? WHERE number = ?",
            (time.time_ns() // 1000, number),
        )
    return bool(done)


async def _restore_postgres(c: asyncpg.Connection, number: int, mapping: Mapping[str, Any]) -> bool:
    kept = None
    if await c.fetchval("SELECT to_regclass('deptbus.kept')") is not None:
        kept = await c.fetchrow(
            "SELECT dataset, source_unit, key, row_key, own FROM deptbus.kept WHERE number = $1",
            number,
        )
    if kept is None:
        raise _not_kept(number)
    dataset, unit, key, row, own = kept
    receive, key_columns = _mapped(mapping, dataset)
    held = await c.fetchval(
        "SELECT row_key FROM deptbus.ledger WHERE dataset = $1 AND source_unit = $2 AND key = $3 "
        "AND held",
        dataset,
        unit,
        key,
    )
    catalogue = await read_columns(c, receive.table)
    sets = _sets(own_of(own), key_columns, catalogue)
    words = [
        f"{quoted(column.name)} = {_value(column, n)}" for n, (column, _) in enumerate(sets, 1)
    ]
    by = dict(zip(key_columns, decode_values(held or row), strict=True))
    if None in by.values():
        by = _place(
            await c.fetchrow(
                "SELECT place FROM deptbus.emptied "
                "WHERE dataset = $1 AND source_unit = $2 AND key = $3",
                *(dataset, unit, key),
            )
        )
    if not by.keys() <= catalogue.keys() or not by:
        return False
    where = " AND ".join(
        f"{quoted(name)} = ${n}::{STAGED[catalogue[name].kind]}::{catalogue[name].declared}"
        for n, name in enumerate(by, len(sets) + 1)
    )
    done = await c.execute(
        f"UPDATE {quoted_table(receive.table)} SET {', '.join(words)} WHERE {where}",
        *(value for _, value in sets),
        *by.values(),
    )
    if done == "UPDATE 0":
        return False
    await c.execute(
        "UPDATE deptbus.kept SET restored_at_us = $1 WHERE number = $2",
        time.time_ns() // 1000,
        number,
    )
    return True


def _place(found: Sequence[Any] | None) -> Own:
    """What tells a row from all others whose own key is empty; empty where nothing does."""
    return own_of(found[0]) if found is not None and found[0] else {}


def _value(column: Column, n: int) -> str:
    cast = f"::{column.declared}" if column.kind is ColumnKind.OTHER else ""
    return f"${n}::{STAGED[column.kind]}{cast}"


def _mapped(mapping: Mapping[str, Any], dataset: str) -> Any:
    if dataset not in mapping:
        raise DeptbusError(
            f"dataset {dataset} is not received any more", mend="Map it again to restore its rows"
        )
    return mapping[dataset]


def _sets(
    own: Own, key: Sequence[str], catalogue: Mapping[str, Column]
) -> list[tuple[Column, Any]]:
    found = [(catalogue[n], v) for n, v in own.items() if n in catalogue and n not in key]
    if not found:
        raise DeptbusError("the table has none of the columns any more that are kept")
    return found


def _not_kept(number: int) -> DeptbusError:
    return DeptbusError(
        f"nothing is kept under number {number}", mend="`deptbus department kept` lists what is"
    )


# -- the catalogue -----------------------------------------------------------------------------


async def _existing(database: SqliteDatabase | PostgresDatabase) -> dict[str, Existing]:
    if isinstance(database, SqliteDatabase):
        return await database.run(
            lambda c: existing_of(c) if has_table(c, "deptbus_existing") else {}
        )
    with postgres_translated(database.place):
        if await database.connection.fetchval("SELECT to_regclass('deptbus.existing')") is None:
            return {}
        return await read_existing(database.connection)


async def _has_index(
    database: SqliteDatabase | PostgresDatabase, table: str, columns: Sequence[str]
) -> bool:
    """Whether some index begins with one of these columns."""
    if isinstance(database, SqliteDatabase):
        first = await database.run(lambda c: _first_of_indexes(c, table))
        return not first.isdisjoint(name.lower() for name in columns)
    with postgres_translated(database.place):
        found: bool = await database.connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a "
            "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL "
            "AND a.attname = ANY($2))",
            quoted_table(table),
            list(columns),
        )
    return found


def _first_of_indexes(c: sqlite3.Connection, table: str) -> set[str]:
    found = c.execute(
        "SELECT i.name FROM pragma_index_list(?1) l, pragma_index_info(l.name) i "
        "WHERE i.seqno = 0 AND NOT l.partial AND i.name IS NOT NULL UNION "
        "SELECT name FROM pragma_table_xinfo(?1) WHERE pk = 1",
        (table,),
    )
    return {name.lower() for (name,) in found}
