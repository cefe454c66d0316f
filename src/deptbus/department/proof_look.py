"""Looks at the real rows of a copy beside its bookkeeping: is each as it was written?

As the columns keep it: what a column rounds or pads was not edited. Some hundred lines at a time,
because each look is a read of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import TypeVar

from deptbus.department.copy_view import HELD, ROW, Bare, CopyView, when_free
from deptbus.department.exported import FileRows
from deptbus.department.ledger import Prepared
from deptbus.department.seen import Brief, Line, Values, row_digest, row_digests
from deptbus.department.target import MappedTarget

T = TypeVar("T")

WRITTEN, PARKED = map(Brief._fields.index, ("written", "parked"))


class State(StrEnum):
    """What is told of a row beside its item."""

    EQUAL = "equal"  # nothing: only where rows are asked for by their keys
    PARKED = "parked"  # the newest delivery could not be written
    CLAIMED = "claimed"  # another record holds its row
    EDITED = "edited"  # the real columns are not what was written (deep)
    REMOVED = "removed"  # its row is not there (deep)
    UNKNOWN = "unknown"  # a row that no record stands for (deep)
    ABSENT = "absent"  # no line, or a tombstone: only where rows are asked for by their keys


Said = tuple[State, str]  # and the reason


def brief_of(line: Bare) -> Brief:
    return Brief._make(line[: len(Brief._fields)])


def state_of(line: Brief | Line) -> Said:
    """As far as no row has to be looked at."""
    if line.parked is not None:
        return State.PARKED, line.parked
    if not line.held:
        return State.CLAIMED, "another record holds its row"
    return State.EQUAL, ""


class RowLook:
    """At rows of one target in one snapshot, and of a folder in its file of that moment. Raises as
    the view."""

    def __init__(
        self, view: CopyView, target: MappedTarget, copy: str, file: FileRows | None = None
    ) -> None:
        """`copy`: its name in the bookkeeping."""
        self._view, self._target, self._copy, self._file = view, target, copy, file

    async def at(self, lines: Sequence[Bare], *, again: bool = False) -> list[Values | None]:
        """Of each line its real row; None where there is none, or another line holds it. `again`:
        the view has given them once."""
        keys = list({line[ROW]: None for line in lines if line[HELD] and line[ROW] is not None})
        found = await when_free(lambda: self._view.rows_at(self._target, keys, again=again))
        real = dict(zip(keys, found, strict=True))
        for values in found:
            if self._file is not None and values is not None:
                self._file.differs(values)  # parked or not, it was exported
        return [real.get(line[ROW]) if line[HELD] else None for line in lines]

    async def odd(self, suspects: Sequence[Bare]) -> list[tuple[Brief, Said]]:
        """Of lines that are neither parked nor claimed, and whose rows seem not to be as they were
        written: those of which it is so."""
        if not suspects:
            return []
        looked = await self.at(suspects, again=True)
        digests = iter(row_digests([values for values in looked if values is not None]))
        return await self.unequal(
            [
                (brief_of(line), values)
                for line, values in zip(suspects, looked, strict=True)
                if values is None or line[WRITTEN] not in (None, next(digests))
            ]
        )

    async def unequal(
        self, looked: Sequence[tuple[Brief, Values | None]]
    ) -> list[tuple[Brief, Said]]:
        """`judged`, of those that are not equal."""
        judged = await self.judged(looked)
        return [
            (line, said)
            for (line, _), said in zip(looked, judged, strict=True)
            if said[0] is not State.EQUAL
        ]

    async def judged(self, looked: Sequence[tuple[Brief | Line, Values | None]]) -> list[Said]:
        """Of lines and the real rows that they hold."""
        found: list[Said] = []
        suspects: dict[int, tuple[Brief | Line, Values]] = {}
        for at, (line, values) in enumerate(looked):
            said = state_of(line)
            if said[0] is State.EQUAL and values is None:
                said = State.REMOVED, "its row is not in the table"
            elif said[0] is State.EQUAL and line.written not in (None, row_digest(values or ())):
                suspects[at] = line, values or ()
            found.append(said)
        edited = await self._edited(list(suspects.values()))
        for at, columns in zip(suspects, edited, strict=True):
            if columns:
                found[at] = State.EDITED, f"columns: {', '.join(columns)}"
        if self._file is None:
            return found
        return [
            _in_file(self._file, values) if said[0] is State.EQUAL and values else said
            for said, (_, values) in zip(found, looked, strict=True)
        ]

    async def _edited(self, suspects: Sequence[tuple[Brief | Line, Values]]) -> list[list[str]]:
        """Of each the columns that are not what was written, as the columns keep it. The projection
        is at hand, so what was written can be made once more; where the mapping changed since it
        was written, that is all that can be said."""
        if not suspects:
            return []
        keys = [line.key for line, _ in suspects]
        entries = {
            (entry.source_unit, entry.key): entry
            for entry in await self._view.entries_of(self._copy, keys)
        }
        made: list[Values | None] = []
        for line, _ in suspects:
            fit = self._target.prepare(entries[line.source_unit, line.key])
            is_same = isinstance(fit, Prepared) and fit.written == line.written
            made.append(fit.values if is_same else None)  # type: ignore[union-attr]
        whole = [values for values in made if values is not None]
        kept = iter(await when_free(lambda: self._view.as_kept(self._target, whole)))
        return [
            ["any, as the mapping was changed since"]
            if was is None
            else self._unlike(next(kept), values)
            for was, (_, values) in zip(made, suspects, strict=True)
        ]

    def _unlike(self, kept: Values, values: Values) -> list[str]:
        return [
            column.name
            for column, was, now in zip(self._target.columns, kept, values, strict=True)
            if row_digest((was,)) != row_digest((now,))
        ]


def _in_file(file: FileRows, values: Values) -> Said:
    columns = file.differs(values)
    if columns is None:
        return State.REMOVED, f"its row is not in {file.name}"
    if columns:
        return State.EDITED, f"columns in {file.name}: {', '.join(columns)}"
    return State.EQUAL, ""


async def ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """What `source` gives; the next of it is fetched while the one before is worked on. To be
    closed (`aclosing`), and closes the source."""

    async def fetched() -> T | None:
        return await anext(source, None)

    coming = asyncio.create_task(fetched())
    try:
        while (now := await coming) is not None:
            coming = asyncio.create_task(fetched())
            yield now
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await source.aclose()
