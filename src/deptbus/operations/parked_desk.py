"""Reads which rows recipients have parked, and asks their adapters to try them again now.

An adapter chooses among all that it has parked, not among those that it lists: a request names a
key, a dataset, a reason, or nothing. What becomes of it is told in `control.<unit>`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import WireRefused
from deptbus.names import control_topic, in_topic
from deptbus.operations.audit import QUARANTINE_RETRY, Operator, acts_of, record
from deptbus.operations.offsets import Offsets
from deptbus.operations.parked import ParkedRecord, ParkedRows, parked_records, parked_rows
from deptbus.operations.watch_signs import SignsWatch
from deptbus.stream.brokers import consumer_of, translate
from deptbus.stream.log import Outgoing, Sender, end_offsets, read_to_end
from deptbus.wire.control import (
    Act,
    ParkedList,
    ParkedRetried,
    ParkedRetry,
    check_key,
    decode_control,
    encode_control,
)
from deptbus.wire.partitioner import partition_of

log = structlog.get_logger(__name__)

# A list is told anew each minute: far back lies that of an adapter which ended long ago.
_TAIL_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to one recipient: try again the parked rows that are of all that is named.
    `systems`: those of the unit whose answers are waited for; all of them read it. `refused_for`:
    as listed."""

    unit: str
    systems: frozenset[str]
    dataset: str = ""
    key: bytes | None = None
    refused_for: str = ""

    @property
    def subject(self) -> str:
        key = self.key.hex() if self.key is not None else ""
        return " ".join(filter(None, (self.unit, self.dataset, key, self.refused_for)))


class Outcome(NamedTuple):
    """What the adapter of one system said in time. `told` None: nothing; not `is_done`: that it has
    begun."""

    ask: Ask
    system: str
    told: ParkedRetried | None


def asks_of(
    systems: Iterable[tuple[str, str]],
    dataset: str = "",
    key: bytes | None = None,
    refused_for: str = "",
) -> list[Ask]:
    """One for each unit. `systems`: (unit, system) of those that have some. Pure."""
    by_unit: dict[str, set[str]] = defaultdict(set)
    for unit, system in systems:
        by_unit[unit].add(system)
    return [
        Ask(unit, frozenset(names), dataset, key, refused_for)
        for unit, names in sorted(by_unit.items())
    ]


async def read_parked(connection: Connection, contract: Contract) -> list[ParkedRows]:
    """Of every unit. Raises BusUnreachable, BusRefused."""
    async with consumer_of(connection) as consumer:
        cluster = await Offsets(consumer._client).cluster()
    systems = [(unit.unit, system) for unit in contract.units for system in unit.systems]
    signs = SignsWatch(connection)
    try:
        await signs.read(systems, cluster, time.time())
        beats = [signs.of(system).recipient for system in systems]
    finally:
        await signs.stop()
    return parked_rows(contract, (beat for beat in beats if beat is not None))


async def read_records(
    connection: Connection, contract: Contract, groups: Iterable[ParkedRows]
) -> list[ParkedRecord]:
    """The rows one by one, of the systems that are told to have some. Raises as `read_parked`."""
    wanted = {(group.unit, group.system) for group in groups}
    found: list[ParkedList] = []
    for unit in sorted({unit for unit, _ in wanted}):
        (end,) = await end_offsets(connection, control_topic(unit))
        mine = {system for of, system in wanted if of == unit}
        lists = await _lists(connection, unit, max(0, end - _TAIL_RECORDS))
        if not mine <= lists.keys():
            lists = await _lists(connection, unit, 0)
        found += [lists[system] for system in sorted(mine & lists.keys())]
    return parked_records(contract, found)


async def _lists(connection: Connection, unit: str, start: int) -> dict[str, ParkedList]:
    """The last list of each system behind `start`."""
    found: dict[str, ParkedList] = {}
    for entry in await read_to_end(connection, control_topic(unit), from_offsets={0: start}):
        told = _told(unit, entry.key, entry.value)
        if isinstance(told, ParkedList):
            found[told.system] = told
    return found


def _told(unit: str, key: bytes | None, value: bytes | None) -> ParkedList | ParkedRetried | None:
    """None: something else, or nothing that this unit may say."""
    if key is None or not key.endswith((b"/parked", b"/retried")):
        return None
    try:
        told = decode_control(value)
        check_key(key, told)
    except WireRefused as error:
        log.warning("control_record_refused", topic=control_topic(unit), reason=error.reason)
        return None
    return told if isinstance(told, ParkedList | ParkedRetried) and told.unit == unit else None


async def retry_parked(
    connection: Connection, asks: Sequence[Ask], by: Operator, reason: str, *, deadline: float
) -> list[Outcome]:
    """Asks these recipients; returns when each has told what came of it, or at the deadline (by the
    loop's clock). The act is recorded first. Raises BusUnreachable, BusRefused: ask again then, who
    was asked already tries once more."""
    requests = {uuid.uuid4().hex: ask for ask in asks}
    async with consumer_of(connection) as consumer:
        try:
            places = [TopicPartition(control_topic(u), 0) for u in {ask.unit for ask in asks}]
            consumer.assign(places)
            for place, end in (await consumer.end_offsets(places)).items():
                consumer.seek(place, end)
            await _send(connection, requests, by, reason)
            told = await _answers(consumer, requests, deadline)
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error) from error
    return [
        Outcome(ask, system, told.get((request, system)))
        for request, ask in requests.items()
        for system in sorted(ask.systems)
    ]


async def _send(
    connection: Connection, requests: Mapping[str, Ask], by: Operator, reason: str
) -> None:
    async with Sender(connection) as sender:
        for act in _acts(list(requests.values()), by, reason):
            await record(sender, act)
        records = []
        for request, ask in requests.items():
            topic, number = in_topic(ask.unit), 0
            if ask.key is not None:
                number = partition_of(ask.key, await sender.partitions(topic))
            value = ParkedRetry(request, ask.dataset, ask.key, ask.refused_for, reason)
            records.append(Outgoing(topic, number, None, encode_control(value)))
        await sender.send(records)


def _acts(asks: Sequence[Ask], by: Operator, reason: str) -> Iterator[Act]:
    if len(asks) > 1:
        subjects = [ask.subject for ask in asks]
        return acts_of(by, QUARANTINE_RETRY, reason, subjects=subjects)
    (one,) = asks
    return acts_of(
        by,
        QUARANTINE_RETRY,
        reason,
        unit=one.unit,
        dataset=one.dataset,
        key=one.key,
        subjects=[one.refused_for] if one.refused_for else (),
    )


async def _answers(
    consumer: AIOKafkaConsumer, requests: Mapping[str, Ask], deadline: float
) -> dict[tuple[str, str], ParkedRetried]:
    """(request, system) -> the last that it has said."""
    unit_of = {control_topic(ask.unit): ask.unit for ask in requests.values()}
    left = {(request, system) for request, ask in requests.items() for system in ask.systems}
    found: dict[tuple[str, str], ParkedRetried] = {}
    loop = asyncio.get_running_loop()
    while left and (seconds := deadline - loop.time()) > 0:
        read = await consumer.getmany(timeout_ms=int(min(1.0, seconds) * 1000))
        for place, records in read.items():
            for entry in records:
                told = _told(unit_of[place.topic], entry.key, entry.value)
                if isinstance(told, ParkedRetried) and told.request in requests:
                    found[told.request, told.system] = told
                    if told.is_done:
                        left.discard((told.request, told.system))
    return found
