"""Says when files of a folder are written to: by inotify, where the system has it.

Polling twenty SQLite files a hundred times a second costs an idle adapter more than all else it
does. What is told is a hint and no more: a writer touches the file before its commit can be seen,
and a system without inotify tells nothing; whoever waits looks for himself now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
import weakref
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# linux/inotify.h; the flags of inotify_init1 are those of open(2).
_IN_MODIFY = 0x00000002
_IN_Q_OVERFLOW = 0x00004000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_READ_BYTES = 64 * 1024


class Watch:
    """Some files of one folder. `written` is set when one of them was written to; who waits for it
    clears it first, looks, and then waits. Without inotify (`is_told` False) it is never set."""

    def __init__(self, folder: Path, names: frozenset[bytes]) -> None:
        self.folder = folder
        self.names = names
        self.written = asyncio.Event()
        self.is_told = False


class _Inotify:
    """One for all watches of an event loop: a user may have 128 of them only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watches: dict[int, set[Watch]] = {}  # by watch descriptor, one for each folder
        self._loop = loop
        self._file = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        loop.add_reader(self._file, self._read)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def add(self, watch: Watch) -> None:
        path = os.fsencode(watch.folder)
        number = self._checked(self._libc.inotify_add_watch(self._file, path, _IN_MODIFY))
        self._watches.setdefault(number, set()).add(watch)

    def remove(self, watch: Watch) -> bool:
        """Whether that was the last one; nothing is left open then."""
        for number, found in list(self._watches.items()):
            if watch in found:
                found.remove(watch)
                if not found:
                    del self._watches[number]
                    self._libc.inotify_rm_watch(self._file, number)
        if not self._watches:
            self._loop.remove_reader(self._file)
            os.close(self._file)
        return not self._watches

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._take(os.read(self._file, _READ_BYTES))

    def _take(self, told: bytes) -> None:
        at = 0
        while at < len(told):
            number, mask, _, length = _EVENT.unpack_from(told, at)
            at += _EVENT.size
            name = told[at : at + length].rstrip(b"\0")
            at += length
            if mask & _IN_Q_OVERFLOW:  # some were lost: everybody has to look
                for found in self._watches.values():
                    for watch in found:
                        watch.written.set()
                continue
            for watch in self._watches.get(number, ()):
                if name in watch.names:
                    watch.written.set()


_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Inotify] = (
    weakref.WeakKeyDictionary()
)


def watch_database(path: Path) -> Watch:
    """Begin to watch a SQLite file and its write-ahead log, in the running loop. Never raises: a
    system that has no inotify, or no more of it, leaves `is_told` False."""
    path = path.resolve()  # the log lies beside the file itself, not beside a link to it
    watch = Watch(path.parent, frozenset(os.fsencode(path.name + end) for end in ("", "-wal")))
    loop = asyncio.get_running_loop()
    try:
        inotify = _of_loop.get(loop)
        if inotify is None:
            inotify = _of_loop[loop] = _Inotify(loop)
        inotify.add(watch)
        watch.is_told = True
    except AttributeError:
        log.debug("inotify_absent")
    except OSError as error:
        log.warning("inotify_refused", reason=errno.errorcode.get(error.errno or 0, "unknown"))
    return watch


def end_watch(watch: Watch) -> None:
    """Call once for each `watch_database`, in the same loop."""
    loop = asyncio.get_running_loop()
    inotify = _of_loop.get(loop)
    if watch.is_told and inotify is not None and inotify.remove(watch):
        del _of_loop[loop]
    watch.is_told = False
