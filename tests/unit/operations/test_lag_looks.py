"""Looking for the first unread record: once, up to the end, and round what is forbidden."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from deptbus.operations import looks as module
from deptbus.operations.lag import Look
from deptbus.operations.looks import Looks, Wanted

SPOT = ("orders", 0)


class Record(NamedTuple):
    offset: int
    timestamp: int


class Consumer:
    """Reads committed records of logs in memory; between them there may be gaps."""

    def __init__(self, **logs: list[int]) -> None:
        """Topic -> offsets of records in its one partition; a log ends at offset 100."""
        self.logs = logs
        self.at: dict[TopicPartition, int] = {}
        self.forbidden: set[str] = set()
        self.is_away = False
        self.polls = 0

    def assign(self, places: Iterable[TopicPartition]) -> None:
        self.at = dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at[place] = offset

    def pause(self, place: TopicPartition) -> None: ...

    async def position(self, place: TopicPartition) -> int:
        return self.at[place]

    async def getmany(self, *places: TopicPartition, **_: Any) -> dict[Any, list[Record]]:
        self.polls += 1
        if self.is_away:
            raise KafkaConnectionError
        for place in places:
            if place.topic in self.forbidden:
                raise TopicAuthorizationFailedError(place.topic)
        found = {}
        for place in places:
            there = [o for o in self.logs[place.topic] if o >= self.at[place]]
            found[place] = [Record(offset, offset * 1000) for offset in there[:10]]
            self.at[place] = there[10] if len(there) > 10 else 100
        return found


def looking(**logs: list[int]) -> tuple[Looks, Consumer]:
    consumer: Any = Consumer(**logs)
    return Looks(consumer), consumer


async def test_the_first_record_and_how_many_there_are():
    looks, consumer = looking(orders=[3, 7, 8, 12])
    await looks.look({SPOT: Wanted(5, 100)}, 5)
    assert looks.known(*SPOT, 5, 100) == Look(5, 100, 7, 7000, 3)
    assert looks.known(*SPOT, 7, 100) == Look(5, 100, 7, 7000, 3)  # nothing lay between
    assert looks.known(*SPOT, 8, 100) is None
    assert consumer.polls == 1


async def test_what_came_behind_the_end_is_not_counted():
    looks, _ = looking(orders=[3, 7, 8, 12])
    await looks.look({SPOT: Wanted(0, 8)}, 5)
    assert looks.known(*SPOT, 0, 8) == Look(0, 8, 3, 3000, 2)


async def test_a_range_without_records_is_read_once():
    looks, consumer = looking(orders=[90])
    await looks.look({SPOT: Wanted(5, 50)}, 5)
    assert looks.known(*SPOT, 5, 50) == Look(5, 50)
    assert looks.known(*SPOT, 5, 95) is None  # more came
    await looks.look({SPOT: Wanted(5, 95)}, 5)
    assert looks.known(*SPOT, 5, 95) == Look(5, 95, 90, 90_000, 1)
    assert consumer.polls == 2


async def test_far_behind_the_first_record_is_enough(monkeypatch):
    monkeypatch.setattr(module, "COUNTED_OFFSETS", 20)
    looks, consumer = looking(orders=list(range(100)))
    await looks.look({SPOT: Wanted(0, 100)}, 5)
    look = looks.known(*SPOT, 0, 100)
    assert look is not None
    assert (look.first, look.upto) == (0, 10)
    assert consumer.polls == 1


async def test_a_forbidden_topic_hides_nobody_else():
    looks, consumer = looking(orders=[3], secret=[4], others=[5])
    consumer.forbidden = {"secret"}
    wanted = {(topic, 0): Wanted(0, 100) for topic in ("orders", "secret", "others")}
    await looks.look(wanted, 5)
    assert looks.known("orders", 0, 0, 100) is not None
    assert looks.known("others", 0, 0, 100) is not None
    assert looks.known("secret", 0, 0, 100) is None


async def test_a_broker_that_goes_away_leaves_it_unknown():
    looks, consumer = looking(orders=[3])
    consumer.is_away = True
    await looks.look({SPOT: Wanted(0, 100)}, 5)
    assert looks.known(*SPOT, 0, 100) is None
    consumer.is_away = False
    await looks.look({SPOT: Wanted(0, 100)}, 5)
    assert looks.known(*SPOT, 0, 100) is not None


async def test_without_time_nothing_is_read():
    looks, consumer = looking(orders=[3])
    await looks.look({SPOT: Wanted(0, 100)}, -1)
    assert consumer.polls == 0


async def test_what_the_reader_has_passed_is_forgotten():
    looks, _ = looking(orders=[3, 7])
    await looks.look({SPOT: Wanted(0, 100)}, 5)
    looks.keep_only({SPOT: {2}})
    assert looks.known(*SPOT, 2, 100) is not None
    looks.keep_only({SPOT: {4}})
    assert looks.known(*SPOT, 2, 100) is None
    await looks.look({SPOT: Wanted(0, 100)}, 5)
    looks.forget("orders")
    assert looks.known(*SPOT, 0, 100) is None


async def test_a_record_that_bears_no_time():
    assert module._written(Record(1, -1)) is None  # type: ignore[arg-type]
    assert module._written(Record(1, 0)) == 0  # type: ignore[arg-type]
