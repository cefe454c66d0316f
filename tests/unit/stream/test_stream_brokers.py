"""A consumer whose `stop` comes to its end, whatever its fetches are doing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher

from deptbus.connection import Connection
from deptbus.stream import brokers
from deptbus.stream.brokers import BusConsumer


async def sleep_for_ever() -> None:
    await asyncio.sleep(3600)


async def consumer_with_a_failed_fetch(kind: type[AIOKafkaConsumer]) -> Any:
    """As after a fetch that timed out: the client's own fetcher, in its pause."""
    fetcher = Fetcher.__new__(Fetcher)
    fetcher._fetch_task = asyncio.create_task(sleep_for_ever())
    fetcher._fetch_waiters = set()
    fetcher._pending_tasks = {asyncio.create_task(sleep_for_ever()) for _ in range(2)}
    consumer = kind.__new__(kind)
    consumer._closed, consumer._coordinator, consumer._fetcher = False, None, fetcher
    consumer.client_closed = False

    async def close() -> None:
        consumer.client_closed = True

    consumer._client = SimpleNamespace(close=close)
    await asyncio.sleep(0)  # the tasks have begun
    return consumer


async def test_the_clients_own_stop_cancels_its_caller() -> None:
    """Why BusConsumer is there; when this fails it can go."""
    consumer = await consumer_with_a_failed_fetch(AIOKafkaConsumer)
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    for fetch in consumer._fetcher._pending_tasks:
        fetch.cancel()
    await asyncio.gather(*consumer._fetcher._pending_tasks, return_exceptions=True)


async def test_stop_comes_to_its_end_while_a_fetch_waits_to_be_tried_again() -> None:
    consumer = await consumer_with_a_failed_fetch(BusConsumer)
    await consumer.stop()
    assert consumer.client_closed
    assert all(fetch.done() for fetch in consumer._fetcher._pending_tasks)


async def test_who_is_cancelled_while_it_stops_is_cancelled() -> None:
    consumer = await consumer_with_a_failed_fetch(BusConsumer)
    beating = asyncio.create_task(sleep_for_ever())
    consumer._coordinator = SimpleNamespace(close=sleep_for_ever, _heartbeat_task=beating)
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert consumer.client_closed
    assert (await asyncio.gather(beating, return_exceptions=True))[0] is not None  # cancelled
    for fetch in (consumer._fetcher._fetch_task, *consumer._fetcher._pending_tasks):
        fetch.cancel()
    await asyncio.gather(*consumer._fetcher._pending_tasks, return_exceptions=True)


class SlowClient:
    """One whose opening, and then its stopping, can be waited for."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.is_stopped = False

    async def start(self) -> None:
        self.began.set()
        await sleep_for_ever()

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.is_stopped = True


@pytest.mark.parametrize("times", [1, 2])
async def test_a_client_whose_opening_is_cancelled_is_stopped(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "_OPENED_SECONDS", 3600.0 if times == 2 else 0.0)
    client = SlowClient()
    opening = asyncio.create_task(brokers._start(client, Connection(bootstrap="127.0.0.1:1")))
    await client.began.wait()
    for _ in range(times):
        opening.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert client.is_stopped
