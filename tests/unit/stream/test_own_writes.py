"""Where somebody else wrote, by the offsets of one's own writes."""

from __future__ import annotations

from deptbus.stream.own_writes import OwnWrites


def test_nothing_is_known_before_the_first_write() -> None:
    assert OwnWrites().others() is None


def test_what_lies_between_own_writes_is_anothers() -> None:
    writes = OwnWrites()
    for stored in (range(7, 8), range(8, 10), range(12, 13), range(14, 15)):
        writes.add(stored)
    assert writes.others() == range(10, 14)
    assert writes.others() is None


def test_what_lies_behind_the_last_write_comes_at_the_next_look() -> None:
    writes = OwnWrites()
    writes.add(range(5, 6))
    assert writes.others() is None
    writes.add(range(8, 9))
    assert writes.others() == range(6, 8)


def test_what_others_wrote_before_is_not_asked_for() -> None:
    writes = OwnWrites()
    writes.add(range(100, 101))
    assert writes.others() is None


def test_a_topic_that_was_made_again_counts_anew() -> None:
    writes = OwnWrites()
    writes.add(range(500, 501))
    assert writes.others() is None
    writes.add(range(3, 4))
    writes.add(range(6, 7))
    assert writes.others() == range(4, 6)
