"""Ports on the loopback address: which are free, and which nobody else takes by chance."""

from __future__ import annotations

import random
import socket
import time

LOOPBACK = "127.0.0.1"
# Below the ranges from which systems take ports for outgoing connections, so that none of those
# sits on a port between our look and the server's bind.
_FIRST, _LAST = 20_000, 32_000
_TRIES = 200
_LET_GO_SECONDS = 5.0  # a server that was killed a moment ago may still hold its port


def is_free(port: int) -> bool:
    """True when a server could bind this port now (as Java and PostgreSQL do: SO_REUSEADDR)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(*, not_this: int | None = None) -> int:
    """A free port, chosen at random so that two who look at once rarely choose the same."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if port != not_this and is_free(port):
            return port
    raise OSError(f"no free port found in {_FIRST}..{_LAST}")


def answers(port: int) -> bool:
    """True when something accepts connections on this port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def becomes_free(port: int) -> bool:
    """True when the port is free, or is let go within seconds by a server that just ended."""
    deadline = time.monotonic() + _LET_GO_SECONDS
    while not is_free(port):
        if answers(port) or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
