"""Which cluster and which topic stand behind an address and a name: a rebuilt one has other ids.

aiokafka speaks metadata up to version 5; topic ids came with version 10 (KIP-516), so the request
and its answer are spelled out here. Who watches the topics of a thousand units asks every second
and hears the same: bytes that were sent or heard before are not made or taken apart again. Some
followers ask for one topic each beside that, so a few are kept.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from deptbus.errors import BusUnreachable
from deptbus.stream.brokers import PATIENCE_SECONDS, refused_topic, translate

_KEPT = 8  # questions and answers: one for each who asks in a process


class TopicIdentity(NamedTuple):
    cluster_id: str
    topic_id: str  # canonical text of its UUID


class _Uuid(AbstractType[bytes]):
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse(Response):
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Identities(NamedTuple):
    """What is kept of an answer."""

    cluster_id: str
    topics: dict[str, tuple[int, str]]  # error code, id


@lru_cache(maxsize=_KEPT)
def _identities(answer: bytes) -> _Identities:
    found = _MetadataResponse.decode(BytesIO(answer))
    topics = {
        topic: (code, str(uuid.UUID(bytes=topic_id))) for code, topic, topic_id, *_ in found.topics
    }
    return _Identities(found.cluster_id, topics)


class _IdentitiesResponse(_MetadataResponse):
    @classmethod
    def decode(cls, data: BytesIO) -> _Identities:
        return _identities(data.read())


class _MetadataRequestV12(RequestStruct):
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _IdentitiesResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid),
                ("topic", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )

    def encode(self) -> bytes:
        if self._encoded is None:
            self._encoded = super().encode()
        return self._encoded

    _encoded: bytes | None = None


_Version: TypeAlias = _MetadataRequestV12


class _MetadataRequest(Request[_Version]):
    API_KEY = 3

    def __init__(self, *topics: str) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_Version]) -> _Version:
        return _built(self._topics)


@lru_cache(maxsize=_KEPT)
def _built(topics: tuple[str, ...]) -> _MetadataRequestV12:
    asked: list[Any] = [(bytes(16), topic, {}) for topic in topics]
    return _MetadataRequestV12(asked, False, False, {})


async def topic_ids(client: AIOKafkaClient, topics: Sequence[str]) -> dict[str, str]:
    """Topic -> its id, of those that are there and may be seen now. Raises BusUnreachable."""
    try:
        answer = await client.send(client.get_random_node(), _MetadataRequest(*topics))
    except (KafkaError, OSError, TimeoutError) as error:
        raise translate(error) from error
    return {topic: topic_id for topic, (code, topic_id) in answer.topics.items() if code == 0}


async def topic_identity(client: AIOKafkaClient, topic: str) -> TopicIdentity:
    """Raises BusRefused when the topic is unknown or forbidden, BusUnreachable."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while True:
        try:
            answer = await client.send(client.get_random_node(), _MetadataRequest(topic))
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=topic) from error
        code, topic_id = answer.topics[topic]
        if code == 0:
            return TopicIdentity(answer.cluster_id, topic_id)
        if loop.time() > deadline:
            if for_code(code).retriable:
                raise BusUnreachable(f"topic {topic} has no leader", mend="Is the bus well?")
            raise refused_topic(topic)
        await asyncio.sleep(0.1)
