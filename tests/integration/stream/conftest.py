"""A bus of one's own: the contract in force and the workers' group are one a bus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stream_crew import Crew

from deptbus.cluster.admin import Admin
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.connection import Connection


@pytest.fixture(scope="session")
def stream_broker(broker: Connection, service_folder: Path) -> Iterator[EmbeddedBroker]:
    """A second broker (`broker` first: it skips where there is no network)."""
    # Room for what bombs take of it, one after the other: by default it ends when memory does, and
    # is started anew by `up`.
    server = EmbeddedBroker(service_folder / "stream-broker", heap_mb=768)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bus(stream_broker: EmbeddedBroker) -> Connection:
    """The broker, emptied."""
    admin = Admin(stream_broker.connection)
    topics = [name for name in admin.metadata().topics if not name.startswith("__")]
    if topics:
        for future in admin.client.delete_topics(topics, operation_timeout=30).values():
            future.result(30)
    return stream_broker.connection


@pytest.fixture
def crew(bus: Connection, tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(bus, tmp_path)
    yield crew
    crew.close()
