"""A disk of a few megabytes, to be filled: a tmpfs that is unmounted whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoSmallDisk(OSError):
    """This machine lets us mount none; the reason."""


@contextmanager
def mounted(
    megabytes: int, *, owner: tuple[int, int] | None = None, folder: Path | None = None
) -> Iterator[Path]:
    """An empty folder on such a disk: `folder`, or one of its own. Raises NoSmallDisk."""
    at = folder or Path(tempfile.mkdtemp(prefix="deptbus-small-disk-"))
    at.mkdir(exist_ok=True)
    at.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(at)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoSmallDisk(done.stderr.strip())
        try:
            if owner is not None:
                os.chown(at, *owner)
            yield at
        finally:
            # Lazily: a server that still has a file open there must not keep it mounted.
            subprocess.run(["umount", "-l", str(at)], check=True)
    finally:
        if folder is None:
            shutil.rmtree(at, ignore_errors=True)
