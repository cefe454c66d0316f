"""What capture must know of a table in PostgreSQL: columns, indexes, partitions, and what it cannot
be captured for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from deptbus.department.layout import Layout, comma, quoted, quoted_table

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
    `cascades`: a foreign key may change its rows when others of them change. `unseen`: mapped
    columns that are made when they are read, so no statement's old and new rows have them."""

    table: str  # quoted, with its schema
    types: dict[str, str]  # column -> type as SQL writes it
    exact: frozenset[str]  # columns whose equality is that of their text
    order: tuple[str, ...]
    cascades: bool
    # Quoted: the table itself, then its partitions; of a view, those of the tables behind it.
    relations: tuple[str, ...]
    unseen: frozenset[str] = frozenset()
    # Of a view: table as `Part` has it -> quoted, with its schema.
    behind: Mapping[str, str] = field(default_factory=dict)


_RELATION = (
    "SELECT k.oid, k.relkind, k.relispartition, k.relpersistence, n.nspname, k.relname, "
    "k.relrowsecurity AND NOT (NOT k.relforcerowsecurity AND pg_has_role(k.relowner, 'USAGE')) "
    "AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) "
    "AS is_cut, "
    "EXISTS (SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "  WHERE i.inhparent = k.oid AND NOT c.relispartition) AS has_children, "
    "EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhrelid = k.oid) AS is_child "
    "FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace "
)


async def _find(c: asyncpg.Connection, table: str) -> asyncpg.Record | None:
    return await c.fetchrow(f"{_RELATION} WHERE k.oid = to_regclass($1)", quoted_table(table))


async def relations(c: asyncpg.Connection, table: str) -> list[tuple[str, bytes]]:
    """(quoted name, relkind) of the table itself, then of all its partitions."""
    rows = await c.fetch(
        "SELECT format('%I.%I', n.nspname, k.relname), k.relkind FROM (SELECT relid, level FROM "
        "pg_partition_tree(to_regclass($1)) UNION ALL SELECT to_regclass($1)::oid, 0 WHERE NOT "
        "EXISTS (SELECT 1 FROM pg_partition_tree(to_regclass($1)))) AS p "
        "JOIN pg_class k ON k.oid = p.relid JOIN pg_namespace n ON n.oid = k.relnamespace "
        "ORDER BY p.level, k.oid",
        quoted_table(table),
    )
    return [(row[0], row[1]) for row in rows]


async def _columns(c: asyncpg.Connection, oid: int) -> list[asyncpg.Record]:
    return await c.fetch(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS declared, t.typname, t.typtype, "
        "a.attgenerated, coalesce(l.collisdeterministic, true) AS plain "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_collation l ON l.oid = a.attcollation "
        "WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        oid,
    )


async def table_facts(c: asyncpg.Connection, layout: Layout) -> TableFacts:
    """Facts of a table that `examine_table` found well."""
    found = await _find(c, layout.table)
    assert found is not None
    columns = await _columns(c, found["oid"])
    unique = await key_index(c, layout, found["oid"]) or []
    mapped = {*layout.keys, *layout.columns}
    read: list[str] = []
    behind: dict[str, str] = {}
    for table in [part.table for part in layout.parts] or [layout.table]:
        names = [name for name, _ in await relations(c, table)]
        behind[table] = names[0]
        read += names
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
        relations=tuple(read),
        behind=behind,
        unseen=frozenset(
            r["attname"]
            for r in columns
            if r["attgenerated"] == b"v" and r["attname"] in mapped and not layout.is_view
        ),
    )


async def key_index(c: asyncpg.Connection, layout: Layout, oid: int) -> list[str] | None:
    """Columns of an index over some or all of the key's columns by which rows are found: a unique,
    immediate, whole one; where the mapping vouches for the key any that begins with them."""
    wanted = set(layout.keys)
    for row in await _indexes(c, oid):
        is_key = row["usable"] and row["is_unique"] and row["immediate"]
        if is_key and set(row["columns"]) <= wanted:
            return list(row["columns"])
    if layout.is_vouched:
        for row in await _indexes(c, oid):
            lead = [column for column in row["columns"] if column in wanted]
            if row["usable"] and lead and lead == row["columns"][: len(lead)]:
                return lead
    return None


async def _indexes(c: asyncpg.Connection, oid: int) -> list[asyncpg.Record]:
    return await c.fetch(
        "SELECT i.indisunique AS is_unique, i.indimmediate AS immediate, "
        "i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AS usable, "
        "(SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) "
        " WITH ORDINALITY AS k(attnum, n) JOIN pg_attribute a ON a.attrelid = i.indrelid "
        " AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts) AS columns "
        "FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam "
        "WHERE i.indrelid = $1 AND m.amname = 'btree' "
        "ORDER BY i.indisprimary DESC, i.indisunique DESC, i.indexrelid",
        oid,
    )


_NO_TABLE = {
    b"v": "is a view; name the tables that it reads in `tables:`",
    b"m": "is a materialized view, which changes when it is refreshed only; name the table",
    b"f": "is a foreign table, on which no trigger sees what others write; join its own server",
    b"S": "is a sequence",
    b"c": "is a type",
    b"i": "is an index",
}


def _unfit(found: asyncpg.Record, table: str) -> str | None:
    """Why a relation of this kind cannot be captured."""
    kind = found["relkind"]
    if kind in _NO_TABLE:
        return f"{table} {_NO_TABLE[kind]}"
    # A statement's triggers are those of the table that it names.
    if found["relispartition"]:
        return f"{table} is a partition; name the partitioned table"
    if found["has_children"] or found["is_child"]:
        return f"{table} inherits or is inherited from, so no index keeps its keys unique"
    if found["relpersistence"] == b"u":
        return f"{table} is unlogged: a crash empties it, and no trigger sees that"
    if found["relpersistence"] == b"t":
        return f"{table} is a temporary table"
    if found["is_cut"]:
        return (
            f"{table} has row level security, which hides rows from this user, so capture would "
            "take them for deleted; install as its owner without FORCE, or as one with BYPASSRLS"
        )
    return None


async def examine_table(c: asyncpg.Connection, layout: Layout) -> list[str]:
    """Why this layout cannot be captured here; empty when it can."""
    where = f"dataset {layout.dataset}"
    encoding = await c.fetchval("SELECT current_setting('server_encoding')")
    if encoding == "SQL_ASCII":
        return [
            f"{where}: the database is in SQL_ASCII, so nobody knows what its letters are; "
            "load it into a database that has an encoding"
        ]
    found = await _find(c, layout.table)
    if found is None:
        return [f"{where}: there is no table {layout.table}"]
    if layout.is_view:
        return await _examine_view(c, layout, found)
    unfit = _unfit(found, layout.table)
    if unfit is not None:
        return [f"{where}: {unfit}"]
    for name, kind in await relations(c, layout.table):
        if kind == b"f":
            return [f"{where}: {layout.table} has the foreign table {name} for a partition"]
    absent = await _absent(c, layout, found["oid"], layout.table, (*layout.keys, *layout.columns))
    absent = absent or await _unseen(c, layout, found["oid"])
    if absent or await key_index(c, layout, found["oid"]) is not None:
        return absent
    return [await _why_no_key(c, layout, found["oid"])]


async def _absent(
    c: asyncpg.Connection, layout: Layout, oid: int, table: str, columns: Sequence[str]
) -> list[str]:
    have = {row["attname"] for row in await _columns(c, oid)}
    return [
        f"dataset {layout.dataset}: table {table} has no column {column}"
        for column in dict.fromkeys(columns)
        if column not in have
    ]


async def _unseen(c: asyncpg.Connection, layout: Layout, oid: int) -> list[str]:
    """Of key and place the state before a statement has to be known."""
    made = {row["attname"] for row in await _columns(c, oid) if row["attgenerated"] == b"v"}
    return [
        f"dataset {layout.dataset}: column {column} of table {layout.table} is made when it is "
        "read, so no trigger sees what it was; map what it is made of, or have it STORED"
        for column in (*layout.keys, layout.place)
        if column in made
    ]


async def _why_no_key(c: asyncpg.Connection, layout: Layout, oid: int) -> str:
    where, keys = f"dataset {layout.dataset}", ", ".join(layout.keys)
    if layout.is_vouched:
        return (
            f"{where}: table {layout.table} has no index that begins with ({keys}), so each of its "
            "writes would read all of it; create one"
        )
    deferrable = any(
        r["is_unique"]
        and not r["immediate"]
        and r["usable"]
        and set(r["columns"]) <= set(layout.keys)
        for r in await _indexes(c, oid)
    )
    if deferrable:
        return (
            f"{where}: the unique constraint on ({keys}) of table {layout.table} is deferrable, so "
            "a delete could be seen after the insert that replaced it; add one that is not"
        )
    return (
        f"{where}: table {layout.table} has no unique index on ({keys}), so two rows could be one "
        "record; create one, or say `unique: true` where the department vouches for it"
    )


async def _examine_view(c: asyncpg.Connection, layout: Layout, found: asyncpg.Record) -> list[str]:
    where = f"dataset {layout.dataset}"
    if found["relkind"] != b"v":
        return [f"{where}: {layout.table} is no view, so it has no `tables:`"]
    wrong = await _absent(c, layout, found["oid"], layout.table, (*layout.keys, *layout.columns))
    for part in layout.parts:
        behind = await _find(c, part.table)
        if behind is None:
            wrong.append(f"{where}: there is no table {part.table}")
            continue
        unfit = _unfit(behind, part.table)
        if unfit is not None:
            wrong.append(f"{where}: {unfit}")
            continue
        wrong += await _absent(
            c, layout, behind["oid"], part.table, (*part.keys, *(own for own, _ in part.on))
        )
        joined = [other for p in layout.parts if p.through == part.table for _, other in p.on]
        wrong += await _absent(c, layout, behind["oid"], part.table, joined)
    if wrong:
        return wrong
    return [
        f"{where}: the view {layout.table} reads {name}, which is not among its `tables:`, so what "
        "is written there would not be seen"
        for name in await _read_by(c, layout)
    ]


async def _read_by(c: asyncpg.Connection, layout: Layout) -> list[str]:
    """Tables that the view reads, by way of other views too, and that `parts` does not name."""
    rows = await c.fetch(
        """
        WITH RECURSIVE reads (oid) AS (
          SELECT to_regclass($1)::oid
          UNION
          SELECT d.refobjid FROM reads v
          JOIN pg_rewrite r ON r.ev_class = v.oid AND r.rulename = '_RETURN'
          JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
        )
        SELECT k.oid::regclass::text FROM reads JOIN pg_class k USING (oid)
        WHERE k.relkind <> 'v' AND NOT k.oid = ANY (
          SELECT to_regclass(t)::oid FROM unnest($2::text[]) AS t)
        ORDER BY 1
        """,
        quoted_table(layout.table),
        [quoted_table(part.table) for part in layout.parts],
    )
    return [row[0] for row in rows]


async def doubled_keys(c: asyncpg.Connection, layout: Layout) -> int:
    """How many natural keys more than one row bears, counted to a thousand: to be asked at install
    where nothing but the mapping vouches for them."""
    facts = await table_facts(c, layout)
    keys = comma(quoted(k) for k in layout.keys)
    count: int = await c.fetchval(
        f"SELECT count(*) FROM (SELECT 1 FROM {facts.table} GROUP BY {keys} "
        "HAVING count(*) > 1 LIMIT 1000) AS s"
    )
    return count


async def shape(c: asyncpg.Connection, layout: Layout) -> dict[str, str]:
    """Mapped column -> its type as SQL writes it, as the table is now."""
    facts = await table_facts(c, layout)
    return {name: facts.types[name] for name in dict.fromkeys((*layout.keys, *layout.columns))}
