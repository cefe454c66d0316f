"""Counts and sums of items by the first bits of their keys: where two sides differ.

Sums modulo 2^128, never XOR: a row that is there twice, or the same change of an even number of
rows, does not cancel out. Sums are what an honest mistake cannot keep; somebody who may choose rows
could make two sets of the same sum, which is why a certificate has the sorted root beside them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from deptbus.proof.item import HASH_BYTES, KEY_BYTES, Item, hash_of, item_bytes
from deptbus.proof.merkle import MerkleTree

BITS = 12
LEAF_BITS = 16  # of a key, of which its leaf is the first `bits`
_MASK = (1 << 8 * HASH_BYTES) - 1
# A leaf is one integer: its count above, the sum below with room for the carry of 2^63 hashes. One
# addition a row keeps both.
_COUNT_SHIFT = 8 * HASH_BYTES + 64
_ONE = 1 << _COUNT_SHIFT
_HALF = _ONE >> 1
_LEAF = struct.Struct(f">i{HASH_BYTES}s")
_HEAD_BYTES = 1


class Leaves:
    """A count and a sum of item hashes for each of 2^`bits` leaves; a key's first bits name its
    leaf."""

    __slots__ = ("_leaves", "bits")

    def __init__(self, bits: int = BITS) -> None:
        """`bits` from 1 to 16. Raises ValueError."""
        if not 1 <= bits <= LEAF_BITS:
            raise ValueError(f"leaves have 1 to {LEAF_BITS} bits")
        self.bits = bits
        self._leaves = [0] * (1 << bits)

    def add(self, item: Item) -> None:
        self._leaves[leaf_of(item.key, self.bits)] += _one(item)

    def add_all(self, items: Iterable[Item]) -> None:
        for item in items:
            self.add(item)

    def add_raw(self, raws: Iterable[bytes], hashes: Iterable[bytes]) -> None:
        """As `add_all`, of what `item_bytes` and `hash_of` gave. Runs once a row."""
        leaves, shift, from_bytes = self._leaves, LEAF_BITS - self.bits, int.from_bytes
        for raw, hashed in zip(raws, hashes, strict=True):
            leaves[((raw[0] << 8) | raw[1]) >> shift] += _ONE + from_bytes(hashed, "big")

    def remove(self, item: Item) -> None:
        """Takes back an item that was added; one that was not is a difference then."""
        self._leaves[leaf_of(item.key, self.bits)] -= _one(item)

    def __sub__(self, other: Leaves) -> Leaves:
        """What is here more than there, leaf by leaf. Raises ValueError for other `bits`."""
        if self.bits != other.bits:
            raise ValueError("leaves of unlike bits cannot be compared")
        rest = Leaves(self.bits)
        rest._leaves = [a - b for a, b in zip(self._leaves, other._leaves, strict=True)]
        return rest

    def bad(self) -> list[int]:
        """Of a difference of two: the leaves in which they differ, in ascending order."""
        return [leaf for leaf in range(len(self._leaves)) if any(self.count_and_sum(leaf))]

    def count_and_sum(self, leaf: int) -> tuple[int, int]:
        """Items in a leaf (below 0 in a difference: the other side has more), and their sum."""
        cell = self._leaves[leaf]
        return (cell + _HALF) >> _COUNT_SHIFT, cell & _MASK

    @property
    def rows(self) -> int:
        """How many items there are in all."""
        return sum(self.count_and_sum(leaf)[0] for leaf in range(len(self._leaves)))

    def root(self) -> bytes:
        """32 bytes that bind every count and sum (SHA-256 Merkle root over the leaves)."""
        tree, data = MerkleTree(), self.to_bytes()
        for at in range(_HEAD_BYTES, len(data), _LEAF.size):
            tree.add(data[at : at + _LEAF.size])
        return tree.root()

    def to_bytes(self) -> bytes:
        """One byte of `bits`, then for each leaf its count (4 bytes, signed) and sum (16)."""
        parts = [bytes((self.bits,))]
        for leaf in range(len(self._leaves)):
            count, total = self.count_and_sum(leaf)
            parts.append(_LEAF.pack(count, total.to_bytes(HASH_BYTES, "big")))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Leaves:
        """What `to_bytes` made. Raises ValueError for anything else."""
        if not data:
            raise ValueError("no leaves")
        leaves = cls(data[0])
        if len(data) != _HEAD_BYTES + (_LEAF.size << leaves.bits):
            raise ValueError("leaves are cut short or have too much")
        leaves._leaves = [
            count * _ONE + int.from_bytes(total, "big")
            for count, total in _LEAF.iter_unpack(memoryview(data)[_HEAD_BYTES:])
        ]
        return leaves


def leaf_of(key: bytes, bits: int = BITS) -> int:
    """The leaf of a key of 16 bytes: its first `bits` bits. Raises ValueError."""
    if len(key) != KEY_BYTES:
        raise ValueError("a key has 16 bytes")
    return int.from_bytes(key[:2], "big") >> (LEAF_BITS - bits)


def _one(item: Item) -> int:
    return _ONE + int.from_bytes(hash_of(item_bytes(item)), "big")
