"""Searches end in time and keep a bounded number of bytes, and say when they saw not all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from deptbus.connection import Connection
from deptbus.operations import search
from deptbus.operations.search import deadline_in, each_of_keys, find_key, read_places
from deptbus.stream.log import LogRecord

BUS = Connection(bootstrap="127.0.0.1:1")
KEY, OTHER = b"k" * 16, b"o" * 16


class Log:
    """One partition, read in batches of ten; `stands` after so many offsets, as a dead broker."""

    def __init__(self, *keys: bytes, value: bytes = b"v", stands: int | None = None) -> None:
        self.records = [LogRecord("t", 0, n, n, key, value) for n, key in enumerate(keys)]
        self.stands, self.starts, self.closed = stands, list[int](), 0

    async def scan(
        self, connection: Connection, topic: str, *, partitions: Any, from_offsets: Mapping
    ) -> AsyncIterator[list[LogRecord]]:
        start = from_offsets[0]
        self.starts.append(start)
        try:
            while start < len(self.records):
                if self.stands is not None and start >= self.stands:
                    await asyncio.Event().wait()
                yield self.records[start : start + 10]
                start += 10
        finally:
            self.closed += 1


@pytest.fixture
def log_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*keys: bytes, **more: Any) -> Log:
        log = Log(*keys, **more)
        monkeypatch.setattr(search, "scan_to_end", log.scan)
        return log

    return make


async def test_the_records_of_a_key_are_found_and_no_others(log_of: Any) -> None:
    log_of(*(KEY if n % 7 == 0 else OTHER for n in range(50)))
    found = await find_key(BUS, "t", 0, KEY, deadline=deadline_in(5), from_offset=3)
    assert found.is_whole
    assert [r.offset for r in found.records] == [7, 14, 21, 28, 35, 42, 49]


async def test_a_search_ends_at_its_deadline_and_keeps_what_it_found(log_of: Any) -> None:
    log = log_of(*[KEY] * 50, stands=20)
    found = await find_key(BUS, "t", 0, KEY, deadline=deadline_in(0.05))
    assert (len(found.records), found.is_whole) == (20, False)
    assert log.closed == 1


@pytest.mark.parametrize(("value", "most", "size"), [(b"v", 5, 1000), (b"v" * 100, 1000, 500)])
async def test_what_is_kept_of_a_key_is_bounded(
    log_of: Any, monkeypatch: pytest.MonkeyPatch, value: bytes, most: int, size: int
) -> None:
    monkeypatch.setattr(search, "MOST", most)
    monkeypatch.setattr(search, "_BYTES", size)
    log = log_of(*[KEY] * 50, value=value)
    found = await find_key(BUS, "t", 0, KEY, deadline=deadline_in(5))
    assert (len(found.records), found.is_whole) == (5, False)
    assert log.closed == 1


async def test_each_of_many_keys_is_given_and_none_is_kept(log_of: Any) -> None:
    log_of(KEY, OTHER, b"x" * 16, KEY)
    given: list[int] = []

    def take(record: LogRecord) -> bool:
        given.append(record.offset)
        return True

    assert await each_of_keys(BUS, "t", 0, {KEY, OTHER}, take, deadline=deadline_in(5))
    assert given == [0, 1, 3]


async def test_places_far_apart_are_sought_and_near_ones_read_in_one_go(log_of: Any) -> None:
    log = log_of(*[KEY] * 12_000)
    found = await read_places(BUS, "t", 0, [11_999, 3, 40], deadline=deadline_in(5))
    assert [r.offset for r in found.records] == [3, 40, 11_999]
    assert log.starts == [3, 11_999]


async def test_places_that_are_gone_are_left_out(log_of: Any) -> None:
    log_of(*[KEY] * 10)
    found = await read_places(BUS, "t", 0, [2, 99], deadline=deadline_in(5))
    assert [r.offset for r in found.records] == [2]
    assert found.is_whole
