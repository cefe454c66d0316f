"""What a department typed before the bus came, and whether all of it is still there.

Two tables of its own for each dataset: one with its rows, most of which stand for records that the
bus has or will have (some in other letters), and one that refers to them. A row has columns that
the bus knows nothing of. What is typed has the number 0, so the witness sees it once it is the
bus's (county.typed).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from .county import DISTRICT, FIELDS, LOG_TABLE, typed, visits
from .desks import Statement
from .world import World

SHARE = 0.7  # of the rows that sources have or will have
NOBODYS = 8  # stand for no record
OTHERWISE = 4  # every such row is spelled otherwise
_SEQ = FIELDS.index("seq")


class Hand(NamedTuple):
    """One typed row."""

    bh: int
    values: tuple[Any, ...]  # of FIELDS
    remark: str


class Drawers:
    """All that one department typed of one dataset."""

    def __init__(self, world: World, unit: str, dataset: str) -> None:
        self._world, self.unit, self.dataset = world, unit, dataset
        self.rows: list[Hand] = []
        self.visits: list[tuple[int, int, str]] = []

    def fill(self, keys: Sequence[str], rng: random.Random) -> None:
        """Before anything of the product runs. `keys`: of records that there are or will be."""
        chosen = sorted(rng.sample(list(keys), round(len(keys) * SHARE)))
        chosen += [f"nobody-{number}" for number in range(NOBODYS)]
        for bh, no in enumerate(chosen, 1):
            spelled = f" {no} " if bh % OTHERWISE == 0 else no
            values = (spelled, DISTRICT, f"手{bh}", bh, f"t{bh}", f"记{bh}", 0)
            self.rows.append(Hand(bh, values, f"ours {bh}"))
        self.visits = [(n, row.bh, f"said {n}") for n, row in enumerate(self.rows[::3], 1)]
        with closing(self._world.county.desk(self.unit)) as desk:
            desk.commit([*self._statements(), (f"DELETE FROM {LOG_TABLE}", ())])

    def _statements(self) -> Iterator[Statement]:
        marks = ", ".join("?" * (len(FIELDS) + 2))
        columns = f"bh, {', '.join(FIELDS)}, remark"
        for row in self.rows:
            words = (row.bh, *row.values, row.remark)
            yield f"INSERT INTO {typed(self.dataset)} ({columns}) VALUES ({marks})", words
        for words in self.visits:
            yield f"INSERT INTO {visits(self.dataset)} VALUES (?, ?, ?)", words

    def adopted(self) -> int:
        """How many typed rows are a record's now."""
        return sum(_is_the_bus(row[1:-2]) for row in self._now() if row[0] <= len(self.rows))

    def check_untouched(self) -> None:
        """Before the yes: just what was typed, and nothing else."""
        wanted = [(*row[:1], *row.values, row.remark, None) for row in self.rows]
        if self._now() != wanted:
            self._found("other", "something was written before the yes")
        self._check_visits()

    def check(self) -> None:
        """No row is doubled, none is gone; nothing of its own has changed; a row that is no
        record's is as it was typed."""
        now = {row[0]: row for row in self._now()}
        for row in self.rows:
            if row.bh not in now:
                self._found("other", f"row {row.bh} is gone")
                continue
            _, *values, remark, state = now[row.bh]
            if remark != row.remark:
                self._found("other", f"row {row.bh}: an own column has changed")
            if not _is_the_bus(values):
                if tuple(values) != row.values:
                    self._found("other", f"row {row.bh} is not as it was typed")
            elif values[0] != row.values[0].strip():
                self._found("other", f"row {row.bh} became another's, {values[0]}")
            elif state is not None:
                self._found("other", f"row {row.bh} of {values[0]} is marked as gone")
        of = Counter(row[1].strip() for row in now.values() if row[1] is not None)
        for no, count in of.items():
            if count > 1:
                self._found("doubled", f"{no} has {count} rows")
        self._check_visits()

    def _check_visits(self) -> None:
        with closing(self._world.county.desk(self.unit)) as desk:
            there = desk.rows(f"SELECT nr, bh, said FROM {visits(self.dataset)} ORDER BY nr")
        if there != self.visits:
            self._found("other", "rows of another table have changed")

    def _now(self) -> list[tuple[Any, ...]]:
        columns = f"bh, {', '.join(FIELDS)}, remark, state"
        with closing(self._world.county.desk(self.unit, read_only=True)) as desk:
            return desk.rows(f"SELECT {columns} FROM {typed(self.dataset)} ORDER BY bh")

    def _found(self, kind: str, what: str) -> None:
        self._world.verdict.add(kind, f"{typed(self.dataset)} at {self.unit}: {what}")


def _is_the_bus(values: Sequence[Any]) -> bool:
    return (values[_SEQ] or 0) > 0
