"""A bus of one's own for each test: the topics of operations are one set a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from office_bus import Bus

from deptbus.cluster.admin import Admin
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection


@pytest.fixture(scope="session")
def operations_broker(broker: Connection, service_folder: Path) -> Iterator[Connection]:
    """A second broker (`broker` first: it skips where there is no network)."""
    server = EmbeddedBroker(service_folder / "operations-broker")
    yield server.start()
    server.stop()


@pytest.fixture
def new_bus(operations_broker: Connection) -> Callable[[], Bus]:
    """Empties the broker; a function that gives it as a Bus."""
    admin = Admin(operations_broker)
    topics = [name for name in admin.metadata().topics if not name.startswith("__")]
    if topics:
        for future in admin.client.delete_topics(topics, operation_timeout=30).values():
            future.result(30)
    return lambda: Bus(operations_broker)
