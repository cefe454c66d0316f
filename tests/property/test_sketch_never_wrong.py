"""A sketch reads the whole difference or says that it cannot: for drawn multisets, for more than it
can hold, for bytes that nobody made. Mistakes in it are found."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from deptbus.proof import sketch as module
from deptbus.proof.item import Item, item_bytes
from deptbus.proof.sketch import CELL_BYTES, SUBTABLES, Difference, Sketch, cells_for

_SALT = bytes(range(16))
# Few of each, so that duplicates, and the same key under another version or digest, are drawn.
_ITEMS = st.builds(
    Item,
    st.sampled_from([bytes([n]) * 16 for n in (0, 1, 2, 255)]),
    st.sampled_from([0, 1, 1 << 32, (1 << 64) - 1]),
    st.sampled_from([bytes([n]) * 16 for n in (0, 1, 255)]),
)


def drawn(chance: random.Random, count: int) -> list[Item]:
    return [
        Item(chance.randbytes(16), chance.randrange(1 << 40), chance.randbytes(16))
        for _ in range(count)
    ]


def sketch_of(items: list[Item], cells: int, salt: bytes = _SALT) -> Sketch:
    sketch = Sketch(cells, salt)
    sketch.add_all(items)
    return sketch


def is_right(found: Difference, one: list[Item], other: list[Item]) -> bool:
    a, b = Counter(one), Counter(other)
    return Counter(found.only_a) == a - b and Counter(found.only_b) == b - a


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(_ITEMS, max_size=40), st.lists(_ITEMS, max_size=40), st.integers(1, 200))
def test_the_difference_of_multisets_is_read_exactly_or_not_at_all(one, other, cells):
    found = (sketch_of(one, cells) - sketch_of(other, cells)).decode()
    assert found is None or is_right(found, one, other)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 1_000, 4_000])
def test_as_many_as_it_is_made_for_are_read(count):
    chance = random.Random(count)
    common, one, other = (
        drawn(chance, 500),
        drawn(chance, count // 2),
        drawn(chance, -(-count // 2)),
    )
    a, b = (sketch_of(common + some, cells_for(count)) for some in (one, other))
    found = (Sketch.from_bytes(a.to_bytes()) - Sketch.from_bytes(b.to_bytes())).decode()
    assert found is not None
    assert is_right(found, common + one, common + other)


def test_as_many_as_it_is_made_for_are_read_nearly_always():
    """One in a thousand may have to ask again; a hundred salts of 400 items need not."""
    chance = random.Random(7)
    items = drawn(chance, 400)
    read = [sketch_of(items, cells_for(400), chance.randbytes(16)).decode() for _ in range(100)]
    assert all(found is not None and is_right(found, items, []) for found in read)


def test_four_thousand_differences_fit_into_few_hundred_kilobytes():
    assert len(Sketch(cells_for(4_000), _SALT).to_bytes()) < 330_000


@pytest.mark.parametrize("times", [2, 3, 10, 100])
def test_more_than_it_can_hold_is_none_and_never_a_part(times):
    chance = random.Random(times)
    items = drawn(chance, 200 * times)
    assert sketch_of(items, cells_for(200)).decode() is None


def test_the_largest_item_many_times_over_does_not_spoil_the_count():
    most, other = Item(b"\xff" * 16, (1 << 64) - 1, b"\xff" * 16), drawn(random.Random(4), 1)[0]
    found = (sketch_of([most] * 100, 40) - sketch_of([other] * 50, 40)).decode()
    assert found == Difference([most] * 100, [other] * 50)


def test_what_is_added_one_by_one_or_at_once_or_taken_back_is_the_same():
    items = drawn(random.Random(3), 50)
    one_by_one = Sketch(100, _SALT)
    for item in items:
        one_by_one.add(item)
    one_by_one.add(items[0])
    one_by_one.remove(items[0])
    assert one_by_one.to_bytes() == sketch_of(items, 100).to_bytes()


@given(st.binary(max_size=400))
def test_what_is_no_sketch_is_refused_or_read_in_no_time(data):
    try:
        found = Sketch.from_bytes(data).decode()
    except ValueError:
        return
    assert found is None or found == Difference([], [])


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(1, 30), st.integers(0, 1 << 32), st.data())
def test_an_altered_cell_is_never_read_as_a_difference_of_its_own(count, seed, data):
    """Bits that were turned on the way are no row: nothing is read that was not put in."""
    items = drawn(random.Random(seed), count)
    raw = bytearray(sketch_of(items, cells_for(count)).to_bytes())
    raw[data.draw(st.integers(20, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert Sketch.from_bytes(bytes(raw)).decode() is None


def test_a_count_made_to_fill_the_memory_is_none():
    """Hostile: a cell that says, with a check hash that fits, that an item is there 2^30 times."""
    sketch = Sketch(40, _SALT)
    sketch._put(item_bytes(drawn(random.Random(1), 1)[0]), 1 << 30)
    assert Sketch.from_bytes(sketch.to_bytes()).decode() is None


def test_cells_made_to_go_round_for_ever_end():
    """Hostile: an item in three of its four cells, so that each reading puts it back elsewhere."""
    sketch, raw = Sketch(40, _SALT), item_bytes(drawn(random.Random(2), 1)[0])
    body, places = sketch._place(raw)
    for place in places[:-1]:
        sketch._cells[place] += body
    assert sketch.decode() is None


@pytest.mark.parametrize("salt", [b"", bytes(15), bytes(17)])
def test_a_salt_of_another_length_is_refused(salt):
    with pytest.raises(ValueError, match="salt"):
        Sketch(10, salt)


def test_unlike_sketches_are_not_compared():
    with pytest.raises(ValueError, match="unlike"):
        Sketch(10, _SALT) - Sketch(20, _SALT)
    with pytest.raises(ValueError, match="unlike"):
        Sketch(10, _SALT) - Sketch(10, bytes(16))


def first_mistake(seeds: range) -> int | None:
    """The first seed with a wrong answer, or with none where it has more than room enough."""
    for seed in seeds:
        chance = random.Random(seed)
        some = drawn(chance, 30)
        one = chance.choices(some, k=chance.randint(0, 40))
        other = chance.choices(some, k=chance.randint(0, 40))
        for cells in (400, 40, 8):
            found = (sketch_of(one, cells) - sketch_of(other, cells)).decode()
            if (found is None and cells == 400) or (found and not is_right(found, one, other)):
                return seed
    return None


def _returns_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Sketch) -> Difference:
        found = Difference([], [])
        for place in range(self.cells):
            read = self._alone(place)
            if read is not None:
                (found.only_a if read[1] > 0 else found.only_b).append(
                    module.item_from_bytes(read[0])
                )
        return found

    monkeypatch.setattr(Sketch, "decode", decode)


def _knows_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Sketch._alone
    monkeypatch.setattr(
        Sketch,
        "_alone",
        lambda self, place: (
            read if (read := honest(self, place)) is not None and abs(read[1]) == 1 else None
        ),
    )


def _checks_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(self: Sketch, place: int) -> tuple[bytes, int] | None:
        cell = self._cells[place]
        times = (cell + module._HALF) >> module.COUNT_SHIFT
        if abs(times) != 1:
            return None
        body = abs(cell) % module._BODY_LIMIT
        return body.to_bytes(module._BODY_BYTES)[: module.ITEM_BYTES], times

    monkeypatch.setattr(Sketch, "_alone", alone)


def _one_table_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of the subtables follow from one hash, so that who meets once meets everywhere."""

    def place(self: Sketch, raw: bytes) -> tuple[int, list[int]]:
        hashed = module.blake2b(raw, digest_size=module._HASHES.size, salt=self.salt).digest()
        position, *_, check = module._HASHES.unpack(hashed)
        at = position * self._width >> 32
        body = module._ONE + int.from_bytes(raw + check, "big")
        return body, [table * self._width + at for table in range(SUBTABLES)]

    monkeypatch.setattr(Sketch, "_place", place)
    monkeypatch.setattr(
        Sketch, "add_raw", lambda self, raws: [self._put(raw, 1) for raw in raws] and None
    )


def _forgets_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Sketch._alone
    monkeypatch.setattr(
        Sketch,
        "_alone",
        lambda self, place: (
            (read[0], abs(read[1])) if (read := honest(self, place)) is not None else None
        ),
    )


_PLANTED = [
    _returns_a_part,
    _knows_no_duplicates,
    _checks_no_hash,
    _one_table_for_all,
    _forgets_the_sign,
]


def test_no_mistake_is_found_where_none_is():
    assert first_mistake(range(60)) is None


@pytest.mark.parametrize("plant", _PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_mistake_is_found(plant, monkeypatch):
    plant(monkeypatch)
    assert first_mistake(range(60)) is not None


def test_a_cell_has_room_for_as_many_items_as_it_says():
    """The count's own bytes end where those of the sum begin, for the largest item there is."""
    most = Item(b"\xff" * 16, (1 << 64) - 1, b"\xff" * 16)
    sketch = Sketch(4, _SALT)
    sketch._put(item_bytes(most), (1 << 31) - 1)
    assert len(sketch.to_bytes()) == 20 + 4 * CELL_BYTES
    sketch.add(most)
    with pytest.raises(OverflowError):
        sketch.to_bytes()
