"""A child process that dies with its parent, even when the parent is killed by SIGKILL.

On Linux the kernel does it (prctl PR_SET_PDEATHSIG, set by this very file run as a small launcher
that then becomes the child: no Python code runs between fork and exec of a process with threads).
Elsewhere the launcher stays as a guard that looks after its parent and ends the child with it.

Only the standard library: it is also run as a script, without site-packages.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
GUARD_INTERVAL_SECONDS = 0.2
COULD_NOT_EXECUTE = 127  # as a shell says it


def bound(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    user: tuple[int, int] | None = None,
) -> list[str]:
    """The argv that runs `argv` as a child bound to this process; `user` is (uid, gid) to become.

    Start it from the main thread: the kernel counts the end of the thread that started a child as
    the death of its parent. Raises RuntimeError in any other thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a bound child must be started from the main thread")
    uid, gid = user if user is not None else (-1, -1)
    words = [sys.executable, "-I", "-S", __file__]
    words += map(str, (os.getpid(), int(death_signal), uid, gid))
    return [*words, *map(str, argv)]


def main() -> int:
    parent, death_signal, uid, gid = map(int, sys.argv[1:5])
    argv = sys.argv[5:]
    on_linux = sys.platform.startswith("linux")
    # Loaded while we are still who we were: another user may not be able to read our Python.
    prctl = _prctl() if on_linux else None
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    if prctl is None:
        return _guard(parent, death_signal, argv)
    prctl(PR_SET_PDEATHSIG, death_signal)  # after setuid, which clears it
    if os.getppid() != parent:  # it died before the line above
        return 1
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        return COULD_NOT_EXECUTE


def _prctl() -> Callable[[int, int], None]:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).prctl

    def prctl(option: int, value: int) -> None:
        if call(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    return prctl


def _guard(parent: int, death_signal: int, argv: list[str]) -> int:
    """Runs argv; passes signals on; ends it when `parent` is our parent no more."""
    with subprocess.Popen(argv) as child:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda number, _frame: child.send_signal(number))
        while True:
            try:
                code = child.wait(GUARD_INTERVAL_SECONDS)
            except subprocess.TimeoutExpired:
                if os.getppid() != parent:
                    child.send_signal(death_signal)
            else:
                return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
