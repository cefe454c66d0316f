"""Items, leaves and roots: what binds a row, where two sides differ, whatever the order."""

from __future__ import annotations

import random
from hashlib import sha256
from itertools import groupby

import pytest

from deptbus.proof.item import Item, hash_of, item_bytes, item_from_bytes, item_hash
from deptbus.proof.leaves import Leaves, leaf_of
from deptbus.proof.merkle import MerkleTree, SortedRoot, sorted_root
from deptbus.proof.sketch import Sketch
from deptbus.proof.tally import Tally

_SALT = bytes(range(16))
# RFC 6962, section 2.1: the hashes that its reference implementation gives for one to eight leaves.
_LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def items(count: int, seed: int = 1) -> list[Item]:
    chance = random.Random(seed)
    return [
        Item(chance.randbytes(16), chance.randrange(1 << 40), chance.randbytes(16))
        for _ in range(count)
    ]


ITEM = Item(bytes(range(16)), 7, bytes(range(16, 32)))


def test_an_items_bytes_and_hash_stay_as_they_are():
    """Golden: both sides, of whatever version, and old certificates depend on them."""
    raw = bytes(range(16)) + bytes(7) + b"\x07" + bytes(range(16, 32))
    assert item_bytes(ITEM) == raw
    assert item_from_bytes(raw) == ITEM
    assert item_hash(ITEM) == int.from_bytes(hash_of(raw))
    assert f"{item_hash(ITEM):032x}" == "b60ea57dda34f66dd51c63b50c70ebe2"


@pytest.mark.parametrize(
    "item",
    [
        ITEM._replace(key=bytes(15)),
        ITEM._replace(key=bytes(17), digest=bytes(15)),
        ITEM._replace(key=bytes(15), digest=bytes(17)),
        ITEM._replace(digest=bytes(17)),
        ITEM._replace(version=-1),
        ITEM._replace(version=1 << 64),
    ],
)
def test_what_is_no_item_is_refused(item):
    with pytest.raises(ValueError, match="an item is"):
        item_bytes(item)


@pytest.mark.parametrize(
    "other",
    [
        ITEM._replace(key=bytes(16)),
        ITEM._replace(version=8),
        ITEM._replace(digest=bytes(16)),
        Item(ITEM.digest, ITEM.version, ITEM.key),
    ],
)
def test_each_part_of_an_item_counts(other):
    assert item_hash(other) != item_hash(ITEM)


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_a_leaf_is_the_first_bits_of_a_key(bits):
    for item in items(50):
        assert leaf_of(item.key, bits) == int(f"{int.from_bytes(item.key):0128b}"[:bits], 2)


@pytest.mark.parametrize("bits", [1, 12, 16])
def test_leaves_tell_where_sides_differ(bits):
    a, b = Leaves(bits), Leaves(bits)
    rows = items(2000)
    a.add_all(rows)
    b.add_all(rows[2:])
    assert (a - b).bad() == sorted({leaf_of(row.key, bits) for row in rows[:2]})
    b.add_all(rows[:2])
    assert (a - b).bad() == []
    assert a.rows == b.rows == 2000
    assert a.root() == b.root()


def test_leaves_read_back_are_the_same_and_may_be_compared_with_those_that_were_not():
    here, there = Leaves(), Leaves()
    rows = items(3000)
    here.add_all(rows)
    there.add_all(reversed(rows))
    sent = Leaves.from_bytes(there.to_bytes())
    assert sent.to_bytes() == there.to_bytes()
    assert (here - sent).bad() == (sent - here).bad() == []
    here.add(rows[0])
    assert (here - sent).bad() == (sent - here).bad() == [leaf_of(rows[0].key)]


def test_a_row_taken_back_was_never_there_and_one_taken_too_much_is_a_difference():
    one, two = Leaves(), Leaves()
    one.add_all(items(10))
    one.remove(items(10)[3])
    two.add_all(items(10)[:3] + items(10)[4:])
    assert one.to_bytes() == two.to_bytes()
    one.remove(ITEM)
    assert (one - two).bad() == [leaf_of(ITEM.key)]
    assert Leaves.from_bytes(one.to_bytes()).rows == two.rows - 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x0c", b"\x11", bytes([1]) + bytes(41)])
def test_what_are_no_leaves_is_refused(data):
    with pytest.raises(ValueError, match="leaves"):
        Leaves.from_bytes(data)


def test_unlike_leaves_are_not_compared():
    with pytest.raises(ValueError, match="unlike"):
        Leaves(8) - Leaves(9)


@pytest.mark.parametrize("count", range(1, 9))
def test_the_tree_is_that_of_the_standard(count):
    tree = MerkleTree()
    for leaf in _LEAVES[:count]:
        tree.add(bytes.fromhex(leaf))
    assert tree.root().hex() == _ROOTS[count - 1]


def test_a_tree_of_nothing_is_the_hash_of_nothing():
    assert MerkleTree().root() == sha256(b"").digest() == sorted_root([])


def test_the_sorted_root_knows_no_order_but_every_item():
    hashes = [item_hash(item) for item in items(100)]
    assert sorted_root(hashes) == sorted_root(reversed(hashes))
    assert sorted_root(hashes) != sorted_root(hashes[1:])
    assert sorted_root(hashes) != sorted_root([*hashes, hashes[0]])
    assert sorted_root(hashes[:2]) != sorted_root([hashes[0], hashes[1] ^ 1])
    tree, ordered = MerkleTree(), [hashed.to_bytes(16) for hashed in sorted(hashes)]
    for _, alike in groupby(ordered, lambda hashed: hashed[0]):
        tree.add(b"".join(alike))
    assert sorted_root(hashes) == tree.root()


def test_a_hash_taken_back_before_or_after_was_never_there():
    hashes = [hash_of(item_bytes(item)) for item in items(20)]
    root = SortedRoot()
    root.remove(hashes[3])
    root.add_all(hashes)
    root.remove(hashes[4])
    left = SortedRoot()
    left.add_all(hashes[:3] + hashes[5:])
    assert root.root() == left.root() == root.root()
    root.remove(hashes[4])
    with pytest.raises(ValueError, match="removed"):
        root.root()


def test_what_is_no_hash_has_no_place_in_a_root():
    with pytest.raises(ValueError, match="16 bytes"):
        SortedRoot().add(bytes(15))


@pytest.mark.parametrize("bits", [1, 12, 16])
def test_a_tally_is_what_its_parts_are(bits):
    rows = items(300)
    tally, leaves, sketch = Tally(60, _SALT, bits), Leaves(bits), Sketch(60, _SALT)
    tally.add_all(iter([*rows, ITEM]))
    tally.remove(ITEM)
    leaves.add_all(rows)
    sketch.add_all(rows)
    assert tally.leaves.to_bytes() == leaves.to_bytes()
    assert tally.sketch.to_bytes() == sketch.to_bytes()
    assert tally.root.root() == sorted_root(map(item_hash, rows))


def tally_of(some: list[Item]) -> Tally:
    made = Tally(60, _SALT, 6)
    made.add_all(some)
    return made


def test_what_two_sides_tell_says_where_they_differ_and_by_what():
    both, mine, theirs = items(100), items(2, seed=2), items(3, seed=3)
    ours, other = tally_of([*both, *mine]), tally_of([*both, *theirs])
    bad, found = ours.against(other.leaves, other.sketch, other.root.root())
    assert bad == sorted({leaf_of(item.key, 6) for item in (*mine, *theirs)})
    assert found is not None
    assert sorted(found.only_a) == sorted(mine)
    assert sorted(found.only_b) == sorted(theirs)
    assert ours.against(ours.leaves, ours.sketch, ours.root.root()) == ([], ([], []))
    many = tally_of(items(1000, seed=4))
    bad, found = ours.against(many.leaves, many.sketch, many.root.root())
    assert len(bad) == 64
    assert found is None


@pytest.mark.parametrize("part", ["leaves", "sketch", "root"])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_answer_of_two_different_looks_is_never_taken_for_equal(part, is_first):
    """A part of it is of another look at the table: the first look or the second was equal."""
    ours, changed = tally_of(items(100)), tally_of(items(101))
    told = dict.fromkeys(("leaves", "sketch", "root"), ours if is_first else changed)
    told[part] = changed if is_first else ours
    with pytest.raises(ValueError, match="contradict each other"):
        ours.against(told["leaves"].leaves, told["sketch"].sketch, told["root"].root.root())
    many = tally_of(items(2000, seed=5))
    with pytest.raises(ValueError, match="contradict each other"):
        ours.against(ours.leaves, many.sketch, ours.root.root())
