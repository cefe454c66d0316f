"""How a process that `up` started waits for its word."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import uuid
from pathlib import Path

import pytest

from deptbus.readiness import GO_FILE, await_go, feed_watchdog, is_service, tell_manager


def test_without_a_supervisor_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GO_FILE, raising=False)
    await_go()


def test_it_waits_for_the_file_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go, looks = tmp_path / "go", []
    monkeypatch.setenv(GO_FILE, str(go))
    looked = threading.Event()

    def look(_seconds: float) -> None:
        looks.append(go.exists())
        looked.set()

    monkeypatch.setattr("deptbus.readiness.time.sleep", look)
    waiting = threading.Thread(target=await_go)
    waiting.start()
    assert looked.wait(10)
    assert waiting.is_alive()
    go.touch()
    waiting.join(10)
    assert not waiting.is_alive()
    assert looks[0] is False


@pytest.mark.parametrize("kind", ["a file", "an abstract name"])
async def test_systemd_hears_that_it_is_ready_and_that_the_loop_turns(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,  # a socket's path is short
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.settimeout(10)
        named = f"{folder}/notify" if kind == "a file" else f"@deptbus-{uuid.uuid4().hex}"
        manager.bind(named.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", named)
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        assert is_service()
        tell_manager("READY=1")
        assert manager.recv(100) == b"READY=1"
        feeding = asyncio.create_task(feed_watchdog())
        for _ in range(3):
            assert await asyncio.to_thread(manager.recv, 100) == b"WATCHDOG=1"
        feeding.cancel()


async def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    assert not is_service()
    tell_manager("READY=1")
    await asyncio.wait_for(feed_watchdog(), 10)
