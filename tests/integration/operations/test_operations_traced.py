"""`deptbus trace` on a real bus: at each step of a record's way it says where it waits."""

from __future__ import annotations

import json
import time

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from office_bus import HOUSING, SOURCE, Agent, Bus, contract, key_of_person, person, salary_grant
from test_operations_cli import run

from deptbus import names
from deptbus.change import Change
from deptbus.operations.audit import Operator
from deptbus.operations.hold import hold
from deptbus.operations.search import deadline_in
from deptbus.operations.trace import Trace
from deptbus.operations.trace_desk import trace
from deptbus.stream import quarantine
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.stream.policies import read_policies
from deptbus.wire.partitioner import partition_of

pytestmark = pytest.mark.service

KEY = key_of_person(3)
PLACE = partition_of(KEY, 4)
OUT, DATA, IN = names.out_topic(SOURCE), names.data_topic("person"), names.in_topic(HOUSING)


async def commit(bus: Bus, group: str, topic: str, offset: int) -> None:
    """As agents and adapters do, whose work the test does by hand."""
    consumer = AIOKafkaConsumer(
        group_id=group, enable_auto_commit=False, **bus.connection.aiokafka()
    )
    await consumer.start()
    place = TopicPartition(topic, PLACE)
    consumer.assign([place])
    await consumer.commit({place: offset})
    await consumer.stop()


async def published(bus: Bus, change: Change) -> int:
    value = bus.codecs.encode_change(change)
    (offset,) = await bus.sender.send([Outgoing(OUT, PLACE, change.key, value)])
    return offset


async def traced(bus: Bus) -> Trace:
    history = await read_policies(bus.connection)
    found = await trace(bus.connection, history, "person", KEY, deadline=deadline_in(30))
    assert found.not_looked_at == []
    return found


def stages(found: Trace) -> list[tuple[str, str]]:
    return [(wait.stage, wait.unit) for wait in found.waits]


async def test_each_step_of_the_way_is_seen(new_bus):
    from datetime import date

    async with new_bus() as bus:
        policy = await bus.activate(contract(grants=(salary_grant(date(2099, 1, 1)),)))
        agent = Agent(bus, "a", policy)
        assert (await traced(bus)).versions == []

        first = person(bus.codecs, 3)
        await published(bus, first)
        await commit(bus, names.WORKER_GROUP, OUT, 0)
        assert stages(await traced(bus)) == [("intake", SOURCE)]

        await bus.write(first)
        await commit(bus, names.WORKER_GROUP, OUT, 1)
        await commit(bus, names.WORKER_GROUP, DATA, 0)
        assert stages(await traced(bus)) == [("routing", "")]

        await commit(bus, names.WORKER_GROUP, DATA, 1)
        assert ("missing", HOUSING) in stages(await traced(bus))

        await agent.route()
        await commit(bus, names.adapter_group(HOUSING, "main"), IN, 0)
        found = await traced(bus)
        assert ("inbox", HOUSING) in stages(found)
        (arrival,) = [a for a in found.arrivals if a.unit == HOUSING]
        assert arrival.received.fields == ("id", "place", "name", "salary")
        assert (arrival.received.rule, arrival.received.grants) == ("beside", ("salaries",))

        await commit(bus, names.adapter_group(HOUSING, "main"), IN, 1)
        assert ("inbox", HOUSING) not in stages(await traced(bus))

        await agent.adopt(await hold(bus.connection, HOUSING, "", Operator("wang"), "a test"))
        second = person(bus.codecs, 3, 2)
        await published(bus, second)
        await bus.write(second)
        await agent.route()
        await commit(bus, names.WORKER_GROUP, DATA, 2)
        found = await traced(bus)
        assert ("held", HOUSING) in stages(found)
        assert [v.change.version for v in found.versions] == [1, 2]

        third = person(bus.codecs, 3, 3)
        offset = await published(bus, third)
        record = LogRecord(OUT, PLACE, offset, 0, KEY, bus.codecs.encode_change(third))
        reason, now_us = quarantine.OUTSIDE_TERRITORY, time.time_ns() // 1000
        note = quarantine.note(policy.contract, OUT, PLACE, record, reason, now_us, third)
        await bus.sender.send([note])
        found = await traced(bus)
        assert ("quarantine", SOURCE) in stages(found)
        assert found.versions[-1].refused == reason

        words = ("trace", KEY.hex(), "--dataset", "person")
        code, out, err = await run(bus, *words, "-o", "json")
        assert (code, err) == (1, "")  # it waits
        told = json.loads(out)
        assert [v["version"] for v in told["versions"]] == [1, 2, 3]
        assert {d["unit"] for d in told["deliveries"]} >= {HOUSING}
        code, table, _ = await run(bus, *words)
        assert code == 1
        assert "is held back (a test)" in table
        for value in ("n3v1", "p3v1", "s3v1"):  # fields are named, and never shown
            assert value not in out + table
