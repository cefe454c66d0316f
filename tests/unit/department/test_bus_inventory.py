"""Parts of an answer: whole, or told why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deptbus.department.bus_inventory import Part, Parts
from deptbus.department.comparison import Held
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.wire.control import Inventory, InventoryEnd

KEYS = tuple(bytes([n]) * 16 for n in range(3))
CHUNK = Inventory(
    "r", "one", "person", 0, KEYS, (5, 6, 7), (b"a" * 16, b"", b"c" * 16), ("33", "33,3301", "33")
)
END = InventoryEnd("r", "one", "person", 0, 4, 3, "")
HELD = {
    KEYS[0]: Held(5, b"a" * 16, ("33",)),
    KEYS[1]: Held(6, b"", ("33", "3301")),
    KEYS[2]: Held(7, b"c" * 16, ("33",)),
}


def taken(*records: Inventory | InventoryEnd) -> list[Part]:
    parts = Parts("r")
    return [part for record in records if (part := parts.take(record)) is not None]


def test_a_whole_part() -> None:
    (part,) = taken(replace(CHUNK, keys=(), versions=(), digests=(), places=()), CHUNK, END)
    assert (part.dataset, part.partition, part.partitions) == ("person", 0, 4)
    assert part.held == HELD


def test_an_empty_part() -> None:
    (part,) = taken(replace(END, keys=0))
    assert part.held == {}


@pytest.mark.parametrize("records", [(END,), (CHUNK, replace(END, keys=4)), (CHUNK, CHUNK, END)])
def test_a_part_with_a_hole_is_noticed(records: tuple[Inventory | InventoryEnd, ...]) -> None:
    with pytest.raises(BusUnreachable, match="keys of person"):
        taken(*records)


def test_what_others_asked_is_passed_over() -> None:
    other = replace(CHUNK, request="q"), replace(END, request="q")
    assert taken(*other) == []
    (part,) = taken(CHUNK, *other, END)
    assert part.held == HELD


def test_an_attempt_that_was_broken_off_is_forgotten() -> None:
    again, end = replace(CHUNK, answer="two"), replace(END, answer="two")
    (part,) = taken(CHUNK, again, CHUNK, END, end)
    assert part.held == HELD


def test_a_part_counts_once() -> None:
    """Whoever takes over from one that died begins anew."""
    begun = [CHUNK, END, replace(CHUNK, partition=1)]
    again = [
        replace(record, answer="two", partition=partition)
        for partition in (0, 1)
        for record in (CHUNK, END)
    ]
    assert [part.partition for part in taken(*begun, *again)] == [0, 1]


def test_operations_that_cannot_tell() -> None:
    with pytest.raises(BusRefused, match="person: the marker"):
        taken(CHUNK, replace(END, problem="the marker did not come"))
