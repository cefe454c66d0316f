"""Canonical topic -> deliveries for inboxes: a batch is decoded and routed once for both agents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from deptbus.change import Change, Direction
from deptbus.contract.model import Contract
from deptbus.errors import WireRefused
from deptbus.names import dataset_of_topic, in_topic
from deptbus.routing import Router
from deptbus.stream import quarantine
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Marker

HORIZONTAL, VERTICAL = "horizontal", "vertical"
AGENT_OF = {
    Direction.HORIZONTAL: HORIZONTAL,
    Direction.GRANTED: HORIZONTAL,
    Direction.UPWARD: VERTICAL,
    Direction.DOWNWARD: VERTICAL,
    Direction.RETURN: VERTICAL,
}
_BREATH = 256  # records between two chances for other tasks of the process


@dataclass(slots=True)
class Routed:
    """All output of a batch under one policy: agent -> inbox topic -> deliveries, in order."""

    policy: int
    deliveries: dict[str, dict[str, list[Outgoing]]] = field(
        default_factory=lambda: {HORIZONTAL: {}, VERTICAL: {}}
    )
    refused: list[Outgoing] = field(default_factory=list)  # notes for bus.quarantine
    reasons: list[str] = field(default_factory=list)  # of `refused`, one for one


def decode_canonical(
    codecs: Codecs, records: Sequence[LogRecord]
) -> list[Change | Marker | WireRefused]:
    """Each record, or why it is none."""
    decoded: list[Change | Marker | WireRefused] = []
    for record in records:
        try:
            decoded.append(decode_data(codecs, record.key, record.value))
        except WireRefused as error:
            decoded.append(error)
    return decoded


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


async def route_batch(
    topic: str,
    partition: int,
    records: Sequence[LogRecord],
    decoded: Sequence[Change | Marker | WireRefused],
    *,
    router: Router,
    codecs: Codecs,
    now: datetime,
) -> Routed:
    """Deliveries of every change, in the change's own partition: an inbox has as many."""
    contract, policy = router.policy.contract, router.policy.number
    dataset = dataset_of_topic(topic)
    routed = Routed(policy)
    now_us = int(now.timestamp() * 1_000_000)
    for index, (record, found) in enumerate(zip(records, decoded, strict=True)):
        if index % _BREATH == _BREATH - 1:
            await asyncio.sleep(0)
        if isinstance(found, Marker):
            continue
        reason = refusal(found, dataset, contract, policy)
        if isinstance(found, WireRefused) or reason is not None:
            change = found if isinstance(found, Change) else None
            assert reason is not None
            routed.reasons.append(reason)
            routed.refused.append(
                quarantine.note(contract, topic, partition, record, reason, now_us, change)
            )
            continue
        deliveries = router.route(found, now)
        if not deliveries:
            continue
        values = codecs.encode_deliveries(found, deliveries, policy)
        for delivery, value in zip(deliveries, values, strict=True):
            inbox = in_topic(delivery.unit)
            box = routed.deliveries[AGENT_OF[delivery.direction]].setdefault(inbox, [])
            box.append(Outgoing(inbox, partition, found.key, value))
    return routed
