"""How a process and who looks after it speak: `up` by files that are named to both, systemd by its
socket (sd_notify(3)).

The parts of `up` are started beside the broker, because most of what a start takes is Python's
imports and Java's. So each waits, once it has imported all it needs, until the bus can be used.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

READY_FILE = "DEPTBUS_READY_FILE"
GO_FILE = "DEPTBUS_GO_FILE"
MANAGER_SOCKET = "NOTIFY_SOCKET"
_LOOK_SECONDS = 0.02


def tell_ready() -> None:
    """Call once, when all that this process does has begun; does nothing without a supervisor."""
    named = os.environ.get(READY_FILE)
    if named:
        Path(named).write_text(f"{os.getpid()}\n", encoding="utf-8")


def is_service() -> bool:
    """Whether systemd looks after this process: then it waits where it would tell a person."""
    return MANAGER_SOCKET in os.environ


def tell_manager(word: str) -> None:
    """One of systemd's words: READY=1, STATUS=..., STOPPING=1, WATCHDOG=1; nothing without it."""
    named = os.environ.get(MANAGER_SOCKET)
    if named:
        # A name that begins with @ is in the abstract namespace.
        address = f"\0{named[1:]}" if named.startswith("@") else named
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(word.encode(), address)


async def feed_watchdog() -> None:
    """Until cancelled: says that this event loop turns, as often as systemd wants to hear it."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    while microseconds and is_service():
        tell_manager("WATCHDOG=1")
        await asyncio.sleep(int(microseconds) / 1e6 / 3)


def await_go() -> None:
    """Call once, after the imports and before the first word to the bus. Returns when the file is
    there that says that it can be used; at once without a supervisor."""
    named = os.environ.get(GO_FILE)
    while named and not os.path.exists(named):
        time.sleep(_LOOK_SECONDS)
