"""The questions of Kafka's protocol that lag is made of, each asked for everything at once.

aiokafka's own calls ask for one group, or raise for all partitions where one has an error; those of
librdkafka make one future a partition. Here one request names a thousand groups or twenty thousand
partitions, and every one has its own error code in the answer, because what could not be told must
not become a number. Versions are those that brokers since 3.0 speak, and 4.x still do. Rows of
fixed width are unpacked in one go: the generic decoder of the client takes ten times as long.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int32,
    Schema,
    String,
    TaggedFields,
)

EARLIEST, LATEST = -2, -1
UNCOMMITTED, COMMITTED = 0, 1  # isolation: the log's end, or its last stable offset
_GROUP = 0  # the kind of coordinator
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")


class Cursor:
    """Walks over the flexible encoding (KIP-482)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def count(self) -> int:
        """Of a compact array; 0 where it is null."""
        return max(0, self.number() - 1)

    def text(self) -> str:
        """Empty where it is null."""
        length = self.number() - 1
        begin = self.at
        self.at += max(0, length)
        return self.data[begin : self.at].decode()

    def numbers(self, form: struct.Struct) -> tuple[Any, ...]:
        found = form.unpack_from(self.data, self.at)
        self.at += form.size
        return found

    def skip(self, size: int) -> None:
        self.at += size

    def tags(self) -> None:
        for _ in range(self.number()):
            self.number()
            self.skip(self.number())


class _Rest(AbstractType[bytes]):
    """The rest of the answer, to be taken apart by whoever asked."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read()


class _Ask(Request[Any]):
    """A request whose fields are ready: nothing of it depends on the version."""

    API_KEY = -1
    STRUCT: type[RequestStruct]

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class(*self._fields)


def _question(key: int, version: int, schema: Schema, *, flexible: bool) -> type[_Ask]:
    answer = type(
        "Answer",
        (Response,),
        {"API_KEY": key, "API_VERSION": version, "SCHEMA": Schema(("rest", _Rest))},
    )
    asked = type(
        "Asked",
        (RequestStruct,),
        {
            "API_KEY": key,
            "API_VERSION": version,
            "FLEXIBLE_VERSION": flexible,
            "RESPONSE_TYPE": answer,
            "SCHEMA": schema,
        },
    )
    return type("Ask", (_Ask,), {"API_KEY": key, "__orig_bases__": (Request[asked],)})


# --- which topics there are, who leads their partitions ------------------------------------

_Metadata = _question(
    3,
    12,
    Schema(
        ("topics", CompactArray(("id", _Rest), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    ),
    flexible=True,
)
_PARTITION = struct.Struct(">hiii")  # error, number, leader, epoch


class Topic(NamedTuple):
    topic_id: str
    is_internal: bool
    leaders: tuple[int, ...]  # by partition; -1: there is none


class Cluster(NamedTuple):
    brokers: tuple[int, ...]
    topics: dict[str, Topic]


def ask_cluster() -> Request[Any]:
    """All topics that this client may see."""
    return _Metadata(None, False, False, {})


def cluster_told(rest: bytes) -> Cluster:
    told = Cursor(rest)
    told.skip(4)
    brokers = []
    for _ in range(told.count()):
        brokers.append(int.from_bytes(told.data[told.at : told.at + 4], "big"))
        told.skip(4)
        told.text()
        told.skip(4)
        told.text()
        told.tags()
    told.text()  # of the cluster
    told.skip(4)  # its controller
    topics = {}
    for _ in range(told.count()):
        told.skip(2)
        name = told.text()
        topic_id = told.data[told.at : told.at + 16]
        told.skip(16)
        is_internal = told.data[told.at] != 0
        told.skip(1)
        leaders: dict[int, int] = {}
        for _ in range(told.count()):
            error, number, leader, _ = told.numbers(_PARTITION)
            leaders[number] = leader if error in _LED else -1
            for _ in range(3):  # replicas, those in sync, those offline
                told.skip(4 * told.count())
            told.tags()
        told.skip(4)
        told.tags()
        led = tuple(leaders.get(n, -1) for n in range(max(leaders, default=-1) + 1))
        topics[name] = Topic(str(uuid.UUID(bytes=topic_id)), is_internal, led)
    return Cluster(tuple(brokers), topics)


_LED = (0, 9)  # no error; a replica is missing, but there is a leader


# --- which groups there are ----------------------------------------------------------------

_Groups = _question(
    16, 4, Schema(("states", CompactArray(CompactString())), ("tags", TaggedFields)), flexible=True
)


class Group(NamedTuple):
    state: str  # Kafka's word: Stable, Empty, ...
    protocol: str  # "consumer" where members share partitions; empty where offsets are all it has


def ask_groups() -> Request[Any]:
    """Those that one broker coordinates."""
    return _Groups([], {})


def groups_told(rest: bytes) -> tuple[int, dict[str, Group]]:
    """The broker's error code, and group -> what it is."""
    told = Cursor(rest)
    told.skip(4)
    (error,) = told.numbers(_INT16)
    groups = {}
    for _ in range(told.count()):
        name, protocol, state = told.text(), told.text(), told.text()
        told.tags()
        groups[name] = Group(state, protocol)
    return error, groups


_Coordinators = _question(
    10,
    4,
    Schema(("kind", Int8), ("groups", CompactArray(CompactString())), ("tags", TaggedFields)),
    flexible=True,
)


def ask_coordinators(groups: Iterable[str]) -> Request[Any]:
    return _Coordinators(_GROUP, list(groups), {})


def coordinators_told(rest: bytes) -> dict[str, tuple[int, int]]:
    """Group -> (error code, broker)."""
    told = Cursor(rest)
    told.skip(4)
    found = {}
    for _ in range(told.count()):
        group = told.text()
        node = int.from_bytes(told.data[told.at : told.at + 4], "big", signed=True)
        told.skip(4)
        told.text()
        told.skip(4)
        (error,) = told.numbers(_INT16)
        told.text()
        told.tags()
        found[group] = error, node
    return found


_Described = _question(
    15,
    5,
    Schema(
        ("groups", CompactArray(CompactString())),
        ("include_authorized_operations", Boolean),
        ("tags", TaggedFields),
    ),
    flexible=True,
)


def ask_members(groups: Iterable[str]) -> Request[Any]:
    """Their coordinator has to be asked."""
    return _Described(list(groups), False, {})


def members_told(rest: bytes) -> dict[str, tuple[int, str, int]]:
    """Group -> (error code, state, members)."""
    told = Cursor(rest)
    told.skip(4)
    found = {}
    for _ in range(told.count()):
        (error,) = told.numbers(_INT16)
        group, state, _, _ = told.text(), told.text(), told.text(), told.text()
        members = told.count()
        for _ in range(members):
            for _ in range(6):  # ids, client, host, and what it subscribed to and was given
                told.skip(max(0, told.number() - 1))
            told.tags()
        told.skip(4)  # what this client may do
        told.tags()
        found[group] = error, state, members
    return found


# --- how far groups have come --------------------------------------------------------------

_Committed = _question(
    9,
    8,
    Schema(
        (
            "groups",
            CompactArray(
                ("group", CompactString()),
                ("topics", CompactArray(CompactString())),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    ),
    flexible=True,
)
_OFFSET = struct.Struct(">iqi")  # partition, offset, epoch


class Commits(NamedTuple):
    """What one group committed: (topic, partition) -> offset, and what could not be told."""

    error: int
    offsets: dict[tuple[str, int], int]
    errors: dict[tuple[str, int], int]


def ask_commits(groups: Iterable[str]) -> Request[Any]:
    """All that these groups committed; their coordinator has to be asked."""
    return _Committed([(group, None, {}) for group in groups], False, {})


def commits_told(rest: bytes) -> dict[str, Commits]:
    told = Cursor(rest)
    told.skip(4)
    found = {}
    for _ in range(told.count()):
        group = told.text()
        offsets: dict[tuple[str, int], int] = {}
        errors: dict[tuple[str, int], int] = {}
        for _ in range(told.count()):
            topic = told.text()
            for _ in range(told.count()):
                partition, offset, _ = told.numbers(_OFFSET)
                told.skip(max(0, told.number() - 1))  # what was noted beside it
                (error,) = told.numbers(_INT16)
                told.tags()
                if error:
                    errors[topic, partition] = error
                elif offset >= 0:
                    offsets[topic, partition] = offset
            told.tags()
        (error,) = told.numbers(_INT16)
        told.tags()
        found[group] = Commits(error, offsets, errors)
    return found


# --- where partitions begin and end --------------------------------------------------------

_Offsets = _question(
    2,
    2,
    Schema(
        ("replica", Int32),
        ("isolation", Int8),
        ("topics", Array(("topic", String()), ("partitions", _Rest))),
    ),
    flexible=False,
)
_FOUND = struct.Struct(">ihqq")  # partition, error, time, offset


def ask_offsets(
    places: Mapping[str, Sequence[int]], which: int, isolation: int = COMMITTED
) -> Request[Any]:
    """Topic -> partitions, all led by the broker that is asked. `which`: EARLIEST or LATEST."""
    rows = [(topic, _wanted(partitions, which)) for topic, partitions in places.items()]
    return _Offsets(-1, isolation, rows)


def _wanted(partitions: Sequence[int], which: int) -> bytes:
    flat = [part for number in partitions for part in (number, which)]
    return struct.pack(">i" + "iq" * len(partitions), len(partitions), *flat)


def offsets_told(rest: bytes) -> dict[tuple[str, int], tuple[int, int]]:
    """(topic, partition) -> (error code, offset)."""
    found = {}
    (topics,) = _INT32.unpack_from(rest, 4)
    at = 8
    for _ in range(topics):
        (length,) = _INT16.unpack_from(rest, at)
        at += 2
        topic = rest[at : at + length].decode()
        at += length
        (count,) = _INT32.unpack_from(rest, at)
        at += 4
        rows = memoryview(rest)[at : at + count * _FOUND.size]
        at += count * _FOUND.size
        for partition, error, _, offset in _FOUND.iter_unpack(rows):
            found[topic, partition] = error, offset
    return found


# --- what topics do with what is old -------------------------------------------------------

_Settings = _question(
    32,
    4,
    Schema(
        (
            "resources",
            CompactArray(
                ("kind", Int8),
                ("topic", CompactString()),
                ("names", CompactArray(CompactString())),
                ("tags", TaggedFields),
            ),
        ),
        ("include_synonyms", Boolean),
        ("include_documentation", Boolean),
        ("tags", TaggedFields),
    ),
    flexible=True,
)
_TOPIC = 2  # the kind of resource


def ask_settings(topics: Iterable[str], names: Sequence[str]) -> Request[Any]:
    return _Settings([(_TOPIC, topic, list(names), {}) for topic in topics], False, False, {})


def settings_told(rest: bytes) -> dict[str, dict[str, str]]:
    """Topic -> its settings; a topic of which they may not be known is left out."""
    told = Cursor(rest)
    told.skip(4)
    found = {}
    for _ in range(told.count()):
        (error,) = told.numbers(_INT16)
        told.text()
        told.skip(1)
        topic = told.text()
        settings = {}
        for _ in range(told.count()):
            name, value = told.text(), told.text()
            told.skip(3)  # read-only, where it comes from, sensitive
            for _ in range(told.count()):  # synonyms
                told.text()
                told.text()
                told.skip(1)
                told.tags()
            told.skip(1)  # its type
            told.text()
            told.tags()
            settings[name] = value
        told.tags()
        if not error:
            found[topic] = settings
    return found
