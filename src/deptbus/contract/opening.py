"""When a unit works: its service hours, China's working days, and days of one's own. Pure.

1. A unit without service hours always works.
2. One with service hours works in them, in China's time, on working days.
3. A working day is one from Monday to Friday that is no public holiday, or a day at the weekend
   that is worked in place of another one, as the State Council orders for each year. `calendar` in
   departments.yml has the last word: days that it closes, and days that it opens.

Of a year whose order the library `holidays` does not know yet, only the holidays that the law names
are known, and no day at a weekend that is worked for them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import Any

from deptbus.contract.model import Calendar, Contract, Unit

CHINA = timezone(timedelta(hours=8))
_DAY = timedelta(days=1)
_YEARS_AHEAD = 12  # a promise is ten years at the most; if nobody ever works again, say so

WorkingDay = Callable[[date], bool]


def working_days(calendar: Calendar) -> WorkingDay:
    """By rule 3."""

    def is_working_day(day: date) -> bool:
        if day in calendar.open:
            return True
        return day not in calendar.closed and bool(_year(day.year).is_working_day(day))

    return is_working_day


@lru_cache(maxsize=32)
def _year(year: int) -> Any:
    """The library takes a third of a second to load: only who has service hours pays for it."""
    import holidays

    return holidays.country_holidays("CN", years=[year])


class Opening:
    """One unit's. Times are seconds since 1970."""

    def __init__(
        self, hours: tuple[time, time] | None, is_working_day: WorkingDay = lambda _: True
    ) -> None:
        self._hours, self._works = hours, is_working_day

    def is_open(self, at: float) -> bool:
        if self._hours is None:
            return True
        local = _local(at)
        opens, closes = self._hours
        return opens <= local.time() < closes and self._works(local.date())

    def due(self, last: float, seconds: float) -> float:
        """When what was promised within `seconds` is due. Days on which nobody works do not count,
        and what would be due while nobody works is due at the end of the next service."""
        if self._hours is None:
            return last + seconds
        at, left = _local(last), timedelta(seconds=seconds)
        for _ in range(366 * _YEARS_AHEAD):
            midnight = datetime.combine(at.date() + _DAY, time(), CHINA)
            if self._works(at.date()):
                if at + left < midnight:
                    return self._at_work(at + left).timestamp()
                left -= midnight - at
            at = midnight
        return last + seconds

    def opens_next(self, at: float) -> float | None:
        """The beginning of the next service after `at`; None where there is none in a year, and
        where it always works."""
        if self._hours is None:
            return None
        day = _local(at).date()
        for _ in range(366):
            begins = datetime.combine(day, self._hours[0], CHINA).timestamp()
            if begins > at and self._works(day):
                return begins
            day += _DAY
        return None

    def longest_closed_seconds(self, first: date, days: int = 400) -> float:
        """Of the times between two services that begin within so many days."""
        if self._hours is None:
            return 0.0
        opens, closes = self._hours
        longest, closed_at = timedelta(), None
        for day in (first + n * _DAY for n in range(days)):
            if not self._works(day):
                continue
            begins = datetime.combine(day, opens, CHINA)
            if closed_at is not None:
                longest = max(longest, begins - closed_at)
            closed_at = datetime.combine(day, closes, CHINA)
        return longest.total_seconds()

    def _at_work(self, due: datetime) -> datetime:
        assert self._hours is not None
        opens, closes = self._hours
        if opens <= due.time() < closes:
            return due
        day = due.date() if due.time() < opens else due.date() + _DAY
        for _ in range(366):
            if self._works(day):
                return datetime.combine(day, closes, CHINA)
            day += _DAY
        return due


def opening_of(unit: Unit, contract: Contract) -> Opening:
    if unit.service_hours is None:
        return Opening(None)
    opens, _, closes = unit.service_hours.partition("-")
    hours = time.fromisoformat(opens), time.fromisoformat(closes)
    return Opening(hours, working_days(contract.calendar))


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone(CHINA)
