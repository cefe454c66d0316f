"""Items, leaves, sketch and roots: differences are found, named, and never guessed."""

from __future__ import annotations

import random

import pytest

from deptbus.proof.item import Item, item_hash
from deptbus.proof.leaves import Leaves
from deptbus.proof.merkle import SortedRoot, sorted_root
from deptbus.proof.sketch import Sketch, cells_for

SALT = bytes(range(16))


def items(count: int, seed: int = 1) -> list[Item]:
    chance = random.Random(seed)
    return [
        Item(chance.randbytes(16), chance.randrange(1 << 40), chance.randbytes(16))
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 10, 1000, 4000])
def test_the_sketch_names_each_difference(count):
    common, one, other = items(2000), items(count // 2, 2), items(count - count // 2, 3)
    a, b = Sketch(cells_for(count), SALT), Sketch(cells_for(count), SALT)
    a.add_all(common + one)
    b.add_all(common + other)
    found = (Sketch.from_bytes(a.to_bytes()) - Sketch.from_bytes(b.to_bytes())).decode()
    assert found is not None
    assert sorted(found.only_a) == sorted(one)
    assert sorted(found.only_b) == sorted(other)


def test_more_than_it_can_hold_is_none():
    sketch = Sketch(cells_for(100), SALT)
    sketch.add_all(items(1000))
    assert sketch.decode() is None


def test_what_is_there_several_times_is_told_so_many_times():
    one, two = items(2)
    sketch = Sketch(cells_for(10), SALT)
    sketch.add_all([one, one, two])
    sketch.remove(two)
    for _ in range(3):
        sketch.remove(two)
    found = sketch.decode()
    assert found is not None
    assert (found.only_a, found.only_b) == ([one, one], [two] * 3)


def test_leaves_tell_where_sides_differ():
    a, b = Leaves(), Leaves()
    rows = items(5000)
    a.add_all(rows)
    b.add_all(rows[1:])
    assert (a - b).bad() == [int.from_bytes(rows[0].key[:2], "big") >> 4]
    b.add(rows[0])
    assert (a - b).bad() == []
    assert a.root() == b.root() == Leaves.from_bytes(a.to_bytes()).root()


def test_the_sorted_root_knows_no_order_but_every_item():
    hashes = [item_hash(item) for item in items(100)]
    assert sorted_root(hashes) == sorted_root(reversed(hashes))
    assert sorted_root(hashes) != sorted_root(hashes[1:])
    assert sorted_root(hashes) != sorted_root([*hashes, hashes[0]])
    root = SortedRoot()
    root.add_all(hashed.to_bytes(16) for hashed in hashes)
    root.remove(hashes[3].to_bytes(16))
    assert root.root() == sorted_root(hashes[:3] + hashes[4:])
