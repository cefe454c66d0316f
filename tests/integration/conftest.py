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
from debian import NotToBeHad, environment, unpacked

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


@pytest.fixture(scope="session")
def postgres_server(service_folder: Path) -> Iterator[PostgresServer]:
    """The wheel's server, for what a URL is not enough for; one of its own."""
    server = PostgresServer(service_folder / "postgres-alone")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def debian_postgres(service_folder: Path) -> Iterator[PostgresServer]:
    """The server of Debian's package, which is the lowest version that is supported."""
    programs, found = "usr/lib/postgresql/*/bin/postgres", Path("/")
    variables: dict[str, str] = {}
    if not any(found.glob(programs)):
        try:
            folder = unpacked("postgresql", ["postgresql"])
        except NotToBeHad as error:
            if services_required():
                raise
            pytest.skip(str(error))
        # Where the user who runs PostgreSQL may enter; its programs find the rest beside them.
        found = service_folder / "debian-postgresql"
        shutil.copytree(folder / "usr", found / "usr", symlinks=True)
        variables = environment(found)
    binaries = min(found.glob(programs)).parent
    server = PostgresServer(
        service_folder / "postgres-debian", binaries=binaries, environment=variables
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session", params=["wheel", "debian"])
def each_postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """The newest and the lowest version, one after the other."""
    name = "postgres_server" if request.param == "wheel" else "debian_postgres"
    server: PostgresServer = request.getfixturevalue(name)
    return server
