"""Canonical topic -> deliveries for inboxes: a batch is routed once for both agents.

Most records take the quick pass of `wire.passage`; one of which nothing is known yet, or with which
something is wrong, is decoded into a change and judged, and teaches the way for those like it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from deptbus.change import Change, Delivery, Direction
from deptbus.contract.model import Contract
from deptbus.errors import WireRefused
from deptbus.names import dataset_of_topic, in_topic
from deptbus.routing import Router
from deptbus.stream import quarantine
from deptbus.stream.data import decode_data
from deptbus.stream.intake import names_newer_policy
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Marker
from deptbus.wire.framing import HEADER_BYTES
from deptbus.wire.outgoing import what_decides
from deptbus.wire.passage import Cut, Letter, Pair, Passage, Way, Ways, cut_of

HORIZONTAL, VERTICAL = "horizontal", "vertical"
AGENT_OF = {
    Direction.HORIZONTAL: HORIZONTAL,
    Direction.GRANTED: HORIZONTAL,
    Direction.UPWARD: VERTICAL,
    Direction.DOWNWARD: VERTICAL,
    Direction.RETURN: VERTICAL,
}
_BREATH = 256  # records between two chances for other tasks of the process

Boxes = defaultdict[int, list[Pair]]


@dataclass(slots=True)
class Routed:
    """All output of a batch under one policy: agent -> inbox topic -> deliveries, in order; each is
    for the change's own partition: an inbox has as many.

    `names_newer`: a record names a newer policy, or a schema that ours does not know; what is here
    must not be used, and the contract has to be read to its end.
    """

    policy: int
    deliveries: dict[str, dict[str, list[Pair]]] = field(
        default_factory=lambda: {HORIZONTAL: {}, VERTICAL: {}}
    )
    refused: list[Outgoing] = field(default_factory=list)  # notes for bus.quarantine
    reasons: list[str] = field(default_factory=list)  # of `refused`, one for one
    names_newer: bool = False
    # For metrics: how many deliveries each agent has in each direction, how many were held back.
    went: Counter[tuple[str, Direction]] = field(default_factory=Counter)
    held_back: int = 0


class Went(NamedTuple):
    """Stands for a box that counts: as many changes as are in it went these ways."""

    ways: tuple[tuple[str, Direction], ...]
    held_back: int


def refusal(
    found: Change | WireRefused, dataset: str, contract: Contract, policy: int
) -> str | None:
    """Why a record in `data.<dataset>` cannot be routed; None when it can. Who may have it is the
    router's matter."""
    if isinstance(found, WireRefused):
        return found.reason
    if found.dataset != dataset:
        return quarantine.WRONG_DATASET
    if found.dataset not in contract.datasets:
        return quarantine.UNKNOWN_DATASET
    if found.policy > policy:
        return quarantine.UNKNOWN_POLICY
    return None


class Carrier:
    """Routes batches under one policy, and remembers the ways that changes take.

    A way holds as long as the router's decision does: until the next grant ends.
    """

    def __init__(self, router: Router, codecs: Codecs) -> None:
        self.router = router
        self._codecs = codecs
        self._span: object = None
        self._ways: dict[tuple[str, bytes], Ways[Way]] = {}  # by dataset and frame
        self._cuts: dict[tuple[int, ...], Cut] = {}
        self._boxes: list[tuple[str, str] | Went] = []  # number -> agent, inbox
        self._numbers: dict[tuple[str, str] | Went, int] = {}

    def carry(
        self, dataset: str, records: Sequence[LogRecord], first: int, end: int, boxes: Boxes,
        now: datetime,
    ) -> int:  # fmt: skip
        """Deliver what is known into `boxes`; the place of the first that is not, or `end`."""
        span = self.router.span(now)
        if span != self._span:
            self._ways.clear()
            self._span = span
        found = self._of_frame(dataset, (records[first].value or b"")[:HEADER_BYTES])
        if found is None:
            return first
        passage, ways = found
        return passage(records, first, end, ways.senders, boxes)

    def _of_frame(self, dataset: str, frame: bytes) -> tuple[Passage, Ways[Way]] | None:
        passage = self._codecs.passage(frame, dataset)
        if passage is None:
            return None
        ways = self._ways.get((dataset, frame))
        if ways is None:
            ways = self._ways[dataset, frame] = Ways()
        return passage, ways

    def decide(self, change: Change, frame: bytes, boxes: Boxes, now: datetime) -> None:
        """Route one change by itself, deliver it into `boxes`, and remember its way."""
        deliveries = self.router.route(change, now)
        policy = self.router.policy.number
        values = self._codecs.encode_deliveries(change, deliveries, policy)
        for delivery, value in zip(deliveries, values, strict=True):
            boxes[self._box_of(delivery)].append((change.key, value))
        counted = self._counted(deliveries, self.router.held_back(change, now))
        boxes[counted].append((change.key, b""))
        found = self._of_frame(change.dataset, frame)
        if found is not None:
            found[1].learn(*what_decides(change), self._way(change, deliveries, policy, counted))

    def _way(
        self, change: Change, deliveries: Sequence[Delivery], policy: int, counted: int
    ) -> Way:
        targets: dict[tuple[bytes, bytes, tuple[int, ...] | None], list[int]] = {}
        for delivery in deliveries:
            around = self._codecs.around(change, delivery, policy)
            targets.setdefault(around, []).append(self._box_of(delivery))
        # Once for all deliveries of a change, beside a box that it goes into anyhow.
        targets.setdefault(next(iter(targets), (b"", b"", None)), []).append(counted)
        groups: dict[tuple[int, ...] | None, list[Letter]] = {}
        for (before, after, places), numbers in targets.items():
            groups.setdefault(places, []).append(Letter(before, after, tuple(numbers)))
        letters = tuple((self._cut(places), tuple(group)) for places, group in groups.items())
        return Way(change.record is not None, letters)

    def _cut(self, places: tuple[int, ...] | None) -> Cut | None:
        if places is None:
            return None
        known = self._cuts.get(places)
        if known is None:
            known = self._cuts[places] = cut_of(places)
        return known

    def _box_of(self, delivery: Delivery) -> int:
        return self._number((AGENT_OF[delivery.direction], in_topic(delivery.unit)))

    def _counted(self, deliveries: Sequence[Delivery], held_back: int) -> int:
        ways = sorted((AGENT_OF[d.direction], d.direction) for d in deliveries)
        return self._number(Went(tuple(ways), held_back))

    def _number(self, box: tuple[str, str] | Went) -> int:
        number = self._numbers.get(box)
        if number is None:
            number = self._numbers[box] = len(self._boxes)
            self._boxes.append(box)
        return number

    def unpack(self, boxes: Boxes, routed: Routed) -> None:
        for number, pairs in boxes.items():
            box = self._boxes[number]
            if isinstance(box, Went):
                for way in box.ways:
                    routed.went[way] += len(pairs)
                routed.held_back += box.held_back * len(pairs)
            else:
                agent, inbox = box
                routed.deliveries[agent][inbox] = pairs


async def route_batch(
    topic: str,
    partition: int,
    records: Sequence[LogRecord],
    *,
    carrier: Carrier,
    codecs: Codecs,
    now: datetime,
    is_newest: bool = False,
) -> Routed:
    """Deliveries of every change of a batch. `is_newest`: the contract was read to its end since a
    record named a newer policy; what does so still is refused."""
    contract, policy = carrier.router.policy.contract, carrier.router.policy.number
    dataset = dataset_of_topic(topic)
    routed = Routed(policy)
    now_us = int(now.timestamp() * 1_000_000)
    boxes: Boxes = defaultdict(list)
    place = 0
    while place < len(records):
        end = min(place - place % _BREATH + _BREATH, len(records))
        if place and place % _BREATH == 0:
            await asyncio.sleep(0)
        place = carrier.carry(dataset, records, place, end, boxes, now)
        if place == end:
            continue
        record = records[place]
        place += 1
        found = _read(codecs, record)
        if isinstance(found, Marker):
            continue
        if not is_newest and names_newer_policy([found], policy):
            routed.names_newer = True
            return routed
        reason = refusal(found, dataset, contract, policy)
        if isinstance(found, WireRefused) or reason is not None:
            change = found if isinstance(found, Change) else None
            assert reason is not None
            routed.reasons.append(reason)
            routed.refused.append(
                quarantine.note(contract, topic, partition, record, reason, now_us, change)
            )
            continue
        carrier.decide(found, (record.value or b"")[:HEADER_BYTES], boxes, now)
    carrier.unpack(boxes, routed)
    return routed


def _read(codecs: Codecs, record: LogRecord) -> Change | Marker | WireRefused:
    """The record, or why it is none."""
    try:
        return decode_data(codecs, record.key, record.value)
    except WireRefused as error:
        return error
