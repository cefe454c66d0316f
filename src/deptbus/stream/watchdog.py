"""Notices what would otherwise be silence for ever: a stuck agent, a denied group, a dead loop.

Looks are counted, not seconds: a process that was stopped (SIGSTOP) for an hour is not stuck.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping

from faust.types import TP

from deptbus.stream.batches import Batch

LOOK_SECONDS = 5.0
STUCK_LOOKS = 18  # a batch without a sign of life: longer than any deadline within an attempt
SILENT_LOOKS = 12  # a partition of which records are known and none come
DEAD_LOOP_SECONDS = 60


class Watch:
    """Pure: it is told what there is at every look, and answers when that is so for too long."""

    def __init__(self) -> None:
        self._running: dict[TP, tuple[float, int]] = {}
        self._silent: dict[TP, int] = {}

    def look(self, running: Mapping[TP, Batch], unread: Mapping[TP, int]) -> tuple[str, TP] | None:
        """`running`: batches with the agents. `unread`: records that the broker has and the client
        did not fetch, of partitions that have room and nothing waiting."""
        self._running = {
            tp: (batch.touched_at, self._looks(tp, batch) + 1) for tp, batch in running.items()
        }
        self._silent = {
            tp: self._silent.get(tp, 0) + 1 for tp, count in unread.items() if count > 0
        }
        for tp, (_, looks) in self._running.items():
            if looks > STUCK_LOOKS:
                return "agent_stuck", tp
        for tp, looks in self._silent.items():
            if looks > SILENT_LOOKS:
                return "partition_silent", tp
        return None

    def _looks(self, tp: TP, batch: Batch) -> int:
        touched_at, looks = self._running.get(tp, (batch.touched_at, 0))
        return looks if touched_at == batch.touched_at else 0


class LoopWatch:
    """A thread that sees whether the event loop still turns; calls `on_dead` once when it does not.

    Its own ticks are counted: they stand still too while the process is stopped.
    """

    def __init__(self, on_dead: Callable[[], None], seconds: int = DEAD_LOOP_SECONDS) -> None:
        self._on_dead = on_dead
        self._seconds = seconds
        self._turns = 0
        self._end = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()

    def _turn(self) -> None:
        self._turns += 1

    def _watch(self) -> None:
        seen, ticks = -1, 0
        while not self._end.wait(1.0):
            seen, ticks = (seen, ticks + 1) if self._turns == seen else (self._turns, 0)
            if ticks >= self._seconds:
                self._on_dead()
                return
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                return  # the loop was closed: the process ends
