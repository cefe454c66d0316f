"""What a folder's file of a received dataset holds, row by row, beside the rows it was made from.

The file is what people of the unit see, and anybody may type into it. It is read as dropped files
are (`folder_files`), so that a spreadsheet program that saved it again in its own way changed
nothing but what differs cell by cell; an empty cell is null here as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deptbus.department.folder_files import FileRefused, read_sheet
from deptbus.department.target import MappedTarget
from deptbus.errors import DatabaseUnavailable

Cells = tuple[str | None, ...]


def cells_of(values: Sequence[Any]) -> Cells:
    """A row as a file has it."""
    return tuple(None if value is None else str(value) or None for value in values)


class FileRows:
    """The file at one moment. `seen` every row that should be there; then `strangers` are left."""

    def __init__(self, target: MappedTarget, name: str, rows: Sequence[Cells]) -> None:
        self._target, self.name = target, name
        self._rows: dict[Cells, Cells] = {}
        self._left: dict[Cells, None] = {}  # in the file's order
        self._twice: list[Cells] = []
        for row in rows:
            key = self._key(row)
            if key in self._rows:
                self._twice.append(row)
            else:
                self._rows[key] = row
                self._left[key] = None

    def differs(self, values: Sequence[Any]) -> list[str] | None:
        """The columns in which the file has something else than this row; None: it has no such
        row."""
        cells = cells_of(values)
        key = self._key(cells)
        found = self._rows.get(key)
        if found is None:
            return None
        self._left.pop(key, None)
        return [
            column.name
            for column, was, now in zip(self._target.columns, cells, found, strict=True)
            if was != now
        ]

    @property
    def strangers(self) -> list[Cells]:
        """The own keys of rows that nobody asked for, and of those that stand there twice."""
        return [*self._left, *map(self._key, self._twice)]

    def _key(self, cells: Cells) -> Cells:
        return tuple(cells[at] for at in self._target.key_positions)


def read_rows(path: Path, target: MappedTarget) -> FileRows:
    """A file that is not there has no rows. Raises DatabaseUnavailable for one that is no list of
    these columns any more, or cannot be read."""
    names = [column.name for column in target.columns]
    try:
        sheet = read_sheet(path)
    except FileNotFoundError:
        return FileRows(target, path.name, ())
    except (OSError, FileRefused) as error:
        raise _no_list(path, str(error)) from None
    lacking = [name for name in names if name not in sheet.header]
    if lacking:
        raise _no_list(path, f"it has no column {lacking[0]}")
    if sheet.broken:
        line, _, why = sheet.broken[0]
        raise _no_list(path, f"line {line} {why}")
    places = [sheet.header.index(name) for name in names]
    rows = [tuple(cells[at] for at in places) for _, cells in sheet.rows]
    return FileRows(target, path.name, rows)


def _no_list(path: Path, why: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"{path.name} cannot be compared with what was written into it: {why}",
        mend="Start the adapter anew: it writes the whole file again",
    )
