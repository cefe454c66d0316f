"""What one process counts: plain numbers, added to once a batch and read when somebody scrapes.

No client library on the way of a row, and nothing of it is imported where nobody scrapes: a count
is an addition to a number in a dict. Reading happens in the endpoint's thread. It copies, which no
other thread can interrupt, and asks nobody: who tells a gauge may belong to his loop alone. It may
see a batch half counted; the next scrape has it whole.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from deptbus.metrics.catalogue import BY_NAME

# What was told once and not again since is not known any more: a loop that tells it every other
# second has stopped, or cannot ask its database.
TOLD_SECONDS = 60.0
_ONE_BY_ONE = 8  # so few values are put into their buckets one by one

Key = tuple[str, tuple[str, ...]]  # name, label values in the order of the list


class Histogram:
    """Observations by bucket: of each bucket alone, the last one of what lies above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_ages(self, times_us: list[int], now_us: int) -> None:
        """How old each is at `now_us`, in seconds; what lies in the future (its clock is ahead)
        counts as 0. Sorts `times_us`: nearly always that is one pass, and then only bounds are
        looked for, not values."""
        if len(times_us) <= _ONE_BY_ONE:
            for at in times_us:
                self.observe(max(0, now_us - at) / 1e6)
            return
        times_us.sort()
        # How many are at the most so old, by bound; the oldest are the first.
        younger = [
            len(times_us) - bisect_left(times_us, now_us - round(bound * 1e6))
            for bound in self.bounds
        ]
        for bucket, (before, upto) in enumerate(pairwise((0, *younger, len(times_us)))):
            self.counts[bucket] += upto - before
        past = times_us[: bisect_left(times_us, now_us)]
        self.total += (len(past) * now_us - sum(past)) / 1e6


class Counts:
    """Counters, histograms and gauges of this process, all named as in the list."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sums: dict[Key, int] = {}
        self._histograms: dict[Key, Histogram] = {}
        self._told: dict[Key, tuple[float, float]] = {}  # value, until when it counts

    def add(self, name: str, labels: tuple[str, ...], count: int) -> None:
        key = name, labels
        self._sums[key] = self._sums.get(key, 0) + count

    def histogram(self, name: str, labels: tuple[str, ...] = ()) -> Histogram:
        key = name, labels
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = Histogram(BY_NAME[name].buckets)
        return found

    def tell(
        self, name: str, labels: tuple[str, ...], value: float | None, *, for_good: bool = False
    ) -> None:
        """A gauge, as it is now; None: it is not known. It has to be told again and again, unless
        it is `for_good`, as the time of an event is."""
        if value is None:
            self._told.pop((name, labels), None)
        else:
            until = float("inf") if for_good else self._clock() + TOLD_SECONDS
            self._told[name, labels] = value, until

    def tell_state(self, name: str, labels: tuple[str, ...], state: str) -> None:
        """Whatever other state was told under these labels does not hold any more."""
        for told, known in list(self._told):
            if told == name and known[:-1] == labels:
                self._told.pop((told, known), None)
        self.tell(name, (*labels, state), 1, for_good=True)

    # --- reading ------------------------------------------------------------------------------

    def sums(self) -> Iterator[tuple[Key, int]]:
        yield from list(self._sums.items())

    def histograms(self) -> Iterator[tuple[Key, Histogram]]:
        yield from list(self._histograms.items())

    def gauges(self) -> Iterator[tuple[Key, float]]:
        now = self._clock()
        for key, (value, until) in list(self._told.items()):
            if now <= until:
                yield key, value
