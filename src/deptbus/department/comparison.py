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
from functools import lru_cache
from typing import NamedTuple

from deptbus.department.capture import HOLDS, PARKED, Known, OutboxRow, RawKey
from deptbus.department.judge import Found
from deptbus.department.publication import KeyOf, Publication
from deptbus.department.raw import raw_of, raw_text
from deptbus.wire.digest import record_digest
from deptbus.wire.varint import text_at


class Held(NamedTuple):
    """What the bus has of a key."""

    version: int
    digest: bytes  # of the record; empty: it was deleted
    places: tuple[str, ...]  # every one that was named, the present one last


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

    def rows(
        self, rows: Iterable[tuple[OutboxRow, Found]], known: Mapping[bytes, Known]
    ) -> Differences:
        """Each row with what `find_keys` said of it; `known` has what the source remembers of their
        keys."""
        differences = Differences()
        for row, found in rows:
            self._row(row, found, known, differences)
        return differences

    def _row(
        self, row: OutboxRow, found: Found, known: Mapping[bytes, Known], differences: Differences
    ) -> None:
        key = key_in(found)
        if key is None:
            if raw_text(row.raw) not in self._parked:
                differences.enqueue.append(row.raw)
            return
        remembered = known.get(key)
        places: tuple[str, ...] = ()
        is_known = not isinstance(found, KeyOf) or found.plain is None
        if remembered is not None:
            places = remembered.places
            if remembered.variants:
                is_known = self._holds(row, key, remembered, differences)
                if not is_known and _holder(remembered) is not None:
                    return
        on_bus = self._held.pop(key, None)
        if isinstance(found, KeyOf):
            published = self._publication.published(row)
        else:
            published = _text(found[1]), (found[2],)
        if on_bus is not None:
            here = published[0] if published is not None and published[1] is not None else None
            if any(p != here and p not in places for p in on_bus.places):
                differences.places[key] = on_bus.places
        if published is None:
            if not is_known or raw_text(row.raw) not in self._parked:
                differences.enqueue.append(row.raw)
        elif is_known and self._digest(published[1]) == (on_bus.digest if on_bus else b""):
            differences.equal += 1
        else:
            differences.enqueue.append(row.raw)

    def _holds(
        self, row: OutboxRow, key: bytes, remembered: Known, differences: Differences
    ) -> bool:
        """Rule 4: whether this one of several rows holds their key."""
        holder, raw = _holder(remembered), raw_text(row.raw)
        if holder == raw:
            self._spoken.add(key)
            self._waiting.pop(key, None)
            return True
        if holder is not None:
            if key not in self._spoken:
                self._waiting[key] = raw_of(holder)
            if (raw, PARKED) not in remembered.variants:
                differences.enqueue.append(row.raw)
        return False

    def _digest(self, record: Sequence[bytes] | None) -> bytes:
        if record is None:
            return b""
        return record_digest(self._publication.dataset, self._publication.schema_version, record)

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


def key_in(found: Found) -> bytes | None:
    return found.key if isinstance(found, KeyOf) else found[0]


def _holder(remembered: Known) -> str | None:
    return next((v.raw for v in remembered.variants if v.state == HOLDS), None)


@lru_cache(maxsize=4096)
def _text(encoded: bytes) -> str:
    """A place, of its Avro bytes: few places, many rows."""
    return text_at(encoded, 0)[0]
