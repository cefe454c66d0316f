"""What retention took of an inbox is told, in every partition, and told right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from deptbus.connection import Connection
from deptbus.department.inbox import Inbox
from deptbus.department.store import Position
from deptbus.errors import SourceRefused
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs

CONNECTION = Connection(bootstrap="127.0.0.1:1")


class Consumer:
    """Of an inbox with these first and last offsets by partition."""

    def __init__(self, kept: Mapping[int, tuple[int, int]]) -> None:
        self.kept = kept
        self.sought: dict[int, int] = {}

    async def beginning_offsets(self, places: Collection[TopicPartition]) -> dict[Any, int]:
        return {place: self.kept[place.partition][0] for place in places}

    async def end_offsets(self, places: Collection[TopicPartition]) -> dict[Any, int]:
        return {place: self.kept[place.partition][1] for place in places}

    def assign(self, places: Collection[TopicPartition]) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.sought[place.partition] = offset


async def seek(
    kept: Mapping[int, tuple[int, int]],
    stands: Mapping[int, int],
    fresh: Collection[str] = (),
    read_before: Mapping[int, int] | None = None,
) -> tuple[dict[int, int], dict[int, int], list[tuple[str, int, int]]]:
    """(where reading goes on, what is returned, (event, partition, deliveries) of what is told)."""
    inbox = Inbox(
        CONNECTION, "audit@330106", "main", Codecs(), SchemaFollower(CONNECTION, Codecs())
    )
    consumer = Consumer(kept)
    inbox._consumer = consumer  # type: ignore[assignment]
    inbox._places = [TopicPartition(inbox.topic, n) for n in kept]
    with capture_logs() as said:
        begins = await inbox.seek(
            {n: Position(at, {}) for n, at in stands.items()}, fresh=fresh, read_before=read_before
        )
    told = [(line["event"], line["partition"], line["deliveries"]) for line in said]
    return consumer.sought, begins, told


async def test_what_is_gone_in_a_partition_that_had_nothing_before_is_lost() -> None:
    sought, begins, told = await seek({0: (5, 9), 1: (3, 3), 2: (0, 4)}, {0: 7, 1: 0, 2: 0})
    assert sought == {0: 7, 1: 3, 2: 0}
    assert told == [("inbox_lost", 1, 3)]
    assert begins == {}


async def test_what_is_gone_behind_what_was_read_is_lost() -> None:
    sought, _, told = await seek({0: (5, 9)}, {0: 2})
    assert sought == {0: 5}
    assert told == [("inbox_lost", 0, 3)]


async def test_an_inbox_that_is_read_for_the_first_time_begins_late() -> None:
    sought, begins, told = await seek({0: (5, 9), 1: (0, 4)}, {0: 0, 1: 0}, {"resident"})
    assert sought == {0: 5, 1: 0}
    assert told == [("inbox_begins_late", 0, 5)]
    assert begins == {0: 5}


async def test_another_dataset_does_not_hide_what_those_before_it_lost() -> None:
    sought, begins, told = await seek(
        {0: (5, 9), 1: (5, 9), 2: (5, 9)},
        {0: 0, 1: 0, 2: 0},
        {"house"},
        {0: 2, 1: 0, 2: 8},
    )
    assert sought == {0: 5, 1: 5, 2: 5}
    assert told == [
        ("inbox_lost", 0, 3),
        ("inbox_begins_late", 0, 5),
        ("inbox_lost", 1, 5),
        ("inbox_begins_late", 1, 5),
        ("inbox_begins_late", 2, 5),
    ]
    assert begins == {0: 5, 1: 5, 2: 5}


async def test_an_inbox_that_ends_before_what_was_applied_is_refused() -> None:
    with pytest.raises(SourceRefused, match="rebuilt topic"):
        await seek({0: (0, 3)}, {0: 4})
