"""Who is told what, and when: pure, a fold of what looks found over the alarms that there were.

A *subject* is what can be bad or well: one stage of a unit, a dataset of a source unit, a unit's
quarantine, a group of a cluster without contract, the cluster itself. Its *scope*, the word before
the first `/`, says which look sees it. A finding has a severity: 0 is well, None is not known.

 1. Not known, or closed (its unit does not work now and has switched off): nothing is said, nothing
    is over, and nothing is counted towards either.
 2. Bad in every look of `raise_seconds`, and no alarm open: an alarm is raised.
 3. Open, and worse than all that it was told for: told once more as `worse`, at once. Better, and
    still bad: nothing.
 4. Open, bad, not acknowledged, and last told `repeat_seconds` ago: told again as a `reminder`.
    None: never.
 5. An acknowledgement is of one alarm, up to the severity that it had been told for: until it is
    over there are no reminders, and what is worse is told and reminded of like anything.
 6. Open, and well in every look of `over_seconds`: over, told once. That goes for an acknowledged
    one too.
 7. A subject that is not found by a look that saw its scope is well: its unit, dataset or group is
    gone. A look that did not see its scope says nothing.
 8. What was raised is taken up after a restart as it was told last; what had not been raised yet,
    or was not over yet, is counted anew. So a restart may delay, and neither repeats nor forgets.

So an alarm is told as raised, then worse or reminder any number of times (worse at most once for
each severity), then over; and no alarm of a subject is raised within `raise_seconds` of another's
end. Times are seconds since 1970.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

WELL = 0


class Kind(StrEnum):
    """Why somebody is told."""

    RAISED = "raised"
    WORSE = "worse"
    REMINDER = "reminder"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found of one subject."""

    subject: str
    severity: int | None
    word: str = ""  # the verdict or state, as the runbook has it
    is_closed: bool = False

    @property
    def is_silent(self) -> bool:
        return self.severity is None or self.is_closed


@dataclass(frozen=True, slots=True)
class Look:
    """`scopes`: those that it saw whole."""

    findings: tuple[Finding, ...]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ack:
    """A person has seen it, as it was then."""

    alarm: str
    severity: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of an alarm. `number`: 1 for the first of an alarm, then one more each."""

    alarm: str
    number: int
    kind: Kind
    subject: str
    word: str
    severity: int
    at: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """`told` None: it is bad, and nobody was told yet. `bad_since`, `well_since` are of this run
    alone: how long it was seen so without a break."""

    subject: str
    raised_at: float | None = None
    told: Notice | None = None
    bad_since: float | None = None
    well_since: float | None = None

    @property
    def is_open(self) -> bool:
        return self.told is not None and self.told.kind is not Kind.OVER


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds."""

    raise_seconds: float = 60.0
    over_seconds: float = 60.0
    repeat_seconds: float | None = 3600.0


USUAL = Patience()


def scope_of(subject: str) -> str:
    return subject.partition("/")[0]


def alarm_name(subject: str, raised_at: float) -> str:
    """Of one alarm, for ever: another one of the subject has another."""
    return hashlib.sha256(f"{subject} {raised_at:.6f}".encode()).hexdigest()[:12]


def judge(
    alarms: Mapping[str, Alarm],
    look: Look,
    acks: Mapping[str, Ack],
    now: float,
    patience: Patience = USUAL,
) -> tuple[dict[str, Alarm], list[Notice]]:
    """The alarms after a look, by subject, and what is to be told, by the rules above. `acks`: by
    subject. An alarm that is over stays, for its subject's next one to follow it."""
    found = {finding.subject: finding for finding in look.findings}
    after, notices = dict(alarms), list[Notice]()
    for subject in found.keys() | alarms.keys():
        finding = found.get(subject)
        if finding is None:
            if scope_of(subject) not in look.scopes:
                continue
            finding = Finding(subject, WELL)  # rule 7
        before = alarms.get(subject, Alarm(subject))
        alarm = _next(before, finding, acks.get(subject), now, patience)
        if alarm.told is not before.told and alarm.told is not None:
            notices.append(alarm.told)
        if alarm == Alarm(subject):
            after.pop(subject, None)
        else:
            after[subject] = alarm
    return after, sorted(notices, key=lambda notice: (-notice.severity, notice.subject))


def _next(alarm: Alarm, finding: Finding, ack: Ack | None, now: float, patience: Patience) -> Alarm:
    if finding.is_silent:
        return replace(alarm, bad_since=None, well_since=None)  # rule 1
    severity = finding.severity or WELL
    if severity == WELL:
        return _well(alarm, finding, now, patience)
    bad_since = now if alarm.bad_since is None else alarm.bad_since
    alarm = replace(alarm, bad_since=bad_since, well_since=None)
    told = alarm.told
    if told is None or told.kind is Kind.OVER:
        if now - bad_since < patience.raise_seconds:
            return alarm
        name = alarm_name(alarm.subject, now)
        raised = Notice(name, 1, Kind.RAISED, alarm.subject, finding.word, severity, now)
        return replace(alarm, raised_at=now, told=raised)
    if severity > told.severity:
        return replace(alarm, told=_following(told, Kind.WORSE, finding.word, severity, now))
    is_acked = ack is not None and ack.alarm == told.alarm and ack.severity >= told.severity
    every = patience.repeat_seconds
    if is_acked or every is None or now - told.at < every:
        return alarm
    # The severity stays the worst that was told, the word is that of now.
    return replace(alarm, told=_following(told, Kind.REMINDER, finding.word, told.severity, now))


def _well(alarm: Alarm, finding: Finding, now: float, patience: Patience) -> Alarm:
    if not alarm.is_open:
        return replace(alarm, bad_since=None, well_since=None)
    well_since = now if alarm.well_since is None else alarm.well_since
    alarm = replace(alarm, bad_since=None, well_since=well_since)
    if now - well_since < patience.over_seconds:
        return alarm
    assert alarm.told is not None
    over = _following(alarm.told, Kind.OVER, finding.word, alarm.told.severity, now)
    return replace(alarm, told=over, well_since=None)


def _following(told: Notice, kind: Kind, word: str, severity: int, now: float) -> Notice:
    return Notice(told.alarm, told.number + 1, kind, told.subject, word, severity, now)
