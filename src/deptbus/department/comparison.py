"""Pure: which rows differ from what the bus has of them, and which keys the table has no more.

Rows are judged by the Publication that judges live rows. Rules, each with a test:

1. A row that speaks for its key and would be published just as the bus has it is left alone.
2. One that differs, or that the bus has not, is published anew; also one that moved out while the
   bus still has it.
3. A row that is refused stays as it was published; it is looked at again only if it is not parked.
4. Of several rows with one bus key the one that holds the key is compared. One that nobody knows as
   holder or parked is looked at again; where the known holder is not met, it is too: it is gone,
   and the next takes its place.
5. A key that no row speaks for is deleted if the bus has it.
6. Every place that the bus names and the source may not know is remembered, of rows that are equal,
   of keys that are gone and of those that were deleted too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deptbus.department.capture import HOLDS, PARKED, Known, OutboxRow, RawKey
from deptbus.department.publication import KeyOf, Publication
from deptbus.department.raw import raw_of
from deptbus.wire.digest import record_digest


class Held(NamedTuple):
    """What the bus has of a key."""

    version: int
    digest: bytes  # of the record; empty: it was deleted
    places: tuple[str, ...]  # every one that was named, the present one last


class Row(NamedTuple):
    raw: RawKey
    values: Mapping[str, Any]
    found: KeyOf


@dataclass(slots=True)
class Differences:
    """What is to be done: own keys to publish anew, bus keys to delete, places to remember."""

    enqueue: list[RawKey] = field(default_factory=list)
    delete: list[bytes] = field(default_factory=list)
    places: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    equal: int = 0


class Comparison:
    """One walk over a dataset's rows against `held`, the bus's keys of some partitions.

    `rows` chunk by chunk, then `rest` once. `parked`: raw_text of rows that are parked. Owns
    `held`: what was compared is forgotten.
    """

    def __init__(
        self, publication: Publication, held: dict[bytes, Held], parked: frozenset[str]
    ) -> None:
        self._publication = publication
        self._held = held
        self._parked = parked
        self._spoken: set[bytes] = set()  # keys with variants whose holder was met
        self._waiting: dict[bytes, RawKey] = {}  # key -> its holder, which was not met yet

    def rows(self, rows: Iterable[Row], known: Mapping[bytes, Known]) -> Differences:
        """`known` has what the source remembers of these rows' keys."""
        found = Differences()
        for row in rows:
            self._row(row, known, found)
        return found

    def _row(self, row: Row, known: Mapping[bytes, Known], found: Differences) -> None:
        key = row.found.key
        if key is None:
            if row.found.raw not in self._parked:
                found.enqueue.append(row.raw)
            return
        remembered = known.get(key)
        states = {v.raw: v.state for v in remembered.variants} if remembered else {}
        holder = next((raw for raw, state in states.items() if state == HOLDS), None)
        if holder is not None and holder != row.found.raw:
            if key not in self._spoken:
                self._waiting[key] = raw_of(holder)
            if states.get(row.found.raw) != PARKED:
                found.enqueue.append(row.raw)
            return
        if holder is not None:
            self._spoken.add(key)
            self._waiting.pop(key, None)
        places = remembered.places if remembered else ()
        on_bus = self._held.pop(key, None)
        is_known = holder is not None or (row.found.plain is None and not states)
        self._speaker(row, on_bus, places, is_known, found)

    def _speaker(
        self,
        row: Row,
        on_bus: Held | None,
        remembered: tuple[str, ...],
        is_known: bool,
        found: Differences,
    ) -> None:
        """A row that the bus may have: `is_known` says that it is sure to speak for its key."""
        key = row.found.key
        assert key is not None
        judged = self._publication.published(_outbox_row(self._publication, row))
        if on_bus is not None:
            here = judged[0] if judged is not None and judged[1] is not None else None
            missing = [p for p in on_bus.places if p != here and p not in remembered]
            if missing:
                found.places[key] = on_bus.places
        if judged is None:
            if row.found.raw not in self._parked or not is_known:
                found.enqueue.append(row.raw)
            return
        record = judged[1]
        digest = (
            b""
            if record is None
            else record_digest(self._publication.dataset, self._publication.schema_version, record)
        )
        if is_known and digest == (on_bus.digest if on_bus is not None else b""):
            found.equal += 1
        else:
            found.enqueue.append(row.raw)

    def rest(self, known: Mapping[bytes, Known], keys: Sequence[bytes]) -> Differences:
        """What no row spoke for, of these keys of `left`; to be called behind the last row."""
        found = Differences()
        for key in keys:
            on_bus = self._held.pop(key)
            remembered = known.get(key)
            places = remembered.places if remembered else ()
            if any(p not in places for p in on_bus.places):
                found.places[key] = on_bus.places
            holder = next(
                (v.raw for v in remembered.variants if v.state == HOLDS)
                if remembered
                else iter(()),
                None,
            )
            if holder is not None:
                self._waiting.setdefault(key, raw_of(holder))
            elif on_bus.digest:
                found.delete.append(key)
        return found

    def gone_holders(self) -> list[RawKey]:
        """Rows that held a key and were not met, behind everything else."""
        return list(self._waiting.values())

    @property
    def left(self) -> list[bytes]:
        return list(self._held)


def _outbox_row(publication: Publication, row: Row) -> OutboxRow:
    return OutboxRow(
        0, publication.dataset, "u", "resend", None, 0, None, None, row.raw, row.values
    )


def row_of(publication: Publication, raw: RawKey, values: Mapping[str, Any]) -> Row:
    return Row(raw, values, publication.key_of_raw(raw))
