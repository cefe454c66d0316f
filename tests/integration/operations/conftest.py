"""A bus of one's own for each test: the topics of operations are one set a bus."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from office_bus import HOUSING, SOURCE, Bus, contract, person
from office_town import Town

from deptbus import names
from deptbus.cluster.admin import Admin
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection
from deptbus.stream.brokers import consumer_of
from deptbus.stream.log import end_offsets


@pytest.fixture(scope="session")
def operations_broker(broker: Connection, service_folder: Path) -> Iterator[Connection]:
    """A second broker (`broker` first: it skips where there is no network)."""
    server = EmbeddedBroker(service_folder / "operations-broker")
    yield server.start()
    server.stop()


def _ours(admin: Admin) -> list[str]:
    return [name for name in admin.metadata().topics if not name.startswith("__")]


@pytest.fixture
def new_bus(operations_broker: Connection) -> Callable[[], Bus]:
    """Empties the broker; a function that gives it as a Bus."""
    admin = Admin(operations_broker)
    topics = _ours(admin)
    if topics:
        for future in admin.client.delete_topics(topics, operation_timeout=30).values():
            future.result(30)
    # A deletion is answered before every part of the broker has heard of it.
    deadline = time.monotonic() + 30
    while _ours(admin):
        assert time.monotonic() < deadline, "topics were not deleted in time"
        time.sleep(0.05)
    return lambda: Bus(operations_broker)


@pytest.fixture
async def town(new_bus) -> AsyncIterator[Town]:
    async with new_bus() as bus, consumer_of(bus.connection) as consumer:
        await bus.activate(contract())
        town = Town(bus, consumer._client)
        await bus.write(*(person(bus.codecs, number) for number in range(40)))
        await town.deliver(HOUSING, 2)
        await town.publish(2)
        await town.commit(names.adapter_group(HOUSING, "main"), names.in_topic(HOUSING), *[2] * 4)
        await town.commit(names.WORKER_GROUP, names.out_topic(SOURCE), *[2] * 4)
        await town.commit(
            names.WORKER_GROUP, "data.person", *await end_offsets(bus.connection, "data.person")
        )
        await town.live(0)
        yield town
