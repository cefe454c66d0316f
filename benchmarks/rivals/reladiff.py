"""reladiff: compares two tables by checksums of key ranges, and loads what differs.

It is installed from a lock of its own, beside our environment, when the part that wants it first
runs. It is given what helps it: a dense, indexed whole number as the key, as many threads as there
are cores, no search for duplicates, and no sorting of what it found.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bench import CouldNot

_LOCK = Path(__file__).with_name("reladiff.lock")
_HOME = Path(__file__).resolve().parents[2] / ".make" / "reladiff"
_MARK = ".lock-digest"
_SECONDS = 300
# It breaks its lines of JSON at the terminal's width.
ENVIRONMENT = {"COLUMNS": "1000000"}


def installed() -> Path:
    """The Python that has it. Blocks; raises CouldNot."""
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    python, mark = _HOME / "bin" / "python", _HOME / _MARK
    if mark.is_file() and mark.read_text(encoding="ascii") == digest:
        return python
    for argv in _steps(python):
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CouldNot(f"reladiff cannot be installed: {type(error).__name__}") from None
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
            raise CouldNot(f"reladiff cannot be installed: {words[-1]}")
    mark.write_text(digest, encoding="ascii")
    return python


def _steps(python: Path) -> Iterator[list[str]]:
    required = ["--require-hashes", "-r", str(_LOCK)]
    uv = shutil.which("uv")
    if uv is not None:
        yield [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(_HOME)]
        yield [uv, "pip", "install", "--quiet", "--python", str(python), *required]
    else:
        yield [sys.executable, "-m", "venv", "--clear", str(_HOME)]
        yield [str(python), "-m", "pip", "install", "--quiet", *required]


def command(
    python: Path, here: tuple[str, str], there: tuple[str, str], key: str, columns: Sequence[str]
) -> list[str]:
    """`here` and `there`: URL and table."""
    argv = [str(python), "-m", "reladiff", *here, *there, "-k", key, "--json"]
    argv += ["-j", str(os.cpu_count() or 1), "--assume-unique-key", "--skip-sort-results"]
    for column in columns:
        argv += ["-c", column]
    return argv


def differing(output: str) -> set[str]:
    """Keys of the rows that it names, where it was run with ENVIRONMENT. Raises CouldNot for an
    output that is none of its own."""
    try:
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('["')]
        return {str(values[0]) for _, values in lines}
    except (ValueError, TypeError, IndexError):
        raise CouldNot("what reladiff said cannot be read") from None
