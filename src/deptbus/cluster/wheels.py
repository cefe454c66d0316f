"""Installed packages as wheels again, for a machine that cannot ask a package registry.

What is carried over is what runs here, file by file, each with the digest that its installer wrote
down; so no registry is asked, and nothing comes along that was altered since. The other machine has
to be one that these wheels fit: the same kind of system, processor and version of Python.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import stat
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackagePath, distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deptbus.errors import DeptbusError

_LEVEL = 3  # of compression; above it takes thrice as long for a twentieth of the size
# Of an installation, and no part of the package.
_NOT_PACKED = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip; the same files make the same wheel


def closure(requirements: Iterable[Requirement]) -> list[Distribution]:
    """The installed distributions that these name, and all that they need. Raises
    PackageNotFoundError."""
    wanted = list(requirements)
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        key = canonicalize_name(requirement.name)
        asked = (key, frozenset(requirement.extras))
        if asked in seen:
            continue
        seen.add(asked)
        found[key] = distribution(key)
        for text in found[key].requires or ():
            needed = Requirement(text)
            if applies(needed, requirement.extras):
                wanted.append(needed)
    return [found[key] for key in sorted(found)]


def applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether it holds on this machine, with any of these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras))


def pack(dist: Distribution, folder: Path) -> Path:
    """Writes the wheel of an installed distribution; returns its path.

    Raises DeptbusError where it was not installed from a wheel, or was altered since.
    """
    name = f"{dist.name} {dist.version}"
    wheel, record = dist.read_text("WHEEL"), dist.files
    if wheel is None or record is None or _is_editable(dist):
        raise DeptbusError(
            f"{name} was not installed from a wheel and cannot be carried to another machine",
            mend="Install deptbus by pip into an environment of its own, and fetch there",
        )
    path = folder / f"{_file_name(dist, wheel)}.whl"
    part = path.with_suffix(".part")
    info = next(p.parent for p in record if p.name == "WHEEL" and p.parent.suffix == ".dist-info")
    scripts = {e.name for e in dist.entry_points if e.group in ("console_scripts", "gui_scripts")}
    lines: list[tuple[str, str, str]] = []
    with ZipFile(part, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for file in _packed(record, info, scripts, name):
            content = _content(dist, file, name)
            archive.writestr(_entry(str(file), _mode(dist, file)), content)
            lines.append((str(file), f"sha256={_digest(content)}", str(len(content))))
        told = f"{info}/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*lines, (told, "", "")])
        archive.writestr(_entry(told, 0o644), text.getvalue())
    part.replace(path)
    return path


def _is_editable(dist: Distribution) -> bool:
    where = json.loads(dist.read_text("direct_url.json") or "{}")
    return bool(where.get("dir_info", {}).get("editable"))


def _file_name(dist: Distribution, wheel: str) -> str:
    """By PEP 427; the tags are those that its builder gave it."""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line[:4] == "Tag:"]
    parts = [sorted(set(part)) for part in zip(*(tag.split("-") for tag in tags), strict=True)]
    name = re.sub(r"[-_.]+", "_", dist.name).lower()
    version = dist.version.replace("-", "_")
    return "-".join([name, version, *(".".join(part) for part in parts)])


def _packed(
    record: Iterable[PackagePath], info: PackagePath, scripts: set[str], name: str
) -> Iterator[PackagePath]:
    for file in record:
        if "__pycache__" in file.parts or (file.parent == info and file.name in _NOT_PACKED):
            continue
        if ".." not in file.parts:
            yield file
        elif file.name.removesuffix(".exe") not in scripts:  # those the installer makes again
            raise DeptbusError(f"{name} has a file outside of its folder: {file}")


def _content(dist: Distribution, file: PackagePath, name: str) -> bytes:
    try:
        content = Path(str(dist.locate_file(file))).read_bytes()
    except OSError as error:
        raise DeptbusError(
            f"{name}: {file} cannot be read: {error.strerror}", mend="Install it anew"
        ) from None
    known = file.hash
    if known is not None and known.mode == "sha256" and known.value != _digest(content):
        raise DeptbusError(
            f"{name}: {file} is not as it was installed",
            mend="Install deptbus into a fresh environment, and fetch there",
        )
    return content


def _digest(content: bytes) -> str:
    raw = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _mode(dist: Distribution, file: PackagePath) -> int:
    """Whether it may be run goes along: Java and PostgreSQL are programs in packages."""
    mode = Path(str(dist.locate_file(file))).stat().st_mode
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _entry(name: str, mode: int) -> ZipInfo:
    entry = ZipInfo(name, _EPOCH)
    entry.compress_type = ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | mode) << 16
    return entry
