"""The SQL of capture where a dataset is a view over several tables, on SQLite.

As on PostgreSQL (`postgres_view`, whose rules these are): triggers note which records a statement
touched, and the adapter reads those from the view and draws their versions (`sqlite_show`). Who
writes here is alone, so nothing but SQLite's own lock orders them, and which records a row is in is
found when it is written: nobody else has written what it could not see.

`INSERT OR REPLACE` fires no delete trigger for the rows that it replaces: what they are in is
touched before each insert and update, whether it comes to that or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deptbus.department.layout import Layout, Part, comma, quoted, text_literal
from deptbus.department.sqlite_triggers import former_trigger_names, names
from deptbus.department.sqlite_triggers import trigger_names as table_trigger_names
from deptbus.department.sqlite_unique import Unique, mark, searches
from deptbus.errors import DeptbusError

TABLES = (
    """CREATE TABLE IF NOT EXISTS deptbus_touched (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  dataset TEXT NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_shown (
  dataset TEXT NOT NULL,
  raw TEXT NOT NULL,
  place,
  digest BLOB NOT NULL,
  PRIMARY KEY (dataset, raw)
) WITHOUT ROWID""",
)
TABLE_NAMES = ("deptbus_touched", "deptbus_shown")

_EVENTS = ("before_insert", "before_update", "insert", "update", "delete")
_NOTE_OCTETS = 40  # of a note beside its key
_NOTES = (
    "coalesce((SELECT max(number) FROM deptbus_touched) - (SELECT min(number) FROM "
    "deptbus_touched), 0)"
)


def _room(layout: Layout) -> str:
    """Condition: not so many notes wait, and they are not so long, that there is no room for one
    more. All are taken to be as long as the last."""
    octets = " + ".join(
        f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in names("k", len(layout.keys))
    )
    last = f"(SELECT {octets} FROM deptbus_touched ORDER BY number DESC LIMIT 1)"
    return (
        f"{_NOTES} < (SELECT cap_rows FROM deptbus_published) AND {_NOTES} * "
        f"({_NOTE_OCTETS} + coalesce({last}, 0)) < (SELECT cap_octets FROM deptbus_published)"
    )


def trigger_names(layout: Layout) -> list[str]:
    """Of all triggers of a dataset, of a table or of a view."""
    if not layout.is_view:
        return table_trigger_names(layout.dataset)
    return [
        f"deptbus_{layout.dataset}_{event}_{number}"
        for number in range(len(layout.parts))
        for event in _EVENTS
    ]


def watched(layout: Layout) -> list[tuple[str, str]]:
    """(trigger, its table in small letters) of all that a dataset has."""
    tables = [part.table for part in layout.parts] or [layout.table]
    names_ = trigger_names(layout)
    each = len(names_) // len(tables)
    return [(name, tables[n // each].lower()) for n, name in enumerate(names_)]


def formerly_watched(layout: Layout) -> set[tuple[str, str]]:
    """As `watched`, by an older install; a view's triggers have been the same ever since."""
    if layout.is_view:
        return set(watched(layout))
    return {(name, layout.table.lower()) for name in former_trigger_names(layout.dataset)}


def triggers(layout: Layout, unique: Mapping[str, Sequence[Unique]]) -> list[str]:
    """`unique`: table -> what its rows are replaced by."""
    own = (
        "NOT EXISTS (SELECT 1 FROM deptbus_applying "
        f"WHERE dataset = {text_literal(layout.dataset)})"
    )
    named = iter(trigger_names(layout))
    made = []
    for part in layout.parts:
        replaced = _replaced(layout, part, unique[part.table])
        old, new = (_touch(layout, part, alias) for alias in ("OLD", "NEW"))
        for event, body in (
            ("BEFORE INSERT", replaced),
            ("BEFORE UPDATE", [*old, *replaced]),
            ("AFTER INSERT", new),
            ("AFTER UPDATE", [*old, *new]),
            ("AFTER DELETE", old),
        ):
            # Last: what a statement could not note, it finds no room for after it either.
            gave_way = f"{_GAVE_WAY} WHERE NOT ({_room(layout)})"
            inner = "".join(f"  {statement};\n" for statement in [*body, gave_way])
            if event == "BEFORE INSERT":
                inner = f"  {mark(unique[part.table])}\n{inner}"
            made.append(
                f"CREATE TRIGGER {quoted(next(named))} {event} ON {quoted(part.table)}\n"
                f"FOR EACH ROW WHEN {own}\nBEGIN\n{inner}END"
            )
    return made


_GAVE_WAY = "UPDATE deptbus_published SET gave_way = gave_way + 1"


def _way(layout: Layout, part: Part) -> list[Part]:
    """From a table to the one that has the natural key."""
    parts = {p.table: p for p in layout.parts}
    way = [part]
    while not way[-1].keys:
        following = parts.get(way[-1].through)
        if following is None or following in way or not way[-1].on:
            raise DeptbusError(
                f"dataset {layout.dataset}: table {part.table} leads to no natural key",
                mend="Say `key:`, or `through:` and `on:`, at each of its `tables:`",
            )
        way.append(following)
    return way


def _touch(layout: Layout, part: Part, row: str) -> list[str]:
    """The statement that notes the records of `row` (OLD, NEW, or the alias of a table)."""
    head = f"INSERT INTO deptbus_touched (dataset, {comma(names('k', len(layout.keys)))})"
    return [f"{head} {_records(layout, part, row, '')}"]


def _records(layout: Layout, part: Part, row: str, source: str) -> str:
    way = _way(layout, part)
    last = row if len(way) == 1 else f"p{len(way) - 1}"
    keys = [f"{last}.{quoted(k)}" for k in way[-1].keys]
    tables, conditions = [source] if source else [], [f"{k} IS NOT NULL" for k in keys]
    for n, other in enumerate(way[1:], 1):
        before = row if n == 1 else f"p{n - 1}"
        tables.append(f"{quoted(other.table)} AS p{n}")
        conditions += [
            f"p{n}.{quoted(theirs)} = {before}.{quoted(own)}" for own, theirs in way[n - 1].on
        ]
    origin = f" FROM {comma(tables)}" if tables else ""
    where = " AND ".join([*conditions, _room(layout)])
    # Keys that a column's collation holds equal are two records.
    apart = comma(f"{k} COLLATE BINARY" for k in keys)
    return f"SELECT DISTINCT {text_literal(layout.dataset)}, {apart}{origin} WHERE {where}"


def _replaced(layout: Layout, part: Part, unique: Sequence[Unique]) -> list[str]:
    """Notes the records of every row that bears a value of the new row's."""
    if not unique:
        return []
    head = f"INSERT INTO deptbus_touched (dataset, {comma(names('k', len(layout.keys)))})"
    found = (f"SELECT * FROM {quoted(part.table)} WHERE {search}" for search in searches(unique))
    return [f"{head} {_records(layout, part, 'r', f'({rows}) AS r')}" for rows in found]
