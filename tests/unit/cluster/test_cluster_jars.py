"""The cache of jars: what is missing or damaged is fetched, all else is told."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

import pytest

from deptbus.cluster.jars import TRIES, Jar, cache_folder, ensure_jars, locked_jars
from deptbus.errors import DeptbusError, NoNetwork

CONTENTS = {f"part{n}": f"content of jar {n}".encode() * 100 for n in range(4)}
JARS = tuple(
    Jar("org.example", name, "1.0", len(content), hashlib.sha256(content).hexdigest())
    for name, content in CONTENTS.items()
)


class Registry:
    """Answers as a registry does; what it was asked for is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: dict[str, list[Exception | bytes]] = {}

    def fetch(self, jar: Jar, folder: Path) -> Path:
        self.asked.append(jar.artifact)
        path = folder / "some" / "where.jar"
        path.parent.mkdir()
        answers = self.broken.get(jar.artifact)
        answer = answers.pop(0) if answers else CONTENTS[jar.artifact]
        if isinstance(answer, Exception):
            path.write_bytes(CONTENTS[jar.artifact][:10])  # the connection broke off here
            raise answer
        path.write_bytes(answer)
        return path


def test_the_lock_names_46_jars_each_once_and_no_address() -> None:
    jars = locked_jars()
    assert len(jars) == 46
    assert len({jar.file_name for jar in jars}) == 46
    assert all(len(jar.sha256) == 64 and jar.size_bytes > 0 for jar in jars)
    assert [j.version for j in jars if j.artifact == "kafka_2.13"] == ["4.3.1"]
    lock = Path(__file__).parents[3] / "src" / "deptbus" / "cluster" / "jars.lock"
    assert "://" not in lock.read_text(encoding="utf-8")


def test_an_empty_cache_is_filled_and_a_full_one_asks_nobody(tmp_path: Path) -> None:
    registry = Registry()
    paths = ensure_jars(tmp_path, JARS, registry.fetch)
    assert [path.read_bytes() for path in paths] == list(CONTENTS.values())
    assert registry.asked == list(CONTENTS)
    assert ensure_jars(tmp_path, JARS, registry.fetch) == paths
    assert len(registry.asked) == len(JARS)


@pytest.mark.parametrize("damage", [b"", b"short", b"X" * len(CONTENTS["part2"])])
def test_a_damaged_jar_is_noticed_and_fetched_again(tmp_path: Path, damage: bytes) -> None:
    registry = Registry()
    paths = ensure_jars(tmp_path, JARS, registry.fetch)
    paths[2].write_bytes(damage)
    registry.asked.clear()
    ensure_jars(tmp_path, JARS, registry.fetch)
    assert registry.asked == ["part2"]
    assert paths[2].read_bytes() == CONTENTS["part2"]


def test_an_interrupted_download_goes_on_with_the_files_that_are_missing(tmp_path: Path) -> None:
    registry = Registry()
    registry.broken["part2"] = [ConnectionResetError()] * TRIES
    with pytest.raises(NoNetwork, match="no network"):
        ensure_jars(tmp_path, JARS, registry.fetch)
    assert sorted(path.name for path in tmp_path.glob("*.jar")) == [
        "part0-1.0.jar",
        "part1-1.0.jar",
    ]
    assert not list(tmp_path.glob(".part-*"))
    registry.asked.clear()
    ensure_jars(tmp_path, JARS, registry.fetch)
    assert registry.asked == ["part2", "part3"]


def test_a_connection_that_breaks_once_is_tried_again(tmp_path: Path) -> None:
    registry = Registry()
    registry.broken["part1"] = [ConnectionResetError()]
    ensure_jars(tmp_path, JARS, registry.fetch)
    assert registry.asked.count("part1") == 2


def test_a_file_that_comes_altered_is_never_put_in_place(tmp_path: Path) -> None:
    registry = Registry()
    registry.broken["part0"] = [b"not what was locked"] * TRIES
    with pytest.raises(DeptbusError, match="wrong SHA-256"):
        ensure_jars(tmp_path, JARS, registry.fetch)
    assert not list(tmp_path.glob("*.jar"))


def test_a_registry_without_the_file_is_not_called_no_network(tmp_path: Path) -> None:
    registry = Registry()
    registry.broken["part0"] = [RuntimeError("not found")] * TRIES
    with pytest.raises(DeptbusError, match="answers but does not have it") as caught:
        ensure_jars(tmp_path, JARS, registry.fetch)
    assert not isinstance(caught.value, NoNetwork)


def test_a_full_disk_is_told_at_once_with_what_to_do(tmp_path: Path) -> None:
    registry = Registry()
    registry.broken["part0"] = [OSError(errno.ENOSPC, "No space left on device")] * TRIES
    with pytest.raises(DeptbusError, match="DEPTBUS_CACHE") as caught:
        ensure_jars(tmp_path, JARS, registry.fetch)
    assert "No space left" in str(caught.value)
    assert registry.asked == ["part0"]


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeptbusError, match="DEPTBUS_CACHE"):
        ensure_jars(tmp_path / "file" / "cache", JARS, Registry().fetch)


def test_of_two_who_come_at_once_one_downloads(tmp_path: Path) -> None:
    registry = Registry()
    together = threading.Barrier(2)

    def come() -> None:
        together.wait(10)
        ensure_jars(tmp_path, JARS, registry.fetch)

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(registry.asked) == sorted(CONTENTS)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTBUS_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")
    monkeypatch.delenv("DEPTBUS_CACHE")
    assert cache_folder().name == "deptbus"
