"""A received dataset that goes into several tables: one view over them, which the applier writes.

To everything else it is one table: a record is one row of it, written, parked, proved and removed
as a whole, in one transaction. The view and the triggers behind it are deptbus's own; they write
the tables of the department, and nothing of them but the mapped columns.

1. A row of the view is a row of the main table, with what its other tables have beside it.
2. Tables that others refer to are written first. A row that the main one refers to may be shared,
   so it is never removed; rows that refer to the main one are, before it. Which are which only the
   database's foreign keys tell: a table that is no parent has to hang on the record's whole own
   key, which one record has and which it keeps, or its rows would be taken from other records, or
   left behind when the record hangs on another.
3. What is there is updated, what is not is inserted: a row of another table may outlive its record.
4. Rows that a hand typed are neither matched nor kept here. So where there are some before the bus
   comes, nothing is written until the mapping says in so many words that they may be lost.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from deptbus.contract.department import Receive, settings_of_rows
from deptbus.department.layout import comma, quoted, quoted_table, text_literal
from deptbus.department.sqlite_schema import columns_of, unique_columns
from deptbus.errors import DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class Into:
    """One of the tables. `columns`: (column of the view, own column), those of the join left out;
    `on`: (own column, column of the view that it equals)."""

    table: str
    columns: tuple[tuple[str, str], ...]
    on: tuple[tuple[str, str], ...]


def view_of(dataset: str, *, postgres: bool) -> str:
    return f"deptbus.into_{dataset}" if postgres else f"deptbus_into_{dataset}"


def as_one(dataset: str, receive: Receive, *, postgres: bool) -> Receive:
    """The mapping with the view in place of its tables; one with a single table as it is."""
    if not receive.tables:
        return receive
    columns = dict(receive.columns)
    for table, beside in receive.tables.items():
        columns |= {field: f"{table}.{own}" for field, own in beside.columns.items()}
    return receive.model_copy(
        update={"table": view_of(dataset, postgres=postgres), "columns": columns}
    )


def tables_of(receive: Receive, key: Sequence[str]) -> tuple[Into, ...]:
    """The main table, then the others, of a mapping as department.yml has it."""
    # Null is no value of ours: the column keeps the default that its table has.
    defaults = [column for column, value in receive.defaults.items() if value is not None]
    own = dict.fromkeys((*receive.columns.values(), *defaults))
    main = Into(
        receive.table,
        tuple((column, column) for column in own if column not in key),
        tuple((column, column) for column in key),
    )
    others = (
        Into(
            table,
            tuple((f"{table}.{column}", column) for column in beside.columns.values()),
            tuple(beside.on.items()),
        )
        for table, beside in receive.tables.items()
    )
    return (main, *others)


def _select(tables: Sequence[Into]) -> str:
    main = tables[0]
    listed = [f"m.{quoted(own)} AS {quoted(name)}" for name, own in (*main.on, *main.columns)]
    source = f"{quoted_table(main.table)} m"
    for n, other in enumerate(tables[1:]):
        listed += [f"b{n}.{quoted(own)} AS {quoted(name)}" for name, own in other.columns]
        joined = " AND ".join(f"b{n}.{quoted(own)} = m.{quoted(name)}" for own, name in other.on)
        source += f" LEFT JOIN {quoted_table(other.table)} b{n} ON {joined}"
    return f"SELECT {comma(listed)} FROM {source}"


def _same(into: Into, row: str) -> str:
    return " AND ".join(f"{quoted(own)} = {row}.{quoted(name)}" for own, name in into.on)


def _update(into: Into) -> str | None:
    sets = comma(f"{quoted(own)} = NEW.{quoted(name)}" for name, own in into.columns)
    return (
        f"UPDATE {quoted_table(into.table)} SET {sets} WHERE {_same(into, 'NEW')}" if sets else None
    )


def _insert(into: Into) -> str:
    names = [*(own for own, _ in into.on), *(own for _, own in into.columns)]
    values = [*(name for _, name in into.on), *(name for name, _ in into.columns)]
    return (
        f"INSERT INTO {quoted_table(into.table)} ({comma(map(quoted, names))}) "
        f"SELECT {comma(f'NEW.{quoted(v)}' for v in values)} WHERE NOT EXISTS (SELECT 1 FROM "
        f"{quoted_table(into.table)} WHERE {_same(into, 'NEW')})"
        + "".join(f" AND NEW.{quoted(name)} IS NOT NULL" for _, name in into.on)
    )


def _delete(into: Into) -> str:
    return f"DELETE FROM {quoted_table(into.table)} WHERE {_same(into, 'OLD')}"


def _writes(tables: Sequence[Into], parents: Sequence[Into]) -> list[str]:
    """Rules 2 and 3."""
    ordered = [*parents, *(t for t in tables if t not in parents)]
    made = [s for into in ordered for s in (_update(into), _insert(into))]
    return [statement for statement in made if statement is not None]


def _deletes(tables: Sequence[Into], parents: Sequence[Into]) -> list[str]:
    return [_delete(into) for into in reversed(tables) if into not in parents]


def postgres_statements(dataset: str, tables: Sequence[Into], parents: Sequence[Into]) -> list[str]:
    """`parents`: those of the tables that the main one refers to."""
    view = quoted_table(view_of(dataset, postgres=True))
    function = f"deptbus.{quoted(f'into_{dataset}_write')}"
    removed = "".join(f"    {s};\n" for s in _deletes(tables, parents))
    written = "".join(f"  {s};\n" for s in _writes(tables, parents))
    made = [
        f"DROP VIEW IF EXISTS {view}",
        f"CREATE VIEW {view} AS {_select(tables)}",
        f"""CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $deptbus$
BEGIN
  IF TG_OP = 'DELETE' THEN
{removed}    RETURN OLD;
  END IF;
{written}  RETURN NEW;
END
$deptbus$""",
        f"CREATE TRIGGER deptbus_into INSTEAD OF INSERT OR UPDATE OR DELETE ON {view} "
        f"FOR EACH ROW EXECUTE FUNCTION {function}()",
    ]
    told = hashlib.sha256("\n".join(made).encode()).hexdigest()
    return [*made, f"COMMENT ON VIEW {view} IS {text_literal(told)}"]


def sqlite_statements(dataset: str, tables: Sequence[Into], parents: Sequence[Into]) -> list[str]:
    name = view_of(dataset, postgres=False)
    view = quoted(name)
    written, removed = _writes(tables, parents), _deletes(tables, parents)
    made = [f"CREATE VIEW {view} AS {_select(tables)}"]
    for event, body in (("INSERT", written), ("UPDATE", written), ("DELETE", removed)):
        inner = "".join(f"  {statement};\n" for statement in body)
        trigger = quoted(f"{name}_{event.lower()}")
        made.append(f"CREATE TRIGGER {trigger} INSTEAD OF {event} ON {view}\nBEGIN\n{inner}END")
    return made


async def make_postgres(c: asyncpg.Connection, dataset: str, tables: Sequence[Into]) -> list[str]:
    """What has to be run for the view to be as the mapping says; nothing where it is so. Raises
    DatabaseUnavailable where a table lacks a column, two of its rows could be of one record, or one
    of several."""
    parents = await _parents_postgres(c, tables)
    for into in tables:
        columns = await c.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
            "AND NOT attisdropped",
            quoted_table(into.table),
        )
        unique = await c.fetch(
            "SELECT array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid "
            "AND a.attnum = ANY(i.indkey)) FROM pg_index i WHERE i.indrelid = to_regclass($1) "
            "AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL",
            quoted_table(into.table),
        )
        _check(dataset, into, {row[0] for row in columns}, [set(row[0]) for row in unique])
    _refuse_strays(dataset, tables, parents)
    made = postgres_statements(dataset, tables, parents)
    known = await c.fetchval(
        "SELECT obj_description(to_regclass($1), 'pg_class')",
        quoted_table(view_of(dataset, postgres=True)),
    )
    return [] if known is not None and text_literal(known) in made[-1] else made


async def _parents_postgres(c: asyncpg.Connection, tables: Sequence[Into]) -> list[Into]:
    return [
        into
        for into in tables[1:]
        if await c.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE contype = 'f' "
            "AND conrelid = to_regclass($1) AND confrelid = to_regclass($2))",
            quoted_table(tables[0].table),
            quoted_table(into.table),
        )
    ]


def _parents_sqlite(c: sqlite3.Connection, tables: Sequence[Into]) -> list[Into]:
    refers = {
        table.lower()
        for (table,) in c.execute(
            'SELECT "table" FROM pragma_foreign_key_list(?)', (tables[0].table,)
        )
    }
    return [into for into in tables[1:] if into.table.lower() in refers]


async def refuse_rows_postgres(
    c: asyncpg.Connection, dataset: str, tables: Sequence[Into], receive: Receive
) -> None:
    """Rule 4, of tables that `make_postgres` found well. Raises DatabaseUnavailable."""
    if _may_lose_rows(receive):
        return
    for books in ("deptbus.existing", "deptbus.ledger"):
        if await c.fetchval("SELECT to_regclass($1)", books) is not None and await c.fetchval(
            f"SELECT EXISTS (SELECT 1 FROM {books} WHERE dataset = $1)", dataset
        ):
            return  # the bus has come already
    parents = await _parents_postgres(c, tables)
    for into in tables:
        some = f"SELECT EXISTS (SELECT 1 FROM {quoted_table(into.table)})"
        if into not in parents and await c.fetchval(some):
            raise _has_rows(dataset, into)


def refuse_rows_sqlite(
    c: sqlite3.Connection, dataset: str, tables: Sequence[Into], receive: Receive
) -> None:
    """As `refuse_rows_postgres`; the bookkeeping is there."""
    if _may_lose_rows(receive):
        return
    for books in ("deptbus_existing", "deptbus_ledger"):
        known = f"SELECT EXISTS (SELECT 1 FROM {books} WHERE dataset = ?)"
        if c.execute(known, (dataset,)).fetchone()[0]:
            return
    parents = _parents_sqlite(c, tables)
    for into in tables:
        some = f"SELECT EXISTS (SELECT 1 FROM {quoted_table(into.table)})"
        if into not in parents and c.execute(some).fetchone()[0]:
            raise _has_rows(dataset, into)


async def refuse_view_postgres(c: asyncpg.Connection, dataset: str, receive: Receive) -> None:
    """Where the table is a view of the department's own, whose rows have no places: raises
    DatabaseUnavailable where the mapping asks for what needs them."""
    view = "SELECT relkind = 'v' FROM pg_class WHERE oid = to_regclass($1)"
    if settings_of_rows(receive) and await c.fetchval(view, quoted_table(receive.table)):
        raise _is_view(dataset, receive)


def refuse_view_sqlite(c: sqlite3.Connection, dataset: str, receive: Receive) -> None:
    """As `refuse_view_postgres`."""
    view = "SELECT count(*) FROM sqlite_master WHERE type = 'view' AND name = ? COLLATE NOCASE"
    if settings_of_rows(receive) and c.execute(view, (receive.table,)).fetchone()[0]:
        raise _is_view(dataset, receive)


def _is_view(dataset: str, receive: Receive) -> DatabaseUnavailable:
    said = ", ".join(settings_of_rows(receive))
    return DatabaseUnavailable(
        f"{receive.table}, into which {dataset} is received, is a view, whose rows cannot be kept, "
        f"marked or adopted, and the mapping says {said}",
        mend=f"Take {said} away from `receives: {dataset}` in department.yml, or receive it into "
        "the table itself",
    )


def _may_lose_rows(receive: Receive) -> bool:
    return receive.keeps is False and receive.on_remove == "delete"


def _has_rows(dataset: str, into: Into) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"table {into.table} has rows before the bus comes, and what goes into several tables is "
        "not compared with them: they would be overwritten and removed unseen",
        mend=f"Empty it, or receive {dataset} into one table; or write `keeps: false` and "
        f"`on_remove: delete` under `receives: {dataset}` in department.yml if just that is meant",
    )


def postgres_locks(tables: Sequence[Into], joined: str) -> list[str]:
    """Statements that lock the rows behind some rows of the view, whose outer joins cannot be
    locked. `joined`: what joins the main table `t` with those rows. Rows that are shared are not
    locked against new references."""
    main = f"FROM {quoted_table(tables[0].table)} t {joined}"
    made = [f"SELECT 1 {main} FOR UPDATE OF t"]
    for other in tables[1:]:
        same = " AND ".join(f"b.{quoted(own)} = t.{quoted(name)}" for own, name in other.on)
        beside = f"JOIN {quoted_table(other.table)} b ON {same}"
        made.append(f"SELECT 1 {main} {beside} FOR NO KEY UPDATE OF b")
    return made


def make_sqlite(c: sqlite3.Connection, dataset: str, tables: Sequence[Into]) -> list[str]:
    """As `make_postgres`."""
    for into in tables:
        _check(dataset, into, columns_of(c, into.table), unique_columns(c, into.table))
    parents = _parents_sqlite(c, tables)
    _refuse_strays(dataset, tables, parents)
    made = sqlite_statements(dataset, tables, parents)
    name = view_of(dataset, postgres=False)
    known = [
        sql
        for (sql,) in c.execute(
            "SELECT sql FROM sqlite_master WHERE tbl_name = ? ORDER BY type = 'trigger', rowid",
            (name,),
        )
    ]
    return [] if known == made else [f"DROP VIEW IF EXISTS {quoted(name)}", *made]


def _check(
    dataset: str, into: Into, have: Collection[str], unique: Sequence[Collection[str]]
) -> None:
    """`have`, `unique`: columns of the table and of its unique indexes."""
    mend = f"Add it, or change `receives: {dataset}` in department.yml"
    if not have:
        raise DatabaseUnavailable(f"there is no table {into.table} to write to", mend=mend)
    joined = [name for name, _ in into.on]
    for column in (*joined, *(own for _, own in into.columns)):
        if column not in have:
            raise DatabaseUnavailable(
                f"table {into.table} has no column {column} to write to", mend=mend
            )
    if not any(set(columns) <= set(joined) for columns in unique):
        raise DatabaseUnavailable(
            f"table {into.table} has no unique index on ({', '.join(joined)}), so two of its rows "
            "could be of one record",
            mend="Create one",
        )


def _refuse_strays(dataset: str, tables: Sequence[Into], parents: Sequence[Into]) -> None:
    """Rule 2."""
    main = tables[0]
    key = {name for _, name in main.on}
    for into in tables[1:]:
        if into not in parents and {name for _, name in into.on} != key:
            named = ", ".join(sorted(key))
            raise DatabaseUnavailable(
                f"table {into.table} hangs on neither a foreign key of {main.table} nor all of its "
                "own key, so its rows could be of several records, or be left behind",
                mend=f"Declare the foreign key of {main.table} that refers to {into.table}, or "
                f"hang it on ({named}) by `on` under `receives: {dataset}` in department.yml",
            )
