"""When a grant is live: its days are days in China (UTC+8), wherever the machine stands."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

from deptbus.contract.model import Grant, Policy

CHINA = timezone(timedelta(hours=8))


def last_instant(grant: Grant) -> datetime:
    return datetime.combine(grant.until, time.max, CHINA)


def first_instant(grant: Grant) -> datetime:
    return datetime.combine(grant.starts, time.min, CHINA)


def china_date(instant: datetime) -> date:
    """The day in China at an aware instant; ValueError for a naive one, which has no such day."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(CHINA).date()


def grants_of(policy: Policy) -> tuple[Grant, ...]:
    """The grants that this policy has: those live when it was activated (rule 7)."""
    day = china_date(policy.activated_at)
    return tuple(g for g in policy.contract.grants if g.starts <= day <= g.until)
