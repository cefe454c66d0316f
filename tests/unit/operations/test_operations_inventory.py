"""What is told to a source: the highest version of its own keys, and every place."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from wire_samples import SENDER, SOURCE, change

from deptbus.change import Change, Incarnation
from deptbus.operations import inventory
from deptbus.operations.inventory import Holdings, Wait, is_marker_of
from deptbus.operations.requests import REQUEST_SECONDS, Asked
from deptbus.wire.control import (
    Heartbeat,
    Incarnated,
    Inventory,
    InventoryRequest,
    Marker,
    encode_control,
)
from deptbus.wire.digest import record_digest

PLACES = ("330106109051", "330106109052", "330106110")
OTHER = "housing@330106"


def told(*changes: Change) -> list[Inventory]:
    holdings = Holdings(SOURCE)
    for one in changes:
        holdings.add(one)
    return list(holdings.chunks("r", "a", "person", 2))


def one(version: int, place: str, *former: str, record: tuple[bytes, ...] | None = None) -> Change:
    return change(record, version=version, division=place, former_divisions=former)


def test_the_highest_version_wins_wherever_it_lies() -> None:
    newer, older = one(9, PLACES[0], record=(b"new",)), one(3, PLACES[1], record=(b"old",))
    for order in itertools.permutations((newer, older, newer)):
        (chunk,) = told(*order)
        assert chunk.versions == (9,)
        assert chunk.digests == (record_digest("person", 1, (b"new",)),)
        # Whoever had it at the place that only the late send names is not forgotten.
        assert chunk.places == (f"{PLACES[1]},{PLACES[0]}",)


def test_a_deleted_key_has_no_digest() -> None:
    (chunk,) = told(one(1, PLACES[0], record=(b"x",)), one(2, PLACES[1], PLACES[0]))
    assert (chunk.versions, chunk.digests) == ((2,), (b"",))
    assert chunk.places == (f"{PLACES[0]},{PLACES[1]}",)


def test_nobody_is_told_of_the_keys_of_others() -> None:
    foreign = change((b"x",), source_unit=OTHER)
    assert told(foreign) == []
    (chunk,) = told(foreign, one(1, PLACES[0]))
    assert chunk.versions == (1,)


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(PLACES)), min_size=1, max_size=8))
def test_every_place_is_told_and_the_present_one_last(drawn: list[tuple[int, str]]) -> None:
    places = dict(drawn)  # one place a version
    changes = [one(version, places[version]) for version, _ in drawn]
    (chunk,) = told(*changes)
    named = chunk.places[0].split(",")
    assert named[-1] == places[max(places)]
    assert sorted(named) == sorted(set(places.values()))


def test_chunks_are_bounded_and_whole() -> None:
    changes = [replace(one(n, PLACES[0]), key=n.to_bytes(16, "big")) for n in range(1, 2501)]
    chunks = told(*changes)
    assert [len(c.keys) for c in chunks] == [1000, 1000, 500]
    assert {v for c in chunks for v in c.versions} == set(range(1, 2501))
    assert all(len(encode_control(c)) < 100_000 for c in chunks)
    far = tuple(f"{n:012d}" for n in range(5000))
    moved = [replace(c, former_divisions=far) for c in changes[:100]]
    chunks = told(*moved)
    assert sum(len(c.keys) for c in chunks) == 100
    assert all(len(encode_control(c)) < 2 * inventory._CHUNK_PLACES_BYTES for c in chunks)


def test_the_marker_of_a_request_is_that_of_its_moment_and_no_older_one() -> None:
    asked = InventoryRequest("r", SOURCE, "main", SENDER, ("person",), 7)
    marker = Marker("resync/main/1", "resync", SOURCE, "main", SENDER, 7)
    assert is_marker_of(asked, marker)
    for other in (
        replace(marker, sent_at_us=6),  # of what the same incarnation asked before
        replace(marker, kind="cut"),
        replace(marker, unit=OTHER),
        replace(marker, system="other"),
        replace(marker, incarnation=Incarnation(SENDER.number, b"87654321")),
    ):
        assert not is_marker_of(asked, other)


class TestWait:
    """The partition and the outbox ended at 10 when the wait of 5 seconds began."""

    async def seconds(self, *moves: tuple[float, int | None, int]) -> float:
        """How long it goes on: at each of these moments a record was read (its offset; None: none),
        and intake had committed so far from then on."""
        now, committed = 0.0, 0

        async def taken_in() -> int:
            return committed

        wait = Wait(10, 10, taken_in, 5.0, lambda: now)
        left = list(moves)
        while await wait.goes_on():
            now += 0.5
            while left and left[0][0] <= now:
                _, offset, committed = left.pop(0)
                if offset is not None:
                    wait.read(offset)
        return now

    async def test_nothing_comes(self) -> None:
        assert await self.seconds() == 5

    async def test_what_lay_there_is_read_for_as_long_as_it_takes(self) -> None:
        slowly = [(4.0 * n, n, 0) for n in range(1, 10)]
        assert await self.seconds(*slowly) == 36 + 5

    async def test_what_came_since_is_no_sign(self) -> None:
        assert await self.seconds(*[(float(n), 9 + n, 0) for n in range(1, 100)]) == 5

    async def test_intake_comes_nearer(self) -> None:
        assert await self.seconds((4.0, None, 1), (9.0, None, 2)) == 15

    async def test_intake_is_beyond_what_was_sent_before(self) -> None:
        beyond = [(float(n), None, 9 + n) for n in range(1, 100)]
        assert await self.seconds(*beyond) == 10


class TestAsked:
    request = InventoryRequest("r", SOURCE, "main", SENDER, ("person",), 1)
    system = (SOURCE, "main")

    def test_a_request_stands_until_it_is_taken_back(self) -> None:
        asked = Asked()
        asked.take(SOURCE, self.request, 100.0)
        assert asked.standing(101.0) == {self.system: self.request}
        asked.take(SOURCE, replace(self.request, datasets=()), 102.0)
        assert asked.standing(103.0) == {}

    def test_a_younger_adapter_ends_it(self) -> None:
        younger = Incarnation(SENDER.number + 1, b"87654321")
        for record in (
            Incarnated(SOURCE, "main", younger, (1,), ""),
            Heartbeat(SOURCE, "main", younger, 1, 1, 1, (1,), "", False, 0, 1),
        ):
            asked = Asked()
            asked.take(SOURCE, record, 100.0)  # compaction may leave them in any order
            asked.take(SOURCE, self.request, 100.0)
            assert asked.standing(101.0) == {}

    def test_other_systems_and_older_adapters_do_not(self) -> None:
        asked = Asked()
        asked.take(SOURCE, self.request, 100.0)
        older = Incarnation(SENDER.number - 1, b"87654321")
        asked.take(SOURCE, Incarnated(SOURCE, "main", older, (1,), ""), 100.0)
        younger = Incarnation(SENDER.number + 1, b"87654321")
        asked.take(SOURCE, Incarnated(SOURCE, "other", younger, (1,), ""), 100.0)
        assert asked.standing(101.0) == {self.system: self.request}

    def test_an_old_one_is_not_answered(self) -> None:
        asked = Asked()
        asked.take(SOURCE, self.request, 100.0)
        assert asked.standing(100.0 + REQUEST_SECONDS) == {}

    def test_nobody_asks_for_another_unit(self) -> None:
        asked = Asked()
        asked.take(OTHER, self.request, 100.0)
        assert asked.standing(101.0) == {}
