"""A worker with the topics of 60 units: one agent that is stuck starves no other, and SIGTERM ends
the process within five seconds whatever it is doing. What was not committed is done by the next."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time

import pytest
import stream_town as town
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from stream_crew import Crew, Worker, commits_ahead, committed, planted, until, versions_in
from stream_planted import STUCK_PARTITION

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.names import data_topic, in_topic, out_topic
from deptbus.stream.log import Sender, end_offsets

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

OUT, DATA = out_topic(town.POLICE), data_topic("resident")
STOP_SECONDS = 5.0
ELSEWHERE = "330105001001"


def sixty_units() -> Contract:
    others = [f"housing@3301{n:02d}" for n in range(10, 65)]
    return town.contract(units=(*town.UNITS, *others))


def stop(worker: Worker) -> tuple[int, float]:
    """(exit code, seconds) of a SIGTERM; killed and (-9, ...) after twice the time allowed."""
    begun = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    try:
        code = worker.process.wait(2 * STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        code = -9
    return code, time.monotonic() - begun


async def stop_in_time(worker: Worker) -> None:
    code, seconds = await asyncio.to_thread(stop, worker)
    assert (code, seconds < STOP_SECONDS) == (0, True), (code, seconds, worker.log[-3000:])


async def wait_for(connection: Connection, topic: str, counts: dict[int, int]) -> None:
    """Until each of these partitions has so many records."""
    deadline = time.monotonic() + 60
    while True:
        ends = await end_offsets(connection, topic)
        if all(ends[p] >= count for p, count in counts.items()):
            return
        assert time.monotonic() < deadline, f"{topic}: {ends}, wanted {counts}"
        await asyncio.sleep(0.05)


def counts_of(records: list) -> dict[int, int]:
    found: dict[int, int] = {}
    for record in records:
        found[record.partition] = found.get(record.partition, 0) + 1
    return found


async def test_a_stuck_agent_starves_no_other_and_does_not_hold_up_the_end(
    bus: Connection, crew: Crew
) -> None:
    await town.open_town(bus, sixty_units())
    source = town.Source()
    worker = crew.start(planted("stuck"))
    first = source.outgoing(town.changes_of(source, 40, 1))
    later = source.outgoing([source.change(f"k{n}", 2) for n in range(40)])
    free = {p: n for p, n in counts_of(first).items() if p != STUCK_PARTITION}
    async with Sender(bus) as sender:
        await source.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        await sender.send(first)
        await asyncio.to_thread(until, lambda: "planted_stuck" in worker.log, 30)
        await wait_for(bus, in_topic(town.HOUSING), free)
        await sender.send(later)  # behind the stuck ones too
        await wait_for(bus, in_topic(town.HOUSING), {p: 2 * n for p, n in free.items()})
    await stop_in_time(worker)
    assert committed(bus, DATA)[STUCK_PARTITION] == 0
    assert await commits_ahead(bus, source.codecs) == []
    crew.start()
    await wait_for(bus, in_topic(town.HOUSING), {STUCK_PARTITION: 2 * counts_of(first)[1]})
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert {key: set(found) for key, found in versions.items()} == {
        town.key_for(f"k{n}"): {1, 2} for n in range(40)
    }


async def test_planted_a_stop_that_waits_for_what_is_stuck_is_caught(
    bus: Connection, crew: Crew
) -> None:
    await town.open_town(bus)
    source = town.Source()
    worker = crew.start(planted("stuck_and_waited_for"))
    async with Sender(bus) as sender:
        await source.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        await sender.send(source.outgoing(town.changes_of(source, 40, 1)))
        await asyncio.to_thread(until, lambda: "planted_stuck" in worker.log, 30)
    code, seconds = await asyncio.to_thread(stop, worker)
    assert (code, seconds > STOP_SECONDS) == (-9, True)


@pytest.mark.parametrize("bug", ["unanswered", None], ids=["unanswered", "refused"])
async def test_an_inbox_that_takes_nothing_starves_no_other(
    bus: Connection, crew: Crew, bug: str | None
) -> None:
    """Who publishes for another inbox, and whoever reads it, goes on."""
    await town.open_town(bus, sixty_units())
    source = town.Source()
    other = town.Source(unit=town.OTHER_POLICE, incarnation=town.Incarnation(1, b"token--9"))
    worker = crew.start(planted(bug) if bug else None)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await other.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        set_max_bytes(bus, in_topic(town.TOWN_POLICE), 1_048_588 if bug else 100)
        held = source.outgoing([source.change("held", 1)])
        await sender.send(held)
        await asyncio.to_thread(until, lambda: "deliveries_failed" in worker.log, 60)
        # About a place that the inbox has nothing to do with, and in other partitions.
        freely = [
            record
            for n in range(40)
            if (record := other.outgoing([other.change(f"f{n}", 1, division=ELSEWHERE)])[0])[1]
            != held[0].partition
        ]
        for start in range(0, len(freely), 10):
            begun = time.monotonic()
            await sender.send(freely[start : start + 10])
            await wait_for(bus, in_topic(town.CITY_POLICE), counts_of(freely[: start + 10]))
            assert time.monotonic() - begun < 5.0
    await stop_in_time(worker)
    assert committed(bus, DATA)[held[0].partition or 0] == 0
    set_max_bytes(bus, in_topic(town.TOWN_POLICE), 1_048_588)
    crew.start()
    await wait_for(bus, in_topic(town.TOWN_POLICE), counts_of(held))


def set_max_bytes(connection: Connection, topic: str, count: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(count), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(connection.librdkafka())
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


async def test_a_computation_that_gives_no_way_does_not_hold_up_the_end(
    bus: Connection, crew: Crew
) -> None:
    await town.open_town(bus)
    source = town.Source()
    worker = crew.start(planted("hog"))
    async with Sender(bus) as sender:
        await source.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        await sender.send(source.outgoing(town.changes_of(source, 40, 1)))
        await asyncio.to_thread(until, lambda: "planted_hog" in worker.log, 30)
    await stop_in_time(worker)
    assert committed(bus, DATA)[STUCK_PARTITION] == 0


async def test_it_ends_in_time_while_it_starts(bus: Connection, crew: Crew) -> None:
    await town.open_town(bus, sixty_units())
    whole = crew.start()
    begun = time.monotonic()
    await asyncio.to_thread(whole.wait_ready)
    took = time.monotonic() - begun
    await stop_in_time(whole)
    for share in (0.3, 0.6, 0.9):  # of a start: among imports, while it reads, while it joins
        worker = crew.start()
        await asyncio.to_thread(_wait_a_share, worker, share * took)
        code, seconds = await asyncio.to_thread(stop, worker)
        # Before our handler is there the signal itself ends it.
        assert code in (0, -signal.SIGTERM), worker.log[-3000:]
        assert seconds < STOP_SECONDS


def _wait_a_share(worker: Worker, seconds: float) -> None:
    with_deadline = time.monotonic() + seconds
    while time.monotonic() < with_deadline and worker.process.poll() is None:
        time.sleep(0.01)


async def test_it_ends_in_time_in_a_rebalance(bus: Connection, crew: Crew) -> None:
    """Stuck, so that the revocation waits for it, while another one joins."""
    await town.open_town(bus, sixty_units())
    source = town.Source()
    worker = crew.start(planted("stuck"))
    async with Sender(bus) as sender:
        await source.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        await sender.send(source.outgoing(town.changes_of(source, 40, 1)))
        await asyncio.to_thread(until, lambda: "planted_stuck" in worker.log, 30)
    second = crew.start()
    await asyncio.to_thread(until, lambda: "is rebalancing" in worker.log, 60)
    await stop_in_time(worker)
    await asyncio.to_thread(second.wait_ready)
    await wait_for(bus, in_topic(town.HOUSING), {STUCK_PARTITION: 1})
    assert await commits_ahead(bus, source.codecs) == []


async def test_it_ends_in_time_while_the_broker_is_gone(
    bus: Connection, crew: Crew, stream_broker: EmbeddedBroker
) -> None:
    await town.open_town(bus)
    source = town.Source()
    records = source.outgoing(town.changes_of(source, 40, 1))
    worker = crew.start()
    async with Sender(bus) as sender:
        await source.announce(sender)
        await asyncio.to_thread(worker.wait_ready)
        await sender.send(records)
    stream_broker.stop()
    try:
        await asyncio.to_thread(until, lambda: "topic_unreadable" in worker.log, 30)
        await stop_in_time(worker)
    finally:
        stream_broker.start()
    crew.start()
    await wait_for(bus, in_topic(town.HOUSING), counts_of(records))
