"""Commits offsets for a group that nobody joins: for those who keep the truth elsewhere and let
Kafka know only for the sake of lag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from deptbus.errors import BusUnreachable
from deptbus.stream.brokers import translate


class LagCommitter:
    """Commits on somebody's client; finds the coordinator again after every failure."""

    def __init__(self, client: AIOKafkaClient, group: str) -> None:
        self._client = client
        self._group = group
        self._coordinator: int | None = None

    async def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Raises BusUnreachable, BusRefused; trying again later is always right."""
        places = [(number, offset, "") for number, offset in sorted(offsets.items())]
        request = OffsetCommitRequest(
            self._group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            "",
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(topic, places)],
        )
        await self._ask(topic, request)

    async def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Partition -> what is committed, where anything is. Raises as `commit`."""
        request = OffsetFetchRequest(self._group, [(topic, sorted(partitions))])
        answer = await self._ask(topic, request)
        ((_, found),) = answer.topics
        return {number: offset for number, offset, _, _ in found if offset >= 0}

    async def _ask(self, topic: str, request: Any) -> Any:
        """The coordinator's answer, in which neither the whole nor a partition has an error: one
        that is still loading its groups names no topic at all."""
        try:
            if self._coordinator is None:
                self._coordinator = await self._client.coordinator_lookup(
                    CoordinationType.GROUP, self._group
                )
            answer = await self._client.send(
                self._coordinator, request, group=ConnectionGroup.COORDINATION
            )
            if code := getattr(answer, "error_code", 0):
                raise for_code(code)(self._group)
            for _, partitions in answer.topics:
                for *_, code in partitions:
                    if code:
                        raise for_code(code)(self._group)
            return answer
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            self._coordinator = None
            if isinstance(error, AssertionError):  # the client knows no node at this moment
                raise BusUnreachable("no broker answers") from None
            raise translate(error, topic=topic) from error
