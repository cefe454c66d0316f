"""Everything on a machine whose network is cut off, from a folder that `deptbus fetch` made: pip,
broker, Java, PostgreSQL, departments. The machine is a network namespace with nothing but loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cut_off import __file__ as cut_off
from installed import Room, is_ci
from test_examples import PROJECT

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]


def apart(argv: Sequence[str | Path], room: Room, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs it in a namespace of its own: whatever it starts has no network either."""
    words = {k: v for k, v in room.environment(**env).items() if v}
    return subprocess.run(
        ["unshare", "--net", "--", sys.executable, cut_off, *map(str, argv)],
        cwd=room.folder,
        env=words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def carried(new_room: Callable[[], Room]) -> Path:
    """The folder, as it was carried to another machine."""
    room = new_room()
    if subprocess.run(["unshare", "--net", "true"], check=False).returncode != 0:
        assert not is_ci(), "no network namespace can be made here"
        pytest.skip("no network namespace can be made here")
    said = room.run("fetch", "--to", "carried", timeout=300)
    assert said.code == 0, str(said)
    return room.folder / "carried"


@pytest.fixture
def home() -> Iterator[Path]:
    """For an environment; the user who runs PostgreSQL uses the programs in it."""
    with tempfile.TemporaryDirectory(prefix="deptbus-home-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "env"


def python_there(carried: Path, room: Room, home: Path) -> Path:
    """An environment that was made there, by whichever installer there is."""
    made = apart([sys.executable, "-m", "venv", "--without-pip", home], room)
    assert made.returncode == 0, made.stderr
    python = home / "bin" / "python"
    found = ["--no-index", "--find-links", str(carried), "deptbus[postgres]"]
    uv = shutil.which("uv")
    if uv is not None:
        argv = [uv, "pip", "install", "--quiet", "--no-cache", "--python", str(python), *found]
    else:
        argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *found]
    done = apart(argv, room)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_a_whole_county_without_network(carried: Path, room: Room, home: Path) -> None:
    python = python_there(carried, room, home)
    sums = (carried / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    for line in sums:
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((carried / name).read_bytes()).hexdigest() == digest, name
    assert len(sums) == len([*carried.glob("*.whl"), *carried.glob("kafka/*.jar")])
    command = [python, "-m", "deptbus.cli.main", "demo", "--json", "--postgres"]
    small = ["--residents", "100", "--seconds", "3"]
    nowhere = {"DEPTBUS_CACHE": str(room.folder / "empty"), "HOME": str(room.folder)}
    # Without the folder it says what is missing, so the folder is what makes the difference.
    done = apart([*command, *small], room, **nowhere)
    assert done.returncode == 2, done.stderr
    assert "no network" in done.stderr
    assert "deptbus fetch --to DIR" in done.stderr
    done = apart([*command, *small, "--from", carried], room, **nowhere)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["copies_equal"] is True
    assert not (room.folder / "empty" / "kafka" / "kafka-clients-4.3.1.jar").exists()


def test_the_department_s_page_says_what_is_done_here() -> None:
    text = (PROJECT / "docs" / "department.md").read_text(encoding="utf-8")
    assert "deptbus fetch --to carried\n" in text
    assert "pip install --no-index --find-links . deptbus\n" in text
    assert "sha256sum -c SHA256SUMS\n" in text


def test_a_folder_that_was_altered_is_refused(carried: Path, room: Room) -> None:
    copy = room.folder / "altered"
    shutil.copytree(carried / "kafka", copy / "kafka", copy_function=os.link)
    jar = next((copy / "kafka").glob("kafka-clients*.jar"))
    content = jar.read_bytes()
    jar.unlink()
    jar.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = room.run("up", "--embedded", "--from", copy)
    assert said.code == 2
    assert "lacks 1 of Apache Kafka's" in said.told
    assert jar.name in said.told
