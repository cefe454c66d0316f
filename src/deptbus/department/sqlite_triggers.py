"""The SQL of capture on SQLite: tables of the source side, and the triggers of one dataset.

The triggers run inside the department's own program, so they use nothing that an old SQLite lacks
(no JSON functions, no row values), wait for nothing, and keep every value with its own type.

What is not obvious:

1. `INSERT OR REPLACE` and `UPDATE OR REPLACE` remove rows without firing a delete trigger. So a
   BEFORE trigger notes every row that bears a value of the new row's on any unique constraint; the
   AFTER trigger writes deletes for those that are really gone, and takes the old place from one
   that had the same natural key.
2. Row triggers of SQLite run between the rows of a statement, and its unique constraints are
   checked row by row; so a delete is written only when no row bears the key at that moment, and a
   shift of keys comes out in a right order by itself. Deletes of notes are checked against the
   table all the same.
3. A conflict clause of the outer statement replaces those inside triggers: none is used here.
4. Own columns' collations may hold `a` and `A` equal; the bus does not: compare in BINARY.
5. A trigger of the department's own may run before ours and write the same table again; what it did
   is captured by then. So we write the row as the table has it, not as the statement left it, and
   the notes of rule 1 outlive the triggers of statements within the statement.
6. Each statement of a trigger costs, also one that finds nothing, and a trigger whose condition is
   false costs as much as it is long. Most updates move no value by which rows are unique: they
   replace no row and leave no key. Those have a trigger of their own, and the other one is not even
   looked at by statements that name no such column. A row's number has names that no column has,
   and a generated column moves without being named; so does what a BEFORE trigger of the
   department's own moves: it is in the new row of the statement all the same. SQLite does not
   promise the order in which triggers fire, so what decides between the two is the row's values
   alone, which neither changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deptbus.department.layout import Layout, comma, quoted, text_literal
from deptbus.department.sqlite_schema import Traits
from deptbus.department.sqlite_unique import ROW_NUMBER, Unique, mark, plain_unique, searches

# Milliseconds of the database's clock, as microseconds: all that SQLite tells.
NOW_US = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) * 1000"

# Bytes that were captured up to the last row that waits; an empty outbox begins anew.
MARK = "coalesce((SELECT mark FROM deptbus_outbox ORDER BY position DESC LIMIT 1), 0)"
_ROW_OCTETS = 60

_ROOM = (
    "coalesce((SELECT o.position < p.limit_position AND coalesce(o.mark, 0) < p.limit_octets "
    "FROM deptbus_outbox o CROSS JOIN deptbus_published p ORDER BY o.position DESC LIMIT 1), "
    "(SELECT 0 < limit_position AND 0 < limit_octets FROM deptbus_published))"
)

# Last in a trigger: what a statement could not write, it finds no room for after it either.
_GAVE_WAY = f"UPDATE deptbus_published SET gave_way = gave_way + 1 WHERE NOT {_ROOM}"
# Behind one statement that writes a row or finds no room for it.
_GAVE_WAY_PLAINLY = _GAVE_WAY.replace(" WHERE ", " WHERE changes() = 0 AND ")

TABLES = (
    # Only one row. A write beyond limit_position or limit_octets is not captured; gave_way counts
    # those.
    """CREATE TABLE IF NOT EXISTS deptbus_published (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  publication INTEGER NOT NULL,
  version INTEGER NOT NULL,
  cap_rows INTEGER NOT NULL,
  limit_position INTEGER NOT NULL,
  gave_way INTEGER NOT NULL,
  gave_way_seen INTEGER NOT NULL,
  cap_octets INTEGER NOT NULL DEFAULT 0,
  limit_octets INTEGER NOT NULL DEFAULT 0
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_layout (
  number INTEGER PRIMARY KEY,
  dataset TEXT NOT NULL,
  layout TEXT NOT NULL,
  is_current INTEGER NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_outbox (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  layout INTEGER NOT NULL,
  op TEXT NOT NULL,
  cause TEXT NOT NULL,
  job TEXT,
  source_time_us INTEGER NOT NULL,
  was,
  bus_key BLOB,
  mark INTEGER
)""",
    # Rows that a statement is about to replace; see rule 1. Left-overs (`INSERT OR IGNORE` fires
    # no AFTER trigger) are harmless; when there are too many the next statement clears them.
    """CREATE TABLE IF NOT EXISTS deptbus_replaced (
  dataset TEXT NOT NULL,
  was
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_places (
  dataset TEXT NOT NULL,
  bus_key BLOB NOT NULL,
  places TEXT NOT NULL,
  PRIMARY KEY (dataset, bus_key)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS deptbus_variants (
  dataset TEXT NOT NULL,
  bus_key BLOB NOT NULL,
  raw TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (dataset, bus_key, raw)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS deptbus_parked (
  dataset TEXT NOT NULL,
  raw TEXT NOT NULL,
  reason TEXT NOT NULL,
  own_column TEXT,
  position INTEGER NOT NULL,
  since_us INTEGER NOT NULL,
  PRIMARY KEY (dataset, raw)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS deptbus_wanted (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  dataset TEXT NOT NULL,
  raw TEXT,
  bus_key BLOB,
  cause TEXT NOT NULL,
  job TEXT,
  position INTEGER
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_snapshot (
  dataset TEXT PRIMARY KEY,
  cause TEXT NOT NULL,
  job TEXT,
  after TEXT,
  enqueued INTEGER NOT NULL,
  skipped INTEGER NOT NULL,
  done INTEGER NOT NULL
) WITHOUT ROWID""",
)

_MANY_NOTES = 16

TABLE_NAMES = (
    "deptbus_published",
    "deptbus_layout",
    "deptbus_outbox",
    "deptbus_replaced",
    "deptbus_places",
    "deptbus_variants",
    "deptbus_parked",
    "deptbus_wanted",
    "deptbus_snapshot",
    "deptbus_pulse",
)


# The cap counts from the oldest row that waits; an empty outbox has all its room again.
LIFT_LIMIT = (
    "UPDATE deptbus_published SET limit_position = cap_rows + coalesce("
    "(SELECT min(position) FROM deptbus_outbox), "
    "(SELECT seq FROM sqlite_sequence WHERE name = 'deptbus_outbox'), 0), "
    "limit_octets = cap_octets + "
    "coalesce((SELECT mark FROM deptbus_outbox ORDER BY position LIMIT 1), 0)"
)


def first_row(cap_rows: int) -> str:
    """By name: an older install's table has fewer columns."""
    return (
        "INSERT INTO deptbus_published "
        "(only_row, publication, version, cap_rows, limit_position, gave_way, gave_way_seen) "
        f"SELECT 1, 0, 0, {cap_rows}, {cap_rows}, 0, 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM deptbus_published)"
    )


def wider(table: str, letter: str, have: int, need: int) -> list[str]:
    """Columns `k0..` or `v0..` (no type: any value is kept as it is) that are not there yet."""
    return [f"ALTER TABLE {table} ADD COLUMN {letter}{i}" for i in range(have, need)]


def names(letter: str, count: int) -> list[str]:
    return [f"{letter}{i}" for i in range(count)]


def same_key(layout: Layout, left: str, right: Sequence[str]) -> str:
    """Condition: the row `left.` has just this key, compared so that an index may be used."""
    return " AND ".join(
        f"{left}{quoted(c)} = {r} AND {left}{quoted(c)} = {r} COLLATE BINARY"
        for c, r in zip(layout.keys, right, strict=True)
    )


def insert_head(layout: Layout, *, delete: bool = False) -> str:
    columns = ["layout", "op", "cause", "job", "source_time_us", "mark", "was"]
    columns += names("k", len(layout.keys))
    if not delete:
        columns += names("v", len(layout.columns))
    return f"INSERT INTO deptbus_outbox ({comma(columns)})"


def trigger_names(dataset: str) -> list[str]:
    return [
        f"deptbus_{dataset}_{when}"
        for when in ("before_insert", "before_update", "insert", "moved", "changed", "delete")
    ]


def former_trigger_names(dataset: str) -> list[str]:
    """Of an older install, which captures as well as this one does."""
    return [
        f"deptbus_{dataset}_{when}"
        for when in ("before_insert", "before_update", "insert", "update", "delete")
    ]


def triggers(layout: Layout, traits: Traits) -> list[str]:
    # With no unique constraint no row is ever replaced, and its notes are moot.
    unique = traits.unique or [plain_unique(layout.keys)]
    t, d = quoted(layout.table), text_literal(layout.dataset)
    own = f"NOT EXISTS (SELECT 1 FROM deptbus_applying WHERE dataset = {d})"
    changed = _differ((*layout.keys, *layout.columns), traits)
    # An update of a column that is not mapped may still have replaced another row.
    replaced = f"EXISTS (SELECT 1 FROM deptbus_replaced WHERE dataset = {d})"
    moved_key = _differ(layout.keys, traits)
    note_insert, note_update, insert_, update, delete = _bodies(layout, unique, moved_key, changed)
    one_of = dict.fromkeys(c for one in unique for c in one.new_row)
    moving = dict.fromkeys((*one_of, *layout.keys))
    moved = _differ(moving, traits)
    is_named = not traits.is_moved_before and traits.generated.isdisjoint(c.lower() for c in moving)
    update_of = f" OF {comma((*map(quoted, moving), *ROW_NUMBER))}" if is_named else ""
    plain = f"NOT ({moved}) AND ({changed}) AND {own}"
    may_lack_key = not traits.nullable.isdisjoint(c.lower() for c in layout.keys)
    plainly = [*([_keyless(layout)] if may_lack_key else []), _plainly(layout), _GAVE_WAY_PLAINLY]
    name = [quoted(n) for n in trigger_names(layout.dataset)]
    made = []
    for trigger, event, when, body in (
        (name[0], "BEFORE INSERT", own, note_insert),
        (name[1], f"BEFORE UPDATE{update_of}", own, note_update),
        (name[2], "AFTER INSERT", own, insert_),
        (
            name[3],
            f"AFTER UPDATE{update_of}",
            f"({moved}) AND ({changed} OR {replaced}) AND {own}",
            update,
        ),
        (name[4], "AFTER UPDATE", plain, plainly),
        (name[5], "AFTER DELETE", own, delete),
    ):
        inner = "".join(f"  {statement};\n" for statement in body)
        if event == "BEFORE INSERT":
            inner = f"  {mark(traits.unique)}\n{inner}"
        made.append(
            f"CREATE TRIGGER {trigger} {event} ON {t}\nFOR EACH ROW WHEN {when}\nBEGIN\n{inner}END"
        )
    return made


def _differ(columns: Iterable[str], traits: Traits) -> str:
    """Condition: an update changes one of these. 1 and 1.0 are equal, and other texts."""
    parts = []
    for c in dict.fromkeys(columns):
        old, new = f"OLD.{quoted(c)}", f"NEW.{quoted(c)}"
        parts.append(f"{old} IS NOT {new} COLLATE BINARY")
        if c.lower() in traits.untyped:
            parts.append(f"typeof({old}) <> typeof({new})")
    return " OR ".join(parts)


def _live(layout: Layout, of: str) -> str:
    """The first values of `insert_head`, for a row of which OLD or NEW tells the size."""
    sizes = (f"coalesce(length(CAST({of}.{quoted(c)} AS BLOB)), 0)" for c in layout.columns)
    octets = " + ".join((MARK, str(_ROW_OCTETS), *sizes))
    return f"{layout.number}, '{{op}}', 'live', NULL, {NOW_US}, {octets}"


def _plainly(layout: Layout) -> str:
    """The statement of rule 6."""
    place = quoted(layout.place) if layout.place else None
    was = (
        f"CASE WHEN OLD.{place} IS NOT NEW.{place} COLLATE BINARY THEN OLD.{place} END"
        if place
        else "NULL"
    )
    values = comma(f"n.{quoted(c)}" for c in (*layout.keys, *layout.columns))
    keys = [f"NEW.{quoted(c)}" for c in layout.keys]
    return (
        f"{insert_head(layout)} SELECT {_live(layout, 'NEW').format(op='u')}, {was}, {values} "
        f"FROM {quoted(layout.table)} AS n WHERE {same_key(layout, 'n.', keys)} AND {_ROOM}"
    )


def _keyless(layout: Layout) -> str:
    """A row without a key is found by none; it is captured as it came, and parked."""
    keys = [f"NEW.{quoted(c)}" for c in layout.keys]
    values = comma((*keys, *(f"NEW.{quoted(c)}" for c in layout.columns)))
    lacks_key = " OR ".join(f"{k} IS NULL" for k in keys)
    return (
        f"{insert_head(layout)} SELECT {_live(layout, 'NEW').format(op='u')}, NULL, {values} "
        f"WHERE ({lacks_key}) AND {_ROOM}"
    )


def _bodies(
    layout: Layout, unique: Sequence[Unique], moved_key: str, differs: str
) -> tuple[list[str], ...]:
    """The statements of the five triggers, in the order of `trigger_names`."""
    t, d = quoted(layout.table), text_literal(layout.dataset)
    # Not the newest: they may be of a statement that this one is within.
    clear_many = (
        f"DELETE FROM deptbus_replaced WHERE dataset = {d} "
        f"AND rowid <= (SELECT max(rowid) FROM deptbus_replaced) - {_MANY_NOTES}"
    )
    ks = names("k", len(layout.keys))
    new_keys = [f"NEW.{quoted(c)}" for c in layout.keys]
    old_keys = [f"OLD.{quoted(c)}" for c in layout.keys]
    place = quoted(layout.place) if layout.place else None
    upsert = insert_head(layout)
    remove = insert_head(layout, delete=True)

    live = _live(layout, "NEW")

    notes = [
        f"INSERT INTO deptbus_replaced (dataset, was, {comma(ks)}) SELECT {d}, "
        f"{place or 'NULL'}, {comma(map(quoted, layout.keys))} FROM {t} WHERE ({search})"
        for search in searches(unique)
    ]
    itself = " AND ".join(
        f"{quoted(c)} IS {o} COLLATE BINARY" for c, o in zip(layout.keys, old_keys, strict=True)
    )
    # Once, by its newest note: the place is that of the row as it went.
    newest = (
        f"r.rowid = (SELECT max(s.rowid) FROM deptbus_replaced s WHERE s.dataset = {d} AND "
        + " AND ".join(f"s.{k} IS r.{k}" for k in ks)
        + ")"
    )
    gone = (
        f"{remove} SELECT {live.format(op='d')}, r.was, {comma(f'r.{k}' for k in ks)} "
        f"FROM deptbus_replaced r WHERE r.dataset = {d} AND NOT EXISTS (SELECT 1 FROM {t} AS n "
        f"WHERE {same_key(layout, 'n.', [f'r.{k}' for k in ks])}) AND {newest} AND {_ROOM}"
    )
    noted = same_key(layout, "n.", [f"deptbus_replaced.{k}" for k in ks])
    clear_gone = (
        f"DELETE FROM deptbus_replaced WHERE dataset = {d} "
        f"AND NOT EXISTS (SELECT 1 FROM {t} AS n WHERE {noted})"
    )
    # Told with `was`, so it need not be told again.
    clear_told = f"DELETE FROM deptbus_replaced WHERE dataset = {d} AND " + " AND ".join(
        f"{k} = {n}" for k, n in zip(ks, new_keys, strict=True)
    )
    clear_old = f"DELETE FROM deptbus_replaced WHERE dataset = {d} AND " + " AND ".join(
        f"{k} = {o}" for k, o in zip(ks, old_keys, strict=True)
    )
    replaced_place = (
        f"(SELECT r.was FROM deptbus_replaced r WHERE r.dataset = {d} AND "
        + " AND ".join(f"r.{k} = {n}" for k, n in zip(ks, new_keys, strict=True))
        # The newest: those before it are of statements that have not replaced it.
        + " ORDER BY r.rowid DESC LIMIT 1)"
    )
    old_place = f"OLD.{place}" if place else "NULL"
    values = comma(f"n.{quoted(c)}" for c in (*layout.keys, *layout.columns))
    as_new = f"FROM {t} AS n WHERE {same_key(layout, 'n.', new_keys)}"
    as_old = f"FROM {t} AS n WHERE {same_key(layout, 'n.', old_keys)}"
    keyless = _keyless(layout)
    added = (
        f"{upsert} SELECT {live.format(op='u')}, {replaced_place}, {values} {as_new} AND {_ROOM}"
    )

    old_values = comma((*old_keys, *(f"OLD.{quoted(c)}" for c in layout.columns)))

    def left(when: str, live: str = live) -> list[str]:
        """Of the old key: a delete with what was there (a row that comes back just so is no
        change), or the row that bears it now with the place that it had."""
        return [
            f"{upsert} SELECT {live.format(op='d')}, {old_place}, {old_values} "
            f"WHERE ({when}) AND NOT EXISTS (SELECT 1 {as_old}) AND {_ROOM}",
            f"{upsert} SELECT {live.format(op='u')}, {old_place}, {values} {as_old} "
            f"AND ({when}) AND {_ROOM}",
        ]

    was = (
        f"coalesce({replaced_place}, CASE WHEN NOT ({moved_key}) "
        f"AND OLD.{place} IS NOT NEW.{place} COLLATE BINARY THEN OLD.{place} END)"
        if place
        else "NULL"
    )
    changed = (
        f"{upsert} SELECT {live.format(op='u')}, {was}, {values} {as_new} "
        f"AND ({differs}) AND {_ROOM}"
    )
    return (
        [clear_many, *notes],
        [clear_many, *(f"{note} AND NOT ({itself})" for note in notes)],
        [gone, added, keyless, clear_gone, clear_told, _GAVE_WAY],
        [
            *(gone, *left(moved_key), changed, f"{keyless} AND ({differs})"),
            *(clear_gone, f"{clear_told} AND ({differs})", _GAVE_WAY),
        ],
        [*left("1", _live(layout, "OLD")), clear_old, _GAVE_WAY],
    )
