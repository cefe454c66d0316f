"""Folds records of one canonical topic by the quick pass; what it leaves is told to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from deptbus.change import Change
from deptbus.stream.log import LogRecord
from deptbus.wire.fold_pass import FoldPass, FoldWay, Kept
from deptbus.wire.framing import HEADER_BYTES
from deptbus.wire.outgoing import what_decides
from deptbus.wire.passage import Ways

STRETCH = 500  # records handled before other tasks of the process come to their turn


class QuickFold:
    """`fold` batch by batch, `learn` from each change that it did not know, `forget` when what was
    learnt does not hold any longer."""

    def __init__(self, fold_pass: Callable[[bytes], FoldPass | None]) -> None:
        """`fold_pass`: the pass over values that begin with this frame, if there is one."""
        self._fold_pass = fold_pass
        self._ways: dict[bytes, Ways[FoldWay]] = {}  # by frame

    async def fold(
        self,
        records: Sequence[LogRecord],
        kept: Kept,
        other: Callable[[LogRecord], Awaitable[bool]],
    ) -> bool:
        """Folds into `kept`. `other`: what to do with a record of which nothing is known, or which
        is no change; it ends the fold by True. Returns whether it did."""
        place = 0
        while place < len(records):
            if place and place % STRETCH == 0:
                await asyncio.sleep(0)
            end = min(place - place % STRETCH + STRETCH, len(records))
            place = self._run(records, place, end, kept)
            if place < end:
                if await other(records[place]):
                    return True
                place += 1
        return False

    def _run(self, records: Sequence[LogRecord], first: int, end: int, kept: Kept) -> int:
        """The place of the first record that was not folded, or `end`."""
        frame = (records[first].value or b"")[:HEADER_BYTES]
        ways = self._ways.get(frame)
        run = None if ways is None else self._fold_pass(frame)
        if ways is None or run is None:
            return first
        return run(records, first, end, ways.senders, kept)

    def learn(self, record: LogRecord, change: Change, way: Callable[[], FoldWay]) -> None:
        """`way`: of what is like this change, which the record holds."""
        frame = (record.value or b"")[:HEADER_BYTES]
        if self._fold_pass(frame) is not None:
            self._ways.setdefault(frame, Ways()).learn(*what_decides(change), way())

    def forget(self) -> None:
        self._ways.clear()
