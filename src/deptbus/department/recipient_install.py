"""What `department install` makes for the receiving side of a system on PostgreSQL, and the rights
of the account that its adapter runs with.

An adapter that may make tables makes what it lacks by itself; one that has the listed rights only
finds everything made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import asyncpg

from deptbus.contract.department import Receive, System, receive_key
from deptbus.contract.model import Contract
from deptbus.department import bookkeeping, fence, postgres_rights, pulse
from deptbus.department.connect import PostgresDatabase, postgres_translated
from deptbus.department.layout import Layout, quoted_table
from deptbus.department.postgres_table import table_sql
from deptbus.department.several_tables import (
    make_postgres,
    refuse_rows_postgres,
    refuse_view_postgres,
    tables_of,
)
from deptbus.errors import DeptbusError, SourceRefused
from deptbus.wire.types import resolve

_MADE = re.compile(r"CREATE TABLE IF NOT EXISTS (\S+)")


async def recipient_statements(
    c: asyncpg.Connection, system: System, contract: Contract
) -> list[str]:
    """Bookkeeping, the received tables that are not there, and the views over several."""
    mapped = {d: r for d, r in system.receives.items() if d in contract.datasets}
    if not mapped:
        return []
    made = list(fence.POSTGRES_TABLES)
    if not await _has_books(c):  # else it would meet the locks of an adapter that applies
        made += bookkeeping.POSTGRES_TABLES
    for dataset, receive in mapped.items():
        await refuse_view_postgres(c, dataset, receive)
        if receive.tables:
            key = receive_key(receive, contract.datasets[dataset].key)
            tables = tables_of(receive, key)
            made += await make_postgres(c, dataset, tables)
            await refuse_rows_postgres(c, dataset, tables, receive)
        elif not await _is_there(c, receive.table):
            made.append(_table_of(dataset, receive, contract))
    return made


async def _has_books(c: asyncpg.Connection) -> bool:
    names = [n for s in bookkeeping.POSTGRES_TABLES for n in _MADE.findall(s)]
    found = await c.fetchval(
        "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS name", names
    )
    return bool(found)


async def _is_there(c: asyncpg.Connection, table: str) -> bool:
    found = await c.fetchval("SELECT to_regclass($1) IS NOT NULL", quoted_table(table))
    return bool(found)


def _table_of(dataset: str, receive: Receive, contract: Contract) -> str:
    types = {f.name: f.type for f in resolve(contract.record_schema(dataset)).fields}
    return table_sql(receive, receive_key(receive, contract.datasets[dataset].key), types)


def role_of(url: str) -> str:
    """The account of a database's address. Raises DeptbusError where it names none."""
    role = urlsplit(url).username
    if not role:
        raise DeptbusError(
            "`database:` names no account to give rights to",
            mend="Write postgresql://ACCOUNT@HOST/NAME, or install without --owner",
        )
    return unquote(role)


async def right_statements(
    c: asyncpg.Connection, system: System, layouts: Sequence[Layout], contract: Contract
) -> list[str]:
    """The rights of the account that `database:` names, once all tables are made."""
    role = role_of(system.database)
    if not await postgres_rights.has_role(c, role):
        raise SourceRefused(
            f"there is no account {role} in this database",
            mend=f'Make it first: CREATE ROLE "{role}" LOGIN',
        )
    received = [
        table
        for dataset, receive in system.receives.items()
        if dataset in contract.datasets
        for table in (receive.table, *receive.tables)
    ]
    made = [pulse.POSTGRES_TABLE] if layouts else []
    return [*made, *await postgres_rights.grant_statements(c, role, layouts, received)]


async def install_recipient(database: PostgresDatabase, system: System, contract: Contract) -> None:
    """Idempotent. Raises DatabaseUnavailable."""
    async with database.transaction() as c:
        for statement in await recipient_statements(c, system, contract):
            await c.execute(statement)


async def give_rights(
    database: PostgresDatabase, system: System, layouts: Sequence[Layout], contract: Contract
) -> None:
    """Idempotent. Raises DatabaseUnavailable, SourceRefused."""
    async with database.transaction() as c:
        for statement in await right_statements(c, system, layouts, contract):
            await c.execute(statement)


async def recipient_sql(
    database: PostgresDatabase,
    system: System,
    layouts: Sequence[Layout],
    contract: Contract,
    *,
    has_owner: bool,
) -> list[str]:
    """What both of these run, for a person to read before."""
    with postgres_translated(database.place):
        made = await recipient_statements(database.connection, system, contract)
        if has_owner:
            made += await right_statements(database.connection, system, layouts, contract)
    return made
