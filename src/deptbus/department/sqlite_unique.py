"""By what a row of a SQLite table is replaced, and how a trigger finds the rows that a new one
replaces: `OR REPLACE` removes each that bears a value of it on a unique constraint, without a word.

What is not obvious:

1. An index on expressions is asked as it says: its expression over a row beside the same one over
   the new row's values. Its WHERE guards both, as it does in the index: what is made of other rows
   may fail (`json_extract(doc, '$.id') WHERE json_valid(doc)`).
2. A partial index is used only where its WHERE is among the conditions. One condition that no index
   serves makes a search by OR read the whole table, so what is over no column at all (one row only,
   `((1)) WHERE is_current`) is asked by itself.
3. A BEFORE UPDATE trigger has those columns of the new row only that it names, and a generated one
   is made of these: where one is looked at, all are named.
4. `OR REPLACE` turns NULL into the default of a column that may not be null, behind our trigger.
5. Triggers look at what was unique when they were made, so they say in a comment what that was: an
   index that came later removes rows unseen, and without one that is gone each write reads all.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2s
from typing import NamedTuple

from deptbus.department.layout import comma, quoted

# The names of a row's number, where no column has them.
ROW_NUMBER = ("rowid", "oid", "_rowid_")
# Of the statement that made an index, as SQLite keeps it. Whatever is no ASCII belongs to a name.
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|$)|"(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^]]*\]"""
    r"|[A-Za-z0-9_$\x80-\U0010ffff]+|\s+|.",
    re.DOTALL,
)
_ORDER = re.compile(r"""(?<=[\s)\]"'`])(ASC|DESC)\s*$""", re.IGNORECASE)
_WHERE = re.compile(r"^\s*WHERE\b", re.IGNORECASE)
_MARK = re.compile(r"/\* unique:((?: [0-9a-f]+)*) \*/")


class Unique(NamedTuple):
    """One unique constraint: its columns, each with the collation that it compares by; or, where it
    is over expressions, these and no columns. `where`: the rows that a partial one holds, else
    empty. `new_row`: each column that it looks at -> the new row's value of it, in SQL. `made_of`:
    the columns that a generated one among these may be made of."""

    columns: tuple[str, ...]
    collations: tuple[str, ...]
    where: str = ""
    expressions: tuple[str, ...] = ()
    new_row: Mapping[str, str] = {}
    made_of: tuple[str, ...] = ()

    @property
    def is_over_nothing(self) -> bool:
        return not self.columns and not self.expressions

    def condition(self) -> str:
        """A row of the table and the new one cannot both be there. It may hold where they can."""
        row = comma(f"{value} AS {quoted(c)}" for c, value in self.new_row.items())
        terms = [f"({self.where})"] if self.where else []
        for column, collation in zip(self.columns, self.collations, strict=True):
            value = self.new_row[column]
            terms.append(f"{quoted(column)} = {value} COLLATE {quoted(collation)}")
        for one in self.expressions:
            guarded = f"CASE WHEN {self.where} THEN ({one}) END" if self.where else f"({one})"
            terms.append(f"({one}) = (SELECT {guarded} FROM (SELECT {row}))")
        terms += [f"NEW.{quoted(c)} IS NEW.{quoted(c)}" for c in self.made_of]
        return f"({' AND '.join(terms) or '1'})"


def plain_unique(columns: Sequence[str]) -> Unique:
    """As its columns compare, letter by letter."""
    new_row = {c: f"NEW.{quoted(c)}" for c in columns}
    return Unique(tuple(columns), ("BINARY",) * len(columns), new_row=new_row)


def searches(unique: Sequence[Unique]) -> list[str]:
    """Conditions of the rows that a new one replaces: each for a search of its own, by indexes, and
    no row fulfils two of them."""
    by_value = " OR ".join(u.condition() for u in unique if not u.is_over_nothing)
    found = [by_value] if by_value else []
    for one in unique:
        if one.is_over_nothing:
            others = "".join(f" AND NOT coalesce(({other}), 0)" for other in found)
            found.append(f"{one.condition()}{others}")
    return found


def unique_constraints(connection: sqlite3.Connection, table: str) -> list[Unique]:
    """Of every unique index and of an INTEGER PRIMARY KEY, which has none. Those on expressions are
    left out: they make no column a key."""
    return [u for u in _constraints(connection, table) if u.columns]


def _constraints(connection: sqlite3.Connection, table: str) -> list[Unique]:
    found = _indexes(connection, table)
    primary = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,)
    ).fetchall()
    columns = tuple(name for (name,) in primary)
    if columns and all(u.where or u.columns != columns for u in found):
        found.append(plain_unique(columns))
    return found


def replacing(connection: sqlite3.Connection, table: str) -> list[Unique]:
    """What `OR REPLACE` removes other rows by: the unique constraints, and the row's number, which
    a program may write though no column is it."""
    found = _constraints(connection, table)
    own = {
        name.lower()
        for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (table,))
    }
    number = next((name for name in ROW_NUMBER if name not in own), None)
    if number is None or has_numbered_key(connection, table):
        return found
    try:
        connection.execute(f"SELECT {number} FROM {quoted(table)} LIMIT 0")
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return found
    return [*found, plain_unique((number,))]


def has_numbered_key(connection: sqlite3.Connection, table: str) -> bool:
    """The primary key is the row's number: it has no index."""
    keys, indexes = connection.execute(
        "SELECT (SELECT count(*) FROM pragma_table_info(?1) WHERE pk), "
        "(SELECT count(*) FROM pragma_index_list(?1) WHERE origin = 'pk')",
        (table,),
    ).fetchone()
    return bool(keys and not indexes)


def mark(unique: Iterable[Unique]) -> str:
    """The comment of rule 5."""
    return f"/* unique:{''.join(f' {m}' for m in sorted(marks(unique)))} */"


def marks(unique: Iterable[Unique]) -> set[str]:
    return {blake2s(u.condition().encode(), digest_size=6).hexdigest() for u in unique}


def marked(trigger: str) -> set[str] | None:
    """What a trigger says that it looks at; None where an older deptbus made it."""
    found = _MARK.search(trigger)
    return None if found is None else set(found[1].split())


def _indexes(connection: sqlite3.Connection, table: str) -> list[Unique]:
    """Of the unique indexes."""
    columns = connection.execute(
        'SELECT name, "notnull", dflt_value, hidden FROM pragma_table_xinfo(?)', (table,)
    ).fetchall()
    values = {
        name: f"NEW.{quoted(name)}"
        if default is None or not is_needed
        else f"coalesce(NEW.{quoted(name)}, ({default}))"
        for name, is_needed, default, _ in columns
    }
    generated = {name.lower() for name, *_, hidden in columns if hidden}
    found: list[Unique] = []
    for name, made in connection.execute(
        "SELECT l.name, m.sql FROM pragma_index_list(?) l LEFT JOIN sqlite_master m "
        "ON m.name = l.name AND m.type = 'index' WHERE l.\"unique\"",
        (table,),
    ).fetchall():
        parts = connection.execute(
            "SELECT name, cid, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (name,)
        ).fetchall()
        named = {part.lower() for part, cid, _ in parts if cid >= 0}
        expressions, where = _as_written(made or "")
        own = {value.lower() for value in values}
        if all(cid >= 0 for _, cid, _ in parts):
            keys, collations = (tuple(p[n] for p in parts) for n in (0, 2))
            expressions = []
        else:
            keys, collations = (), ()
            named |= _names(*expressions)
            expressions = [e for e in expressions if not own.isdisjoint(_names(e))]
        named |= _names(where)
        new_row = {c: value for c, value in values.items() if c.lower() in named}
        is_made = not generated.isdisjoint(c.lower() for c in new_row)
        made_of = tuple(c for c in values if is_made and c.lower() not in generated)
        found.append(Unique(keys, collations, where, tuple(expressions), new_row, made_of))
    return found


def _as_written(made: str) -> tuple[list[str], str]:
    """What an index is over, and its WHERE or nothing, of the statement that made it."""
    tokens = _TOKEN.findall(made)
    begin = next((n for n, token in enumerate(tokens) if token.upper() == "ON"), len(tokens))
    parts, rest, depth = [""], "", 0
    for token in tokens[begin + 1 :]:
        word = " " if token.startswith(("--", "/*")) else token
        if rest or (word == ")" and depth == 1):
            rest += word
            continue
        if word == "," and depth == 1:
            parts.append("")
        elif depth:
            parts[-1] += word
        depth += {"(": 1, ")": -1}.get(word, 0)
    where = _WHERE.sub("", rest.removeprefix(")")).strip()
    return [_ORDER.sub("", part).strip() for part in parts], where


def _names(*texts: str) -> set[str]:
    """Every word of an SQL text in small letters, without quotes: column names are among them."""
    return {_unquoted(token).lower() for text in texts for token in _TOKEN.findall(text)}


def _unquoted(token: str) -> str:
    quote = token[0]
    if quote == "[":
        return token[1:-1]
    return token[1:-1].replace(quote * 2, quote) if quote in "\"'`" else token
