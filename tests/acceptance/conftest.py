"""What all acceptance tests share: the wheel in its own environment, and rooms to use it in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from installed import Room, Said, is_ci
from prometheus_tools import find_promtool
from wheel_environment import build_wheel, make_environment

from deptbus.cluster.jars import ensure_jars
from deptbus.cluster.postgres import PostgresServer
from deptbus.errors import NoNetwork

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of the program."""
    return find_promtool()


@pytest.fixture(scope="session")
def jars() -> None:
    """Kafka's files are in the cache; without network they cannot be, and there is no bus."""
    try:
        ensure_jars()
    except NoNetwork as error:
        if is_ci():
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def wheel_bin(jars: None, testrun_uid: str) -> Iterator[Path]:
    """The bin folder of an environment with the wheel, its runtime dependencies, nothing else; one
    for all processes that run tests. Who is the last of them removes it."""
    folder = Path(tempfile.gettempdir()) / f"deptbus-wheel-{testrun_uid}"
    lock, user = FileLock(f"{folder}.lock"), folder / f"user-{os.getpid()}"
    with lock:
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            folder.chmod(0o755)  # the user who runs PostgreSQL uses the binaries in it
            make_environment(build_wheel(PROJECT, folder), folder / "env")
            (folder / "made").touch()
        user.touch()
    yield folder / "env" / "bin"
    with lock:
        user.unlink()
        if not any(folder.glob("user-*")):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_room(wheel_bin: Path) -> Iterator[Callable[[], Room]]:
    """Makes a room; all are closed at the end of the session."""
    rooms: list[Room] = []

    def make() -> Room:
        rooms.append(Room(wheel_bin))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture(scope="session")
def postgres(jars: None) -> Iterator[PostgresServer]:
    """A department's own PostgreSQL, which is no part of any bus. A test may stop and start it."""
    folder = Path(tempfile.mkdtemp(prefix="deptbus-postgres-"))
    folder.chmod(0o755)
    with PostgresServer(folder) as server:
        yield server
    server.destroy()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def room(new_room: Callable[[], Room]) -> Iterator[Room]:
    """A room for one test; at its end nothing runs in it any more, and no log has a traceback."""
    made = new_room()
    yield made
    made.check_empty()
    made.check_logs()
    made.close()


@pytest.fixture(scope="session")
def kept_county(new_room: Callable[[], Room]) -> tuple[Room, Path, Said]:
    """A county that `deptbus demo --keep` left: its room, its folder, what the command said."""
    room = new_room()
    folder = room.folder / "county"
    words = ("demo", "--json", "--residents", "300", "--seconds", "4", "--keep", folder)
    said = room.run(*words)
    assert said.code == 0, str(said)
    room.check_empty()
    return room, folder, said
