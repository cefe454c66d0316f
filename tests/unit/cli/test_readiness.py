"""How a process that `up` started waits for its word."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deptbus.readiness import GO_FILE, await_go


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
