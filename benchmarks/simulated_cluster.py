"""A cluster that answers the questions of `offset_requests` from memory, in Kafka's own bytes: with
brokers that are away, errors of single partitions, and as large as one likes."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import KafkaConnectionError

from deptbus.operations.offset_requests import EARLIEST, UNCOMMITTED

METADATA, OFFSETS, COMMITS, COORDINATOR, MEMBERS, GROUPS, SETTINGS = 3, 2, 9, 10, 15, 16, 32
Spot = tuple[str, int]


@dataclass
class Log:
    start: int = 0
    end: int = 0  # the last stable offset
    high: int | None = None  # None: the same
    leader: int = 1
    error: int = 0


@dataclass
class SimulatedGroup:
    coordinator: int = 1
    state: str = "Stable"
    protocol: str = "consumer"
    commits: dict[Spot, int] = field(default_factory=dict)
    error: int = 0
    members: int = 1
    is_newer: bool = False  # of the protocol that a broker describes by another question only


@dataclass
class SimulatedCluster:
    """Stands for aiokafka's client. `asked`: keys of the requests so far; `on_ask` may change the
    cluster between two of them."""

    brokers: tuple[int, ...] = (1,)
    logs: dict[str, list[Log]] = field(default_factory=dict)
    groups: dict[str, SimulatedGroup] = field(default_factory=dict)
    away: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    on_ask: Callable[[int], None] = lambda _: None

    @property
    def cluster(self) -> Any:
        nodes = [SimpleNamespace(nodeId=node) for node in self.brokers]
        return SimpleNamespace(brokers=lambda: nodes)

    async def force_metadata_update(self) -> bool:
        return True

    async def send(self, node: int, request: Any) -> Any:
        (asked,) = request._CLASSES
        made = request.build(asked)
        made.encode()
        key = made.API_KEY
        self.asked.append(key)
        self.on_ask(key)
        if node in self.away:
            raise KafkaConnectionError(f"node {node}")
        answer = {
            METADATA: self._metadata,
            OFFSETS: self._offsets,
            COMMITS: self._commits,
            COORDINATOR: self._coordinators,
            MEMBERS: self._members,
            GROUPS: self._groups,
            SETTINGS: self._settings,
        }[key]
        return SimpleNamespace(rest=answer(node, made))

    def _metadata(self, node: int, made: Any) -> bytes:
        out = [_int32(0), _count(len(self.brokers))]
        for broker in self.brokers:
            out += [_int32(broker), _text("127.0.0.1"), _int32(9092), b"\0", b"\0"]
        out += [_text("cluster"), _int32(1), _count(len(self.logs))]
        for name, logs in self.logs.items():
            topic_id = uuid.uuid5(uuid.NAMESPACE_DNS, name).bytes
            out += [_int16(0), _text(name), topic_id, b"\0", _count(len(logs))]
            for number, log in enumerate(logs):
                one = _count(1) + _int32(log.leader)
                out += [struct.pack(">hiii", 0, number, log.leader, 1), one, one, _count(0), b"\0"]
            out += [_int32(0), b"\0"]
        return b"".join([*out, b"\0"])

    def _groups(self, node: int, made: Any) -> bytes:
        mine = {n: g for n, g in self.groups.items() if g.coordinator == node and not g.error}
        out = [_int32(0), _int16(0), _count(len(mine))]
        for name, group in mine.items():
            out += [_text(name), _text(group.protocol), _text(group.state), b"\0"]
        return b"".join([*out, b"\0"])

    def _members(self, node: int, made: Any) -> bytes:
        out = [_int32(0), _count(len(made.groups))]
        for name in made.groups:
            group = self.groups[name]
            state = "Dead" if group.is_newer else group.state
            out += [_int16(group.error), _text(name), _text(state), _text(group.protocol)]
            out += [_text("range"), _count(0 if group.is_newer else group.members)]
            for number in range(0 if group.is_newer else group.members):
                out += [_text(f"member-{number}"), b"\0", _text("client"), _text("/127.0.0.1")]
                out += [_text("subscribed"), _text("given"), b"\0"]
            out += [_int32(-1), b"\0"]
        return b"".join([*out, b"\0"])

    def _coordinators(self, node: int, made: Any) -> bytes:
        out = [_int32(0), _count(len(made.groups))]
        for name in made.groups:
            group = self.groups.get(name, SimulatedGroup())
            there = group.coordinator not in self.away
            error, coordinator = (0, group.coordinator) if there else (15, -1)
            out += [
                _text(name),
                _int32(coordinator),
                _text(""),
                _int32(-1),
                _int16(error),
                b"\0",
                b"\0",
            ]
        return b"".join([*out, b"\0"])

    def _commits(self, node: int, made: Any) -> bytes:
        out = [_int32(0), _count(len(made.groups))]
        for name, _, _ in made.groups:
            group = self.groups.get(name, SimulatedGroup())
            by_topic: dict[str, list[tuple[int, int]]] = {}
            for (topic, partition), offset in group.commits.items():
                by_topic.setdefault(topic, []).append((partition, offset))
            out += [_text(name), _count(len(by_topic))]
            for topic, offsets in by_topic.items():
                out += [_text(topic), _count(len(offsets))]
                for partition, offset in offsets:
                    out += [
                        struct.pack(">iqi", partition, offset, -1),
                        _text("note"),
                        _int16(0),
                        b"\0",
                    ]
                out.append(b"\0")
            out += [_int16(group.error), b"\0"]
        return b"".join([*out, b"\0"])

    def _offsets(self, node: int, made: Any) -> bytes:
        out = [_int32(0), _int32(len(made.topics))]
        for topic, packed in made.topics:
            (count,) = struct.unpack_from(">i", packed)
            out += [_int16(len(topic)), topic.encode(), _int32(count)]
            for partition, which in struct.iter_unpack(">iq", packed[4:]):
                log = self.logs[topic][partition]
                at = log.start if which == EARLIEST else log.end
                if which != EARLIEST and made.isolation == UNCOMMITTED and log.high is not None:
                    at = log.high
                out.append(struct.pack(">ihqq", partition, log.error, -1, at))
        return b"".join(out)

    def _settings(self, node: int, made: Any) -> bytes:
        told = {"cleanup.policy": "delete", "retention.ms": "604800000"}
        told |= {"retention.bytes": "-1", "min.compaction.lag.ms": "0"}
        out = [_int32(0), _count(len(made.resources))]
        for _, topic, _, _ in made.resources:
            out += [_int16(0), b"\0", b"\2", _text(topic), _count(len(told))]
            for name, value in told.items():
                out += [_text(name), _text(value), b"\0\5\0", _count(0), b"\2", b"\0", b"\0"]
            out.append(b"\0")
        return b"".join([*out, b"\0"])


def _int16(number: int) -> bytes:
    return struct.pack(">h", number)


def _int32(number: int) -> bytes:
    return struct.pack(">i", number)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _count(number: int) -> bytes:
    return _varint(number + 1)


def _text(text: str) -> bytes:
    data = text.encode()
    return _varint(len(data) + 1) + data
