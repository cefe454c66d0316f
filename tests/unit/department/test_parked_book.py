"""What a recipient tells of its parked rows: news at once, the same list once a minute."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from deptbus.change import Incarnation
from deptbus.department import parked
from deptbus.department.ledger import REASON_LETTERS, ParkedRow
from deptbus.department.parked import (
    AGAIN_SECONDS,
    LISTED_ROWS,
    ParkedBook,
    Retry,
    tell_parked,
)
from deptbus.department.store import Applied
from deptbus.errors import BusUnreachable
from deptbus.stream.log import Outgoing
from deptbus.wire.control import ParkedList, ParkedRetried, decode_control, encode_control
from deptbus.wire.guard import MAX_RECORD_BYTES

ME = Incarnation(1, b"\1" * 8)
UNIT = "housing@330106"
ROW = ParkedRow("person", "police@330106", bytes(16), 4, "CHECK [x]", 1, 1)


class Wire:
    """A sender that keeps what it is given; `away`: it can not."""

    def __init__(self) -> None:
        self.sent: list[ParkedList | ParkedRetried] = []
        self.away = False

    async def send(self, records: Sequence[Outgoing]) -> None:
        if self.away:
            raise BusUnreachable("away")
        self.sent += [decode_control(record.value) for record in records]  # type: ignore[misc]

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:  # noqa: ASYNC110 - told from another task
                await asyncio.sleep(0.001)


def applied(*retried: tuple[int, bool]) -> Applied:
    return Applied(retried=Counter(retried))


def test_a_list_is_told_when_it_changed_and_anew_while_it_is_not_empty() -> None:
    book = ParkedBook()
    assert book.untold_list(0) is None  # not known yet, which is not none
    book.take_list(0, (), 0)
    told = book.untold_list(0)
    assert told == (0, ())  # once: the bus may still know of rows from before
    book.tell_list(told, 0)
    assert book.untold_list(10 * AGAIN_SECONDS) is None
    book.take_list(9, [ROW], 1)
    told = book.untold_list(1)
    assert told == (9, (ROW,))
    book.tell_list(told, 1)
    assert book.untold_list(AGAIN_SECONDS) is None
    assert book.untold_list(2 + AGAIN_SECONDS) == (9, (ROW,))
    book.take_list(9, [ROW._replace(attempts=2)], 3)
    assert book.untold_list(3) is not None


def test_a_retry_ends_when_none_of_its_rows_is_due_any_more() -> None:
    book = ParkedBook()
    book.begin(Retry("r1", 100, 5))
    book.begin(Retry("r2", 101, 1))
    assert not book.take(applied((100, True), (100, True), (100, False), (7, True)), 100)
    assert book.is_retrying
    assert book.take(applied((100, False)), 101)  # the fifth was overtaken by a newer delivery
    (first, second) = book.untold_retries()
    assert (first.request, first.written, first.still_parked, first.is_done) == ("r1", 2, 2, True)
    assert (second.request, second.is_done) == ("r2", False)
    assert book.take(applied((101, True)), None)
    assert not book.is_retrying
    assert (second.written, second.is_done) == (1, True)


def test_what_became_news_while_it_was_told_is_told_again() -> None:
    book = ParkedBook()
    book.begin(Retry("r1", 100, 1))
    told = [(retry, retry.is_done) for retry in book.untold_retries()]
    book.take(applied((100, True)), None)
    book.tell_retries(told)
    assert [retry.is_done for retry in book.untold_retries()] == [True]


def test_what_waits_for_a_bus_that_is_away_is_bounded() -> None:
    book = ParkedBook()
    for number in range(1000):
        book.begin(Retry(str(number), number, 0))
        book.take(applied(), None)
    assert len(book.untold_retries()) == parked._RETRIES


async def test_a_bus_that_was_away_hears_it_later() -> None:
    book, wire = ParkedBook(), Wire()
    wire.away = True
    book.take_list(9, [ROW], 1)
    telling = asyncio.create_task(tell_parked(wire, UNIT, "main", ME, book))  # type: ignore[arg-type]
    try:
        await asyncio.sleep(0)
        wire.away = False
        await wire.has(1)
        book.begin(Retry("r1", 100, 1))
        await wire.has(2)
        book.take(applied((100, False)), 200)
        await wire.has(3)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    listed, begun, ended = wire.sent
    assert isinstance(listed, ParkedList)
    assert (listed.rows, listed.keys, listed.reasons) == (9, (ROW.key,), (ROW.reason,))
    assert isinstance(begun, ParkedRetried)
    assert isinstance(ended, ParkedRetried)
    assert (begun.is_done, begun.rows) == (False, 1)
    assert (ended.is_done, ended.still_parked) == (True, 1)


def test_the_longest_list_there_can_be_fits_a_record() -> None:
    name = "a" * 40
    row = ParkedRow(
        name, f"{name}@330106109051", bytes(16), 2**62, "字" * REASON_LETTERS, 2**62, 2**31
    )
    worst = parked._list(UNIT, name, ME, 10**9, [row] * LISTED_ROWS, 2**62)
    assert len(encode_control(worst)) < MAX_RECORD_BYTES / 2
