"""Canonical topics that were deleted and made again: their sources are asked for all they have.

A worker takes the outboxes in anew by itself (`stream/origins.py`), as far back as their retention
goes; what is older only the sources know. The id of every canonical topic is noted on the bus, as
those of inboxes are. One with another id puts a request for the whole dataset into the inbox of
each of its source units, where it waits for an adapter that is down; only when all are acked is
the new id noted. Killed in between we ask again, which is one snapshot more.

Nothing is deleted in its course, and nothing need be. The new topic holds no record that its
source does not have: whatever flows into it was published since it was made, or lies in an outbox
that is taken in whole, deletes behind what they delete. And a row that is gone at its source has
left the recipients' copies by the delete of that time, which reached them through `in`, not
through what was lost (unless no worker ran for longer than the retention of `out`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from deptbus import names
from deptbus.contract.model import Contract
from deptbus.operations.board import JobsBoard
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import ResendRequest, TopicNoted, encode_control, key_of

log = structlog.get_logger(__name__)


async def note_topic(sender: Sender, topic: str, topic_id: str) -> None:
    """Returns when it is on the bus that this topic holds, or will be given, what it should."""
    note = TopicNoted(topic, topic_id, time.time_ns() // 1000)
    await sender.send([Outgoing(names.JOBS, 0, key_of(note), encode_control(note))])


async def request_all(sender: Sender, unit: str, dataset: str, name: str, reason: str) -> None:
    """Asks a source unit for a whole dataset; returns when that lies in its inbox. An adapter that
    reads it twice under one name goes on with the same snapshot."""
    request = ResendRequest(name, dataset, None, reason)
    await sender.send([Outgoing(names.in_topic(unit), 0, None, encode_control(request))])
    log.info("resend_requested", unit=unit, dataset=dataset)


class Canonicals:
    """`look` again and again, with a board that was refreshed; whose requests are acked is kept, so
    that a unit whose inbox takes nothing has no other one asked twice."""

    def __init__(self, sender: Sender, jobs: JobsBoard) -> None:
        self._sender, self._jobs = sender, jobs
        self._told: set[str] = set()  # ids of topics
        self._asked: set[tuple[str, str]] = set()  # id of a topic, unit

    async def look(self, contract: Contract, ids: Mapping[str, str]) -> None:
        """`ids`: of canonical topics and inboxes that are there now. Raises BusUnreachable,
        BusRefused."""
        for dataset in contract.datasets:
            topic = names.data_topic(dataset)
            now, noted = ids.get(topic), self._jobs.topic_ids.get(topic)
            if now is None or now == noted:
                continue
            if noted is None or await self._ask(contract, dataset, now, ids):
                await note_topic(self._sender, topic, now)

    async def _ask(
        self, contract: Contract, dataset: str, topic_id: str, ids: Mapping[str, str]
    ) -> bool:
        """Whether every source unit has its request. One without an inbox gets it when it has."""
        topic = names.data_topic(dataset)
        units = [u.unit for u in contract.units if contract.may_publish(u.unit, dataset)]
        if topic_id not in self._told:
            self._told.add(topic_id)
            log.error(
                "canonical_topic_made_again",
                topic=topic,
                asked=units,
                mend="Nothing: every unit that publishes it is asked to send all its records again",
            )
        for unit in units:
            if (topic_id, unit) not in self._asked and names.in_topic(unit) in ids:
                name, reason = f"{topic}/{topic_id}", f"{topic} was deleted and made again"
                await request_all(self._sender, unit, dataset, name, reason)
                self._asked.add((topic_id, unit))
        return all((topic_id, unit) in self._asked for unit in units)
