"""From commit to commit: how long single-row changes were on their way, by the databases' clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from benchmarks.town import COPY, TABLE, Town

_TYPED = (
    "SELECT resident_id, occupation, pg_xact_commit_timestamp(xmin) AS at FROM {table} "
    "WHERE occupation LIKE 'typed %' AND pg_xact_commit_timestamp(xmin) > $1"
)
_EVER = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


async def delays_ms(place: Town, since: datetime = _EVER) -> list[tuple[datetime, float]]:
    """(source commit, milliseconds to the copy's) of all changes that a typing clerk committed
    since then and that stand in the copy now, by time. Needs `track_commit_timestamp`."""
    there = {
        (key, text): at
        for key, text, at in await place.fetch(place.copy, _TYPED.format(table=COPY), since)
    }
    here = await place.fetch(place.source, _TYPED.format(table=TABLE), since)
    found = [
        (at, (there[key, text] - at).total_seconds() * 1000)
        for key, text, at in here
        if (key, text) in there
    ]
    return sorted(found)


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent of all do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
