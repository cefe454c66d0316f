"""Which Java is taken: the first of the machine's that is young enough, else the wheel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from deptbus.cluster import java
from deptbus.errors import DeptbusError


def make_java(folder: Path, says: str, exit_code: int = 0) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def no_java_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'empty'}:/bin")
    monkeypatch.setattr(java.shutil, "which", lambda name: None)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ("no version at all", None),
    ],
)
def test_the_version_is_read_as_java_prints_it(
    tmp_path: Path, says: str, version: int | None
) -> None:
    assert java.java_version(make_java(tmp_path / "some", says)) == version


def test_what_is_no_program_has_no_version(tmp_path: Path) -> None:
    assert java.java_version(tmp_path / "absent") is None


def test_java_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = make_java(tmp_path / "home", 'openjdk version "21.0.1"')
    path = make_java(tmp_path / "path", 'openjdk version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(java.shutil, "which", lambda name: str(path))
    assert java.find_java() == home
    monkeypatch.delenv("JAVA_HOME")
    assert java.find_java() == path


def test_a_java_that_is_too_old_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = make_java(tmp_path / "old", 'java version "1.8.0_402"')
    wheel = make_java(tmp_path / "wheel", 'openjdk version "25.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))
    monkeypatch.setattr(java, "_of_the_wheel", lambda: wheel)
    assert java.find_java() == wheel


def test_no_java_that_runs_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = make_java(tmp_path / "wheel", "cannot execute", exit_code=126)
    monkeypatch.setattr(java, "_of_the_wheel", lambda: broken)
    with pytest.raises(DeptbusError, match="Install Java 17 or later"):
        java.find_java()


def test_the_wheels_java_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    version = java.java_version(java.find_java())
    assert version is not None
    assert version >= java.NEEDED
