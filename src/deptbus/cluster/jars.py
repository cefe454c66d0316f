"""Kafka's jars: named and pinned by digest in jars.lock, downloaded once into a cache.

A jar is believed only when its SHA-256 is the lock's, each time before it is used: a cache that was
cut off, damaged or tampered with is noticed and mended by fetching that file again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import platformdirs
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from deptbus.errors import DeptbusError, NoNetwork

CACHE_VARIABLE = "DEPTBUS_CACHE"
JARS_FOLDER = "kafka"  # in the cache, and in a folder that `deptbus fetch` made
TRIES = 3  # per file: a registry under load drops a connection now and then
READ_TIMEOUT_SECONDS = 30

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Jar:
    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


# Puts the jar's file into an empty folder and returns its path; raises OSError or RuntimeError.
Fetch = Callable[[Jar, Path], Path]


def locked_jars() -> tuple[Jar, ...]:
    """The jars of jars.lock, in its order."""
    jars = []
    lock = resources.files("deptbus.cluster").joinpath("jars.lock").read_text(encoding="utf-8")
    for line in lock.splitlines():
        if line and not line.startswith("#"):
            coordinate, size, digest = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, int(size), digest))
    return tuple(jars)


def cache_folder() -> Path:
    """Where downloads are kept: DEPTBUS_CACHE, else the platform's cache folder of this user."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("deptbus"))


def ensure_jars(
    folder: Path | None = None, jars: Sequence[Jar] | None = None, fetch: Fetch | None = None
) -> tuple[Path, ...]:
    """Paths of all jars, each with the right digest; what is missing or damaged is downloaded.

    Safe to call from many processes at once (one downloads, the others wait and then find the
    files). Raises DeptbusError when there is no network, or the cache cannot be written.
    """
    folder = folder if folder is not None else cache_folder() / JARS_FOLDER
    jars = jars if jars is not None else locked_jars()
    try:
        if any(not _is_right(folder / jar.file_name, jar) for jar in jars):
            _download_missing(folder, jars, fetch or _fetch_with_jgo)
    except OSError as error:
        raise _translated(error, folder) from error
    return tuple(folder / jar.file_name for jar in jars)


def check_jars(folder: Path) -> None:
    """Downloads nothing. Raises DeptbusError when one is missing, or is not what the lock says."""
    jars = locked_jars()
    wrong = [jar.file_name for jar in jars if not _is_right(folder / jar.file_name, jar)]
    if wrong:
        raise DeptbusError(
            f"{folder} lacks {len(wrong)} of Apache Kafka's {len(jars)} files, or they were "
            f"altered ({wrong[0]})",
            mend="Make the folder anew by this version of deptbus: `deptbus fetch --to DIR`",
        )


def copied_or_fetched(jar: Jar, folder: Path) -> Path:
    """As Fetch: out of this user's cache where it is there, else from the package registry."""
    there = cache_folder() / JARS_FOLDER / jar.file_name
    if _is_right(there, jar):
        return Path(shutil.copy(there, folder))
    return _fetch_with_jgo(jar, folder)


def _download_missing(folder: Path, jars: Sequence[Jar], fetch: Fetch) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        # Looked at again under the lock: another process may have fetched them meanwhile.
        missing = [jar for jar in jars if not _is_right(folder / jar.file_name, jar)]
        with _progress(missing) as arrived:
            for jar in missing:
                _download(folder, jar, fetch)
                arrived(jar)


def _download(folder: Path, jar: Jar, fetch: Fetch) -> None:
    """Fetches into a folder apart; the file goes in place only when its digest is right."""
    for attempt in range(1, TRIES + 1):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            try:
                got = fetch(jar, Path(part))
            except (OSError, RuntimeError) as error:
                if attempt == TRIES or (isinstance(error, OSError) and error.errno in _DISK):
                    if isinstance(error, RuntimeError):
                        raise DeptbusError(
                            f"{jar.file_name} cannot be downloaded",
                            mend="The package registry answers but does not have it: try later, "
                            f"or copy the cache of a machine that has it to {folder}",
                        ) from error
                    raise
                continue
            if _is_right(got, jar):
                os.replace(got, folder / jar.file_name)
                return
    raise DeptbusError(
        f"{jar.file_name} was downloaded {TRIES} times with a wrong SHA-256",
        mend="Something between here and the package registry alters files: do not use it",
    )


def _is_right(path: Path, jar: Jar) -> bool:
    try:
        if path.stat().st_size != jar.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def _fetch_with_jgo(jar: Jar, folder: Path) -> Path:
    # Imported here because it is slow to import and not needed once the cache is full.
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder, timeout=READ_TIMEOUT_SECONDS)
    return context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()


@contextmanager
def _progress(missing: Sequence[Jar]) -> Iterator[Callable[[Jar], None]]:
    """A bar on stderr (stdout belongs to the command's answer); one line if it is no terminal."""
    console = Console(stderr=True)
    size = sum(jar.size_bytes for jar in missing)
    if missing and not console.is_terminal:
        console.print(f"Downloading Apache Kafka: {len(missing)} files, {size / 1e6:.0f} MB")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("Downloading Apache Kafka", total=size)
        yield lambda jar: bar.advance(task, jar.size_bytes)


def _translated(error: OSError, folder: Path) -> DeptbusError:
    if error.errno in _DISK:
        try:
            free = f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"
        except OSError:
            free = ""
        return DeptbusError(
            f"cache folder {folder} cannot be written: {os.strerror(error.errno or 0)}{free}",
            mend=f"Set {CACHE_VARIABLE} to a folder with 100 MB of space that you may write",
        )
    return NoNetwork(
        "no network: Apache Kafka's files cannot be downloaded",
        mend="They are needed once (45 MB). Connect and try again, what has arrived is kept; or "
        "fill a folder elsewhere by `deptbus fetch --to DIR` and give it by --from DIR",
    )
