"""The tables of a folder system: dropped files are kept as rows, whose triggers capture changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from deptbus.department.connect import SqliteDatabase
from deptbus.department.layout import Layout, comma, quoted
from deptbus.errors import DeptbusError

FOLDERS = ("in", "done", "bad")


async def make_folder_tables(
    database: SqliteDatabase, layouts: Sequence[Layout], folder: Path
) -> None:
    """One table per published dataset, all text, and the folders where files come and go.

    A column that the mapping gained is added; one that it lost stays.
    """
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeptbusError(
            f"{folder} cannot be made ({error.strerror})", mend="Check the path and its rights"
        ) from None

    def work(c: sqlite3.Connection) -> None:
        for layout in layouts:
            columns = list(dict.fromkeys((*layout.keys, *layout.columns)))
            table = quoted(layout.table)
            c.execute(
                f"CREATE TABLE IF NOT EXISTS {table} ("
                + comma(f"{quoted(n)} TEXT" for n in columns)
                + f", PRIMARY KEY ({comma(map(quoted, layout.keys))}))"
            )
            have = {
                row[0]
                for row in c.execute("SELECT name FROM pragma_table_info(?)", (layout.table,))
            }
            for name in columns:
                if name not in have:
                    c.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} TEXT")

    await database.transaction(work)
