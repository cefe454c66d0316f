"""Reads quarantine as it stands, and resolves cases: the source is asked, or they are dismissed.

Nothing is edited or released: a resolution is one more record under the place of its note. Acts are
recorded first, then requests are sent, then resolutions: a command that is killed leaves a source
that was asked and does not say so yet, and asking again is harmless.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from deptbus import names
from deptbus.change import Change
from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import BusRefused, WireRefused
from deptbus.operations.audit import (
    QUARANTINE_DISMISS,
    QUARANTINE_RESEND,
    Operator,
    acts_of,
    record,
)
from deptbus.operations.quarantine import (
    Ask,
    Case,
    Place,
    ResendPlan,
    cases_of,
    place_text,
    plan_resend,
)
from deptbus.operations.search import each_of_keys, read_places
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord, Outgoing, Sender, read_to_end
from deptbus.stream.policies import PolicyHistory
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import (
    Control,
    ResendRequest,
    Resolution,
    decode_control,
    encode_control,
    key_of,
)
from deptbus.wire.guard import KEY_BYTES
from deptbus.wire.partitioner import partition_of

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

_AT_ONCE = 500  # of the requests, and so of the resolutions, that one act covers
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Quarantine:
    """`is_whole` false: not every canonical topic was read to its end in time, so that cases may be
    overtaken of which we say that it is unknown."""

    cases: tuple[Case, ...]
    is_whole: bool


def codecs_of(history: PolicyHistory) -> Codecs:
    """Codecs that know every schema that any contract released."""
    codecs = Codecs()
    for number in sorted(history.policies):
        try:
            codecs.add_contract(history.policies[number].contract)
        except WireRefused as error:
            log.error("contract_schemas_refused", policy=number, reason=error.reason)
    return codecs


async def read_quarantine(
    connection: Connection, history: PolicyHistory, *, deadline: float, key: bytes | None = None
) -> Quarantine:
    """All cases (of one key), and which of them are overtaken. Raises BusUnreachable,
    BusRefused."""
    records: list[Control] = []
    for entry in await read_to_end(connection, names.QUARANTINE):
        try:
            records.append(decode_control(entry.value))
        except WireRefused as error:
            log.error("quarantine_record_refused", offset=entry.offset, reason=error.reason)
    cases = [c for c in cases_of(records) if key is None or key == c.note.key]
    return await _overtaken(connection, history, cases, deadline)


async def _overtaken(
    connection: Connection, history: PolicyHistory, cases: list[Case], deadline: float
) -> Quarantine:
    """Each case with the answer of the canonical topics. Only partitions are read in which one of
    the keys lies, and of them nothing is decoded but those keys."""
    partitions = history.current().contract.partitions
    wanted: dict[tuple[str, int], dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, case in enumerate(cases):
        for dataset, key in case.looked_for:
            wanted[dataset, partition_of(key, partitions)][key].append(index)
    codecs, answers = codecs_of(history), dict[int, bool]()
    unknown: set[int] = set()  # of which a topic was not read to its end
    for (dataset, partition), keys in sorted(wanted.items()):
        topic = names.data_topic(dataset)

        def take(entry: LogRecord, keys: dict[bytes, list[int]] = keys) -> bool:
            change = _change(codecs, entry)
            if change is not None:
                for index in keys[change.key]:
                    if cases[index].is_overtaken_by(change, entry.timestamp_ms * 1000):
                        answers[index] = True
            return True

        try:
            is_whole = await each_of_keys(
                connection, topic, partition, keys, take, deadline=deadline
            )
        except BusRefused:  # the dataset has no topic: whether it ever had a newer version?
            is_whole = False
        for index in (i for indexes in keys.values() for i in indexes):
            answers.setdefault(index, False)
            if not is_whole:
                unknown.add(index)
    told = tuple(
        replace(case, superseded=None if i in unknown and not answers.get(i) else answers.get(i))
        for i, case in enumerate(cases)
    )
    return Quarantine(told, not unknown)


def _change(codecs: Codecs, entry: LogRecord) -> Change | None:
    """None for what intake never wrote: the stream has its own note of it."""
    try:
        found = decode_data(codecs, entry.key, entry.value)
    except WireRefused:
        return None
    return found if isinstance(found, Change) else None


async def plan_of(
    connection: Connection, policy: Policy, cases: Sequence[Case], *, deadline: float
) -> ResendPlan:
    """Whom to ask for these cases; looks at the places of notes that have no key."""
    offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
    for case in cases:
        if case.note.key is None and case.note.topic.startswith("out."):
            offsets[case.note.topic, case.note.partition].append(case.note.offset)
    keys: dict[Place, bytes | None] = {}
    for (topic, partition), wanted in offsets.items():
        try:
            found = await read_places(connection, topic, partition, wanted, deadline=deadline)
        except BusRefused:
            continue  # its topic is gone, and its key with it
        for entry in found.records:
            if entry.key is not None and len(entry.key) == KEY_BYTES:
                keys[topic, partition, entry.offset] = entry.key
    return plan_resend(cases, policy.contract, keys)


async def ask_sources(
    connection: Connection,
    plan: ResendPlan,
    operator: Operator,
    reason: str,
    tell: Progress = lambda asked: None,
) -> int:
    """Sends every request of the plan; returns how many. Raises BusUnreachable, BusRefused: run it
    again then, and who was asked already is asked once more."""
    asked = 0
    async with Sender(connection) as sender:
        for some in _chunks(plan.asks):
            places = [place_text(case.place) for ask in some for case in ask.cases]
            act = ""
            for one in acts_of(operator, QUARANTINE_RESEND, reason, subjects=places):
                await record(sender, one)
                act = one.act
            named = [(ask, uuid.uuid4().hex) for ask in some]
            await sender.send([o for pair in named for o in await _requests(sender, *pair, reason)])
            await sender.send(
                [
                    _outgoing(_resolution(case, act, operator, reason, ask, name))
                    for ask, name in named
                    for case in ask.cases
                ]
            )
            asked += len(some)
            tell(asked)
    return asked


async def _requests(sender: Sender, ask: Ask, name: str, reason: str) -> list[Outgoing]:
    topic = names.in_topic(ask.unit)
    partition = partition_of(ask.key, await sender.partitions(topic))
    return [
        Outgoing(topic, partition, None, encode_control(ResendRequest(name, d, ask.key, reason)))
        for d in ask.datasets
    ]


async def dismiss(
    connection: Connection, cases: Sequence[Case], operator: Operator, reason: str
) -> None:
    """Raises BusUnreachable, BusRefused: run it again, dismissing twice changes nothing."""
    async with Sender(connection) as sender:
        places = [place_text(case.place) for case in cases]
        act = ""
        for one in acts_of(operator, QUARANTINE_DISMISS, reason, subjects=places):
            await record(sender, one)
            act = one.act
        for some in _chunks(cases):
            await sender.send([_outgoing(_resolution(c, act, operator, reason)) for c in some])


def _resolution(
    case: Case,
    act: str,
    operator: Operator,
    reason: str,
    ask: Ask | None = None,
    request: str = "",
) -> Resolution:
    topic, partition, offset = case.place
    return Resolution(
        topic=topic,
        partition=partition,
        offset=offset,
        outcome="dismissed" if ask is None else "resend_asked",
        act=act,
        operator=operator.name,
        reason=reason,
        request=request,
        datasets=() if ask is None else ask.datasets,
        key=None if ask is None else ask.key,
        resolved_at_us=time.time_ns() // 1000,
    )


def _outgoing(resolution: Resolution) -> Outgoing:
    return Outgoing(names.QUARANTINE, 0, key_of(resolution), encode_control(resolution))


def _chunks(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
