"""How `up` and the processes that it started speak: by files that are named to them.

They are started beside the broker, because most of what a start takes is Python's imports and
Java's. So each waits, once it has imported all it needs, until the bus can be used.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

READY_FILE = "DEPTBUS_READY_FILE"
GO_FILE = "DEPTBUS_GO_FILE"
_LOOK_SECONDS = 0.02


def tell_ready() -> None:
    """Call once, when all that this process does has begun; does nothing without a supervisor."""
    named = os.environ.get(READY_FILE)
    if named:
        Path(named).write_text(f"{os.getpid()}\n", encoding="utf-8")


def await_go() -> None:
    """Call once, after the imports and before the first word to the bus. Returns when the file is
    there that says that it can be used; at once without a supervisor."""
    named = os.environ.get(GO_FILE)
    while named and not os.path.exists(named):
        time.sleep(_LOOK_SECONDS)
