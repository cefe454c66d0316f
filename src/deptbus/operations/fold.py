"""Folds one partition of a canonical topic: of each key, the record with the highest version.

`data.<dataset>` keeps the last record of a key, which is the highest version except when a stopped
worker wakes and its late send lands after a newer version. So whoever reads it folds by version
(jobs), and the keeper looks for keys whose last record is not their highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet


class Winners:
    """The offsets that hold the highest version of some key, in [start, end): one bit an offset."""

    __slots__ = ("_bits", "count", "end", "first", "start")

    def __init__(self, start: int, end: int, offsets: Iterable[int]) -> None:
        self.start = start
        self.end = end
        self.first = end  # of them; the end when there is none
        self.count = 0
        self._bits = bytearray((max(0, end - start) + 7) // 8)
        for offset in offsets:
            place = offset - start
            self._bits[place >> 3] |= 1 << (place & 7)
            self.first = min(self.first, offset)
            self.count += 1

    def __contains__(self, offset: int) -> bool:
        place = offset - self.start
        return 0 <= place < self.end - self.start and bool(
            self._bits[place >> 3] & (1 << (place & 7))
        )


class Fold:
    """Fed with every record of a partition in the order of their offsets; holds no content.

    A version orders the records of one source unit's key, so keys of different source units never
    stand against each other. Among equal versions (the same record, delivered twice) the last wins.
    Memory: about 200 bytes a key.
    """

    def __init__(self) -> None:
        # source unit -> key -> (highest version, the last offset that holds it, version that lies
        # last)
        self._heads: dict[str, dict[bytes, tuple[int, int, int]]] = {}

    def add(self, offset: int, source_unit: str, key: bytes, version: int) -> None:
        heads = self._heads.get(source_unit)
        if heads is None:
            heads = self._heads[source_unit] = {}
        known = heads.get(key)
        if known is None or version >= known[0]:
            heads[key] = (version, offset, version)
        else:
            heads[key] = (known[0], known[1], version)

    def winners(self, start: int, end: int) -> Winners:
        """All offsets that were added must lie in [start, end)."""
        offsets = (head[1] for heads in self._heads.values() for head in heads.values())
        return Winners(start, end, offsets)

    def chosen(self, keys: AbstractSet[tuple[str, bytes]], start: int, end: int) -> Winners:
        """As `winners`, of these keys (source unit, key) alone; unknown ones are left out."""
        heads = (self._heads.get(unit, {}).get(key) for unit, key in keys)
        return Winners(start, end, (head[1] for head in heads if head is not None))

    def misplaced(self) -> list[int]:
        """Ascending offsets of records to append once more: a lower version lies last behind
        them."""
        return sorted(
            offset
            for heads in self._heads.values()
            for highest, offset, last in heads.values()
            if last < highest
        )
