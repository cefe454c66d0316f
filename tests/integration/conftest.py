"""Real services for the tests, started by the suite itself: one broker, one PostgreSQL per session.

Each test uses topics, units and databases of its own, so that all can share the one server. Without
network for the first download they skip; with DEPTBUS_REQUIRE_SERVICES=1 or CI=true that fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.postgres import PostgresServer
from deptbus.connection import Connection
from deptbus.errors import NoNetwork


def services_required() -> bool:
    return os.environ.get("DEPTBUS_REQUIRE_SERVICES") == "1" or os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """A folder for servers' state that the user who runs PostgreSQL may enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="deptbus-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def broker(service_folder: Path) -> Iterator[Connection]:
    """How to reach the session's broker."""
    server = EmbeddedBroker(service_folder / "broker")
    try:
        connection = server.start()
    except NoNetwork as error:
        if services_required():
            raise
        pytest.skip(str(error))
    yield connection
    server.stop()


@pytest.fixture(scope="session")
def postgres(service_folder: Path) -> Iterator[Callable[[], str]]:
    """A function that makes a fresh, empty database and returns its URL."""
    server = PostgresServer(service_folder / "postgres")
    server.start()
    yield lambda: server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    server.stop()
