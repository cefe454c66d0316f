"""Programs of Debian's packages, unpacked into the cache: nothing is installed on the machine.

The same way for root and for anybody else: apt says which packages are missing here, their files
are downloaded and unpacked beside each other, and what runs from there finds its libraries by
LD_LIBRARY_PATH. A folder is complete when its mark is written, so a download that was interrupted
begins anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from deptbus.cluster.jars import cache_folder

_UPDATE_SECONDS, _DOWNLOAD_SECONDS = 180, 420


class NotToBeHad(Exception):
    """There is no apt here, or it reaches no mirror."""


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """The folder that holds these packages and all that they need beyond what the machine has.

    `name`: of the folder in the cache. Raises NotToBeHad.
    """
    folder = cache_folder() / "debian" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = folder / ".complete"
    wanted = "\n".join(packages)
    with FileLock(f"{folder}.lock"):
        if not (mark.exists() and mark.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            _fetch(folder, packages)
            mark.write_text(wanted)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """What a program in this folder has to be started with."""
    libraries = sorted({str(lib.parent) for lib in folder.glob("usr/lib/*-linux-gnu*/**/lib*.so*")})
    known = os.environ.get("LD_LIBRARY_PATH", "")
    return {"LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([known] if known else [])])}


def _fetch(folder: Path, packages: Sequence[str]) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotToBeHad("there is no apt on this machine")
    downloads = folder / ".downloads"
    downloads.mkdir(parents=True)
    missing = _missing(folder, packages)
    _apt(folder, "download", *missing, seconds=_DOWNLOAD_SECONDS, inside=downloads)
    for package in sorted(downloads.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True)
    for kept in (downloads, folder / ".lists", folder / ".apt"):
        shutil.rmtree(kept, ignore_errors=True)


def _missing(folder: Path, packages: Sequence[str]) -> list[str]:
    """These packages, and what they need that is not installed here."""
    _apt(folder, "update", seconds=_UPDATE_SECONDS)
    words = ("install", "--simulate", "--no-install-recommends", *packages)
    plan = _apt(folder, *words, seconds=_UPDATE_SECONDS)
    found = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    return list(dict.fromkeys([*packages, *found]))


def _apt(folder: Path, *words: str, seconds: float, inside: Path | None = None) -> str:
    """With lists and locks of its own, because those of the machine are root's."""
    lists = folder / ".lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    settings = [
        f"Dir::State::lists={lists}",
        f"Dir::Cache={folder / '.apt'}",
        "Debug::NoLocking=true",
        "APT::Sandbox::User=",  # root drops to another user otherwise, who may not write here
        "Acquire::Retries=2",
    ]
    argv = ["apt-get", "-q", *(word for s in settings for word in ("-o", s)), *words]
    try:
        done = subprocess.run(
            argv,
            cwd=inside,
            env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotToBeHad(f"apt-get {words[0]} was not done in {seconds:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise NotToBeHad(f"apt-get {words[0]} failed: {said}")
    return done.stdout
