"""What capture must know of a table in PostgreSQL: its columns' types and its unique indexes."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from deptbus.department.layout import Layout, quoted, quoted_table

# Types whose equality means the same text: two values that are equal are the same for everybody.
# (numeric 1.0 = 1.00, citext, floats and their zeros are equal and yet differ in text.)
_EXACT = frozenset(
    (
        *("int2", "int4", "int8", "bool", "uuid", "text", "varchar", "bpchar", "bytea"),
        *("date", "time", "timestamp", "timestamptz"),
    )
)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as the catalogue has it. `order`: the key columns in the order of their index.
    `cascades`: a foreign key may change its rows when others of them change."""

    table: str  # quoted, with its schema
    types: dict[str, str]  # column -> type as SQL writes it
    exact: frozenset[str]  # columns whose equality is that of their text
    order: tuple[str, ...]
    cascades: bool


async def _find(c: asyncpg.Connection, layout: Layout) -> asyncpg.Record | None:
    return await c.fetchrow(
        "SELECT k.oid, k.relkind, k.relispartition, n.nspname, k.relname, "
        "EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = k.oid) AS has_children "
        "FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace "
        "WHERE k.oid = to_regclass($1)",
        quoted_table(layout.table),
    )


async def table_facts(c: asyncpg.Connection, layout: Layout) -> TableFacts:
    """Facts of a table that `examine_table` found well."""
    found = await _find(c, layout)
    assert found is not None
    columns = await c.fetch(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS declared, t.typname, t.typtype, "
        "coalesce(l.collisdeterministic, true) AS plain "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_collation l ON l.oid = a.attcollation "
        "WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        found["oid"],
    )
    unique = await key_index(c, layout, found["oid"])
    assert unique is not None
    return TableFacts(
        table=f"{quoted(found['nspname'])}.{quoted(found['relname'])}",
        types={r["attname"]: r["declared"] for r in columns},
        exact=frozenset(
            r["attname"]
            for r in columns
            if r["plain"] and (r["typname"] in _EXACT or r["typtype"] == b"e")
        ),
        order=(*unique, *(k for k in layout.keys if k not in unique)),
        cascades=await c.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'f' AND conrelid = $1 "
            "AND (confupdtype IN ('c', 'n', 'd') OR confdeltype IN ('n', 'd')))",
            found["oid"],
        ),
    )


async def key_index(c: asyncpg.Connection, layout: Layout, oid: int) -> list[str] | None:
    """Columns of a unique, immediate, whole index over some or all of the key's columns."""
    for row in await _unique_indexes(c, oid):
        if row["usable"] and row["immediate"] and set(row["columns"]) <= set(layout.keys):
            return list(row["columns"])
    return None


async def _unique_indexes(c: asyncpg.Connection, oid: int) -> list[asyncpg.Record]:
    return await c.fetch(
        "SELECT i.indimmediate AS immediate, "
        "i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AS usable, "
        "(SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) "
        " WITH ORDINALITY AS k(attnum, n) JOIN pg_attribute a ON a.attrelid = i.indrelid "
        " AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts) AS columns "
        "FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique "
        "ORDER BY i.indisprimary DESC, i.indexrelid",
        oid,
    )


async def examine_table(c: asyncpg.Connection, layout: Layout) -> list[str]:
    """Why this layout cannot be captured here; empty when it can."""
    where = f"dataset {layout.dataset}"
    found = await _find(c, layout)
    if found is None:
        return [f"{where}: there is no table {layout.table}"]
    if found["relkind"] in (b"v", b"m", b"f"):
        return [f"{where}: {layout.table} is no ordinary table; name the table that it reads"]
    if found["relkind"] == b"p" or found["relispartition"] or found["has_children"]:
        # Statement triggers see only what was written through the very table that they are on.
        return [f"{where}: {layout.table} is partitioned or inherited from; that is not supported"]
    have = {
        r["attname"]
        for r in await c.fetch(
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
            found["oid"],
        )
    }
    absent = [
        f"{where}: table {layout.table} has no column {column}"
        for column in dict.fromkeys((*layout.keys, *layout.columns))
        if column not in have
    ]
    if absent:
        return absent
    if await key_index(c, layout, found["oid"]) is not None:
        return []
    keys = ", ".join(layout.keys)
    deferrable = any(
        not r["immediate"] and r["usable"] and set(r["columns"]) <= set(layout.keys)
        for r in await _unique_indexes(c, found["oid"])
    )
    if deferrable:
        return [
            f"{where}: the unique constraint on ({keys}) of table {layout.table} is deferrable, so "
            "a delete could be seen after the insert that replaced it; add one that is not"
        ]
    return [
        f"{where}: table {layout.table} has no unique index on ({keys}), so two rows could be one "
        "record"
    ]
