"""How many deliveries of a job may wait in an inbox: as many as the recipient applies in a fifth of
a second, so that a live change is never held up longer than that by a job in front of it.
"""

from __future__ import annotations

TARGET_SECONDS = 0.2
FIRST = 100
LEAST = 50
MOST = 20_000


class Window:
    """Pure: the clock comes with each call (seconds, monotonic).

    1. The rate is measured only over time in which something of ours waited all along: an idle
       recipient is not a slow one.
    2. The window is rate x TARGET_SECONDS, never below LEAST (else one slow answer would starve a
       job for ever), never above MOST, and never more than doubled in one step.
    3. While nothing is applied the window only shrinks: each TARGET_SECONDS without an answer
       halves it.
    """

    def __init__(self, now: float) -> None:
        self.size = FIRST
        self.waiting = 0
        self._since = now  # start of the span that is measured
        self._applied = 0  # applied in that span

    @property
    def room(self) -> int:
        return max(0, self.size - self.waiting)

    def sent(self, count: int, now: float) -> None:
        if count and not self.waiting:
            self._since, self._applied = now, 0
        self.waiting += count

    def applied(self, count: int, now: float) -> None:
        """`count` more of ours are applied (0: looked, and nothing was)."""
        self.waiting -= count
        self._applied += count
        seconds = now - self._since
        if self._applied == 0:
            if seconds >= TARGET_SECONDS and self.waiting:
                self._resize(self.size // 2)
                self._since = now
            return
        # A span must be long enough to mean something, unless all that waited is applied.
        if seconds >= TARGET_SECONDS / 4 or (not self.waiting and seconds > 0):
            self._resize(int(self._applied / seconds * TARGET_SECONDS))
            self._since, self._applied = now, 0

    def _resize(self, wanted: int) -> None:
        self.size = min(max(wanted, LEAST), self.size * 2, MOST)
