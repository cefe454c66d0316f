"""How much of a recipient's time a person's job may take: all of it, or a share when it suffers.

The window (`window.py`) bounds how much of a job lies in front of a live change. This is about the
recipient's database and about changes that wait although the window is small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

SLOW_COMMIT_SECONDS = 0.5
LEAST_SHARE = 1 / 64
MOST_REST_SECONDS = 15.0
STEP_SECONDS = 1.0  # between two changes of the share


class Pace:
    """Pure: the clock comes with each call (seconds, monotonic).

    1. A commit that came later than SLOW_COMMIT_SECONDS after what it covers was acked halves the
       share.
    2. So does a live change that has waited for longer than half of the promise.
    3. The share changes once in STEP_SECONDS at most, so that one slow moment counts once.
    4. A step without a complaint raises it by a quarter; it is 1 at the most, LEAST_SHARE at the
       least (one slow answer must not starve a job for ever).
    5. What kept the recipient busy for t seconds is followed by a rest, so long that t is the share
       of both; never longer than MOST_REST_SECONDS.
    """

    def __init__(self, now: float, promise_seconds: float) -> None:
        self.share = 1.0
        self._promise = promise_seconds
        self._changed_at = now
        self._complained = False

    def committed(self, seconds: float, now: float) -> None:
        """So long it took at least from the ack of a send to the commit that covers it."""
        self._judge(seconds > SLOW_COMMIT_SECONDS, now)

    def live_lag(self, seconds: float | None, now: float) -> None:
        """How long the oldest unread record has waited; None: not known, which says nothing."""
        if seconds is not None:
            self._judge(seconds > self._promise / 2, now)

    def rest(self, busy_seconds: float) -> float:
        return min(busy_seconds * (1 - self.share) / self.share, MOST_REST_SECONDS)

    def _judge(self, is_bad: bool, now: float) -> None:
        self._complained = self._complained or is_bad
        if now - self._changed_at < STEP_SECONDS:
            return
        wanted = self.share / 2 if self._complained else self.share * 1.25
        self.share = min(1.0, max(wanted, LEAST_SHARE))
        self._changed_at, self._complained = now, False


class Unread:
    """How old the oldest unread record of an inbox is, by the ends that were seen before: what lay
    below an end that was seen t seconds ago is at least so old. Pure."""

    def __init__(self, most_seconds: float) -> None:
        """Further back than `most_seconds` nothing is remembered: older is as bad."""
        self._most = most_seconds
        self._seen: deque[tuple[float, dict[int, int]]] = deque()

    def seen(self, ends: Mapping[int, int], now: float) -> None:
        self._seen.append((now, dict(ends)))
        # The last one that is old enough stays, so that "older than that" can be told.
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._most:
            self._seen.popleft()

    def age(self, committed: Mapping[int, int], now: float) -> float | None:
        """`committed`: partition -> offset that is read next. 0: all that was seen is read. None:
        nothing was ever committed of a partition that has records, so nobody can tell."""
        for at, ends in self._seen:
            held = {partition: end for partition, end in ends.items() if end}
            if not held.keys() <= committed.keys():
                return None
            if any(committed[partition] < end for partition, end in held.items()):
                return now - at
        return 0.0 if self._seen else None
