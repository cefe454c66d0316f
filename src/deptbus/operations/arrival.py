"""When a reader that is behind will be at the end: pure, from where it stood at several moments.

1. Paces are those between the oldest moment of the window and now: offsets that the reader passed
   and offsets that came, a second. Less than `LEAST_SECONDS` tells nothing.
2. The reader gains when it passes more than `STEADY` above what comes: it arrives in (offsets that
   are left) / (what it gains a second).
3. It loses when as much more comes than it passes: it never arrives.
4. Between the two nothing can be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

WINDOW_SECONDS = 60.0
LEAST_SECONDS = 3.0
STEADY = 0.05
NEVER = math.inf


class Moment(NamedTuple):
    at: float  # seconds
    position: int
    end: int


class Trend(Enum):
    GAINS = "gains"
    LOSES = "loses"
    UNKNOWN = "unknown"


class Arrival(NamedTuple):
    trend: Trend
    expected_seconds: float | None = None  # NEVER where it loses, None where nobody can tell


_UNKNOWN = Arrival(Trend.UNKNOWN)


def arrival(before: Sequence[Moment], now: Moment) -> Arrival:
    """By the rules above. `before`: earlier moments, the oldest first."""
    oldest = before[0] if before else now
    elapsed = now.at - oldest.at
    if elapsed < LEAST_SECONDS:
        return _UNKNOWN
    passed = (now.position - oldest.position) / elapsed
    came = (now.end - oldest.end) / elapsed
    gain = passed - came
    if abs(gain) <= STEADY * max(passed, came, 0.0):
        return _UNKNOWN
    if gain < 0:
        return Arrival(Trend.LOSES, NEVER)
    return Arrival(Trend.GAINS, max(0, now.end - now.position) / gain)


def remember(before: tuple[Moment, ...], now: Moment, *, kept: int = 8) -> tuple[Moment, ...]:
    """`before` with `now`: moments of the window, at most `kept` of them and spread over it, so
    that twenty thousand partitions fit in the memory of a small machine. One older moment is kept
    as long as there is no other, for those who look less often than a window is long."""
    apart = WINDOW_SECONDS / kept
    if before and now.at - before[-1].at < apart:
        return before
    young = tuple(m for m in before if now.at - m.at <= WINDOW_SECONDS)
    return (*(young or before[-1:]), now)[-kept - 1 :]
