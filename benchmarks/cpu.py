"""CPU time and memory of whole process trees, with threads, and children that came and went."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its living descendants; none when it is gone."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all these trees since they began.

    A child that ended counts with its parent from the moment it was waited for, so that the sum
    never falls while parents wait for their children.
    """
    total = 0.0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                total += spent.user + spent.system
                total += spent.children_user + spent.children_system
    return total


def memory_mb(pids: Iterable[int]) -> float:
    """Memory of all these trees; pages that processes share count once (PSS where the system
    tells it, else RSS)."""
    total = 0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                total += _memory(process)
    return total / 1_000_000


def _memory(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", full.rss))


class Meter:
    """CPU seconds of some process trees since `start`."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._began = cpu_seconds(pids)

    def seconds(self) -> float:
        return cpu_seconds(self._pids) - self._began
