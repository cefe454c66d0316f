"""Kills workers and adapters of a bus with SIGKILL, at random moments, until told to stop."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path

import psutil

from deptbus.connection import RUN_FILE

PAUSE_SECONDS = (0.7, 2.5)


class Chaos:
    """`start` ... `stop`; `killed` counts by part. Process ids are those of run.json."""

    def __init__(self, data: Path, seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self._file = data / RUN_FILE
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kill, name="chaos", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._stop.wait(self._rng.uniform(*PAUSE_SECONDS)):
            processes = json.loads(self._file.read_text(encoding="utf-8"))["processes"]
            victims = [p for p in processes if p["name"].startswith(("worker-", "adapter-"))]
            if not victims:
                continue
            victim = self._rng.choice(victims)
            if _kill_ours(victim["pid"]):
                self.killed[victim["name"]] += 1


def _kill_ours(pid: int) -> bool:
    """False when this process is not there, or is not one of ours any more."""
    try:
        process = psutil.Process(pid)
        if not any("deptbus" in word for word in process.cmdline()):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False  # it is being started anew just now
    return True
