"""`deptbus demo` from the wheel, in an empty folder with no checkout: three forms, one promise."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from installed import Room, Said, last_json

pytestmark = pytest.mark.service

DIRECTIONS = {"horizontal", "upward", "downward", "return", "granted"}
KEYS = {
    "units", "datasets", "published", "delivered", "by_direction", "withheld_fields", "withdrawn",
    "quarantined", "parked", "reentries_saved", "latency_ms", "rows_per_second", "copies_equal",
    "seconds",
}  # fmt: skip
# The mistakes that the demonstration makes on purpose and names (demo/mistakes.py).
PARKED, QUARANTINED = 4, 3


def check_outcome(said: Said) -> dict[str, Any]:
    assert said.code == 0, str(said)
    outcome = last_json(said)
    assert set(outcome) == KEYS
    assert set(outcome["by_direction"]) == DIRECTIONS
    assert set(outcome["latency_ms"]) == {"p50", "p99", "max"}
    assert outcome["copies_equal"] is True
    assert all(count > 0 for count in outcome["by_direction"].values()), outcome
    assert sum(outcome["by_direction"].values()) == outcome["delivered"]
    for name in ("withdrawn", "withheld_fields", "reentries_saved", "rows_per_second"):
        assert outcome[name] > 0, name
    assert (outcome["parked"], outcome["quarantined"]) == (PARKED, QUARANTINED)
    assert (outcome["units"], outcome["datasets"]) == (22, 6)
    latency = outcome["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    return outcome


def test_the_wheel_needs_no_checkout(room: Room, wheel_bin: Path) -> None:
    code = "import deptbus, sys; print(deptbus.__file__); print(*sys.path, sep='\\n')"
    argv = [str(wheel_bin / "python"), "-c", code]
    done = subprocess.run(
        argv, cwd=room.folder, env=room.environment(), capture_output=True, text=True, check=True
    )
    origin, *path = done.stdout.splitlines()
    assert Path(origin).is_relative_to(wheel_bin.parent)
    checkout = Path(__file__).resolve().parents[2]
    assert not [p for p in path if p and Path(p).is_relative_to(checkout / "src")]
    missing = subprocess.run([argv[0], "-c", "import pytest"], capture_output=True, check=False)
    assert missing.returncode != 0, "development's packages are here: a forgotten one would hide"


def test_demo_keeps_a_county(kept_county: tuple[Room, Path, Said]) -> None:
    room, folder, said = kept_county
    outcome = check_outcome(said)
    assert said.out.count("\n") == 1, "with --json the last line is the only one"
    assert said.err == ""
    assert outcome["seconds"] < 120
    assert (folder / "contract").is_dir()
    assert len(list(folder.glob("departments/*/department.yml"))) == 22
    assert not (folder / "run.json").exists()
    room.check_logs()


def test_demo_with_chaos(room: Room) -> None:
    check_outcome(room.run("demo", "--json", "--residents", "200", "--seconds", "6", "--chaos"))


def test_demo_with_postgres_tells_its_story(room: Room) -> None:
    words = ("demo", "--residents", "60", "--seconds", "1", "--postgres")
    said = room.run(*words, timeout=280, COLUMNS="160")
    outcome = check_outcome(said)
    words = said.out
    assert "The police moved one resident" in words
    assert "withdrawn: no longer theirs" in words
    assert "Mistakes made on purpose" in words
    for line in ("wrong check digit", "full-width digits", "outbox of housing"):
        assert line in words
    assert "all equal" in words
    assert outcome["copies_equal"] is True
    assert not list(room.folder.glob("*/department.yml"))
