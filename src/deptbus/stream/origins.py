"""Notices topics that were deleted and made again: they have the name of before and another id.

A worker's committed offset counts records of one topic; in another one of the same name it would
skip as many. So each commit names its origin (the id of the topic that is read and, at an outbox,
those of the canonical topics that it feeds), and an offset of another origin counts for nothing:
the topic is read from its beginning. What is taken in or delivered twice changes nothing.

1. An outbox made again is read whole; so is one whose canonical topic was made again: changes that
   were lost there before they were routed lie in the outbox still, and so do those that replays and
   new recipients will need, as far back as its retention goes.
2. What is older than that, only the sources know: the operations process asks them for all that
   they have (`operations/canonicals.py`). For an outbox they are to resync, and that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

import structlog

from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.names import SCHEMAS, data_topic, in_topic, out_topic
from deptbus.stream.brokers import consumer_of
from deptbus.stream.identity import topic_ids

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
_SHORT = 8  # characters of an id: told apart are the few that ever had one name

RESYNC_UNIT = "Run `deptbus department resync` at {unit}, and start its adapter again"
ASKED_FOR = (
    "Nothing where `deptbus operations run` runs: it asks every unit that publishes {dataset} for "
    "all its records. Else run `deptbus department resync` at each, and start its adapter again"
)
REJOIN = "Run `deptbus department rejoin` at {unit}, and start its adapter again"
WRITTEN_AGAIN = "Nothing: the schemas are written again"


class Origins:
    """The ids of a contract's topics as they were when this worker started."""

    def __init__(self, contract: Contract, ids: Mapping[str, str]) -> None:
        self._ids = dict(ids)
        self._mends = _mends(contract)
        self._texts: dict[str, str] = {}
        for unit in contract.units:
            fed = [d for d in contract.datasets if contract.may_publish(unit.unit, d)]
            named = [out_topic(unit.unit), *map(data_topic, sorted(fed))]
            self._texts[named[0]] = _text(named, self._ids)
        for dataset in contract.datasets:
            topic = data_topic(dataset)
            self._texts[topic] = _text([topic], self._ids)
        self._told: set[str] = set()

    @property
    def topics(self) -> list[str]:
        return list(self._mends)

    def text(self, topic: str) -> str:
        """What a commit of this topic bears."""
        return self._texts.get(topic, "")

    def is_ours(self, topic: str, committed: str) -> bool:
        """Whether an offset with this text counts records of the topic as it is now. Says so once
        where it does not."""
        others = other_origins(committed, self.text(topic))
        for other in others:
            self._tell(other)
        return not others

    def changed(self, ids: Mapping[str, str]) -> bool:
        """Whether one of the topics is another one than at the start; says which."""
        others = [t for t, known in self._ids.items() if ids.get(t, known) != known]
        for topic in others:
            self._tell(topic)
        return bool(others)

    def _tell(self, topic: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            log.error("topic_made_again", topic=topic, mend=self._mends.get(topic, ""))


def other_origins(committed: str, now: str) -> list[str]:
    """Pure: topics that both texts name with different ids. A text without ids (of a version that
    wrote none) differs from nothing."""
    before, after = _parsed(committed), _parsed(now)
    return [topic for topic, known in before.items() if after.get(topic, known) != known]


def _text(topics: Iterable[str], ids: Mapping[str, str]) -> str:
    return ";".join(f"{t}={ids[t][:_SHORT]}" for t in topics if t in ids)


def _parsed(text: str) -> dict[str, str]:
    parts = (part.rpartition("=") for part in text.split(";"))
    return {topic: known for topic, _, known in parts if topic}


def _mends(contract: Contract) -> dict[str, str]:
    """What a person does about each topic that may be made again."""
    found = {SCHEMAS: WRITTEN_AGAIN}
    for unit in contract.units:
        found[out_topic(unit.unit)] = RESYNC_UNIT.format(unit=unit.unit)
        found[in_topic(unit.unit)] = REJOIN.format(unit=unit.unit)
    for dataset in contract.datasets:
        found[data_topic(dataset)] = ASKED_FOR.format(dataset=dataset)
    return found


async def watch_topics(connection: Connection, origins: Origins) -> None:
    """Returns when a topic is another one than at the start; what it was is said."""
    while True:
        with suppress(BusUnreachable, BusRefused):
            async with consumer_of(connection) as consumer:
                while True:
                    if origins.changed(await topic_ids(consumer._client, origins.topics)):
                        return
                    await asyncio.sleep(LOOK_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)


async def read_origins(connection: Connection, contract: Contract) -> Origins:
    """Raises BusUnreachable, BusRefused."""
    async with consumer_of(connection) as consumer:
        topics = list(_mends(contract))
        return Origins(contract, await topic_ids(consumer._client, topics))
