"""SHA-256 Merkle roots over a stream of leaves, and over item hashes in ascending order.

The tree is that of RFC 6962, section 2.1: leaves and nodes begin with a byte of their own, so that
no node can be passed off as a leaf, and the shape follows from the number of leaves alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import sha256

from deptbus.proof.item import HASH_BYTES

_LEAF, _NODE = b"\x00", b"\x01"
_PILES = 256  # one for each first byte of a hash: sorted one by one, so no second copy of all


class MerkleTree:
    """The root of leaves that come one by one; keeps one hash for each level."""

    __slots__ = ("_count", "_roots")

    def __init__(self) -> None:
        self._count = 0
        self._roots: list[bytes] = []  # of whole subtrees, the largest first

    def add(self, leaf: bytes) -> None:
        node = sha256(_LEAF + leaf).digest()
        size = self._count
        while size & 1:  # two subtrees of one size become one
            node = sha256(_NODE + self._roots.pop() + node).digest()
            size >>= 1
        self._roots.append(node)
        self._count += 1

    def root(self) -> bytes:
        """32 bytes; of no leaf at all the hash of nothing."""
        if not self._roots:
            return sha256(b"").digest()
        *rest, node = self._roots
        for left in reversed(rest):
            node = sha256(_NODE + left + node).digest()
        return node


class SortedRoot:
    """The root of a multiset of item hashes, in whatever order they come; 16 bytes of memory each.

    A leaf of the tree is all hashes that begin with one byte, ascending, one behind the other; a
    byte that none begins with has no leaf. A leaf of each hash would cost a million rows a second.

    `remove` takes back a hash that is added, before or after.
    """

    __slots__ = ("_piles", "_removed")

    def __init__(self) -> None:
        self._piles = [bytearray() for _ in range(_PILES)]
        self._removed: Counter[bytes] = Counter()

    def add(self, hashed: bytes) -> None:
        """`hashed`: 16 bytes of `hash_of`. Raises ValueError for another length."""
        self._piles[_whole(hashed)[0]] += hashed

    def add_all(self, hashes: Iterable[bytes]) -> None:
        """As `add`, of what `hash_of` gave. Runs once a row."""
        piles = self._piles
        for hashed in hashes:
            piles[hashed[0]] += hashed

    def remove(self, hashed: bytes) -> None:
        self._removed[_whole(hashed)] += 1

    def root(self) -> bytes:
        """32 bytes. Raises ValueError when more was removed of a hash than was added."""
        removed, tree = Counter(self._removed), MerkleTree()
        touched = {hashed[0] for hashed in removed}
        for first, pile in enumerate(self._piles):
            hashes = sorted(_cut(bytes(pile)))
            if first in touched:
                hashes = list(_without(hashes, removed))
            if hashes:
                tree.add(b"".join(hashes))
        if removed.total():
            raise ValueError("a hash was removed that had not been added")
        return tree.root()


def sorted_root(hashes: Iterable[int]) -> bytes:
    """32 bytes that bind a multiset of item hashes (of `item_hash`), whatever their order."""
    root = SortedRoot()
    for hashed in hashes:
        root.add(hashed.to_bytes(HASH_BYTES, "big"))
    return root.root()


def _without(hashes: Iterable[bytes], removed: Counter[bytes]) -> Iterator[bytes]:
    """Counts in `removed` what is left out."""
    for hashed in hashes:
        if removed[hashed]:
            removed[hashed] -= 1
        else:
            yield hashed


def _whole(hashed: bytes) -> bytes:
    if len(hashed) != HASH_BYTES:
        raise ValueError(f"an item's hash has {HASH_BYTES} bytes")
    return hashed


def _cut(pile: bytes) -> list[bytes]:
    return [pile[at : at + HASH_BYTES] for at in range(0, len(pile), HASH_BYTES)]
