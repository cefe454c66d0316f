"""How a process that `up` started says that it is ready: it writes a file named to it."""

from __future__ import annotations

import os
from pathlib import Path

READY_FILE = "DEPTBUS_READY_FILE"


def tell_ready() -> None:
    """Call once, when all that this process does has begun; does nothing without a supervisor."""
    named = os.environ.get(READY_FILE)
    if named:
        Path(named).write_text(f"{os.getpid()}\n", encoding="utf-8")
