"""A sketch of a multiset of items from which the difference to another one can be read.

An invertible Bloom lookup table (Goodrich and Mitzenmacher, 2011): each item is added to one cell
of every subtable; where a cell of the difference of two sketches holds one item alone, that item is
known and is taken out of its other cells, which leaves others alone in turn ("peeling").

1. A cell is a signed count, and the sum of its items with their check hashes, all in one integer:
   exact sums, so nothing cancels out but an item against itself.
2. Where an item belongs and what its check hash is follows from BLAKE2b under the proof's own salt:
   who chooses rows cannot know it beforehand. Each subtable has its own cells, so no item meets
   itself.
3. A cell is read only where the count divides the sum, the check hash fits and the item belongs
   there. An item that is there several times more is read that many times.
4. Either everything is read, to the last cell, or the answer is None: never a part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from deptbus.proof.item import ITEM_BYTES, Item, item_bytes, item_from_bytes

SUBTABLES = 4  # with 3 it happens much more often that two items share all their cells
SALT_BYTES = 16
_CHECK_BYTES = 8
_BODY_BYTES = ITEM_BYTES + _CHECK_BYTES
_CARRY_BYTES = 4  # of 2^31 items in a cell
_COUNT_BYTES = 4
CELL_BYTES = _BODY_BYTES + _CARRY_BYTES + _COUNT_BYTES
COUNT_SHIFT = 8 * (_BODY_BYTES + _CARRY_BYTES)
_ONE = 1 << COUNT_SHIFT
_ONE_BYTES = (_ONE >> 8 * _BODY_BYTES).to_bytes(_CARRY_BYTES + _COUNT_BYTES, "big")
_HALF = _ONE >> 1
_BODY_LIMIT = 1 << (8 * _BODY_BYTES)
_HEAD = struct.Struct(f">I{SALT_BYTES}s")
_HASHES = struct.Struct(f">{SUBTABLES}I{_CHECK_BYTES}s")
_CELLS_PER_ITEM = 1.4
_SPARE_CELLS = 160  # for few items, of which two might share all their cells


class Difference(NamedTuple):
    """What one side has more than the other; an item that it has twice more stands there twice."""

    only_a: list[Item]
    only_b: list[Item]


class Sketch:
    """`a - b` of two sketches of the same `cells` and `salt`, then `decode`."""

    __slots__ = ("_cells", "_width", "salt")

    def __init__(self, cells: int, salt: bytes) -> None:
        """`cells` in all, rounded up to whole subtables; `salt`: 16 random bytes, new for each
        proof. Raises ValueError."""
        if len(salt) != SALT_BYTES or not 0 < cells < 1 << 32:
            raise ValueError("a sketch has cells, and a salt of 16 bytes")
        self.salt = salt
        self._width = -(-cells // SUBTABLES)
        self._cells = [0] * (self._width * SUBTABLES)

    @property
    def cells(self) -> int:
        return len(self._cells)

    def add(self, item: Item) -> None:
        self._put(item_bytes(item), 1)

    def add_all(self, items: Iterable[Item]) -> None:
        self.add_raw(map(item_bytes, items))

    def remove(self, item: Item) -> None:
        """Takes back an item that was added; one that was not is one that the other side has."""
        self._put(item_bytes(item), -1)

    def add_raw(self, raws: Iterable[bytes]) -> None:
        """As `add_all`, of what `item_bytes` gave. Written out, as it runs once a row."""
        cells, width, unpack, from_bytes = self._cells, self._width, _HASHES.unpack, int.from_bytes
        begin = blake2b(digest_size=_HASHES.size, salt=self.salt).copy
        second, third, fourth = width, 2 * width, 3 * width
        for raw in raws:
            made = begin()
            made.update(raw)
            a, b, c, d, check = unpack(made.digest())
            body = from_bytes(_ONE_BYTES + raw + check, "big")
            cells[a * width >> 32] += body
            cells[second + (b * width >> 32)] += body
            cells[third + (c * width >> 32)] += body
            cells[fourth + (d * width >> 32)] += body

    def _put(self, raw: bytes, times: int) -> None:
        body, places = self._place(raw)
        for place in places:
            self._cells[place] += times * body

    def _place(self, raw: bytes) -> tuple[int, list[int]]:
        """What an item adds to a cell, and its cell in each subtable."""
        hashed = blake2b(raw, digest_size=_HASHES.size, salt=self.salt).digest()
        *positions, check = _HASHES.unpack(hashed)
        places = [
            table * self._width + (position * self._width >> 32)
            for table, position in enumerate(positions)
        ]
        return _ONE + int.from_bytes(raw + check, "big"), places

    def __sub__(self, other: Sketch) -> Sketch:
        """The sketch of what is here more than there. Raises ValueError for unlike ones."""
        if self.cells != other.cells or self.salt != other.salt:
            raise ValueError("sketches of unlike size or salt cannot be compared")
        rest = Sketch(self.cells, self.salt)
        rest._cells = [a - b for a, b in zip(self._cells, other._cells, strict=True)]
        return rest

    def decode(self) -> Difference | None:
        """Every item of the difference, or None where there are too many to be read.

        Bytes that no sketch made (a hostile answer) cost no more than honest ones.
        """
        rest = Sketch(self.cells, self.salt)
        rest._cells = list(self._cells)
        found = Difference([], [])
        waiting = [place for place, cell in enumerate(rest._cells) if cell]
        turns = (2 * SUBTABLES + 1) * self.cells
        room = SUBTABLES * self.cells
        while waiting and turns:
            turns -= 1
            read = rest._alone(waiting.pop())
            if read is None:
                continue
            raw, times = read
            room -= abs(times)
            if room < 0:
                return None
            (found.only_a if times > 0 else found.only_b).extend(
                [item_from_bytes(raw)] * abs(times)
            )
            rest._put(raw, -times)
            waiting += [place for place in rest._place(raw)[1] if rest._cells[place]]
        return None if any(rest._cells) else found

    def _alone(self, place: int) -> tuple[bytes, int] | None:
        """The item that is alone in a cell, and how often (below 0: the other side has it more)."""
        cell = self._cells[place]
        times = (cell + _HALF) >> COUNT_SHIFT
        if not times:
            return None
        body, remainder = divmod(cell - times * _ONE, times)
        if remainder or not 0 <= body < _BODY_LIMIT:
            return None
        raw = body.to_bytes(_BODY_BYTES, "big")[:ITEM_BYTES]
        whole, places = self._place(raw)
        return (raw, times) if whole == _ONE + body and place in places else None

    def to_bytes(self) -> bytes:
        """Cells of a subtable (4 bytes), salt (16), then each cell (56, signed)."""
        cells = [cell.to_bytes(CELL_BYTES, "big", signed=True) for cell in self._cells]
        return _HEAD.pack(self._width, self.salt) + b"".join(cells)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sketch:
        """What `to_bytes` made. Raises ValueError for anything else."""
        if len(data) < _HEAD.size:
            raise ValueError("no sketch")
        width, salt = _HEAD.unpack_from(data)
        if len(data) != _HEAD.size + width * SUBTABLES * CELL_BYTES:
            raise ValueError("a sketch is cut short or has too much")
        sketch = cls(width * SUBTABLES, salt)
        sketch._cells = [
            int.from_bytes(data[at : at + CELL_BYTES], "big", signed=True)
            for at in range(_HEAD.size, len(data), CELL_BYTES)
        ]
        return sketch


def cells_for(differences: int) -> int:
    """So many cells that this many differing items are read (a changed row is two of them), but for
    less than one in a thousand salts, with which one has to ask again."""
    return int(differences * _CELLS_PER_ITEM) + _SPARE_CELLS
