"""What is held of removals, in SQLite: tables and statements of `removal_guard`."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from deptbus.department.capture import HeldRemoval, Hold, Holding
from deptbus.department.layout import comma

TABLES = (
    """CREATE TABLE IF NOT EXISTS deptbus_hold (
  number INTEGER PRIMARY KEY,
  dataset TEXT NOT NULL,
  began_us INTEGER NOT NULL,
  size INTEGER NOT NULL,
  is_released INTEGER NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS deptbus_held (
  dataset TEXT NOT NULL,
  bus_key BLOB NOT NULL,
  hold INTEGER NOT NULL,
  raw TEXT NOT NULL,
  place TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (dataset, bus_key)
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS deptbus_removals (
  dataset TEXT NOT NULL,
  minute INTEGER NOT NULL,
  counted INTEGER NOT NULL,
  PRIMARY KEY (dataset, minute)
) WITHOUT ROWID""",
)
TABLE_NAMES = ("deptbus_hold", "deptbus_held", "deptbus_removals")


def holds(c: sqlite3.Connection, *, counted: bool = False) -> tuple[Hold, ...]:
    """Those that hold something; how much, only where it is asked for."""
    keys = "(SELECT count(*) FROM deptbus_held WHERE hold = h.number)" if counted else "0"
    rows = c.execute(
        f"SELECT number, dataset, began_us, size, is_released, {keys} FROM deptbus_hold AS h "
        "WHERE EXISTS (SELECT 1 FROM deptbus_held WHERE hold = h.number) ORDER BY number"
    )
    return tuple(
        Hold(n, d, began, size, bool(gone), many) for n, d, began, size, gone, many in rows
    )


def next_hold(c: sqlite3.Connection) -> int:
    (number,) = c.execute("SELECT coalesce(max(number), 0) + 1 FROM deptbus_hold").fetchone()
    return int(number)


def held(
    c: sqlite3.Connection, keys: Sequence[tuple[str, bytes]]
) -> dict[tuple[str, bytes], HeldRemoval]:
    found = {}
    for pair in keys:
        row = c.execute(
            "SELECT hold, dataset, bus_key, raw, place, state FROM deptbus_held "
            "WHERE dataset = ? AND bus_key = ?",
            pair,
        ).fetchone()
        if row is not None:
            found[pair] = HeldRemoval(*row)
    return found


def held_of(c: sqlite3.Connection, dataset: str, at_most: int) -> list[HeldRemoval]:
    rows = c.execute(
        "SELECT hold, dataset, bus_key, raw, place, state FROM deptbus_held WHERE dataset = ? "
        "LIMIT ?",
        (dataset, at_most),
    )
    return [HeldRemoval(*row) for row in rows]


def lately(c: sqlite3.Connection) -> dict[tuple[str, int], int]:
    rows = c.execute("SELECT dataset, minute, counted FROM deptbus_removals")
    return {(dataset, minute): counted for dataset, minute, counted in rows}


def ahead(
    c: sqlite3.Connection, dataset: str, position: int, released: str, moved: str
) -> tuple[dict[int, tuple[int, int]], int]:
    rows = c.execute(
        "SELECT source_time_us / 60000000, count(*), sum(op = 'd'), max(position) "
        "FROM deptbus_outbox WHERE position >= ? AND layout IN "
        "(SELECT number FROM deptbus_layout WHERE dataset = ?) "
        "AND (op = 'd' OR was IS NOT NULL OR job = ?) "
        "AND substr(coalesce(job, ''), 1, ?) <> ? GROUP BY 1",
        (position, dataset, moved, len(released), released),
    ).fetchall()
    upto = max((row[3] for row in rows), default=position)
    return {row[0]: (row[1], row[2]) for row in rows}, upto


def write(c: sqlite3.Connection, holding: Holding) -> None:
    c.executemany(
        "INSERT INTO deptbus_hold VALUES (?, ?, ?, ?, 0)",
        [(hold.number, hold.dataset, hold.began_us, hold.size) for hold in holding.begun],
    )
    give_back(c, holding.given_back)
    c.executemany(
        "INSERT INTO deptbus_held (hold, dataset, bus_key, raw, place, state) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (dataset, bus_key) DO NOTHING",
        holding.held,
    )
    if holding.removals:
        c.executemany(
            "INSERT INTO deptbus_removals VALUES (?, ?, ?) ON CONFLICT (dataset, minute) "
            "DO UPDATE SET counted = counted + excluded.counted",
            [(*where, count) for where, count in holding.removals.items()],
        )
        c.execute("DELETE FROM deptbus_removals WHERE minute < ?", (holding.forget_before,))


def give_back(c: sqlite3.Connection, keys: Sequence[tuple[str, bytes]]) -> None:
    c.executemany("DELETE FROM deptbus_held WHERE dataset = ? AND bus_key = ?", keys)


def release(c: sqlite3.Connection, number: int) -> Hold | None:
    """To be called in a transaction."""
    found = [hold for hold in holds(c, counted=True) if hold.number == number]
    if not found:
        return None
    c.execute("UPDATE deptbus_hold SET is_released = 1 WHERE number = ?", (number,))
    c.execute("DELETE FROM deptbus_removals WHERE dataset = ?", (found[0].dataset,))
    return found[0]


def released(c: sqlite3.Connection, at_most: int, datasets: Collection[str]) -> list[HeldRemoval]:
    rows = c.execute(
        "SELECT d.hold, d.dataset, d.bus_key, d.raw, d.place, d.state FROM deptbus_held AS d "
        "WHERE d.hold = (SELECT number FROM deptbus_hold AS h WHERE h.is_released "
        f"AND h.dataset IN ({comma('?' for _ in datasets)}) AND EXISTS "
        "(SELECT 1 FROM deptbus_held WHERE hold = h.number) ORDER BY number LIMIT 1) LIMIT ?",
        (*datasets, at_most),
    )
    return [HeldRemoval(*row) for row in rows]
