"""The statements of SQLite capture that move rows: into the outbox, out of it, and its counts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from deptbus.department import fence, shape, sqlite_view
from deptbus.department import removal_guard_sqlite as removals
from deptbus.department import sqlite_triggers as sql
from deptbus.department.capture import (
    MOST_SOUGHT,
    CaptureStatus,
    OutboxRow,
    RawKey,
    Snapshot,
    Sought,
    Waiting,
    Wanted,
    present_row,
)
from deptbus.department.layout import Layout, comma, quoted, text_literal
from deptbus.department.pulse import read_sqlite
from deptbus.department.raw import raw_of, raw_text
from deptbus.department.sqlite_schema import key_collations, traits_of
from deptbus.department.sqlite_schema import shape as shape_of
from deptbus.department.sqlite_show import show
from deptbus.department.sqlite_unique import replacing

# (table, column) that an older install had not.
WIDENED = (("published", "cap_octets"), ("published", "limit_octets"), ("outbox", "mark"))
# By triggers and readers.
_NEEDED = ("published", "outbox", "replaced", "layout", "applying", "touched", "shown")


def is_installed(c: sqlite3.Connection) -> bool:
    names = tuple(f"deptbus_{name}" for name in _NEEDED)
    counted = f"SELECT count(*) FROM sqlite_master WHERE name IN ({comma('?' for _ in names)})"
    return bool(c.execute(counted, names).fetchone()[0] == len(names))


def orphaned(c: sqlite3.Connection) -> list[str]:
    """What takes triggers away whose tables somebody has dropped: until then each write of the
    department's fails, because in SQLite a trigger can neither look first nor catch an error."""
    return [] if is_installed(c) else drop_triggers(c)


Pick = Callable[[tuple[Any, ...]], tuple[Any, ...]]


def pick(places: Sequence[int]) -> Pick:
    """The values at these places of a row, as a tuple."""
    if len(places) == 1:
        (only,) = places
        return lambda row: (row[only],)
    return itemgetter(*places)


def fetch(
    c: sqlite3.Connection, query: str, values: Sequence[Any]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(names, rows). Text that is no UTF-8 is rare, and to be ready for it takes a call for each
    text: only when there is some, the rows are read again with stray bytes kept as surrogates."""
    lenient = c.text_factory
    c.text_factory = str
    try:
        found = c.execute(query, values)
        return [d[0] for d in found.description], found.fetchall()
    except sqlite3.OperationalError:
        c.text_factory = lenient
        found = c.execute(query, values)
        return [d[0] for d in found.description], found.fetchall()
    finally:
        c.text_factory = lenient


def column_count(c: sqlite3.Connection, table: str, pattern: str) -> int:
    """Columns of a table whose names are like `pattern` (GLOB)."""
    return int(
        c.execute(
            "SELECT count(*) FROM pragma_table_info(?) WHERE name GLOB ?",
            (table, pattern),
        ).fetchone()[0]
    )


def install_sql(
    c: sqlite3.Connection, layouts: Sequence[Layout], cap_rows: int, cap_mib: int
) -> list[str]:
    """Everything that `install` runs in one transaction, given what is there already."""
    key_width = max((len(x.keys) for x in layouts), default=1)
    value_width = max((len(x.columns) for x in layouts), default=1)
    made = [*fence.SQLITE_TABLES, *sql.TABLES, *removals.TABLES]
    made += [*sqlite_view.TABLES, shape.SQLITE_TABLE, sql.first_row(cap_rows)]
    for table, column in WIDENED:
        names = [
            row[0]
            for row in c.execute("SELECT name FROM pragma_table_info(?)", (f"deptbus_{table}",))
        ]
        if names and column not in names:
            rest = " NOT NULL DEFAULT 0" if table == "published" else ""
            made.append(f"ALTER TABLE deptbus_{table} ADD COLUMN {column} INTEGER{rest}")
    made += [
        f"UPDATE deptbus_published SET cap_rows = {int(cap_rows)}, "
        f"cap_octets = {int(cap_mib) * 1024 * 1024}",
        sql.LIFT_LIMIT,
    ]
    for table, letter, need in (
        ("deptbus_outbox", "k", key_width),
        ("deptbus_outbox", "v", value_width),
        ("deptbus_replaced", "k", key_width),
        ("deptbus_touched", "k", key_width),
    ):
        made += sql.wider(table, letter, column_count(c, table, f"{letter}[0-9]*"), need)
    views = comma(text_literal(layout.dataset) for layout in layouts if layout.is_view)
    made += [
        f"DELETE FROM {table} WHERE dataset NOT IN ({views})"
        for table in sqlite_view.TABLE_NAMES  # what is no view now may be one again
    ]
    made += drop_triggers(c)
    made.append("UPDATE deptbus_layout SET is_current = 0")
    for layout in layouts:
        made.append(
            f"REPLACE INTO deptbus_layout VALUES ({layout.number}, "
            f"{text_literal(layout.dataset)}, {text_literal(layout.to_json())}, 1)"
        )
        if layout.is_view:
            unique = {part.table: replacing(c, part.table) for part in layout.parts}
            made += sqlite_view.triggers(layout, unique)
        else:
            made += sql.triggers(layout, traits_of(c, layout.table))
        made += shape.note_sql("deptbus_shape", layout.dataset, shape_of(c, layout))
    return made


def drop_triggers(c: sqlite3.Connection) -> list[str]:
    rows = c.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'deptbus_*' "
        "AND tbl_name NOT GLOB 'deptbus_*'"  # those on our own views are no capture
    ).fetchall()
    return [f"DROP TRIGGER {quoted(name)}" for (name,) in rows]


def runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of numbers that follow each other; no other number lies within."""
    found: list[tuple[int, int]] = []
    ordered = sorted(positions)
    if not ordered:
        return found
    first = last = ordered[0]
    for position in ordered:
        if position > last + 1:
            found.append((first, last))
            first = position
        last = position
    return [*found, (first, last)]


def delete_published(token: bytes, positions: Sequence[int], c: sqlite3.Connection) -> None:
    fence.check_sqlite(c, token)
    c.executemany("DELETE FROM deptbus_outbox WHERE position BETWEEN ? AND ?", runs(positions))
    c.execute(sql.LIFT_LIMIT)


# More than these would make the statement long; their rows are fetched, and left out then.
_MOST_RUNS = 50


def next_rows(
    c: sqlite3.Connection, limit: int, in_flight: Collection[int], hold: Collection[str]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(names, rows): the outbox rows of least position, but for those in flight and held ones. Rows
    in flight are passed over by number, so that none is missed that comes to lie among them."""
    flying = runs(in_flight)
    skipped = flying if len(flying) <= _MOST_RUNS else []
    where = "".join("position NOT BETWEEN ? AND ? AND " for _ in skipped)
    heads, rows = fetch(
        c,
        f"SELECT * FROM deptbus_outbox WHERE {where}layout NOT IN (SELECT number FROM "
        f"deptbus_layout WHERE dataset IN ({comma('?' for _ in hold)})) ORDER BY position LIMIT ?",
        (
            *(end for run in skipped for end in run),
            *hold,
            limit if skipped else limit + len(in_flight),
        ),
    )
    if flying and not skipped:
        among = frozenset(in_flight)
        rows = [row for row in rows if row[0] not in among][:limit]
    return heads, rows


def key_order(c: sqlite3.Connection, layout: Layout) -> str:
    return comma(
        f"{quoted(k)} COLLATE {quoted(coll)}"
        for k, coll in zip(layout.keys, key_collations(c, layout), strict=True)
    )


def after_key(c: sqlite3.Connection, layout: Layout, after: str | None) -> tuple[str, list[Any]]:
    """Condition and values: keys behind `after` (`raw_text`); rows without a key are never met."""
    whole = " AND ".join(f"{quoted(k)} IS NOT NULL" for k in layout.keys)
    if after is None:
        return whole, []
    marks = comma("?" for _ in layout.keys)
    return f"({key_order(c, layout)}) > ({marks}) AND {whole}", list(raw_of(after))


def up_to_key(c: sqlite3.Connection, layout: Layout, last: RawKey) -> tuple[str, list[Any]]:
    marks = comma("?" for _ in layout.keys)
    return f"({key_order(c, layout)}) <= ({marks})", list(last)


def enqueue(layout: Layout, where: str) -> str:
    """INSERT of present rows; its first two values are cause and job, then those of `where`."""
    values = comma(map(quoted, (*layout.keys, *layout.columns)))
    return (
        f"{sql.insert_head(layout)} SELECT {layout.number}, 'u', ?, ?, {sql.NOW_US}, {sql.MARK}, "
        f"NULL, {values} FROM {quoted(layout.table)} WHERE {where}"
    )


def own_key(layout: Layout) -> str:
    """Condition: just this own key, by index and then in BINARY; takes each value twice."""
    return " AND ".join(f"{quoted(k)} = ? AND {quoted(k)} = ? COLLATE BINARY" for k in layout.keys)


def twice(raw: RawKey) -> list[Any]:
    return [value for value in raw for _ in range(2)]


def bears(c: sqlite3.Connection, layout: Layout, raw: RawKey) -> bool:
    return (
        c.execute(
            f"SELECT 1 FROM {quoted(layout.table)} WHERE {own_key(layout)}", twice(raw)
        ).fetchone()
        is not None
    )


def enqueue_one(
    c: sqlite3.Connection, layout: Layout, raw: RawKey, cause: str, job: str | None
) -> None:
    """The present state of one own key: an upsert, or a delete when no row bears it. The write
    lock is held, so nobody can be about to insert it."""
    if layout.is_view and show(c, layout, raw, cause, job):
        return
    if bears(c, layout, raw):
        c.execute(enqueue(layout, own_key(layout)), (cause, job, *twice(raw)))
    else:
        marks = comma("?" for _ in layout.keys)
        c.execute(
            f"{sql.insert_head(layout, delete=True)} "
            f"VALUES ({layout.number}, 'd', ?, ?, {sql.NOW_US}, {sql.MARK}, NULL, {marks})",
            (cause, job, *raw),
        )


def want(c: sqlite3.Connection, wanted: Iterable[Wanted]) -> None:
    for w in wanted:
        c.execute(
            "INSERT INTO deptbus_wanted (dataset, raw, bus_key, cause, job) SELECT ?, ?, ?, ?, ? "
            "WHERE NOT EXISTS (SELECT 1 FROM deptbus_wanted WHERE dataset = ? AND raw IS ? "
            "AND bus_key IS ? AND cause = ? AND job IS ?)",
            (*w, *w),
        )


def want_keys(
    c: sqlite3.Connection, dataset: str, keys: Iterable[bytes], cause: str, job: str | None
) -> None:
    known = c.execute(
        "SELECT bus_key FROM deptbus_wanted WHERE dataset = ? AND raw IS NULL AND cause = ? "
        "AND job IS ?",
        (dataset, cause, job),
    )
    fresh = dict.fromkeys(keys).keys() - {key for (key,) in known}
    c.executemany(
        "INSERT INTO deptbus_wanted (dataset, raw, bus_key, cause, job) VALUES (?, NULL, ?, ?, ?)",
        [(dataset, key, cause, job) for key in fresh],
    )


def wanted(c: sqlite3.Connection, dataset: str, at_most: int) -> list[Wanted]:
    rows = c.execute(
        "SELECT dataset, raw, bus_key, cause, job FROM deptbus_wanted WHERE dataset = ? LIMIT ?",
        (dataset, at_most),
    )
    return [Wanted(*row) for row in rows]


def work_off(
    c: sqlite3.Connection, current: Mapping[str, Layout], limit: int, hold: Collection[str]
) -> tuple[int, list[Wanted]]:
    marks = comma("?" for _ in hold)
    for dataset in {d for (d,) in c.execute("SELECT DISTINCT dataset FROM deptbus_wanted")}:
        if dataset not in current:
            c.execute("DELETE FROM deptbus_wanted WHERE dataset = ?", (dataset,))
    rows = c.execute(
        "SELECT number, dataset, raw, cause, job FROM deptbus_wanted "
        f"WHERE (raw IS NOT NULL OR position IS NULL) AND dataset NOT IN ({marks}) "
        "ORDER BY number LIMIT ?",
        (*hold, limit),
    ).fetchall()
    done = 0
    for number, dataset, raw, cause, job in rows:
        if raw is None:
            reserve(c, number)
            continue
        enqueue_one(c, current[dataset], raw_of(raw), cause, job)
        c.execute("DELETE FROM deptbus_wanted WHERE number = ?", (number,))
        done += 1
    to_find = c.execute(
        "SELECT dataset, raw, bus_key, cause, job FROM deptbus_wanted "
        f"WHERE raw IS NULL AND position IS NOT NULL AND dataset NOT IN ({marks}) "
        "ORDER BY number LIMIT ?",
        (*hold, MOST_SOUGHT),
    )
    return done, [Wanted(*row) for row in to_find]


def resolve(c: sqlite3.Connection, layout: Layout, sought: Iterable[Sought]) -> None:
    for (dataset, _, key, cause, job), raw, is_remembered in sought:
        if raw is not None:
            enqueue_one(c, layout, raw, cause, job)
        elif is_remembered:
            c.execute(
                "INSERT INTO deptbus_outbox "
                "(position, layout, op, cause, job, source_time_us, bus_key, mark) "
                f"SELECT position, ?, 'd', cause, job, {sql.NOW_US}, bus_key, {sql.MARK} "
                "FROM deptbus_wanted WHERE raw IS NULL AND dataset = ? AND bus_key = ? LIMIT 1",
                (layout.number, dataset, key),
            )
        c.execute(
            "DELETE FROM deptbus_wanted WHERE raw IS NULL AND dataset = ? AND bus_key = ?",
            (dataset, key),
        )


def lift(c: sqlite3.Connection, token: bytes, publication: int, version: int) -> None:
    """Rows that wait are moved behind the greatest number of both sides, as they lie: what is left
    free is lost for good at each resync."""
    fence.check_sqlite(c, token)
    top = max(_drawn(c), version)
    least, greatest = c.execute(
        "SELECT min(position), max(position) FROM deptbus_outbox"
    ).fetchone()
    last = top
    if least is not None:
        by = top + 1 - least
        last = greatest + by
        # By way of negative numbers: a new position may be the old one of a row further on.
        c.execute("UPDATE deptbus_outbox SET position = -(position + ?)", (by,))
        c.execute("UPDATE deptbus_outbox SET position = -position")
    c.execute("UPDATE deptbus_wanted SET position = NULL")
    c.execute("DELETE FROM sqlite_sequence WHERE name = 'deptbus_outbox'")
    c.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('deptbus_outbox', ?)", (last,))
    c.execute(
        "UPDATE deptbus_published SET publication = max(publication, ?), "
        "version = max(version, ?), gave_way = gave_way + 1",
        (publication, version),
    )
    c.execute(sql.LIFT_LIMIT)


def _drawn(c: sqlite3.Connection) -> int:
    """The greatest version that was ever drawn."""
    (drawn,) = c.execute(
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'deptbus_outbox'), 0), "
        "coalesce((SELECT max(position) FROM deptbus_outbox), 0))"
    ).fetchone()
    return int(drawn)


def reserve_block(c: sqlite3.Connection, token: bytes, count: int) -> int:
    """Draws `count` versions; the first of them. Room for live changes moves on with them."""
    fence.check_sqlite(c, token)
    _ensure_sequence(c)
    drawn = _drawn(c)
    c.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'deptbus_outbox'", (drawn + count,))
    c.execute("UPDATE deptbus_published SET limit_position = limit_position + ?", (count,))
    return drawn + 1


def rows_after(
    c: sqlite3.Connection, layout: Layout, after: RawKey | None, limit: int
) -> list[OutboxRow]:
    where, bound = after_key(c, layout, raw_text(after) if after else None)
    return _present(c, layout, f"{where} ORDER BY {key_order(c, layout)} LIMIT ?", (*bound, limit))


def rows_of(c: sqlite3.Connection, layout: Layout, raws: Iterable[RawKey]) -> list[OutboxRow]:
    where = own_key(layout)
    return [row for raw in raws for row in _present(c, layout, where, twice(raw))]


def _present(
    c: sqlite3.Connection, layout: Layout, where: str, values: Sequence[Any]
) -> list[OutboxRow]:
    width = len(layout.keys)
    _, rows = fetch(
        c,
        f"SELECT {comma(map(quoted, (*layout.keys, *layout.columns)))} "
        f"FROM {quoted(layout.table)} WHERE {where}",
        values,
    )
    return [present_row(layout, row[:width], row[width:]) for row in rows]


def _ensure_sequence(c: sqlite3.Connection) -> None:
    c.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'deptbus_outbox', 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'deptbus_outbox')"
    )


def reserve(c: sqlite3.Connection, number: int) -> None:
    """The next version, drawn for a wanted key before anybody looks for its row."""
    _ensure_sequence(c)
    c.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'deptbus_outbox'")
    c.execute(
        "UPDATE deptbus_wanted SET position = "
        "(SELECT seq FROM sqlite_sequence WHERE name = 'deptbus_outbox') WHERE number = ?",
        (number,),
    )


def snapshots(
    c: sqlite3.Connection, where: str, values: Sequence[Any] = ()
) -> tuple[Snapshot, ...]:
    rows = c.execute(
        f"SELECT dataset, enqueued, skipped, done FROM deptbus_snapshot {where} ORDER BY dataset",
        values,
    )
    return tuple(Snapshot(d, e, s, bool(done)) for d, e, s, done in rows)


def advance_snapshot(c: sqlite3.Connection, layout: Layout, limit: int) -> Snapshot:
    """The next rows in the order of their keys; remembers the last, so a kill costs nothing."""
    cause, job, after, done = c.execute(
        "SELECT cause, job, after, done FROM deptbus_snapshot WHERE dataset = ?", (layout.dataset,)
    ).fetchone()
    if not done:
        keys, order = comma(map(quoted, layout.keys)), key_order(c, layout)
        where, bound = after_key(c, layout, after)
        chunk = c.execute(
            f"SELECT {keys} FROM {quoted(layout.table)} WHERE {where} ORDER BY {order} LIMIT ?",
            (*bound, limit),
        ).fetchall()
        if chunk:
            if layout.is_view:
                for raw in chunk:
                    show(c, layout, raw, cause, job)
            else:
                upto, to_bound = up_to_key(c, layout, chunk[-1])
                c.execute(enqueue(layout, f"{where} AND {upto}"), (cause, job, *bound, *to_bound))
        c.execute(
            "UPDATE deptbus_snapshot SET after = coalesce(?, after), enqueued = enqueued + ?, "
            "done = ? WHERE dataset = ?",
            (
                raw_text(chunk[-1]) if chunk else None,
                len(chunk),
                len(chunk) < limit,
                layout.dataset,
            ),
        )
    return snapshots(c, "WHERE dataset = ?", (layout.dataset,))[0]


def waiting(c: sqlite3.Connection, at_most: int) -> Waiting:
    first, last, counted, oldest = c.execute(
        "SELECT (SELECT min(position) FROM deptbus_outbox), "
        "(SELECT max(position) FROM deptbus_outbox), "
        "(SELECT count(*) FROM (SELECT 1 FROM deptbus_outbox LIMIT ?)), "
        "(SELECT source_time_us FROM deptbus_outbox ORDER BY position LIMIT 1)",
        (at_most,),
    ).fetchone()
    return Waiting(last - first + 1 if counted >= at_most > 0 else counted, oldest)


def status(c: sqlite3.Connection) -> CaptureStatus:
    if not is_installed(c):
        return CaptureStatus(installed=False)
    rows, oldest = c.execute(
        "SELECT count(*), (SELECT source_time_us FROM deptbus_outbox ORDER BY position LIMIT 1) "
        "FROM deptbus_outbox"
    ).fetchone()
    publication, version, gave_way, cap, limit, cap_octets, octets = c.execute(
        "SELECT publication, version, gave_way - gave_way_seen, cap_rows, limit_position, "
        f"cap_octets, max(0, {sql.MARK} - limit_octets + cap_octets) FROM deptbus_published"
    ).fetchone()
    (drawn,) = c.execute(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'deptbus_outbox'"
    ).fetchone()
    noted = 0
    if c.execute("SELECT 1 FROM sqlite_master WHERE name = 'deptbus_touched'").fetchone():
        (noted,) = c.execute("SELECT count(*) FROM deptbus_touched").fetchone()
    return CaptureStatus(
        installed=True,
        outbox_rows=rows + noted,
        oldest_age_seconds=None if oldest is None else max(0.0, time.time() - oldest / 1e6),
        parked=dict(c.execute("SELECT reason, count(*) FROM deptbus_parked GROUP BY reason")),
        wanted=c.execute("SELECT count(*) FROM deptbus_wanted").fetchone()[0],
        publication=publication,
        version=version,
        gave_way=gave_way,
        snapshots=snapshots(c, ""),
        cap_rows=cap,
        room_rows=max(0, limit - drawn),
        cap_kib=cap_octets // 1024,
        outbox_kib=octets // 1024,
        pulse=read_sqlite(c),
        holds=removals.holds(c, counted=True),
    )
