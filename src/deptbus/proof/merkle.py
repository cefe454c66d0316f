"""SHA-256 Merkle roots over a stream of leaves, and over item hashes in ascending order.

The tree is that of RFC 6962, section 2.1: leaves and nodes begin with a byte of their own, so that
no node can be passed off as a leaf, and the shape follows from the number of leaves alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
        for hashed in hashes:
            self.add(hashed)

    def remove(self, hashed: bytes) -> None:
        self._removed[_whole(hashed)] += 1

    def root(self) -> bytes:
        """32 bytes. Raises ValueError when more was removed of a hash than was added."""
        removed, tree = Counter(self._removed), MerkleTree()
        for pile in self._piles:
            for hashed in sorted(_cut(bytes(pile))):
                if removed[hashed]:
                    removed[hashed] -= 1
                else:
                    tree.add(hashed)
        if removed.total():
            raise ValueError("a hash was removed that had not been added")
        return tree.root()


def sorted_root(hashes: Iterable[int]) -> bytes:
    """32 bytes that bind a multiset of item hashes (of `item_hash`), whatever their order."""
    root = SortedRoot()
    for hashed in hashes:
        root.add(hashed.to_bytes(HASH_BYTES, "big"))
    return root.root()


def _whole(hashed: bytes) -> bytes:
    if len(hashed) != HASH_BYTES:
        raise ValueError(f"an item's hash has {HASH_BYTES} bytes")
    return hashed


def _cut(pile: bytes) -> list[bytes]:
    return [pile[at : at + HASH_BYTES] for at in range(0, len(pile), HASH_BYTES)]
