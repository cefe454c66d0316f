"""Which offsets of one partition a process has written itself, and so where somebody else wrote."""

from __future__ import annotations


class OwnWrites:
    """To be told of every write by its sender, in the order in which they were stored."""

    def __init__(self) -> None:
        self._ours: set[int] = set()  # from `_next` on
        self._next: int | None = None  # all below was asked for; None: nothing was written yet

    def add(self, stored: range) -> None:
        if self._next is None or stored.start < self._next:
            # The first write of all, or the topic was made again and counts anew.
            self._ours.clear()
            self._next = stored.start
        self._ours.update(stored)

    def others(self) -> range | None:
        """From the first to the last offset that is not ours, of those between our writes since the
        last call; None when there is none. What lies behind our last write comes at a later call.
        """
        if self._next is None or not self._ours:
            return None
        end = max(self._ours) + 1
        missing = sorted(set(range(self._next, end)) - self._ours)
        self._next = end
        self._ours.clear()
        return range(missing[0], missing[-1] + 1) if missing else None
