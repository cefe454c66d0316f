"""What to say of a reader in words: pure, a fold over what was seen of it, with hysteresis.

The finding of one moment is that of the first rule that fits. *Waiting*: something is unread;
*waited*: the age of the first unread record, or, where that is not known, how long we have seen it
wait; *late*: waited for longer than the promise.

 1. The place is unreachable: no verdict (None), never OK.
 2. Records are gone before they were read (state `lost`): LOST.
 3. The topic was made again while something was unread in it: LOST, until the reader has committed
    in the new one. Whatever else was known of the old topic is forgotten.
 4. The reader stands below where it stood before, and something is unread: REWOUND, until it is
    there again or at the end.
 5. Nothing waits: OK.
 6. The reader gives no sign of life, has not moved since the last look, and what waits has waited
    longer than the grace: STOPPED.
 7. Not late: OK; where the age is not known, and we have not seen it wait that long: no verdict.
 8. Late, and for the stall time we saw something wait and the reader stand: STALLED.
 9. Late, and it loses ground: GROWING. It never arrives.
10. Late, and it gains ground: CATCHING_UP, with the time of arrival.
11. Late, and no more is known: BEHIND.

Hysteresis: the verdict is the worst finding of the last `settle_seconds`. So it turns worse at once
and better late, and no verdict comes back within that time. A moment that nobody could see has no
verdict, and takes none away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from deptbus.operations.arrival import Moment, Trend, arrival, remember
from deptbus.operations.lag import Lag, PartitionState, Seen, Unseen, measure


class Verdict(StrEnum):
    """From well to worst; `severity` is that order."""

    OK = "OK"
    CATCHING_UP = "CATCHING_UP"
    BEHIND = "BEHIND"
    GROWING = "GROWING"
    STALLED = "STALLED"
    REWOUND = "REWOUND"
    STOPPED = "STOPPED"
    LOST = "LOST"

    @property
    def severity(self) -> int:
        return _SEVERITY[self]

    @property
    def needs_a_person(self) -> bool:
        """Whether it does not mend itself, as far as anybody can tell."""
        return self.severity > _SEVERITY[Verdict.CATCHING_UP]


_SEVERITY = {verdict: number for number, verdict in enumerate(Verdict)}


class Reader(Enum):
    """What signs of life say of a reader."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds."""

    promise_seconds: float = 60.0  # a record that is unread for longer is late
    grace_seconds: float = 10.0  # a restart
    stall_seconds: float = 60.0
    settle_seconds: float = 30.0


USUAL = Limits()


@dataclass(frozen=True, slots=True)
class Track:
    """What is remembered of one reader in one partition, and what is said of it now."""

    at: float
    seen: Seen | None  # the last time that it could be seen
    lag: Lag
    verdict: Verdict | None
    since: float  # when that verdict began, or what it is about
    expected_seconds: float | None = None  # until it is at the end; NEVER
    waits_since: float | None = None  # since when we see something wait for a reader that stands
    stood: int | None = None  # where it stood before it was rewound
    orphaned: bool = False  # its topic was made again, and it has not committed there yet
    moments: tuple[Moment, ...] = ()
    findings: tuple[tuple[Verdict, float], ...] = ()  # the last time of each, within settling


_FORGOTTEN = Track(0.0, None, Lag(PartitionState.UNREACHABLE), None, 0.0)


def follow(
    before: Track | None, seen: Seen | Unseen, reader: Reader, now: float, limits: Limits
) -> Track:
    """The next Track, by the rules above. `now`: seconds since 1970, never less than before."""
    lag = measure(seen, now)
    if isinstance(seen, Unseen):
        return _blind(before, lag, now)
    last = before.seen if before is not None else None
    moved = last is None or last.committed != seen.committed
    orphaned = before is not None and before.orphaned
    lost = orphaned = orphaned and (seen.committed is None or not moved)
    if before is not None and last is not None and _made_again(last, seen):
        lost = orphaned or before.lag.waits is not False
        orphaned = lost and (seen.committed is None or not moved)
        before, last, moved = replace(_FORGOTTEN, findings=before.findings), None, True
    stood = _stood(before, seen, lag)
    waits_since = None
    if lag.waits:
        known = before.waits_since if before is not None and not moved else None
        waits_since = now if known is None else known
    here = Moment(now, seen.position, seen.end)
    moments = before.moments if before is not None and lag.waits else ()
    if moments and here.position < moments[-1].position:
        moments = ()  # rewound: what it passed before it will pass again
    finding, expected = _finding(
        lag,
        waited=_waited(lag, waits_since, now),
        is_late=_is_late(lag, waits_since, now, limits),
        is_gone=reader is Reader.GONE and (last is None or not moved),
        is_rewound=stood is not None,
        is_orphaned=lost,
        stood_seconds=0.0 if waits_since is None else now - waits_since,
        moments=moments,
        here=here,
        limits=limits,
    )
    findings = _settling(before, finding, now, limits)
    verdict = None if finding is None else max((v for v, _ in findings), key=lambda v: v.severity)
    return Track(
        now,
        seen,
        lag,
        verdict,
        _since(before, verdict, lag, now),
        expected if verdict is finding else None,
        waits_since,
        stood,
        orphaned,
        remember(moments, here) if lag.waits else (),
        findings,
    )


def _finding(
    lag: Lag,
    *,
    waited: float,
    is_late: bool | None,
    is_gone: bool,
    is_rewound: bool,
    is_orphaned: bool,
    stood_seconds: float,
    moments: tuple[Moment, ...],
    here: Moment,
    limits: Limits,
) -> tuple[Verdict | None, float | None]:
    """Rules 2 to 11, and the time of arrival."""
    if lag.state is PartitionState.LOST or is_orphaned:
        return Verdict.LOST, None
    if is_rewound:
        return Verdict.REWOUND, arrival(moments, here).expected_seconds
    if not lag.waits:
        return Verdict.OK, None
    if is_gone and waited > limits.grace_seconds:
        return Verdict.STOPPED, None
    if not is_late:
        return (None if is_late is None else Verdict.OK), None
    if stood_seconds >= limits.stall_seconds:
        return Verdict.STALLED, None
    trend, expected = arrival(moments, here)
    if trend is Trend.LOSES:
        return Verdict.GROWING, expected
    if trend is Trend.GAINS:
        return Verdict.CATCHING_UP, expected
    return Verdict.BEHIND, None


def _blind(before: Track | None, lag: Lag, now: float) -> Track:
    """Rule 1. What was known stays known for when the place is seen again."""
    if before is None:
        return Track(now, None, lag, None, now)
    since = before.since if before.verdict is None else now
    return Track(
        now,
        before.seen,
        lag,
        None,
        since,
        None,
        before.waits_since,
        before.stood,
        before.orphaned,
        before.moments,
        before.findings,
    )


def _made_again(last: Seen, seen: Seen) -> bool:
    return None not in (last.topic_id, seen.topic_id) and last.topic_id != seen.topic_id


def _stood(before: Track | None, seen: Seen, lag: Lag) -> int | None:
    """Where a rewound reader stood at the most; None when it is not rewound."""
    if before is None or before.seen is None or seen.committed is None or not lag.waits:
        return None
    stood = max(before.stood or 0, before.seen.committed or 0)
    return stood if seen.committed < stood else None


def _waited(lag: Lag, waits_since: float | None, now: float) -> float:
    if lag.seconds is not None:
        return lag.seconds
    return 0.0 if waits_since is None else now - waits_since


def _is_late(lag: Lag, waits_since: float | None, now: float, limits: Limits) -> bool | None:
    """None: nobody can tell."""
    late = _waited(lag, waits_since, now) > limits.promise_seconds
    return None if lag.seconds is None and not late else late


def _settling(
    before: Track | None, finding: Verdict | None, now: float, limits: Limits
) -> tuple[tuple[Verdict, float], ...]:
    kept = before.findings if before is not None else ()
    young = tuple(
        (v, at) for v, at in kept if v is not finding and now - at < limits.settle_seconds
    )
    return young if finding is None else (*young, (finding, now))


def _since(before: Track | None, verdict: Verdict | None, lag: Lag, now: float) -> float:
    if before is not None and before.verdict is verdict:
        return before.since
    if before is None and verdict is not None and verdict.needs_a_person and lag.seconds:
        return now - lag.seconds  # we look for the first time: it stands as long as that waits
    return now
