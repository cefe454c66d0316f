"""The unit of `deptbus department service` under a manager that keeps systemd's rules: it survives
a boot at which nobody else is there yet, kills, and rests where only a person can help."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from service_manager import Manager

from deptbus.cli.main import run
from deptbus.cli.up import ensure_contract
from deptbus.cluster.embedded import EmbeddedBroker
from deptbus.cluster.ports import free_port
from deptbus.connection import Connection
from deptbus.names import out_topic
from deptbus.stream.log import read_to_end

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-units"
UNIT = "civil_affairs@330106"


def until(condition: Callable[[], object], what: Callable[[], str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


@pytest.fixture
def department(tmp_path: Path) -> Path:
    folder = tmp_path / "civil affairs"  # a space, as people have
    shutil.copytree(EXAMPLE / "data" / "civil_affairs", folder)
    with closing(sqlite3.connect(folder / "own.db")) as connection:
        connection.executescript((folder / "existing.sql").read_text(encoding="utf-8"))
    return folder


def type_once_more(department: Path) -> None:
    with closing(sqlite3.connect(department / "own.db", timeout=10)) as connection:
        connection.execute("UPDATE gljt SET je = je + 1")
        connection.commit()


def published(bus: Connection) -> int:
    return len(asyncio.run(read_to_end(bus, out_topic(UNIT))))


def unit_of(department: Path, bus: Connection, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    config = str(department / "department.yml")
    assert run(["department", "service", "--config", config, "--bootstrap", bus.bootstrap]) == 0
    return capsys.readouterr().out


def test_it_survives_a_boot_and_kills(
    tmp_path: Path, department: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with EmbeddedBroker(tmp_path / "broker", port) as broker:
        bus = broker.connection
        asyncio.run(ensure_contract(tmp_path, EXAMPLE, bus))
        install = ["--config", str(department / "department.yml"), "--bootstrap", bus.bootstrap]
        assert run(["department", "install", *install]) == 0
    type_once_more(department)
    text = unit_of(department, bus, capsys)
    # The machine boots; the bus is not there yet.
    with Manager(text, tmp_path) as manager:
        until(lambda: "READY=1" in manager.heard, manager.journal)
        until(lambda: "bus_awaited" in manager.journal(), manager.journal)
        assert any(word.startswith("STATUS=waits for the bus") for word in manager.heard)
        with EmbeddedBroker(tmp_path / "broker", port):
            until(lambda: published(bus) > 0, manager.journal)
            until(lambda: "STATUS=looks after 1 systems" in manager.heard, manager.journal)
            before = manager.heard.count("WATCHDOG=1")
            until(lambda: manager.heard.count("WATCHDOG=1") > before + 2, manager.journal)
            assert manager.starts == 1
            manager.kill()
            until(lambda: manager.starts == 2, manager.journal)
            before = published(bus)
            type_once_more(department)
            until(lambda: published(bus) > before, manager.journal)
            # Only a person can help: it rests, instead of coming back for ever.
            (department / "key.secret").write_text("00" * 32, encoding="ascii")
            manager.kill()
            until(lambda: manager.is_failed, manager.journal)
            assert "wrong secret" in manager.journal().splitlines()[-1]
            assert manager.starts == 3
    assert "STOPPING=1" in manager.heard
