"""Whether a source unit keeps the promise of a dataset: pure, from when it was last refreshed.

A refresh is a change that the department made or loaded; one that was sent again because somebody
asked is none. What is known of the last one is its time, or only that it did not come after one.
Rules, the first that fits:

1. Known, and younger than the promise: `fresh`.
2. Nothing is known of it: no state.
3. It is only known not to have come after a time within the promise: no state, because what came
   before that was not looked at.
4. Not younger, and the adapter gives no sign of life: `silent`. Nobody knows what was written.
5. Not younger: `late`. Also where none ever came.

It is due when the promise ends: last refresh and `freshness_hours`. Where only a bound is known it
was due then at the latest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deptbus.operations.verdicts import Reader

NEVER_CAME = float("-inf")


class Fresh(StrEnum):
    FRESH = "fresh"
    LATE = "late"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Refresh:
    """When a dataset was last refreshed by one unit, seconds since 1970. `at` None: not known, but
    not after `not_after`; NEVER_CAME: it never was, as far back as the bus remembers all."""

    at: float | None = None
    not_after: float | None = None


@dataclass(frozen=True, slots=True)
class Freshness:
    state: Fresh | None
    last: float | None  # None: not known, or never
    due: float | None  # None: it never came, or nobody knows


def freshness(refresh: Refresh, promise_seconds: float, reader: Reader, now: float) -> Freshness:
    """By the rules above. `reader`: whether the unit's adapter lives."""
    if refresh.at is not None:
        due = refresh.at + promise_seconds
        state = Fresh.FRESH if now <= due else _broken(reader)
        return Freshness(state, refresh.at, due)
    if refresh.not_after is None:
        return Freshness(None, None, None)
    if refresh.not_after == NEVER_CAME:
        return Freshness(_broken(reader), None, None)
    due = refresh.not_after + promise_seconds
    return Freshness(None if now <= due else _broken(reader), None, due)


def _broken(reader: Reader) -> Fresh:
    return Fresh.SILENT if reader is Reader.GONE else Fresh.LATE
