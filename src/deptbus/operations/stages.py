"""Where on its way a unit's data stand, and whose matter that is: pure, from tracks and signs.

The way of a change: rows wait in the source's database (`outbox`), records in `out.<unit>` for the
worker that takes them in (`intake`), in `data.<dataset>` for the worker that routes them
(`routing`), in `in.<unit>` for the recipient's adapter (`apply`). Each is one reader with its
partitions; an outbox, which no log shows, is told by its adapter's heartbeat and judged as a log of
one partition. `routing` serves every unit, so it stands under a name of its own, `bus`.

What is said of a stage, the first rule that fits:

0. Its unit is closed by its service hours, and its reader gives no sign of life: OK, unless records
   are gone. A bureau that switches off at night is not late.
1. Capture gave way at the source: LOST, because something was written that was not captured.
2. The worst verdict of its partitions, where that needs a person.
3. Its reader lived once and gives no sign of life: STOPPED, also where nothing waits.
4. One of its partitions has no verdict: none.
5. The worst verdict of its partitions.

A unit has the verdict of its worst stage: what needs a person before what nobody could tell, that
before what mends itself; of two alike one that is closed, then the longer wait, then the earlier
stage. Numbers of a stage are None when a partition's are: a sum with an unknown part is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from deptbus.operations.lag import Look, Seen, Unseen
from deptbus.operations.margin import FOR_EVER
from deptbus.operations.verdicts import Reader, Track, Verdict
from deptbus.wire.control import AppliedBeat, Heartbeat

BUS = "bus"
OFFICE = "data office"


class Stage(StrEnum):
    """In the order of a change's way."""

    OUTBOX = "outbox"
    INTAKE = "intake"
    ROUTING = "routing"
    APPLY = "apply"


_ORDER = {stage: number for number, stage in enumerate(Stage)}


class Parked(NamedTuple):
    """Rows of a recipient that its database does not take."""

    dataset: str
    reason: str
    rows: int


def parked_of(beat: AppliedBeat | None) -> tuple[Parked, ...]:
    """What a recipient's sign of life says of them, the most first."""
    if beat is None:
        return ()
    told = zip(beat.parked_datasets, beat.parked_reasons, beat.parked_rows, strict=False)
    return tuple(Parked(*one) for one in told)


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of one unit. Times are seconds, `since` seconds since 1970; None: not known."""

    unit: str
    stage: Stage
    owner: str
    verdict: Verdict | None
    lag_records: int | None
    lag_seconds: float | None
    since: float
    expected_seconds: float | None = None  # NEVER where it grows
    margin_seconds: float | None = FOR_EVER  # until something is lost to its reader
    parked: int | None = 0  # rows of the unit that wait at this stage for a person
    closed_until: float | None = None  # its unit does not work until then, and has switched off
    has_lived: bool = True  # its reader gave a sign of life or committed something, once
    reason: str = ""  # why nobody could tell
    parked_for: tuple[Parked, ...] = ()  # the reasons that park the most of those


@dataclass(frozen=True, slots=True)
class Part:
    """One partition of a stage."""

    track: Track
    margin_seconds: float | None = FOR_EVER


def outbox_seen(beat: Heartbeat | None, reader: Reader) -> Seen | Unseen:
    """The outbox behind a heartbeat as a log of one partition: versions are its offsets."""
    if beat is None or reader is Reader.GONE:
        return Unseen("adapter_silent")
    if beat.outbox_rows is None:
        return Unseen("outbox_not_told")
    end = beat.version + beat.outbox_rows
    look = None
    if beat.outbox_rows and beat.outbox_oldest_us is not None:
        oldest_ms = beat.outbox_oldest_us // 1000
        look = Look(beat.version, end, beat.version, oldest_ms, beat.outbox_rows)
    return Seen(beat.version, 0, end, end, look)


def stage_report(
    unit: str,
    stage: Stage,
    owner: str,
    parts: Sequence[Part],
    *,
    silent_since: float | None = None,
    has_lived: bool = True,
    closed_until: float | None = None,
    missed: bool = False,
    parked: int | None = 0,
    parked_for: tuple[Parked, ...] = (),
    now: float,
) -> StageReport:
    """By the rules above. `silent_since`: when its reader, which gives no sign of life now, gave
    the last; None where it lives, or never lived. `closed_until`: when its unit, which is closed
    and whose reader gives no sign of life, opens. `missed`: capture gave way."""
    tracks = [part.track for part in parts]
    worst = max(tracks, key=_rank) if tracks else None
    verdict = worst.verdict if worst is not None else Verdict.OK
    since = worst.since if worst is not None else now
    if missed and verdict is not Verdict.LOST:
        verdict, since = Verdict.LOST, now
    elif closed_until is not None and verdict is not Verdict.LOST:
        verdict, since = Verdict.OK, now
    elif silent_since is not None and not (verdict and verdict.needs_a_person):
        verdict, since = Verdict.STOPPED, silent_since
    expected = [t.expected_seconds for t in tracks if t.verdict is verdict and t.expected_seconds]
    return StageReport(
        unit,
        stage,
        owner,
        verdict,
        _sum(0 if t.lag.waits is False else t.lag.records for t in tracks),
        _longest(tracks),
        since,
        max(expected, default=None),
        _least(part.margin_seconds for part in parts),
        parked,
        closed_until if verdict is not Verdict.LOST else None,
        has_lived,
        next((t.lag.reason for t in tracks if t.lag.reason), ""),
        parked_for,
    )


def unit_report(stages: Iterable[StageReport]) -> StageReport:
    """The one stage that speaks for a unit."""
    return max(stages, key=_stage_rank)


def _rank(track: Track) -> tuple[int, float]:
    return _severity(track.verdict), track.lag.seconds or 0.0


def _stage_rank(report: StageReport) -> tuple[int, bool, float, int]:
    is_closed = report.closed_until is not None
    return _severity(report.verdict), is_closed, report.lag_seconds or 0.0, -_ORDER[report.stage]


def _severity(verdict: Verdict | None) -> int:
    """Unknown lies between what mends itself and what needs a person."""
    if verdict is None:
        return Verdict.CATCHING_UP.severity * 2 + 1
    return verdict.severity * 2


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _longest(tracks: Sequence[Track]) -> float | None:
    ages = [track.lag.seconds for track in tracks]
    known = [age for age in ages if age is not None]
    return max(known, default=0.0) if len(known) == len(ages) else None


def _least(margins: Iterable[float | None]) -> float | None:
    found = list(margins)
    known = [m for m in found if m is not None]
    if len(known) < len(found):
        return None
    return min(known, default=FOR_EVER)
