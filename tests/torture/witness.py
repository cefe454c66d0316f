"""Reads every recipient during the run and whole at the end, and decides what is wrong.

It knows the writers' own log, the sources' own tables and `county.rights`, and shares no code with
routing or apply. Every recipient's table has a trigger that logs each write and delete: from that
log come `doubled` (one number of a key written more often than its source published it),
`disordered` (a key's numbers went back in the log) and `unentitled`; from samples of the table
comes `stale`; from the table at the end `lost`, and what is there and should not be.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .county import CANARY, FIELDS, LOG_TABLE, OWN, SOURCE_TABLE, SOURCES, County, Right, Rights
from .county import held as table_of
from .desks import AWAY, Desk
from .verdict import Verdict
from .writers import Writer

SPOILT = "spoilt"  # owner of a row that was set back on purpose (spoil.py): passed over
SAMPLE_SECONDS = 1.0
END_SECONDS = 60.0  # a sample that is under way is waited for
_LOG_COLUMNS = "id, dataset, op, " + ", ".join(FIELDS)

Row = dict[str, Any]


class Reader:
    """One recipient's database, read by one thread: what was seen of it so far."""

    def __init__(self, unit: str, datasets: Sequence[str], desk: Desk) -> None:
        self.unit, self.datasets, self.desk = unit, datasets, desk
        self.last_id = 0
        self.sampled: dict[tuple[str, str], int] = {}
        self.logged: dict[tuple[str, str], int] = {}
        self.writes: Counter[tuple[str, str, int]] = Counter()
        self.away = 0

    def rows(self, dataset: str) -> list[Row]:
        query = f"SELECT {', '.join(FIELDS)} FROM {table_of(dataset)}"
        return [dict(zip(FIELDS, row, strict=True)) for row in self.desk.rows(query)]

    def numbers(self, dataset: str) -> list[tuple[str, int]]:
        query = f"SELECT no, seq FROM {table_of(dataset)} WHERE owner IS NULL OR owner <> ?"
        return self.desk.rows(query, (SPOILT,))

    def new_lines(self) -> list[tuple[str, str, Row]]:
        """(dataset, op, row) of what was written since the last call."""
        query = f"SELECT {_LOG_COLUMNS} FROM {LOG_TABLE} WHERE id > ? ORDER BY id"
        found = self.desk.rows(query, (self.last_id,))
        if found:
            self.last_id = found[-1][0]
        return [(d, op, dict(zip(FIELDS, row, strict=True))) for _, d, op, *row in found]


class Witness:
    """`start` ... `settle` (waits until the copies are right, or for its deadline) ... `decide`.

    `rights` may change while it runs (a scenario assigns another mapping); a reader is made for
    every unit in it. `past_rights` are what was allowed before and may still be seen.
    """

    def __init__(self, county: County, writers: Mapping[str, Writer], verdict: Verdict) -> None:
        self._county, self._writers, self._verdict = county, writers, verdict
        self.rights: Rights = {}
        self.past_rights: list[Rights] = []
        self.samples = 0
        self._readers: dict[str, Reader] = {}
        self._sources: dict[str, Desk] = {}
        self._lock = threading.Lock()  # desks are used by one thread at a time
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample_always, name="witness", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if not self._is_over():
            raise TimeoutError("the witness did not come to the end of a sample")
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        if self._is_over():
            self._close_desks()

    def _is_over(self) -> bool:
        """Whether its thread has ended: a connection that is closed under a thread that is in it
        takes the process down."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        return self._thread is None or not self._thread.is_alive()

    def _close_desks(self) -> None:
        for desk in (*self._sources.values(), *(r.desk for r in self._readers.values())):
            desk.close()
        self._sources.clear()
        self._readers.clear()

    # -- during the run ---------------------------------------------------------------------------

    def _sample_always(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self.sample()
            except BaseException as error:  # noqa: BLE001 - raised again by `stop`
                self._failure = error
                return

    def sample(self) -> None:
        with self._lock:
            for reader in self._all_readers():
                try:
                    self._sample(reader)
                except AWAY:
                    reader.away += 1
            self.samples += 1

    def _all_readers(self) -> list[Reader]:
        for unit in {unit for unit, _ in self.rights} - self._readers.keys():
            datasets = sorted(d for u, d in self.rights if u == unit)
            desk = self._county.desk(unit, read_only=True)
            self._readers[unit] = Reader(unit, datasets, desk)
        return list(self._readers.values())

    def _sample(self, reader: Reader) -> None:
        self._read_log(reader)
        for dataset in reader.datasets:
            for no, seq in reader.numbers(dataset):
                before = reader.sampled.get((dataset, no), 0)
                if seq < before:
                    self._verdict.add(
                        "stale", f"{dataset} {no} at {reader.unit} went from {before} to {seq}"
                    )
                else:
                    reader.sampled[dataset, no] = seq

    def _read_log(self, reader: Reader) -> None:
        for dataset, op, row in reader.new_lines():
            if op == "d" or row["owner"] == SPOILT:
                continue
            no, seq = row["no"], row["seq"]
            before = reader.logged.get((dataset, no), 0)
            if seq < before:
                self._verdict.add(
                    "disordered", f"{dataset} {no} at {reader.unit}: {seq} written after {before}"
                )
            reader.logged[dataset, no] = max(before, seq)
            reader.writes[dataset, no, seq] += 1
            why = self._not_entitled(reader.unit, dataset, row)
            if why:
                self._verdict.add("unentitled", f"{dataset} {no} at {reader.unit}: {why}")

    def _not_entitled(self, unit: str, dataset: str, row: Row) -> str | None:
        allowed = [rights[unit, dataset] for rights in (self.rights, *self.past_rights)
                   if (unit, dataset) in rights]  # fmt: skip
        if not any(_allows(right, row) for right in allowed):
            shown = sorted(f for f, value in row.items() if value is not None)
            return f"place {row['place']}, fields {', '.join(shown)}"
        return None

    # -- at the end -------------------------------------------------------------------------------

    def settle(
        self,
        seconds: float,
        *,
        units: Iterable[str] | None = None,
        enough: Callable[[float], bool] = lambda _: False,
    ) -> bool:
        """Waits until every copy (of `units`) is what it should be; False at the deadline, or when
        `enough` says so, which is told for how many seconds the first difference is the same."""
        began = moved = time.monotonic()
        last: tuple[str, str] | None = None
        while True:
            try:
                with self._lock:
                    first = next(iter(self._differences(units)), None)
            except AWAY:
                first = last  # a database is being started again
            else:
                if first is None:
                    return True
            now = time.monotonic()
            if first != last:
                last, moved = first, now
            if now - began > seconds or enough(now - moved):
                return False
            time.sleep(0.2)

    def decide(
        self,
        versions: Mapping[tuple[str, str, int], set[int]] | None = None,
        policies: int = 1,
        broken_jobs: int = 0,
        again: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Nothing moves any more: everything is read whole. `versions`: how often a source
        published each state (foreign.Foreign); `policies`: how many were in force in turn, since
        each may have what is due written anew; `broken_jobs`: how often operations was killed, as
        a replay that is taken up again sends what it has sent of a partition once more; `again`:
        how often people had a unit's copy written once more."""
        self.stop()
        self._check_sources()
        for kind, what in self._differences(None):
            self._verdict.add(kind, what)
        published = versions or {}
        for reader in self._all_readers():
            self._sample(reader)
            for (dataset, no, seq), count in reader.writes.items():
                by_right = max(1, len(published.get((dataset, no, seq), ()))) * policies
                by_right += broken_jobs + again.get(reader.unit, 0)
                if count > by_right:
                    self._verdict.add(
                        "doubled", f"{dataset} {no} at {reader.unit}: {seq} written {count} times"
                    )
            self._hunt(reader)
        self._verdict.counted |= {
            "written": {u: sum(r.writes.values()) for u, r in sorted(self._readers.items())},
            "samples": self.samples,
        }

    def _check_sources(self) -> None:
        """The sources have what their clerks committed: the bus took nothing away there."""
        for writer in self._writers.values():
            rows = self._source_rows(writer.unit)
            last: dict[str, Any] = {}
            for line in writer.log:
                if line.known:
                    last[line.no] = line
                else:
                    last.pop(line.no, None)  # the table decides
            for no, line in last.items():
                row = rows.get(no)
                is_as_logged = (
                    row is None
                    if line.place is None
                    else row is not None and row["seq"] == line.seq
                )
                if not is_as_logged:
                    self._verdict.add("other", f"{no} at its source {writer.unit} is not as typed")

    def _differences(self, units: Iterable[str] | None) -> Iterable[tuple[str, str]]:
        wanted = None if units is None else set(units)
        cache: dict[str, dict[str, Row]] = {}
        for reader in self._all_readers():
            if wanted is not None and reader.unit not in wanted:
                continue
            for dataset in reader.datasets:
                right = self.rights.get((reader.unit, dataset))
                source = next(u for u, d in SOURCES.items() if d == dataset)
                if source not in cache:
                    cache[source] = self._source_rows(source)
                should = {} if right is None else _entitled(cache[source].values(), right)
                yield from _compare(f"{dataset} at {reader.unit}", should, reader.rows(dataset),
                                    cache[source])  # fmt: skip

    def _source_rows(self, unit: str) -> dict[str, Row]:
        """The source's own table in the bus's words, by key."""
        if unit not in self._sources:
            self._sources[unit] = self._county.desk(unit, read_only=True)
        found = self._sources[unit].rows(f"SELECT {', '.join(OWN.values())} FROM {SOURCE_TABLE}")
        return {row[0]: dict(zip(OWN, row, strict=True)) for row in found}

    def _hunt(self, reader: Reader) -> None:
        """Canaries in a recipient's table (elsewhere: World.hunt)."""
        for dataset in reader.datasets:
            for row in reader.rows(dataset):
                if any(isinstance(v, str) and CANARY in v for v in row.values()):
                    self._verdict.add("leaked", f"{dataset} {row['no']} at {reader.unit}")


def _allows(right: Right, row: Row) -> bool:
    place = row["place"]
    return (place is None or right.covers(place)) and all(
        row[name] is None for name in FIELDS if name not in right.fields
    )


def _entitled(rows: Iterable[Row], right: Right) -> dict[str, Row]:
    return {
        row["no"]: {name: row[name] if name in right.fields else None for name in FIELDS}
        for row in rows
        if right.covers(row["place"])
    }


def _compare(
    where: str, should: Mapping[str, Row], has: Sequence[Row], at_source: Mapping[str, Row]
) -> Iterable[tuple[str, str]]:
    count = Counter(row["no"] for row in has)
    for no, times in count.items():
        if times > 1:
            yield "doubled", f"{where}: {no} is there {times} times"
    held = {row["no"]: row for row in has}
    for no, row in should.items():
        there = held.get(no)
        if there is None:
            yield "lost", f"{where}: {no} is missing"
        elif there != row:
            columns = sorted(name for name in FIELDS if there[name] != row[name])
            yield "lost", f"{where}: {no} differs in {', '.join(columns)}"
    for no in held.keys() - should.keys():
        if no in at_source:
            yield "unentitled", f"{where}: {no} is there and should have been withdrawn"
        else:
            yield "lost", f"{where}: {no} is there, but was deleted at its source"


def settled(
    condition: Callable[[], object], seconds: float, what: str, *, every: float = 0.05
) -> None:
    """Waits for a condition, which is looked at `every` so many seconds. Raises TimeoutError that
    says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def comes_true(condition: Callable[[], object], seconds: float) -> bool:
    try:
        settled(condition, seconds, "")
    except TimeoutError:
        return False
    return True
