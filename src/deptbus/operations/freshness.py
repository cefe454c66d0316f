"""Whether a source unit keeps the promise of a dataset: pure, from when it was last refreshed.

A refresh is a change that the department made or loaded; one that was sent again because somebody
asked is none. What is known of the last one is its time, or only that it did not come after one.
Rules, the first that fits; it is *due* when the promise ends, and where the unit has service hours,
days on which it does not work do not count and what would be due while it is closed is due at the
end of its next service (`contract.opening`):

1. Known, and not due yet: `fresh`; or `closed`, where by the clock alone the promise is over and
   the unit does not work now.
2. Nothing is known of it: no state.
3. It is only known not to have come after a time from which it is not due yet: no state, because
   what came before that was not looked at.
4. Due, and the adapter gives no sign of life: `silent`. Nobody knows what was written.
5. Due: `late`. Also where none ever came.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from deptbus.contract.opening import Opening
from deptbus.operations.verdicts import Reader

NEVER_CAME = float("-inf")


class Fresh(StrEnum):
    FRESH = "fresh"
    LATE = "late"
    SILENT = "silent"
    CLOSED = "closed"


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


ALWAYS_OPEN = Opening(None)


def freshness(
    refresh: Refresh,
    promise_seconds: float,
    reader: Reader,
    now: float,
    opening: Opening = ALWAYS_OPEN,
) -> Freshness:
    """By the rules above. `reader`: whether the unit's adapter lives."""
    if refresh.at is not None:
        due = opening.due(refresh.at, promise_seconds)
        if now > due:
            return Freshness(_broken(reader), refresh.at, due)
        is_excused = now > refresh.at + promise_seconds and not opening.is_open(now)
        return Freshness(Fresh.CLOSED if is_excused else Fresh.FRESH, refresh.at, due)
    if refresh.not_after is None:
        return Freshness(None, None, None)
    if refresh.not_after == NEVER_CAME:
        return Freshness(_broken(reader), None, None)
    due = opening.due(refresh.not_after, promise_seconds)
    return Freshness(None if now <= due else _broken(reader), None, due)


def _broken(reader: Reader) -> Fresh:
    return Fresh.SILENT if reader is Reader.GONE else Fresh.LATE
