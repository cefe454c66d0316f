"""How often one may try to log in: by account and by address, each with a wait that doubles. Pure
but for the clock that is handed in.

An account's wait is short at the most, so that nobody can lock out its owner for good; whoever
tries many accounts meets the wait of the address.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

FREE_TRIES = 5  # of one account
FREE_TRIES_OF_ADDRESS = 30  # a whole office may sit behind one
FIRST_SECONDS = 2.0
LONGEST_SECONDS = 300.0
FORGOTTEN_SECONDS = 900.0
_MOST = 10_000


class Patience:
    def __init__(
        self, free_tries: int = FREE_TRIES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._now = free_tries, now
        self._failures: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait_seconds(self, who: Hashable) -> float:
        """How long this one has to wait before he may try; 0: he may."""
        count, last = self._failures.get(who, (0, 0.0))
        if count < self._free:
            return 0.0
        pause = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(count - self._free, 16))
        return max(0.0, last + pause - self._now())

    def failed(self, who: Hashable) -> None:
        count, last = self._failures.pop(who, (0, 0.0))
        if self._now() - last > FORGOTTEN_SECONDS:
            count = 0
        self._failures[who] = count + 1, self._now()
        while len(self._failures) > _MOST:
            self._failures.popitem(last=False)

    def forgive(self, who: Hashable) -> None:
        """It did not fail after all; what failed before still counts."""
        count, last = self._failures.pop(who, (0, 0.0))
        if count > 1:
            self._failures[who] = count - 1, last

    def forget(self, who: Hashable) -> None:
        self._failures.pop(who, None)
