"""Folder systems, out-side: `<dataset>.csv` kept as the folder's state database has it.

A file is written beside the old one and put in its place in one step, at most every half second,
and once more in the end. UTF-8 with a byte order mark, so that Excel opens it right.
"""

from __future__ import annotations

import asyncio
import csv
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import structlog

from deptbus.department.connect import BUSY_TIMEOUT_S, Target, sqlite_translated
from deptbus.department.layout import comma, quoted, quoted_table
from deptbus.department.target import MappedTarget
from deptbus.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

DEBOUNCE_SECONDS = 0.5


class FolderExport:
    """`mark` what changed; `run` writes it; `finish`, after `run` was cancelled, the rest."""

    def __init__(self, target: Target, targets: Mapping[str, MappedTarget]) -> None:
        if target.folder is None:
            raise ValueError("only a folder system is exported")
        self._folder, self._state = target.folder, Path(target.location)
        self._targets = targets
        # A crash between commit and export leaves old files: each start writes all once.
        self._dirty: set[str] = set(targets)
        self._woken = asyncio.Event()
        self._woken.set()
        self._writing: asyncio.Future[None] | None = None
        self._said = ""
        self._turn = asyncio.Lock()  # of who writes files
        # Held while a batch is applied and marked: who has it sees a state that stands still.
        self.applying = asyncio.Lock()

    @asynccontextmanager
    async def still(self, dataset: str) -> AsyncIterator[Path]:
        """The file, while nothing is applied and nothing of the dataset is written: it is as the
        state database has it, unless somebody else wrote into it since. Raises DatabaseUnavailable
        where it cannot be written."""
        async with self.applying:
            await self.finish()
            if dataset in self._dirty:
                raise DatabaseUnavailable(
                    f"{dataset}.csv cannot be written: {self._said}",
                    mend="Close it where it is open, or look to its folder's rights",
                )
            yield self._folder / f"{dataset}.csv"

    def mark(self, datasets: Iterable[str]) -> None:
        self._dirty.update(datasets)
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self.finish()
            await asyncio.sleep(DEBOUNCE_SECONDS)

    async def finish(self) -> None:
        """Write what is marked. A file that somebody holds open is tried again next time."""
        async with self._turn:
            await self._finish()

    async def _finish(self) -> None:
        if self._writing is not None:
            # Begun before `run` was cancelled: two at once would write into the same new file.
            await asyncio.wait((self._writing,))
            self._writing.exception()  # its dataset is still marked
        for dataset in sorted(self._dirty):
            self._dirty.discard(dataset)
            self._writing = asyncio.ensure_future(
                asyncio.to_thread(self._write, self._targets[dataset])
            )
            try:
                await asyncio.shield(self._writing)
            except asyncio.CancelledError:
                self._dirty.add(dataset)  # nobody hears how it ends
                raise
            except (OSError, DatabaseUnavailable) as error:
                self._dirty.add(dataset)
                self._woken.set()
                said = str(error)
                if said != self._said:
                    self._said = said
                    log.warning("export_postponed", dataset=dataset, error=said)

    def _write(self, target: MappedTarget) -> None:
        names = [column.name for column in target.columns]
        keys = comma(quoted(column.name) for column in target.key_columns)
        sql = (
            f"SELECT {comma(map(quoted, names))} FROM {quoted_table(target.table)} ORDER BY {keys}"
        )
        beside = self._state.parent / f"{target.dataset}.csv.new"
        with (
            sqlite_translated(str(self._state)),
            closing(_reader(self._state)) as connection,
            beside.open("w", encoding="utf-8-sig", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(connection.execute(sql))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._folder / f"{target.dataset}.csv")


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
