"""Clerks who change the sources without pause, each row with an own number, and keep an own log.

Every change draws a number (`seq`) that is greater than all before it, in the same transaction in
which it is written; one clerk writes a key at a time, so a key's numbers are in the order of its
commits. The log gets a line *after* the commit; where the outcome is unknown (the database went
away) it says so, and the clerk looks into the table before going on.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .county import (
    DISTRICT,
    ELSEWHERE,
    OTHER_TOWN,
    OWN,
    SOURCE_TABLE,
    TOWN,
    canary,
)
from .desks import AWAY, Desk, Statement
from .verdict import Verdict

PLACES = (TOWN, TOWN, OTHER_TOWN, DISTRICT)
WEIGHTS = {"insert": 25, "update": 45, "move": 12, "leave": 3, "delete": 8, "rekey": 7}
_COLUMNS = (*OWN.values(), "mm")
_INSERT = (
    f"INSERT INTO {SOURCE_TABLE} ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_BACKOFF_SECONDS = 0.2


class Logged(NamedTuple):
    """One change of a committed transaction, or of one whose outcome is not known."""

    seq: int
    op: str
    no: str
    place: str | None  # None: the row is gone
    known: bool


class Numbers:
    """The numbers of all clerks: greater ones are drawn later."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def draw(self) -> int:
        with self._lock:
            return next(self._count)


class Writer:
    """`start` ... `join` (it ends by itself after `changes`, or at `stop`)."""

    def __init__(
        self,
        unit: str,
        dataset: str,
        desk: Callable[[], Desk],
        numbers: Numbers,
        log_file: Path,
        verdict: Verdict,
        *,
        seed: int,
        prefix: str = "",
    ) -> None:
        self.unit, self.dataset = unit, dataset
        self.log: list[Logged] = []
        self.done: Counter[str] = Counter()
        self.unknown = 0
        self.retried = 0
        self.slowest_seconds = 0.0  # of one commit; a scenario sets it to zero
        self.weights: Mapping[str, int] = WEIGHTS  # what he does how often
        self._make_desk, self._numbers, self._verdict = desk, numbers, verdict
        self._rng = random.Random(f"{seed}/{unit}")
        self._rows: dict[str, str] = {}  # key -> place, as committed
        self._seen: list[str] = []  # keys that were ever there, to choose from
        self._free: list[str] = []  # keys that were deleted: they are used again
        self._next = itertools.count(1)
        self._prefix = prefix or dataset[0].upper()
        self._file = log_file.open("a", encoding="utf-8")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life -------------------------------------------------------------------------------------

    def fill(self, rows: int) -> None:
        """Rows that are there before anything runs, in one go."""
        desk = self._make_desk()
        statements, logged = [], []
        for _ in range(rows):
            statement, line = self._insert(self._new_key(), self._rng.choice(PLACES))
            statements.append(statement)
            logged.append(line)
        desk.commit(statements)
        desk.close()
        self._note(logged)

    def keys(self, count: int) -> list[str]:
        """Keys of rows that are there, within the district; the same ones for the same seed."""
        there = sorted(no for no, place in self._rows.items() if place.startswith(DISTRICT))
        return self._rng.sample(there, min(count, len(there)))

    def update(self, keys: list[str]) -> None:
        """Changes these rows in one transaction, while the clerk does nothing else."""
        assert not self.is_running
        made = [self._updated(key, self._rows[key], "update") for key in keys]
        desk = self._make_desk()
        desk.commit([statement for statement, _ in made])
        desk.close()
        self._note([line for _, line in made])

    def remove(self, keys: list[str]) -> None:
        """Deletes these rows by one statement, while the clerk does nothing else."""
        assert not self.is_running
        lines = [Logged(self._numbers.draw(), "delete", key, None, True) for key in keys]
        marks = ", ".join("?" * len(keys))
        desk = self._make_desk()
        desk.commit([(f"DELETE FROM {SOURCE_TABLE} WHERE bh IN ({marks})", keys)])
        desk.close()
        self._note(lines)

    def start(self, changes: int | None = None, *, per_second: float | None = None) -> Writer:
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(changes, per_second), name=f"writer {self.unit}", daemon=True
        )
        self._thread.start()
        return self

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()

    def join(self, seconds: float = 600) -> None:
        assert self._thread is not None
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._verdict.add("other", f"the clerk of {self.unit} did not come to an end")
        self._file.flush()

    def close(self) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join(60)
        self._file.close()

    @property
    def changes(self) -> int:
        return len(self.log)

    def _run(self, changes: int | None, per_second: float | None) -> None:
        desk = self._make_desk()
        wanted = None if changes is None else self.changes + changes
        began, first = time.monotonic(), self.changes
        try:
            while not self._stop.is_set() and (wanted is None or self.changes < wanted):
                self._transaction(desk)
                if per_second is not None:
                    due = began + (self.changes - first) / per_second
                    self._stop.wait(max(0.0, due - time.monotonic()))
        except Exception as error:
            # A clerk's own transaction was refused: the bus never fails a department's write.
            self._verdict.add("other", f"a write of {self.unit} failed: {type(error).__name__}")
            raise
        finally:
            desk.close()

    # -- transactions -----------------------------------------------------------------------------

    def _transaction(self, desk: Desk) -> None:
        """One transaction of one to three changes of different keys."""
        work: list[tuple[Statement, list[Logged]]] = []
        busy: set[str] = set()
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            made = self._change(busy)
            if made is not None:
                work.append(made)
        logged = [line for _, lines in work for line in lines]
        began = time.monotonic()
        try:
            desk.commit([statement for statement, _ in work])
        except AWAY:
            self.unknown += 1
            self._note([line._replace(known=False) for line in logged])
            self._look_again(desk, {line.no for line in logged})
            return
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        self._note(logged)

    def _look_again(self, desk: Desk, keys: set[str]) -> None:
        """Whether a transaction of unknown outcome was committed, once the database is back."""
        while not self._stop.is_set():
            try:
                found = {
                    key: desk.rows(f"SELECT dz, xh FROM {SOURCE_TABLE} WHERE bh = ?", (key,))
                    for key in keys
                }
            except AWAY:
                self.retried += 1
                self._stop.wait(_BACKOFF_SECONDS)
                continue
            for key, rows in found.items():
                self._rows.pop(key, None)
                if rows:
                    self._rows[key] = rows[0][0]
            return

    def _change(self, busy: set[str]) -> tuple[Statement, list[Logged]] | None:
        op = self._rng.choices(list(self.weights), list(self.weights.values()))[0]
        key = self._pick(busy)
        if key is None:
            op = "insert"
        if op == "insert":
            key = self._free_key(busy)
            busy.add(key)
            statement, line = self._insert(key, self._rng.choice(PLACES))
            return statement, [line]
        assert key is not None
        busy.add(key)
        if op == "delete":
            seq = self._numbers.draw()
            return (f"DELETE FROM {SOURCE_TABLE} WHERE bh = ?", (key,)), [
                Logged(seq, op, key, None, True)
            ]
        place = self._rows[key]
        if op == "rekey":
            new = self._free_key(busy)
            busy.add(new)
            seq = self._numbers.draw()
            words = (new, f"户{new}", seq, key)
            return (f"UPDATE {SOURCE_TABLE} SET bh = ?, hm = ?, xh = ? WHERE bh = ?", words), [
                Logged(seq, op, key, None, True),
                Logged(seq, op, new, place, True),
            ]
        if op in ("move", "leave"):
            others = [p for p in PLACES if p != place]
            place = ELSEWHERE if op == "leave" else self._rng.choice(others)
        statement, line = self._updated(key, place, op)
        return statement, [line]

    def _updated(self, key: str, place: str, op: str) -> tuple[Statement, Logged]:
        seq = self._numbers.draw()
        words = (place, f"户{seq}", seq * 7, f"1{seq:010d}", f"备{seq}", seq, key)
        sets = "dz = ?, hm = ?, je = ?, dh = ?, bz = ?, xh = ?"
        statement = f"UPDATE {SOURCE_TABLE} SET {sets} WHERE bh = ?"
        return (statement, words), Logged(seq, op, key, place, True)

    def _insert(self, key: str, place: str) -> tuple[Statement, Logged]:
        seq = self._numbers.draw()
        words: tuple[Any, ...] = (
            key, place, f"户{seq}", seq * 7, f"1{seq:010d}", f"备{seq}", seq, canary()
        )  # fmt: skip
        return (_INSERT, words), Logged(seq, "insert", key, place, True)

    def _pick(self, busy: set[str]) -> str | None:
        """A key of ours that is not in this transaction already; None when none is found soon."""
        for _ in range(8 if self._rows else 0):
            key = self._seen[self._rng.randrange(len(self._seen))]
            if key in self._rows and key not in busy:
                return key
        return None

    def _new_key(self) -> str:
        return f"{self._prefix}{next(self._next):06d}"

    def _free_key(self, busy: set[str]) -> str:
        """A new key, or one that was deleted before."""
        if self._free and self._rng.random() < 0.4:
            key = self._free.pop(self._rng.randrange(len(self._free)))
            if key not in busy and key not in self._rows:
                return key
        return self._new_key()

    def _note(self, logged: list[Logged]) -> None:
        for line in logged:
            self.log.append(line)
            if line.known:
                self.done[line.op] += 1
                if line.place is None:
                    self._rows.pop(line.no, None)
                    self._free.append(line.no)
                else:
                    if line.no not in self._rows:
                        self._seen.append(line.no)
                    self._rows[line.no] = line.place
            self._file.write(json.dumps(line) + "\n")
