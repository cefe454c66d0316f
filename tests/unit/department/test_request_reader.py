"""The reader of requests says an outage once, also the second one, and begins a new inbox anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from deptbus.connection import Connection
from deptbus.department import requests
from deptbus.department.requests import RequestReader
from deptbus.errors import BusUnreachable

PLACE = TopicPartition("in.registry-330106", 0)


class Over(Exception):
    """The script is at its end."""


class Consumer:
    """Stands at `at` of an inbox with records 5 to 9; answers so many looks, then fails."""

    _client = None

    def __init__(self, looks: int) -> None:
        self._looks, self.at = looks, -1

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 5)

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 10)

    async def committed(self, place: TopicPartition) -> int:
        return 8

    async def position(self, place: TopicPartition) -> int:
        return self.at

    def assign(self, places: list[TopicPartition]) -> None:
        return

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at = offset

    async def getmany(self, *_: Any, **__: Any) -> dict[TopicPartition, list[Any]]:
        self._looks -= 1
        if self._looks < 0:
            raise BusUnreachable("no broker answers")
        return {}

    async def stop(self) -> None:
        return


class Script:
    """What becomes of each attempt: None is an outage, else the id of the inbox that is found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: str | None, looks: int = 2) -> None:
        self.begun: list[int] = []  # where each one that came so far began to read
        self.pauses: list[float] = []
        self.committed: list[dict[int, int]] = []
        self._found, self._looks = list(found), looks
        self._consumer: Consumer | None = None
        self._id = ""
        monkeypatch.setattr(requests, "open_consumer", self._open)
        monkeypatch.setattr(requests, "topic_identity", self._identity)
        monkeypatch.setattr(requests, "partitions_of", self._partitions)
        monkeypatch.setattr(requests, "wait_long", self._wait_long)
        monkeypatch.setattr(requests, "LagCommitter", lambda *_: self)
        monkeypatch.setattr(requests.asyncio, "sleep", self._pause)

    async def run(self) -> list[Any]:
        """What it said."""
        connection: Any = Connection(bootstrap="127.0.0.1:1")
        reader = RequestReader(connection, "registry@330106", "main", ["account"], self._resend)
        with capture_logs() as said, pytest.raises(Over):
            await reader.run()
        return [line["event"] for line in said]

    async def commit(self, _: str, offsets: Mapping[int, int]) -> None:
        self.committed.append(dict(offsets))

    async def _open(self, *_: Any, **__: Any) -> Consumer:
        if not self._found:
            raise Over
        found = self._found.pop(0)
        if found is None:
            raise BusUnreachable("no broker answers")
        self._id, self._consumer = found, Consumer(self._looks)
        return self._consumer

    async def _identity(self, *_: Any) -> tuple[str, str]:
        return "cluster", self._id

    async def _partitions(self, *_: Any) -> list[TopicPartition]:
        return [PLACE]

    def _wait_long(self, consumer: Consumer, _: bool) -> None:
        if consumer is self._consumer:
            self.begun.append(consumer.at)
            self._consumer = None

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def _resend(self, _: Any) -> None:
        raise AssertionError("nothing is asked for here")


async def test_a_second_outage_is_told_again_and_waited_for_shortly_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(monkeypatch, None, None, None, "one", None, None)
    assert await script.run() == ["inbox_unreadable"] * 2
    assert script.pauses == [0.2, 0.4, 0.8, 0.2, 0.4, 0.8]
    assert script.begun == [8]


async def test_an_inbox_that_cannot_be_read_at_all_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can be opened, and no look succeeds: that is one outage."""
    script = Script(monkeypatch, "one", "one", "one", looks=0)
    assert await script.run() == ["inbox_unreadable"]
    assert script.pauses == [0.2, 0.4, 0.8]


async def test_another_inbox_is_read_from_its_beginning_whatever_was_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(monkeypatch, "one", "one", "two", "two")
    await script.run()
    assert script.begun == [8, 8, 5, 8]
    assert script.committed == [{0: 5}]  # what was committed counted records of the other one
