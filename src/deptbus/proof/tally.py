"""Leaves, sketch and sorted root of one side, in one pass over its items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deptbus.proof.item import Item, hash_of, hashes_of, item_bytes
from deptbus.proof.leaves import BITS, Leaves, leaf_of
from deptbus.proof.merkle import SortedRoot
from deptbus.proof.sketch import Difference, Sketch


class Tally:
    """What one side tells of its items; both sides use the same `cells`, `salt` and `bits`."""

    __slots__ = ("leaves", "root", "sketch")

    def __init__(self, cells: int, salt: bytes, bits: int = BITS) -> None:
        self.leaves = Leaves(bits)
        self.sketch = Sketch(cells, salt)
        self.root = SortedRoot()

    def add_all(self, items: Iterable[Item]) -> None:
        """Some thousand items at a time, where others wait for the same thread: about 3 us each."""
        self.add_raws(list(map(item_bytes, items)))

    def add_raws(self, raws: Sequence[bytes]) -> None:
        """As `add_all`, of what `item_bytes` gave."""
        hashes = hashes_of(raws)
        self.leaves.add_raw(raws, hashes)
        self.root.add_all(hashes)
        self.sketch.add_raw(raws)

    def remove(self, item: Item) -> None:
        """Takes back an item that was added, or is going to be."""
        self.leaves.remove(item)
        self.sketch.remove(item)
        self.root.remove(hash_of(item_bytes(item)))

    def against(
        self, leaves: Leaves, sketch: Sketch, root: bytes
    ) -> tuple[list[int], Difference | None]:
        """What the other side told, against this one's: leaves that differ, and the items in them
        (`only_a`: this side's), None when they are too many to be read from the sketches.

        Raises ValueError where it contradicts itself, which is never taken for equal: the root of
        sides with equal leaves is the same, and a sketch names items of the leaves that differ, in
        each of them."""
        bad = (self.leaves - leaves).bad()
        found = (self.sketch - sketch).decode()
        if bool(bad) == (self.root.root() == root):
            raise ValueError("its leaves and its root contradict each other")
        if found is not None:
            named = {leaf_of(item.key, leaves.bits) for item in (*found.only_a, *found.only_b)}
            if named != set(bad):
                raise ValueError("its leaves and its sketch contradict each other")
        elif not bad:
            raise ValueError("its leaves and its sketch contradict each other")
        return bad, found
