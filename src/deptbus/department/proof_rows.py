"""Pure: the rows of a source's table as items of a proof, judged as live rows are.

Rules, each with a test:

1. A row that speaks for its key is an item: the key, no version, the digest of the record as it
   would be published now. One that has moved out is none: the bus must have nothing of it.
2. A row that the checks refuse is told with the reason, and is no item: what was published before
   stays, so whatever the bus has of its key is right.
3. A row whose key another row holds is told as a duplicate, and its key is proved all the same.
4. A variant that nobody has looked at speaks for its key where no row holds it; of several one.
5. Keys that are looked at apart are no items: of each it is told what was found, or that nothing
   was.
6. Where leaves are named only keys that lie in them count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from typing import NamedTuple

from deptbus.department.capture import Known, OutboxRow, RawKey
from deptbus.department.judge import Found
from deptbus.department.publication import DUPLICATE, NO_KEY, KeyOf, Publication
from deptbus.department.raw import raw_text
from deptbus.department.speakers import Speakers, Standing, key_in, published
from deptbus.proof.item import NO_VERSION
from deptbus.proof.leaves import leaf_of
from deptbus.wire.digest import projection_hash

NOTHING = b""  # instead of a digest: the table has nothing that is published
_TOO_LARGE = "too_large"  # the one reason that only the whole change tells


class Refused(NamedTuple):
    """A row that cannot be published."""

    key: bytes
    reason: str


class TableRows:
    """One walk over the rows of a dataset: `rows` chunk by chunk, then `rest` once.

    `parked`: `raw_text` -> reason, of every row that is known to be parked. `apart`: bus keys that
    are no items.
    """

    def __init__(
        self,
        publication: Publication,
        parked: Mapping[str, str],
        apart: Container[bytes] = frozenset(),
        leaves: Collection[int] = (),
        bits: int = 0,
    ) -> None:
        self._publication = publication
        self._begun = projection_hash(publication.dataset, publication.schema_version, ())
        self._parked = parked
        self._apart = apart
        self._leaves, self._bits = frozenset(leaves), bits
        self._speakers = Speakers()
        self._new: dict[bytes, list[tuple[str, bytes]]] = {}  # key -> raw and digest of variants
        self.plain: dict[bytes, RawKey] = {}  # key of a new variant -> its own key in plain form
        self.refused: list[Refused] = []
        self.duplicates: list[Refused] = []
        self.found: dict[bytes, bytes] = {}  # key that is apart -> digest
        self.reasons: Counter[str] = Counter()  # of rows that are not published

    def rows(
        self, rows: Iterable[tuple[OutboxRow, Found]], known: Mapping[bytes, Known]
    ) -> list[bytes]:
        """Each row with what `find_keys` said of it; `known` has what the source remembers of their
        keys. Returns `item_bytes` of each item."""
        items: list[bytes] = []
        apart, begun = self._apart, self._begun
        is_whole = not self._leaves and not self._parked
        for row, found in rows:
            if found.__class__ is tuple and is_whole:  # most rows, by far
                plain, _, record = found
                if plain not in known and plain not in apart:
                    made = begun.copy()
                    made.update(record)
                    items.append(plain + NO_VERSION + made.digest())
                    continue
            key = key_in(found)
            if key is None:
                if not self._leaves:
                    self.reasons[NO_KEY] += 1
            elif not self._leaves or leaf_of(key, self._bits) in self._leaves:
                self._row(row, found, key, known.get(key), items)
        return items

    def _row(
        self,
        row: OutboxRow,
        found: Found,
        key: bytes,
        remembered: Known | None,
        items: list[bytes],
    ) -> None:
        standing = self._speakers.standing(row, found, key, remembered)
        if standing in (Standing.PARKED, Standing.UNSEEN):
            self._duplicate(key)
            return
        state = published(self._publication, row, found)
        reason = self._parked.get(raw_text(row.raw)) if self._parked else None
        if state is None or reason == _TOO_LARGE:
            self._refuse(key, reason or self._publication.refusal(row))
        elif standing is Standing.NEW:
            self._new.setdefault(key, []).append((raw_text(row.raw), state.digest))
            if isinstance(found, KeyOf) and found.plain is not None:
                self.plain[key] = found.plain
        else:
            self._take(key, state.digest, items)

    def _take(self, key: bytes, digest: bytes, items: list[bytes]) -> None:
        if key in self._apart:
            self.found[key] = digest
        elif digest:
            items.append(key + NO_VERSION + digest)

    def _refuse(self, key: bytes, reason: str) -> None:
        self.refused.append(Refused(key, reason))
        self.reasons[reason] += 1

    def _duplicate(self, key: bytes) -> None:
        self.duplicates.append(Refused(key, DUPLICATE))
        self.reasons[DUPLICATE] += 1

    def rest(self, borne: Container[bytes]) -> list[bytes]:
        """The items of rule 4, as `rows` gives them. `borne`: which keys of `plain` have a row that
        bears the plain form."""
        items: list[bytes] = []
        for key, variants in self._new.items():
            holders = [] if key in borne else [min(variants)]
            for _, digest in holders:
                self._take(key, digest, items)
            for _ in variants[len(holders) :]:
                self._duplicate(key)
        self._new.clear()
        return items
