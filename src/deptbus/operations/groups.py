"""What consumer groups committed and whether anybody is in them, read without joining them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)

from deptbus.connection import Connection
from deptbus.errors import BusUnreachable
from deptbus.stream.brokers import (
    PATIENCE_SECONDS,
    REQUEST_TIMEOUT_MS,
    explained,
    translate,
)

_MOVING = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
Answer = TypeVar("Answer")

_GONE = ("Empty", "Dead")  # states of a group without members


class Groups:
    """Owns one admin client. Call `start` before and `stop` after; calls may overlap.

    Raises BusUnreachable (also while a coordinator moves: ask again) and BusRefused.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._admin: AIOKafkaAdminClient | None = None
        self._coordinators: dict[str, int] = {}

    async def start(self) -> None:
        admin = AIOKafkaAdminClient(
            request_timeout_ms=REQUEST_TIMEOUT_MS, **self._connection.aiokafka()
        )
        try:
            await admin.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await admin.close()
            raise await explained(error, self._connection) from error
        self._admin = admin

    async def stop(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def __aenter__(self) -> Groups:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def committed(self, group: str, places: Iterable[tuple[str, int]]) -> dict[int, int]:
        """Partition -> the offset that the group would read next; absent where none is committed.

        `places`: partitions of one topic.
        """
        wanted = [TopicPartition(topic, partition) for topic, partition in places]

        async def ask(node: int) -> dict[int, int]:
            found = await self._open().list_consumer_group_offsets(group, node, wanted)
            return {place.partition: o.offset for place, o in found.items() if o.offset >= 0}

        return await self._ask(group, ask)

    async def has_members(self, group: str) -> bool:
        """True when some process is in the group (or is just joining or leaving it)."""

        async def ask(node: int) -> bool:
            (answer,) = await self._open().describe_consumer_groups([group], node)
            ((error_code, _, state, *_),) = answer.groups
            if error_code:
                raise for_code(error_code)(f"group {group}")
            return state not in _GONE

        return await self._ask(group, ask)

    async def _ask(self, group: str, ask: Callable[[int], Awaitable[Answer]]) -> Answer:
        """Ask the group's coordinator; while there is none, or another, look for it again.

        The first question of all makes the broker create its offsets topic, which takes a moment.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                if group not in self._coordinators:
                    self._coordinators[group] = await self._open().find_coordinator(group)
                return await ask(self._coordinators[group])
            except (KafkaError, OSError, TimeoutError) as error:
                self._coordinators.pop(group, None)
                late = asyncio.get_running_loop().time() > deadline
                if late or not isinstance(error, _MOVING):
                    raise translate(error) from error
            await asyncio.sleep(0.1)

    def _open(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            raise BusUnreachable("the client of consumer groups is not started")
        return self._admin
