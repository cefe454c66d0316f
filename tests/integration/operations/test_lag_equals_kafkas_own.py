"""Our numbers beside those of Kafka's own ConsumerGroupCommand, and where it is wrong: a reader
that reads to the end decides."""

from __future__ import annotations

import asyncio
import json
import random
import sys

import pytest
from confluent_kafka import Producer
from kafka_tools import describe_groups
from lag_bench import Town

from deptbus.connection import Connection

pytestmark = pytest.mark.service


async def lag_command(connection: Connection) -> dict[tuple[str, str, int], dict]:
    """`deptbus lag -o json`, by (group, topic, partition)."""
    async with asyncio.timeout(90):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deptbus.cli.main", "lag", "-o", "json"),
            *("--bootstrap", connection.bootstrap),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert process.returncode in (0, 1)
    rows = json.loads(out)["partitions"]
    return {(row["group"], row["topic"], row["partition"]): row for row in rows}


def busy(broker: Connection, draws: random.Random) -> list[Town]:
    """Three groups on two topics of four partitions; each stands somewhere else in each."""
    towns = [Town(broker) for _ in range(3)]
    for town in towns[:2]:
        town.make(4)
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        for number in range(400):
            producer.produce(town.topic, b"v" * draws.randrange(200), partition=number % 4)
        assert producer.flush(20) == 0
        town.delete_before(0, 7, 13, 90)
    towns[2].topic = towns[0].topic
    for town in towns:
        # Also nothing yet (0), behind the start of the log, and at the end.
        town.commit(0, draws.randrange(7, 100), draws.randrange(13, 100), 100)
    return towns


async def test_on_a_busy_bus_it_is_the_same_for_every_partition(broker: Connection):
    draws = random.Random(2026)
    towns = busy(broker, draws)
    kafka = describe_groups(broker, *(town.group for town in towns))
    ours = await lag_command(broker)
    assert len(kafka) == 12
    for place, row in kafka.items():
        mine = ours[place]
        assert (mine["committed"], mine["end"], mine["lag_records"]) == row, place
    assert len({row.lag for row in kafka.values()}) > 6


async def test_it_sees_an_offset_below_the_start_as_what_it_is(broker: Connection):
    """Kafka's command counts records that are gone as if they could still be read."""
    town = Town(broker)
    town.make()
    town.write(100)
    town.commit(10)
    town.delete_before(60)
    (kafka,) = describe_groups(broker, town.group).values()
    mine = (await lag_command(broker))[town.group, town.topic, 0]
    assert kafka.lag == 90
    assert mine["lag_records"] == town.read_to_end(60)[0] == 40
    assert (mine["state"], mine["gone_records"], mine["verdict"]) == ("lost", 50, "LOST")


async def test_on_a_transactional_topic_a_reader_finds_as_many_as_we_say(broker: Connection):
    town = Town(broker)
    town.make()
    transactions = town.transactions()
    for _ in range(5):
        transactions.commit(4)
        transactions.abort(3)
    town.commit(0)
    (kafka,) = describe_groups(broker, town.group).values()
    mine = (await lag_command(broker))[town.group, town.topic, 0]
    assert kafka.lag == 5 * (4 + 3 + 2)
    assert mine["lag_records"] == town.read_to_end(0)[0] == 20
    town.commit(kafka.end - 1)
    (kafka,) = describe_groups(broker, town.group).values()
    mine = (await lag_command(broker))[town.group, town.topic, 0]
    assert kafka.lag == 1
    assert (mine["state"], mine["lag_records"], mine["verdict"]) == ("phantom", 0, "OK")
