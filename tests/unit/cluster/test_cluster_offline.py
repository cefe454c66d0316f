"""What `fetch` clears out of its folder: what it put there itself, once it has something better."""

from __future__ import annotations

from importlib.metadata import Distribution
from pathlib import Path

import pytest

from deptbus.cluster import offline
from deptbus.errors import DeptbusError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an earlier call, beside somebody else's wheel."""

    def pack(dist: Distribution, folder: Path) -> Path:
        made = folder / f"{dist.name}-2.whl"
        made.write_bytes(b"new")
        return made

    monkeypatch.setattr(offline, "ensure_jars", lambda *_, **__: [])
    monkeypatch.setattr(offline, "closure", lambda _: [offline.distribution("typer")])
    monkeypatch.setattr(offline, "pack", pack)
    for name in ("typer-1.whl", "theirs-1.whl", "theirs.part"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "SHA256SUMS").write_text("00  typer-1.whl\n00  ../outside.whl\n")
    (tmp_path.parent / "outside.whl").write_bytes(b"old")
    return tmp_path


def test_only_its_own_of_before_is_removed(folder: Path) -> None:
    offline.fetch(folder, lambda _: None)
    assert {f.name for f in folder.glob("*.whl")} == {"typer-2.whl", "theirs-1.whl"}
    assert (folder / "theirs.part").exists()
    assert (folder.parent / "outside.whl").exists()
    sums = (folder / "SHA256SUMS").read_text()
    assert "typer-2.whl" in sums
    assert "theirs" not in sums


def test_nothing_is_removed_where_packing_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pack(*_: object) -> Path:
        raise DeptbusError("altered")

    monkeypatch.setattr(offline, "pack", pack)
    with pytest.raises(DeptbusError, match="altered"):
        offline.fetch(folder, lambda _: None)
    assert (folder / "typer-1.whl").exists()
