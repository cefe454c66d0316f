"""A plain aiokafka loop with whole batches: read, turn each value into another, write, commit.

    python -m benchmarks.rivals.plain_loop BOOTSTRAP (route|copy) SOURCE TARGET GROUP

Commits after every ack, stops on SIGTERM. uvloop as in the worker.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from benchmarks import county
from benchmarks.rivals.avro import reader, router
from deptbus.readiness import tell_ready
from deptbus.wire.codecs import Codecs

POLL_RECORDS = 8000  # of all partitions: 2,000 of each
Turn = Callable[[bytes], bytes]


def copied(codecs: Codecs) -> Turn:
    """Intake's work: the change is read whole, and the same bytes go on."""
    read = reader(codecs)

    def turn(value: bytes) -> bytes:
        read(value)
        return value

    return turn


async def run(bootstrap: str, turn: Turn, source: str, target: str, group: str) -> None:
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=2 * 1024 * 1024,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_batch_size=512 * 1024,
        max_request_size=2 * 1024 * 1024,
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with consumer, producer:
        is_ready = False
        while not stopping.is_set():
            found = await consumer.getmany(timeout_ms=100, max_records=POLL_RECORDS)
            if not is_ready and consumer.assignment():
                is_ready = True
                tell_ready()
            if found:
                await _pass_on(producer, found, turn, target)
                await consumer.commit(
                    {place: records[-1].offset + 1 for place, records in found.items()}
                )


async def _pass_on(
    producer: AIOKafkaProducer, found: dict[TopicPartition, list[Any]], turn: Turn, target: str
) -> None:
    acks = []
    for place, records in found.items():
        batch = producer.create_batch()
        append = batch.append
        for record in records:
            value = turn(record.value)
            if append(timestamp=None, key=record.key, value=value) is None:
                acks.append(await producer.send_batch(batch, target, partition=place.partition))
                batch = producer.create_batch()
                append = batch.append
                append(timestamp=None, key=record.key, value=value)
        acks.append(await producer.send_batch(batch, target, partition=place.partition))
    await asyncio.gather(*acks)


def main() -> None:
    bootstrap, kind, source, target, group = sys.argv[1:]
    codecs = Codecs(county.contract())
    turn = router(codecs) if kind == "route" else copied(codecs)
    uvloop.install()
    asyncio.run(run(bootstrap, turn, source, target, group))


if __name__ == "__main__":
    main()
