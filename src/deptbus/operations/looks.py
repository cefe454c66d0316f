"""Looks into partitions for the first record that a reader has not read, once for each.

Offsets do not say whether there is a record: transaction markers, aborted records and what
compaction took are none. So one consumer is put where the reader stands and reads until it meets a
record or the end. What it met is remembered until the reader has passed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from deptbus.operations.lag import Look

log = structlog.get_logger(__name__)

AT_ONCE = 256  # partitions: with PARTITION_BYTES each it bounds the memory
PARTITION_BYTES = 64 * 1024
FETCH_BYTES = 8 * 1024 * 1024
COUNTED_OFFSETS = 1_000  # so far behind at the most, records are counted one by one
_POLL_MS = 200


class Wanted(NamedTuple):
    """From where to look, and up to where."""

    origin: int
    end: int


class Looks:
    """Owns nothing: the consumer is the caller's, reads committed records only, and is assigned
    here. Calls do not overlap."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._known: dict[tuple[str, int], dict[int, Look]] = {}  # by the position asked for
        self._forbidden: set[str] = set()  # topics that may be listed and not read

    def known(self, topic: str, partition: int, position: int, end: int) -> Look | None:
        """What is remembered, where it says enough."""
        for look in self._known.get((topic, partition), {}).values():
            if look.tells(position) and (look.first is not None or look.upto >= end):
                return look
        return None

    def forget(self, topic: str) -> None:
        """The topic was made again."""
        for spot in [spot for spot in self._known if spot[0] == topic]:
            del self._known[spot]

    def keep_only(self, positions: Mapping[tuple[str, int], Iterable[int]]) -> None:
        """Forgets what no reader that stands at one of these positions needs any more."""
        for spot, looks in list(self._known.items()):
            kept = {
                origin: look
                for origin, look in looks.items()
                if any(look.tells(position) for position in positions.get(spot, ()))
            }
            if kept:
                self._known[spot] = kept
            else:
                del self._known[spot]

    async def look(self, wanted: Mapping[tuple[str, int], Wanted], seconds: float) -> None:
        """Looks as far as the time goes; what was not reached is known at a later call. One
        position a partition."""
        deadline = asyncio.get_running_loop().time() + seconds
        spots = list(wanted)
        for at in range(0, len(spots), AT_ONCE):
            some, forbidden = spots[at : at + AT_ONCE], -1
            # Again without a topic that turned out to be forbidden: its neighbours are not.
            while len(self._forbidden) > forbidden:
                if asyncio.get_running_loop().time() > deadline:
                    return
                forbidden = len(self._forbidden)
                allowed = {s: wanted[s] for s in some if s[0] not in self._forbidden}
                if allowed:
                    await self._read(allowed, deadline)

    def _going_on(self, spot: tuple[str, int], wanted: Wanted) -> Look:
        """Where a look for this position stands: a range without records is not read twice."""
        for look in self._known.get(spot, {}).values():
            if look.first is None and look.tells(wanted.origin):
                return look
        return Look(wanted.origin, wanted.origin)

    async def _read(self, wanted: Mapping[tuple[str, int], Wanted], deadline: float) -> None:
        consumer = self._consumer
        looks = {TopicPartition(*spot): self._going_on(spot, wanted[spot]) for spot in wanted}
        ends = {place: wanted[place].end for place in looks}
        try:
            consumer.assign(list(looks))
            for place, look in looks.items():
                consumer.seek(place, look.upto)
            left = {place for place in looks if looks[place].upto < ends[place]}
            while left and asyncio.get_running_loop().time() < deadline:
                found = await consumer.getmany(*left, timeout_ms=_POLL_MS)
                for place in list(left):
                    position = await consumer.position(place)
                    records = found.get(place, ())
                    looks[place] = _further(looks[place], records, position, ends[place])
                    if _is_enough(looks[place], ends[place]):
                        left.discard(place)
                        consumer.pause(place)
        except TopicAuthorizationFailedError as error:
            self._forbidden.add(str(error.args[0]))
            log.warning("topic_unreadable", topic=str(error.args[0]))
        except (KafkaError, OSError, TimeoutError) as error:
            # The broker went away in the midst: what was not seen stays unknown, and is told so.
            log.debug("looks_interrupted", error=type(error).__name__)
        for place, look in looks.items():
            if look.upto > look.origin:
                self._known.setdefault((place.topic, place.partition), {})[look.origin] = look


def _further(look: Look, records: Sequence[ConsumerRecord], position: int, end: int) -> Look:
    """The look with what one poll gave, up to where the consumer stands now, and never beyond the
    end that was asked for: what came since is another look's."""
    within = [record for record in records if record.offset < end]
    if within and look.first is None:
        look = look._replace(first=within[0].offset, first_ms=_written(within[0]))
    upto = max(look.upto, min(position, end))
    return look._replace(upto=upto, records=look.records + len(within))


def _written(record: ConsumerRecord) -> int | None:
    """Producers of old versions give no time, which Kafka tells as -1."""
    time_ms = int(record.timestamp)
    return time_ms if time_ms >= 0 else None


def _is_enough(look: Look, end: int) -> bool:
    """The end is reached; or a record was met, and the rest is too long to be counted."""
    return look.upto >= end or (look.first is not None and end - look.origin > COUNTED_OFFSETS)
