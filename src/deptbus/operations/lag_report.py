"""The documents that `deptbus lag`, `groups` and `status` print, and their exit code: pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from deptbus.errors import Exit
from deptbus.operations.advice import advice
from deptbus.operations.arrival import NEVER
from deptbus.operations.lag import PartitionState, Place
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.offset_requests import Group
from deptbus.operations.stages import Part, Stage, StageReport, stage_report
from deptbus.operations.verdicts import Track, Verdict


def is_bad(verdict: Verdict | None) -> bool:
    """Whether somebody has to look: it needs a person, or nobody could tell."""
    return verdict is None or verdict.needs_a_person


def exit_code(verdicts: Iterable[Verdict | None], *, is_whole: bool = True) -> Exit:
    """What needs a person is said even where something else could not be told."""
    found = list(verdicts)
    if any(v is not None and v.needs_a_person for v in found):
        return Exit.ANSWER_IS_NO
    return Exit.COULD_NOT if None in found or not is_whole else Exit.DONE


def lag_document(report: LagReport, *, unit: str | None, only_bad: bool) -> dict[str, Any]:
    """`unit`: only what concerns this one; `only_bad`: only what somebody has to look at."""
    units = [u for u in report.units if unit is None or u.unit == unit]
    tracks = report.picture.tracks.items()
    mine = set(report.places_of(unit)) if unit is not None else None
    return {
        "units": [unit_row(u) for u in units if not only_bad or is_bad(u.verdict)],
        "partitions": [
            partition_row(place, track)
            for place, track in sorted(tracks)
            if (mine is None or place in mine) and (not only_bad or is_bad(track.verdict))
        ],
    }


def unit_row(report: StageReport) -> dict[str, Any]:
    """`expected_seconds`: "never" where it grows; null where nobody can tell, and where nothing is
    expected. `margin_seconds`: null also where nothing is lost by waiting."""
    return {
        "unit": report.unit,
        "verdict": report.verdict,
        "stage": report.stage,
        "lag_seconds": _rounded(report.lag_seconds),
        "lag_records": report.lag_records,
        "owner": report.owner,
        "since": when(report.since),
        "expected_seconds": _expected(report.expected_seconds),
        "margin_seconds": _rounded(report.margin_seconds),
        "closed_until": None if report.closed_until is None else when(report.closed_until),
        "advice": advice(report.verdict, report.stage, report.unit),
    }


def partition_row(place: Place, track: Track) -> dict[str, Any]:
    """Offsets are null where the partition cannot be seen now."""
    lag = track.lag
    seen = track.seen if lag.state is not PartitionState.UNREACHABLE else None
    return {
        "group": place.group,
        "topic": place.topic,
        "partition": place.partition,
        "committed": seen.committed if seen else None,
        "start": seen.start if seen else None,
        "end": seen.end if seen else None,
        "lag_records": lag.records,
        "lag_seconds": _rounded(lag.seconds),
        "state": lag.state,
        "verdict": track.verdict,
        "gone_records": lag.gone,
        "reason": lag.reason or None,
    }


def groups_document(report: LagReport) -> dict[str, Any]:
    """Every group of the cluster, deptbus's or not."""
    by_group: dict[str, list[tuple[Place, Track]]] = defaultdict(list)
    for place, track in report.picture.tracks.items():
        by_group[place.group].append((place, track))
    rows = []
    for group in sorted(report.picture.groups.keys() | by_group.keys()):
        known = report.picture.groups.get(group)
        places = by_group[group]
        # A group is judged as a stage is: the worst of its partitions, and sums that are true.
        parts = [Part(track) for _, track in places]
        said = stage_report(group, Stage.APPLY, "", parts, now=report.at)
        unseen = isinstance(known, str)
        rows.append(
            {
                "group": group,
                "state": known.state if isinstance(known, Group) else None,
                "topics": sorted({place.topic for place, _ in places}),
                "partitions": len(places),
                "lag_records": None if unseen else said.lag_records,
                "lag_seconds": None if unseen else _rounded(said.lag_seconds),
                "verdict": None if unseen else said.verdict,
                "reason": (known if isinstance(known, str) else said.reason) or None,
            }
        )
    return {"groups": rows, "is_whole": report.picture.is_whole}


def when(seconds: float) -> str:
    """ISO 8601, UTC, whole seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 1)


def _expected(seconds: float | None) -> float | str | None:
    return "never" if seconds == NEVER else _rounded(seconds)
