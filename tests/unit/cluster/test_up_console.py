"""The console beside a bus: started last, for this machine only, and the bus does without it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from deptbus.cli import up
from deptbus.cli.console import ADDRESS_FILE, TICKETS_FOLDER
from deptbus.cluster.up import ADAPTERS, CONSOLE, Bus, Commands, Shape
from deptbus.connection import Connection

READY = "from deptbus.readiness import tell_ready; tell_ready(); import time; time.sleep(600)"


def bus_of(data: Path, said: list[tuple[str, str]], script: str) -> Bus:
    commands = Commands(console=(sys.executable, "-c", script))
    return Bus(data, Shape(console_port=8420), lambda *told: said.append(told), commands)


def part_of(bus: Bus):
    return bus._console_part(Connection(bootstrap="127.0.0.1:1"), 8420)


def test_it_listens_on_this_machine_and_is_the_monitor(tmp_path: Path) -> None:
    part = part_of(bus_of(tmp_path, [], READY))
    assert part.stage == CONSOLE > ADAPTERS
    words = " ".join(part.argv)
    assert "--listen 127.0.0.1:8420" in words
    assert "--monitor" in words
    assert f"--data {tmp_path}" in words


async def test_it_is_ended_with_the_bus(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    bus = bus_of(tmp_path, said, READY)
    await bus._open_console(part_of(bus))
    assert [name for name, _ in bus.supervisor.processes] == ["console"]
    await bus.stop()
    assert bus.supervisor.processes == []
    assert said[-1] == ("console", "stopped")


@pytest.mark.parametrize("code", [1, 2])
async def test_one_that_cannot_start_is_told_and_disturbs_nobody(tmp_path: Path, code: int) -> None:
    said: list[tuple[str, str]] = []
    script = f"import sys; print('the port is taken', flush=True); sys.exit({code})"
    bus = bus_of(tmp_path, said, script)
    async with asyncio.timeout(60):
        await bus._open_console(part_of(bus))
    assert any("the port is taken" in state for _, state in said)
    await bus.stop()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_link_is_printed_on_a_terminal_and_never_into_a_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
) -> None:
    (tmp_path / ADDRESS_FILE).parent.mkdir()
    (tmp_path / ADDRESS_FILE).write_text("http://127.0.0.1:8420", encoding="utf-8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    told = up._Told(tmp_path)
    told("console", "starting")
    assert "http" not in capsys.readouterr().out
    told("console", "ready (pid 1)")
    said = capsys.readouterr().out
    assert "http://127.0.0.1:8420" in said
    assert ("/enter#" in said) is is_terminal
    assert (tmp_path / TICKETS_FOLDER).exists() is is_terminal
    assert f"deptbus console link --data {tmp_path}" in said
