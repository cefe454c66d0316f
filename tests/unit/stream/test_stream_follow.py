"""What a follower says of a topic that it cannot read."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from deptbus.connection import Connection
from deptbus.errors import BusRefused
from deptbus.stream import follow
from deptbus.stream.follow import TopicFollower


class Flapping(TopicFollower):
    """Every second read fails, as where a right is withdrawn and the metadata still allow it."""

    reads = 0

    async def _read(self) -> None:
        self.reads += 1
        if self.reads % 2 == 0:
            raise BusRefused("no right to read it")


async def _told_after(reads: int) -> int:
    follower = Flapping(Connection(bootstrap="127.0.0.1:1"), "bus.contract")
    with capture_logs() as logs:
        await follower.start()
        async with asyncio.timeout(30):
            while follower.reads < reads:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        await follower.stop()
    return len([line for line in logs if line["event"] == "topic_unreadable"])


async def test_a_topic_that_comes_and_goes_is_told_once_in_a_while(monkeypatch):
    monkeypatch.setattr(follow, "_BACKOFF_SECONDS", (0.001, 0.001))
    assert await _told_after(20) == 1


async def test_it_is_told_again_when_that_while_is_over(monkeypatch):
    monkeypatch.setattr(follow, "_BACKOFF_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(follow, "_TOLD_SECONDS", 0.0)
    assert await _told_after(20) > 5
