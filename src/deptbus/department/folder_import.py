"""Takes dropped files of a folder system into its state database, whose triggers capture the rest.

`in/` is watched. A file is taken when it has not changed between two looks. What it is, is told by
its name, which begins with the name of a mapping's table: `people.csv`, `people-2026-11.xlsx` and
`people.full.csv` are full lists, whose differences are the changes and whose missing rows are
removals; `people.changes.csv` is a list of changes, with a column `op`. Refused rows, once they are
mended, come again as changes; as a full list they are not taken.

A taken file goes to `done/`. Rows that are refused come back in `bad/<name>` beside their reason,
and the rest goes on; of a full list a refused row still counts as there, so it removes nothing, and
while one has no key nothing is removed at all. A file that cannot be taken goes to `bad/` with a
`.reason` beside it; so does a full list without rows.

A file is written in several transactions, so that others do not wait. After a kill it still lies in
`in/` and is taken again: a full list goes on with the differences that are left, and a list of
changes, applied twice, ends as applied once.
"""

from __future__ import annotations

import asyncio
import csv
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from deptbus.department.connect import SqliteDatabase
from deptbus.department.folder_files import ENDINGS, FileRefused, Sheet, read_sheet
from deptbus.department.folder_tables import FOLDERS
from deptbus.department.layout import Layout, comma, quoted
from deptbus.department.publisher import Publisher
from deptbus.errors import DatabaseBusy

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
_CHUNK_ROWS = 500
_SEPARATORS = "._- "
OP = "op"
# How the header of a file of refused rows begins.
GIVEN_BACK = ("reason", "line")
_DELETES = frozenset({"d", "delete", "删除"})
_UPSERTS = frozenset({"", "u", "upsert", "insert", "update", "新增", "修改"})

Row = tuple[str | None, ...]
# (dataset, own column -> cell) -> why the row cannot be published, None when it can.
Judge = Callable[[str, Mapping[str, str | None]], str | None]


@dataclass(slots=True)
class Plan:
    """What one file asks for: own keys to be deleted, rows to be written, rows that are refused."""

    deletes: list[Row] = field(default_factory=list)
    upserts: list[Row] = field(default_factory=list)
    steps: list[tuple[bool, Row]] = field(default_factory=list)  # of a list: (is delete, row)
    refused: list[tuple[int, tuple[str | None, ...], str]] = field(default_factory=list)


def named(stem: str, tables: Iterable[str]) -> tuple[str, bool] | None:
    """(table, whether it is a list of changes) that a file's name without its ending means."""
    is_changes = stem.endswith(".changes")
    plain = stem.removesuffix(".changes").removesuffix(".full")
    fits = [
        t for t in tables if plain == t or (plain.startswith(t) and plain[len(t)] in _SEPARATORS)
    ]
    return (max(fits, key=len), is_changes) if fits else None


def plan_full(sheet: Sheet, layout: Layout, judge: Judge, existing: Mapping[Row, Row]) -> Plan:
    """Pure: the differences between a full list and what is there. `existing`: key -> row."""
    columns = columns_of(layout)
    if _was_given_back(sheet, columns):
        # As a full list it would remove every row that was not refused.
        raise FileRefused("these rows were given back: name the file .changes before its ending")
    plan = Plan(refused=[(line, cells, why) for line, cells, why in sheet.broken])
    place = _positions(sheet, columns)
    seen: set[Row] = set()
    for line, cells in sheet.rows:
        row = tuple(cells[i] for i in place)
        key = _key(row, layout, columns)
        why = _why(row, key, layout, columns, judge)
        if why is None and key in seen:
            why = "another row of this file has the same key"
        seen.add(key)
        if why is not None:
            plan.refused.append((line, cells, why))
        elif existing.get(key) != row:
            plan.upserts.append(row)
    if existing and not seen and not sheet.broken:
        # What an export that went wrong looks like; it must not empty everybody's tables.
        raise FileRefused("the full list has no rows: remove the last ones by a list of changes")
    # A row that cannot be read, or has no key, may be any of those that seem to be missing.
    if not sheet.broken and not any(None in key for key in seen):
        plan.deletes = [key for key in existing if key not in seen]
    return plan


def plan_changes(sheet: Sheet, layout: Layout, judge: Judge) -> Plan:
    """Pure: a list of changes in its order."""
    columns = columns_of(layout)
    op_place = sheet.header.index(OP) if OP in sheet.header else None
    if op_place is None and not _was_given_back(sheet, columns):
        raise FileRefused(f"a list of changes needs a column {OP} (delete, or empty)")
    plan = Plan(refused=[(line, cells, why) for line, cells, why in sheet.broken])
    place = _positions(sheet, columns)
    for line, cells in sheet.rows:
        row = tuple(cells[i] for i in place)
        key = _key(row, layout, columns)
        op = "" if op_place is None else (cells[op_place] or "").strip().lower()
        if op in _DELETES and None not in key:
            plan.steps.append((True, key))
            continue
        why = "the key is empty" if None in key else f"{OP} is unknown"
        if op in _UPSERTS:
            why = _why(row, key, layout, columns, judge) or ""
        if why:
            plan.refused.append((line, cells, why))
        else:
            plan.steps.append((False, row))
    return plan


def _was_given_back(sheet: Sheet, columns: Sequence[str]) -> bool:
    """Whether somebody drops a file of `bad/` again, where no mapped column has such a name."""
    return sheet.header[:2] == GIVEN_BACK and not set(GIVEN_BACK) & set(columns)


def columns_of(layout: Layout) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*layout.keys, *layout.columns)))


def _positions(sheet: Sheet, columns: Sequence[str]) -> list[int]:
    """Where the mapped columns stand; others are not read at all (they may be not shared)."""
    missing = [c for c in columns if c not in sheet.header]
    if missing:
        raise FileRefused(f"column {missing[0]} is missing in the header")
    return [sheet.header.index(c) for c in columns]


def _key(row: Row, layout: Layout, columns: Sequence[str]) -> Row:
    return tuple(row[columns.index(k)] for k in layout.keys)


def _why(row: Row, key: Row, layout: Layout, columns: Sequence[str], judge: Judge) -> str | None:
    if None in key:
        return "the key is empty"
    return judge(layout.dataset, dict(zip(columns, row, strict=True)))


def loggable(name: str) -> str:
    """A file's name for the log: clerks name files after people too, and a personal number may be
    in no log (promise 8)."""
    return re.sub(r"\d{6,}[Xx]?", "…", name)


class FolderImport:
    """`run` until cancelled. Shares the state database's one connection with capture, so neither
    finds it busy because of the other."""

    def __init__(
        self, folder: Path, database: SqliteDatabase, layouts: Sequence[Layout], judge: Judge
    ) -> None:
        self._folder = folder
        self._database = database
        self._layouts = {layout.table: layout for layout in layouts}
        self._judge = judge
        self._seen: dict[str, tuple[int, int, int]] = {}

    async def run(self) -> None:
        """Raises DatabaseUnavailable; an unreadable folder is told once and looked at again."""
        told = ""
        while True:
            try:
                for path in await asyncio.to_thread(self.settled):
                    await self.take(path)
                told = ""
            except DatabaseBusy:
                pass  # the file still lies there
            except OSError as error:
                if told != str(error.strerror):
                    told = str(error.strerror)
                    log.warning("folder_unreadable", folder=str(self._folder), error=told)
            await asyncio.sleep(LOOK_SECONDS)

    def settled(self) -> list[Path]:
        """Files that are as they were at the last look, in the order of their age. Names with which
        programs mark unfinished files are passed over."""
        for name in FOLDERS:
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        now: dict[str, tuple[int, int, int]] = {}
        for entry in os.scandir(self._folder / "in"):
            if entry.name.startswith((".", "~$")) or not entry.is_file():
                continue
            if entry.name.endswith((".tmp", ".part", ".crdownload")):
                continue
            facts = entry.stat()
            now[entry.name] = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        ready = [name for name, facts in now.items() if self._seen.get(name) == facts]
        self._seen = now
        return [self._folder / "in" / name for name in sorted(ready, key=lambda n: (now[n], n))]

    async def take(self, path: Path) -> None:
        """One file, whole. Raises OSError, DatabaseUnavailable."""
        try:
            table, is_changes = self._table(path)
            layout = self._layouts[table]
            sheet = await asyncio.to_thread(read_sheet, path)
            if is_changes:
                plan = await asyncio.to_thread(plan_changes, sheet, layout, self._judge)
            else:
                existing = await self._existing(layout)
                plan = await asyncio.to_thread(plan_full, sheet, layout, self._judge, existing)
        except FileRefused as refused:
            await asyncio.to_thread(self._give_back, path, str(refused))
            log.warning("file_refused", file=loggable(path.name), reason=str(refused))
            return
        await self._write(layout, plan)
        await asyncio.to_thread(self._finish, path, sheet, plan, layout)
        log.info(
            "file_taken",
            file=loggable(path.name),
            written=len(plan.upserts) or sum(not d for d, _ in plan.steps),
            removed=len(plan.deletes) or sum(d for d, _ in plan.steps),
            refused=len(plan.refused),
        )

    def _table(self, path: Path) -> tuple[str, bool]:
        if path.suffix.lower() not in ENDINGS:
            raise FileRefused(f"files end with {', '.join(ENDINGS)}")
        found = named(path.stem, self._layouts)
        if found is None:
            raise FileRefused(
                f"the name must begin with one of: {', '.join(sorted(self._layouts))}"
            )
        return found

    async def _existing(self, layout: Layout) -> dict[Row, Row]:
        columns = columns_of(layout)
        query = f"SELECT {comma(map(quoted, columns))} FROM {quoted(layout.table)}"
        rows = await self._database.run(lambda c: c.execute(query).fetchall())
        return {_key(row, layout, columns): row for row in rows}

    async def _write(self, layout: Layout, plan: Plan) -> None:
        columns = columns_of(layout)
        table = quoted(layout.table)
        match = " AND ".join(f"{quoted(k)} = ?" for k in layout.keys)
        delete = f"DELETE FROM {table} WHERE {match}"
        rest = [c for c in columns if c not in layout.keys]
        settings = comma(f"{quoted(c)} = excluded.{quoted(c)}" for c in rest)
        keys = comma(map(quoted, layout.keys))
        upsert = (
            f"INSERT INTO {table} ({comma(map(quoted, columns))}) "
            f"VALUES ({comma('?' for _ in columns)}) ON CONFLICT ({keys}) "
            + (f"DO UPDATE SET {settings}" if rest else "DO NOTHING")
        )
        # Deletes first: a key that was typed anew takes the place of the one that it replaces.
        steps = [(True, key) for key in plan.deletes] + [(False, row) for row in plan.upserts]
        for chunk in _chunks([*steps, *plan.steps]):

            def work(c: sqlite3.Connection, part: Sequence[tuple[bool, Row]] = chunk) -> None:
                for is_delete, values in part:
                    c.execute(delete if is_delete else upsert, values)

            await self._database.transaction(work)

    def _finish(self, path: Path, sheet: Sheet, plan: Plan, layout: Layout) -> None:
        if plan.refused:
            # A row that is refused a second time bears its new reason and line alone.
            again = _was_given_back(sheet, columns_of(layout))
            self._write_refused(path, sheet, plan, len(GIVEN_BACK) if again else 0)
        os.replace(path, _free(self._folder / "done", path.name))

    def _write_refused(self, path: Path, sheet: Sheet, plan: Plan, first: int) -> None:
        target = _free(self._folder / "bad", f"{path.stem}.csv")
        half = target.with_name(f".{target.name}.tmp")
        # With a mark, so that a spreadsheet program opens it as what it is.
        with half.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*GIVEN_BACK, *sheet.header[first:]])
            for line, cells, why in sorted(plan.refused, key=lambda r: r[0]):
                writer.writerow([why, line, *("" if c is None else c for c in cells[first:])])
        os.replace(half, target)

    def _give_back(self, path: Path, reason: str) -> None:
        target = _free(self._folder / "bad", path.name)
        target.with_name(f"{target.name}.reason").write_text(reason + "\n", encoding="utf-8")
        os.replace(path, target)


async def folder_import_of(publisher: Publisher, folder: Path) -> FolderImport:
    """The import of a folder system, judged by what its publisher would publish."""
    capture = publisher.capture
    assert isinstance(capture.database, SqliteDatabase)
    layouts = list((await capture.layouts()).values())
    return FolderImport(folder, capture.database, layouts, publisher.why_not)


def _chunks(steps: Sequence[tuple[bool, Row]]) -> Iterator[Sequence[tuple[bool, Row]]]:
    for start in range(0, len(steps), _CHUNK_ROWS):
        yield steps[start : start + _CHUNK_ROWS]


def _free(folder: Path, name: str) -> Path:
    """A path that is not taken: with the time, and a number if need be, before the ending."""
    target = folder / name
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    number = 0
    while target.exists():
        mark = f"{stamp}-{number}" if number else stamp
        target = folder / f"{Path(name).stem}.{mark}{Path(name).suffix}"
        number += 1
    return target
