"""What a recipient has parked, told to the bus row by row; and what became of those that the data
office asked to have tried again.

The rows lie in the department's own database, which nobody else opens. So the list is told whenever
it changed, and once a minute while there are any, so that it is met a little before the end of
`control.<unit>`. An adapter that ends in the midst of a retry leaves its rows due in the database:
they are tried all the same, and the list says what came of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from deptbus.change import Incarnation
from deptbus.department.ledger import ParkedRow
from deptbus.department.store import Applied
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import control_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import ParkedList, ParkedRetried, encode_control, key_of

log = structlog.get_logger(__name__)

LISTED_ROWS = 500  # at 900 bytes each, the most that names and reasons take, half a record's cap
TELL_SECONDS = 2.0
AGAIN_SECONDS = 60.0  # a list that did not change is told anew while it is not empty
_RETRIES = 100  # whose outcome waits to be told, while the bus does not take it


@dataclass(slots=True)
class Retry:
    """One request: `rows` were made due at `due_us`, which no others are."""

    request: str
    due_us: int
    rows: int
    written: int = 0
    still_parked: int = 0
    is_done: bool = False


class ParkedBook:
    """What one applier knows of its parked rows, and what of that the bus was told."""

    def __init__(self) -> None:
        self.listed_at = float("-inf")  # by time.monotonic()
        self.news = asyncio.Event()
        self._list: tuple[int, tuple[ParkedRow, ...]] | None = None  # rows in all, and the oldest
        self._told: tuple[int, tuple[ParkedRow, ...]] | None = None
        self._told_at = float("-inf")
        self._retries: dict[str, Retry] = {}
        self._untold: dict[str, Retry] = {}

    def take_list(self, rows: int, oldest: Sequence[ParkedRow], now: float) -> None:
        self._list, self.listed_at = (rows, tuple(oldest)), now
        if self._list != self._told:
            self.news.set()

    def begin(self, retry: Retry) -> None:
        """A request that is met once more, because the adapter ended meanwhile, begins anew."""
        self._retries[retry.request] = retry
        self._say(retry)

    def take(self, applied: Applied, next_retry_us: int | None) -> bool:
        """After a batch; `next_retry_us`: when the next parked row is due. Whether a retry came to
        its end by it."""
        ended = False
        for retry in list(self._retries.values()):
            retry.written += applied.retried[retry.due_us, True]
            retry.still_parked += applied.retried[retry.due_us, False]
            if next_retry_us is None or next_retry_us > retry.due_us:
                # None of them is due any more: what was not tried was overtaken.
                retry.is_done = ended = True
                del self._retries[retry.request]
                self._say(retry)
        return ended

    @property
    def is_retrying(self) -> bool:
        return bool(self._retries)

    def _say(self, retry: Retry) -> None:
        self._untold[retry.request] = retry
        for request in list(self._untold)[:-_RETRIES]:
            del self._untold[request]
        self.news.set()

    def untold_list(self, now: float) -> tuple[int, tuple[ParkedRow, ...]] | None:
        """What is to be told of the rows now, if anything."""
        if self._list is None:
            return None
        is_old = self._list[0] > 0 and now - self._told_at > AGAIN_SECONDS
        return self._list if is_old or self._list != self._told else None

    def tell_list(self, told: tuple[int, tuple[ParkedRow, ...]], now: float) -> None:
        """This lies on the bus now."""
        self._told, self._told_at = told, now

    def untold_retries(self) -> list[Retry]:
        return list(self._untold.values())

    def tell_retries(self, told: Iterable[tuple[Retry, bool]]) -> None:
        """These were told as being done, or not."""
        for retry, was_done in told:
            if retry.is_done == was_done:
                self._untold.pop(retry.request, None)


async def tell_parked(
    sender: Sender, unit: str, system: str, incarnation: Incarnation, book: ParkedBook
) -> None:
    """Until cancelled. What cannot be told now is told later: it is said once."""
    said = False
    while True:
        book.news.clear()
        now, now_us = time.monotonic(), time.time_ns() // 1000
        rows, retries = book.untold_list(now), [(r, r.is_done) for r in book.untold_retries()]
        told: list[ParkedList | ParkedRetried] = [
            _retried(unit, system, incarnation, retry, now_us) for retry, _ in retries
        ]
        if rows is not None:
            told.append(_list(unit, system, incarnation, *rows, now_us))
        records = [Outgoing(control_topic(unit), 0, key_of(r), encode_control(r)) for r in told]
        try:
            if records:
                await sender.send(records)
            book.tell_retries(retries)
            if rows is not None:
                book.tell_list(rows, now)
            said = False
        except (BusUnreachable, BusRefused) as error:
            if not said:
                log.warning("parked_not_told", unit=unit, system=system, error=error.what)
            said = True
            await asyncio.sleep(TELL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_SECONDS):
                await book.news.wait()


def _list(
    unit: str,
    system: str,
    incarnation: Incarnation,
    rows: int,
    oldest: Sequence[ParkedRow],
    now_us: int,
) -> ParkedList:
    return ParkedList(
        unit,
        system,
        incarnation,
        rows,
        tuple(row.dataset for row in oldest),
        tuple(row.source_unit for row in oldest),
        tuple(row.key for row in oldest),
        tuple(row.version for row in oldest),
        tuple(row.reason for row in oldest),
        tuple(row.parked_at_us for row in oldest),
        tuple(row.attempts for row in oldest),
        now_us,
    )


def _retried(
    unit: str, system: str, incarnation: Incarnation, retry: Retry, now_us: int
) -> ParkedRetried:
    return ParkedRetried(
        unit,
        system,
        incarnation,
        retry.request,
        retry.rows,
        retry.written,
        retry.still_parked,
        retry.is_done,
        now_us,
    )
