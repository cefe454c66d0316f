"""Pure: which rows differ from what the bus has of them, and which keys the table has no more.

Rows are judged by the Publication that judges live rows. Rules, each with a test:

1. A row that speaks for its key and would be published just as the bus has it is left alone.
2. One that differs, or that the bus has not, is published anew; also one that moved out while the
   bus still has it. One that is not where the bus has it is told apart: it is taken away from
   there, and somebody has to count how many are.
3. A row that is refused stays as it was published; it is looked at again only if it is not parked.
4. Of several rows with one bus key the one that holds the key is compared. One that nobody knows as
   holder or parked is looked at again; where the known holder is not met, it is too: it is gone,
   and the next takes its place.
5. A key that no row speaks for is deleted if the bus has it.
6. Every place that the bus names and the source may not know is remembered, of rows that are equal,
   of keys that are gone and of those that were deleted too.
7. Such a key is published (or deleted) once more, though it is equal: what waited in the outbox of
   a source that was restored went out before anybody asked, without that place, so whoever has the
   record there would keep it for ever. Of a deleted key with one place alone the delete named it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deptbus.department.capture import Known, OutboxRow, RawKey
from deptbus.department.judge import Found
from deptbus.department.publication import Publication
from deptbus.department.raw import raw_of, raw_text
from deptbus.department.speakers import Published, Speakers, Standing, holder_of, key_in, published


class Held(NamedTuple):
    """What the bus has of a key."""

    version: int
    digest: bytes  # of the record; empty: it was deleted
    places: tuple[str, ...]  # every one that was named, the present one last


@dataclass(slots=True)
class Differences:
    """What is to be done: own keys to publish anew, those of rows that are not where the bus has
    them, bus keys to delete, places to remember."""

    enqueue: list[RawKey] = field(default_factory=list)
    moved: list[RawKey] = field(default_factory=list)
    delete: list[bytes] = field(default_factory=list)
    places: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    equal: int = 0


def _is_elsewhere(state: Published, on_bus: Held) -> bool:
    is_there = bool(state.digest) and state.place == on_bus.places[-1]
    return bool(on_bus.digest) and not is_there


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
        self._speakers = Speakers()

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
        standing = self._speakers.standing(row, found, key, remembered)
        if standing in (Standing.PARKED, Standing.UNSEEN):
            if standing is Standing.UNSEEN:
                differences.enqueue.append(row.raw)
            return
        places = remembered.places if remembered is not None else ()
        on_bus = self._held.pop(key, None)
        state = published(self._publication, row, found)
        is_known = standing is Standing.SPEAKS
        is_named = True
        if on_bus is not None:
            # A new variant may yet be parked behind another row: its place would go unnamed.
            here = state.place if is_known and state is not None and state.digest else None
            is_named = all(p == here or p in places for p in on_bus.places)
            if not is_named:
                differences.places[key] = on_bus.places
        if state is None:
            if not is_known or raw_text(row.raw) not in self._parked:
                differences.enqueue.append(row.raw)
        elif is_known and is_named and state.digest == (on_bus.digest if on_bus else b""):
            differences.equal += 1
        elif is_known and on_bus is not None and _is_elsewhere(state, on_bus):
            # What is remembered last is then where the bus has it.
            differences.places[key] = on_bus.places
            differences.moved.append(row.raw)
        else:
            differences.enqueue.append(row.raw)

    def rest(self, known: Mapping[bytes, Known], keys: Sequence[bytes]) -> Differences:
        """What no row spoke for, of these keys of `left`; to be called behind the last row."""
        found = Differences()
        for key in keys:
            on_bus = self._held.pop(key)
            remembered = known.get(key)
            places = remembered.places if remembered else ()
            is_named = all(p in places for p in on_bus.places)
            if not is_named:
                found.places[key] = on_bus.places
            holder = holder_of(remembered) if remembered else None
            if holder is not None:
                self._speakers.waiting.setdefault(key, raw_of(holder))
            elif on_bus.digest or (not is_named and len(on_bus.places) > 1):
                found.delete.append(key)
        return found

    def gone_holders(self) -> list[RawKey]:
        """Rows that held a key and were not met, behind everything else."""
        return list(self._speakers.waiting.values())

    @property
    def left(self) -> list[bytes]:
        return list(self._held)
