"""A disk of a few megabytes, to be filled: a tmpfs that is unmounted whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deptbus.cluster.postgres import PostgresServer


@contextmanager
def mounted(megabytes: int, *, owner: tuple[int, int] | None = None) -> Iterator[Path]:
    """Where this machine lets us mount none the test says so; that is a failure in CI."""
    folder = Path(tempfile.mkdtemp(prefix="deptbus-small-disk-"))
    folder.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = f"no small disk can be mounted here: {done.stderr.strip()}"
            if os.environ.get("DEPTBUS_REQUIRE_SERVICES") == "1" and os.geteuid() == 0:
                pytest.fail(said)
            pytest.skip(said)
        try:
            if owner is not None:
                os.chown(folder, *owner)
            yield folder
        finally:
            # Lazily: a server that still has a file open there must not keep it mounted.
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def small_disk(server: PostgresServer, megabytes: int) -> Iterator[Path]:
    """An empty folder on such a disk that this server may make a tablespace of."""
    facts = (server.log_file.parent / "cluster").stat()
    with mounted(megabytes, owner=(facts.st_uid, facts.st_gid)) as disk:
        folder = disk / "space"
        folder.mkdir(mode=0o700)
        os.chown(folder, facts.st_uid, facts.st_gid)
        yield folder
