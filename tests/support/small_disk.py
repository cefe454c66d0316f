"""A disk of a few megabytes, to be filled, for tests; where there can be none the test says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deptbus.cluster.postgres import PostgresServer
from tests.torture.disks import NoSmallDisk, mounted


@contextmanager
def small_disk(server: PostgresServer, megabytes: int) -> Iterator[Path]:
    """An empty folder on such a disk that this server may make a tablespace of. Where root may
    mount none, that is a failure in CI."""
    facts = (server.log_file.parent / "cluster").stat()
    try:
        with mounted(megabytes, owner=(facts.st_uid, facts.st_gid)) as disk:
            folder = disk / "space"
            folder.mkdir(mode=0o700)
            os.chown(folder, facts.st_uid, facts.st_gid)
            yield folder
    except NoSmallDisk as error:
        if os.environ.get("DEPTBUS_REQUIRE_SERVICES") == "1" and os.geteuid() == 0:
            raise
        pytest.skip(f"no small disk can be mounted here: {error}")
