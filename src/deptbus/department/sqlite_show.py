"""Records of a view over several tables in SQLite: read by the adapter, and enqueued as they are.

The write lock is held in all of these, so whatever is read is the newest there is.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from deptbus.department.capture import LIVE, RawKey, Wanted
from deptbus.department.layout import Layout, comma, quoted
from deptbus.department.raw import is_text, raw_text
from deptbus.department.sqlite_triggers import MARK, NOW_US, insert_head, names


def look_again(
    c: sqlite3.Connection, layouts: Mapping[str, Layout], limit: int, hold: Collection[str]
) -> int:
    """Enqueues what was touched, oldest first, but for held datasets; how many notes that were."""
    held = [d for d in layouts if d in hold]
    found = c.execute(
        f"SELECT * FROM deptbus_touched WHERE dataset NOT IN ({comma('?' for _ in held)}) "
        "ORDER BY number LIMIT ?",
        (*held, limit),
    )
    heads = [d[0] for d in found.description]
    rows = [dict(zip(heads, row, strict=True)) for row in found.fetchall()]
    touched: dict[tuple[str, RawKey], None] = {}
    for row in rows:
        layout = layouts.get(row["dataset"])
        if layout is not None:
            raw = tuple(row[k] for k in names("k", len(layout.keys)))
            # What is no text is no key: it was never published.
            if all(map(is_text, raw)):
                touched[layout.dataset, raw] = None
    (missed,) = c.execute("SELECT gave_way - gave_way_seen FROM deptbus_published").fetchone()
    loading = {d for (d,) in c.execute("SELECT dataset FROM deptbus_snapshot WHERE NOT done")}
    for dataset, raw in touched:
        show(
            *(c, layouts[dataset], raw, LIVE, None),
            unless_equal=not missed,
            is_told=dataset in loading,  # it may have been published and not been met yet
        )
    c.executemany("DELETE FROM deptbus_touched WHERE number = ?", [(r["number"],) for r in rows])
    return len(rows)


def touched(c: sqlite3.Connection, layout: Layout, at_most: int) -> list[Wanted]:
    """What was noted of a view and is not enqueued yet."""
    keys = comma(names("k", len(layout.keys)))
    rows = c.execute(
        f"SELECT DISTINCT {keys} FROM deptbus_touched WHERE dataset = ? LIMIT ?",
        (layout.dataset, at_most),
    )
    return [Wanted(layout.dataset, raw_text(raw), None, LIVE, None) for raw in rows]


def unshown(c: sqlite3.Connection, datasets: Collection[str]) -> list[str]:
    query = "SELECT EXISTS (SELECT 1 FROM deptbus_shown WHERE dataset = ?)"
    return sorted(d for d in datasets if not c.execute(query, (d,)).fetchone()[0])


def shown_after(c: sqlite3.Connection, dataset: str, after: str, limit: int) -> list[str]:
    """`raw_text` of what was shown, in its order."""
    query = "SELECT raw FROM deptbus_shown WHERE dataset = ? AND raw > ? ORDER BY raw LIMIT ?"
    return [raw for (raw,) in c.execute(query, (dataset, after, limit))]


def forget(c: sqlite3.Connection, dataset: str, raws: Iterable[str]) -> None:
    c.executemany(
        "DELETE FROM deptbus_shown WHERE dataset = ? AND raw = ?", [(dataset, raw) for raw in raws]
    )


def forget_touched(
    c: sqlite3.Connection, layouts: Mapping[str, Layout], after: int, limit: int
) -> int | None:
    """What was touched is as if never compared; the number of the last note behind `after` that was
    looked at, None when that was the last of all."""
    found = c.execute(
        "SELECT * FROM deptbus_touched WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
    )
    heads = [d[0] for d in found.description]
    rows = [dict(zip(heads, row, strict=True)) for row in found.fetchall()]
    for row in rows:
        if (layout := layouts.get(row["dataset"])) is not None:
            raw = raw_text(tuple(row[k] for k in names("k", len(layout.keys))))
            c.execute(
                "UPDATE deptbus_shown SET digest = x'' WHERE dataset = ? AND raw = ?",
                (layout.dataset, raw),
            )
    return rows[-1]["number"] if len(rows) == limit else None


def show(
    c: sqlite3.Connection,
    layout: Layout,
    raw: RawKey,
    cause: str,
    job: str | None,
    *,
    unless_equal: bool = False,
    is_told: bool = False,
) -> bool:
    """Enqueues the present state of one record: an upsert (`unless_equal` to what was shown last),
    or a delete where it was shown, or `is_told` to have been published, and is gone. False: it is
    not there, and no delete was enqueued."""
    columns, marks = comma(map(quoted, layout.columns)), comma("?" for _ in layout.keys)
    place = quoted(layout.place) if layout.place else "NULL"
    # Of rows that share a key, which no view forbids, always the same one.
    chosen = (
        f"FROM {quoted(layout.table)} WHERE "
        + " AND ".join(f"{quoted(k)} = ? COLLATE BINARY" for k in layout.keys)
        + f" ORDER BY {columns} LIMIT 1"
    )
    row = c.execute(f"SELECT {place}, {columns} {chosen}", raw).fetchone()
    name = (layout.dataset, raw_text(raw))
    before = c.execute(
        "SELECT place, digest FROM deptbus_shown WHERE dataset = ? AND raw = ?", name
    ).fetchone()
    if row is None:
        was_there = before is not None or is_told
        if was_there:
            c.execute(
                f"{insert_head(layout, delete=True)} "
                f"VALUES ({layout.number}, 'd', ?, ?, {NOW_US}, {MARK}, ?, {marks})",
                (cause, job, before and before[0], *raw),
            )
            forget(c, layout.dataset, [name[1]])
        return was_there
    now, digest = row[0] if is_text(row[0]) else None, _digest(row[1:])
    if unless_equal and (now, digest) == before:
        return True
    was = before[0] if before is not None and before[0] != now else None
    c.execute(
        f"{insert_head(layout)} SELECT {layout.number}, 'u', ?, ?, {NOW_US}, {MARK}, ?, "
        f"{marks}, {columns} {chosen}",
        (cause, job, was, *raw, *raw),
    )
    c.execute("REPLACE INTO deptbus_shown VALUES (?, ?, ?, ?)", (*name, now, digest))
    return True


def _digest(values: Sequence[Any]) -> bytes:
    told = repr([(type(v).__name__, v) for v in values])
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()
