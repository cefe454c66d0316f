"""What the way of one change costs plain programs: two commits, and three hops over Kafka between.

One process, one thing at a time, no guard, no policy, no bookkeeping: the least that commit to
commit could take on this machine, where each of our hops is a process of its own.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.town import Town

_HOPS = 3  # outbox topic, canonical topic, inbox
_VALUE = bytes(250)
_TABLE = "CREATE TABLE IF NOT EXISTS relay AS SELECT 0 AS n"
_CHANGE = "UPDATE relay SET n = n + 1"


async def relay_ms(town: Town, topic: str, rate: int, seconds: int) -> list[float]:
    """Milliseconds of each of `rate * seconds` changes, begun `rate` times a second. `topic`: one
    that nobody else uses."""
    bootstrap = town.bus.connection.bootstrap
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await producer.start()
    await consumer.start()
    databases = [await asyncpg.connect(url) for url in (town.source, town.copy)]
    try:
        for database in databases:
            await database.execute(_TABLE)
        await consumer.seek_to_end()
        taken = []
        for _ in range(rate * seconds):
            began = time.perf_counter()
            await databases[0].execute(_CHANGE)
            for _ in range(_HOPS):
                await producer.send_and_wait(topic, _VALUE)
                await consumer.getone()
            await databases[1].execute(_CHANGE)
            spent = time.perf_counter() - began
            taken.append(1e3 * spent)
            await asyncio.sleep(max(0.0, 1 / rate - spent))
        return taken
    finally:
        for database in databases:
            await database.close()
        await consumer.stop()
        await producer.stop()
