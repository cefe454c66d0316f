"""Workers with a bug put in on purpose, to show that the tests catch it; run as a program."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import cramjam
import stream_town
from aiokafka import AIOKafkaProducer

from deptbus.names import in_topic
from deptbus.stream import application, origins, transport, unpack, work, worker
from deptbus.stream.batches import Batch
from deptbus.stream.desk import Desk

SLOW_SECONDS = 6.0


def slow() -> None:
    """No bug: deliveries take long, so that a commit has the time to run ahead if it can."""
    send = work._send

    async def slow_send(desk: Desk, agent: str, batch: Batch, routed: Any) -> None:
        await asyncio.sleep(SLOW_SECONDS)
        await send(desk, agent, batch, routed)

    work._send = slow_send


def ack_before_delivery() -> None:
    slow()

    async def work_on(self: application.BusApp, event: Any, do: application.Work) -> None:
        event.value.finish(delivered=True)
        event.ack()
        await do(event.value)

    application.BusApp._work_on = work_on  # type: ignore[method-assign]


def agent_raises() -> None:
    """An unexpected error in the middle of a batch."""

    async def broken(desk: Desk, agent: str, batch: Batch, routed: Any) -> None:
        raise RuntimeError("planted")

    work._send = broken


STUCK_PARTITION = 1
UNANSWERED = in_topic(stream_town.TOWN_POLICE)


def stuck() -> None:
    """The batches of one partition never end."""
    send = work._send

    async def stuck_send(desk: Desk, agent: str, batch: Batch, routed: Any) -> None:
        if batch.partition == STUCK_PARTITION:
            print("planted_stuck", flush=True)
            await asyncio.Event().wait()
        await send(desk, agent, batch, routed)

    work._send = stuck_send


def unanswered() -> None:
    """The broker never answers what is sent to one inbox."""
    send_batch = AIOKafkaProducer.send_batch

    async def never(self: AIOKafkaProducer, batch: Any, topic: str, *, partition: int) -> Any:
        if topic == UNANSWERED:
            return asyncio.get_running_loop().create_future()
        return await send_batch(self, batch, topic, partition=partition)

    AIOKafkaProducer.send_batch = never


def hog() -> None:
    """One batch computes for a minute without giving way."""
    route = work._route

    async def busy(desk: Desk, batch: Batch, *words: Any) -> Any:
        if batch.partition == STUCK_PARTITION:
            print("planted_hog", flush=True)
            end = time.monotonic() + 60
            while time.monotonic() < end:
                pass
        return await route(desk, batch, *words)

    work._route = busy


def unbounded() -> None:
    """No bound on what a batch inflates to."""

    def growing(into: Any) -> Any:
        def grow(payload: Any) -> bytes:
            size = 1 << 20
            while True:
                scratch = bytearray(size)
                try:
                    return bytes(memoryview(scratch)[: into(payload, scratch)])
                except cramjam.DecompressionError:
                    size *= 2

        return grow

    for name in ("gzip", "lz4", "zstd"):
        unpack._INFLATE[f"{name}_decode"] = growing(getattr(cramjam, name).decompress_into)


def unbounded_and_uncounted() -> None:
    """`unbounded`, and nobody hears of the deaths."""
    unbounded()

    async def not_noted(self: application.BusApp, died: Any) -> None:
        pass

    application.BusApp._note_death = not_noted  # type: ignore[method-assign]


GREEDY = stream_town.key_for("greedy")


def greedy() -> None:
    """One record takes more memory than there is."""
    judge = work.judge_batch

    def taking(outbox: Any, records: Any, *args: Any, **words: Any) -> Any:
        if any(record.key == GREEDY and record.value for record in records):
            bytearray(1 << 42)
        return judge(outbox, records, *args, **words)

    work.judge_batch = taking


def stuck_and_waited_for() -> None:
    """`stuck`, with a stop that waits for what runs, and nobody who ends it."""
    stuck()
    transport.STOP_GRACE_SECONDS = 60.0
    worker.STOP_SECONDS = 60.0


async def nobody_looks(_: transport.BatchConsumer) -> None:
    pass


def trusts_offsets() -> None:
    """A topic that was made again is taken for the one of before. Nobody looks for it while it is
    away: the group would join again, and Kafka has forgotten the offsets of what was deleted."""
    origins.Origins.is_ours = lambda *_: True  # type: ignore[method-assign]
    origins.Origins.changed = lambda *_: False  # type: ignore[method-assign]
    transport.BatchConsumer.look_for_topics = nobody_looks  # type: ignore[method-assign]


if __name__ == "__main__":
    {
        "slow": slow,
        "ack_before_delivery": ack_before_delivery,
        "agent_raises": agent_raises,
        "stuck": stuck,
        "hog": hog,
        "unanswered": unanswered,
        "unbounded": unbounded,
        "unbounded_and_uncounted": unbounded_and_uncounted,
        "greedy": greedy,
        "stuck_and_waited_for": stuck_and_waited_for,
        "trusts_offsets": trusts_offsets,
    }[sys.argv[1]]()
    worker.main()
