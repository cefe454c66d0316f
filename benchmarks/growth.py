"""Pure: whether something that was sampled again and again grows, or only wavers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

Sample = tuple[float, float]  # (seconds since the beginning, value)

# Of all pairs of samples, how many more rise than fall, as Kendall's tau: chance alone gives 0.
LEAST_TAU = 0.3
_MOST_SAMPLES = 400


class Growth(NamedTuple):
    """`rise`: what a straight line through the samples gains from the first to the last."""

    rise: float
    median: float
    tau: float

    def is_growth(self, *, part: float, least: float) -> bool:
        """More than `part` of the median, and more than `least`, and steadily."""
        return self.rise > max(part * self.median, least) and self.tau > LEAST_TAU


def last_two_thirds(samples: Sequence[Sample]) -> list[Sample]:
    """What comes after the beginning, when caches fill."""
    if not samples:
        return []
    start, end = samples[0][0], samples[-1][0]
    return [s for s in samples if s[0] >= start + (end - start) / 3]


def growth(samples: Sequence[Sample]) -> Growth:
    """By the median of the slopes of all pairs (Theil and Sen), which a few odd samples do not
    bend. Raises ValueError for less than three samples: nothing can be said then."""
    if len(samples) < 3:
        raise ValueError("nothing can be said of less than three samples")
    some = samples[:: max(1, len(samples) // _MOST_SAMPLES)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(some, 2) if b[0] > a[0]]
    rises = sum(slope > 0 for slope in slopes) - sum(slope < 0 for slope in slopes)
    length = samples[-1][0] - samples[0][0]
    return Growth(
        statistics.median(slopes) * length,
        statistics.median(value for _, value in samples),
        rises / len(slopes),
    )
