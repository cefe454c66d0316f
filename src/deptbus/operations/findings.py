"""What alarms are about: the subjects of one look at the bus, each with what a person has to know.

| scope | subject | bad |
|---|---|---|
| `cluster` | the cluster | nobody could look, or a part of it did not answer |
| `lag` | a stage of a unit; `bus` for routing and all of intake | its verdict needs a person |
| `parked` | rows of a unit that wait for a person, at a stage | there are some |
| `freshness` | one dataset of a source unit | late or silent |
| `quarantine` | notes about one unit's records; `bus` where it is nobody's | one is not resolved |
| `group` | a consumer group, where the bus has no contract | its verdict needs a person |

Intake of all units is one subject: one worker reads it, and one that ends is one alarm. A unit that
never joined is no subject: what waits for it is no news. What is parked or in quarantine can wait
for a unit that is closed, whatever its adapter does. Pure.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deptbus.contract.model import Contract, Duty
from deptbus.contract.opening import opening_of
from deptbus.names import CONTRACT
from deptbus.operations.advice import CLUSTER, advice, page, page_of
from deptbus.operations.alarms import WELL, Finding, Look
from deptbus.operations.cluster_metrics import ClusterReport
from deptbus.operations.freshness import Fresh
from deptbus.operations.freshness_report import FreshnessRow, freshness_advice
from deptbus.operations.lag_report import groups_document, when
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.offsets import AWAY, NO_COORDINATOR, NO_LEADER
from deptbus.operations.quarantine import UNRESOLVED, Case
from deptbus.operations.stages import BUS, OFFICE, Stage, StageReport, unit_report
from deptbus.operations.verdicts import Verdict

_UNITS_NAMED = 20


class Scope(StrEnum):
    CLUSTER = "cluster"
    LAG = "lag"
    PARKED = "parked"
    FRESHNESS = "freshness"
    QUARANTINE = "quarantine"
    GROUP = "group"


class Word(StrEnum):
    """What is bad and is no verdict."""

    UNREACHABLE = "UNREACHABLE"
    PARTIAL = "PARTIAL"
    PARKED = "PARKED"
    LATE = "LATE"
    SILENT = "SILENT"
    QUARANTINED = "QUARANTINED"


# Of one scale with verdicts' own severities, which are 2 to 7 where they need a person.
SEVERITY = {
    Word.PARKED: 1,
    Word.QUARANTINED: 1,
    Word.LATE: 2,
    Word.PARTIAL: 3,
    Word.SILENT: 6,
    Word.UNREACHABLE: 8,
}
_CLUSTER_SUBJECT = f"{Scope.CLUSTER}/{BUS}"
_NOBODY_ANSWERS = frozenset({AWAY, NO_LEADER, NO_COORDINATOR})


@dataclass(frozen=True, slots=True)
class About:
    """What a notice says of its subject beside the word. Never a person, a key or a value."""

    unit: str
    owner: str
    duty: Duty | None
    advice: str
    runbook: str
    stage: str = ""
    dataset: str = ""
    since: float | None = None
    details: Mapping[str, Any] | None = None  # figures, as `deptbus lag -o json` names them


@dataclass(frozen=True, slots=True)
class Found:
    look: Look
    about: Mapping[str, About]


def found_of(report: ClusterReport | None, trouble: str, now: float) -> Found:
    """`report` None: nobody could look, because of `trouble`. What a report leaves out (None) was
    not looked at."""
    about: dict[str, About] = {}
    if report is None:
        finding = Finding(_CLUSTER_SUBJECT, SEVERITY[Word.UNREACHABLE], Word.UNREACHABLE)
        about[_CLUSTER_SUBJECT] = _of_office(None, CLUSTER[0], page(Word.UNREACHABLE), trouble)
        return Found(Look((finding,), frozenset({Scope.CLUSTER})), about)
    scopes = {Scope.CLUSTER}
    findings = [_cluster(report.lag, about)]
    contract = report.lag.contract
    if contract is None:
        # With a contract that nobody can read now there are units, and nobody knows them.
        if CONTRACT not in report.lag.picture.cluster.topics:
            scopes.add(Scope.GROUP)
            findings += _groups(report.lag, about)
    else:
        scopes |= {Scope.LAG, Scope.PARKED}
        findings += _stages(report.lag, contract, about)
        findings += _parked(report.lag, contract, about, now)
        if report.freshness is not None:
            scopes.add(Scope.FRESHNESS)
            joined = {s.unit for s in report.lag.stages if s.stage is Stage.OUTBOX}
            rows = [row for row in report.freshness if row.unit in joined]
            findings += _freshness(rows, contract, about)
        if report.quarantine is not None:
            scopes.add(Scope.QUARANTINE)
            findings += _quarantine(report.quarantine, contract, about, now)
    return Found(Look(tuple(findings), frozenset(scopes)), about)


def duty_of(contract: Contract | None, unit: str, owner: str) -> Duty | None:
    """Whom to ring: for what is the office's own matter, the office."""
    if contract is None:
        return None
    known = contract.unit_by_name.get(unit)
    return contract.office if owner == OFFICE or known is None else known.duty


def _of_office(contract: Contract | None, advised: str, runbook: str, trouble: str = "") -> About:
    return About(
        unit=BUS,
        owner=OFFICE,
        duty=duty_of(contract, BUS, OFFICE),
        advice=advised,
        runbook=runbook,
        details={"reason": trouble} if trouble else None,
    )


def _cluster(lag: LagReport, about: dict[str, About]) -> Finding:
    reasons = {s.reason for s in lag.stages if s.verdict is None} & _NOBODY_ANSWERS
    if lag.contract is None:
        tracks = lag.picture.tracks.values()
        reasons = {t.lag.reason for t in tracks if t.verdict is None} & _NOBODY_ANSWERS
    if lag.picture.is_whole and not reasons:
        return Finding(_CLUSTER_SUBJECT, WELL)
    told = ", ".join(sorted(reasons)) or "a broker did not tell which groups it has"
    about[_CLUSTER_SUBJECT] = _of_office(lag.contract, CLUSTER[1], page(Word.PARTIAL), told)
    return Finding(_CLUSTER_SUBJECT, SEVERITY[Word.PARTIAL], Word.PARTIAL)


def _stages(lag: LagReport, contract: Contract, about: dict[str, About]) -> Iterator[Finding]:
    by_subject: dict[str, list[StageReport]] = defaultdict(list)
    for report in lag.stages:
        if report.has_lived:
            unit = BUS if report.stage is Stage.INTAKE else report.unit
            by_subject[f"{Scope.LAG}/{unit}/{report.stage}"].append(report)
    for subject, reports in by_subject.items():
        worst = unit_report(reports)
        bad = [r.unit for r in reports if r.verdict is not None and r.verdict.needs_a_person]
        finding = Finding(
            subject,
            _severity(worst.verdict),
            str(worst.verdict) if worst.verdict is not None else "",
            worst.closed_until is not None,
        )
        yield finding
        if bad:
            about[subject] = About(
                unit=BUS if worst.stage is Stage.INTAKE else worst.unit,
                stage=worst.stage,
                owner=worst.owner,
                duty=duty_of(contract, worst.unit, worst.owner),
                advice=advice(worst.verdict, worst.stage, worst.unit),
                runbook=page_of(worst.verdict),
                since=worst.since,
                details=_figures(worst, lag.at) | _units(bad if len(reports) > 1 else ()),
            )


def _severity(verdict: Verdict | None) -> int | None:
    if verdict is None:
        return None
    return verdict.severity if verdict.needs_a_person else WELL


def _figures(report: StageReport, at: float) -> dict[str, Any]:
    margin = report.margin_seconds
    until = None if margin is None else "for_ever" if math.isinf(margin) else when(at + margin)
    return {
        "lag_records": report.lag_records,
        "lag_seconds": None if report.lag_seconds is None else round(report.lag_seconds, 1),
        "safe_until": until,
    }


def _units(units: Sequence[str]) -> dict[str, Any]:
    return (
        {"units": sorted(set(units))[:_UNITS_NAMED], "units_count": len(set(units))}
        if (units)
        else {}
    )


def _parked(
    lag: LagReport, contract: Contract, about: dict[str, About], now: float
) -> Iterator[Finding]:
    for report in lag.stages:
        if not report.parked:
            continue
        subject = f"{Scope.PARKED}/{report.unit}/{report.stage}"
        is_closed = _is_closed(contract, report.unit, now)
        yield Finding(subject, SEVERITY[Word.PARKED], Word.PARKED, is_closed)
        about[subject] = About(
            unit=report.unit,
            stage=report.stage,
            owner=report.owner,
            duty=duty_of(contract, report.unit, report.owner),
            advice=f"Look at {report.unit} which rows: `deptbus department status --config FILE`",
            runbook=page(Word.PARKED),
            details={"rows": report.parked},
        )


def _freshness(
    rows: Iterable[FreshnessRow], contract: Contract, about: dict[str, About]
) -> Iterator[Finding]:
    words = {Fresh.LATE: Word.LATE, Fresh.SILENT: Word.SILENT}
    for row in rows:
        subject = f"{Scope.FRESHNESS}/{row.unit}/{row.dataset}"
        state = row.said.state
        if state is None or state is Fresh.CLOSED:
            yield Finding(subject, None)
            continue
        word = words.get(state)
        if word is None:
            yield Finding(subject, WELL)
            continue
        yield Finding(subject, SEVERITY[word], word)
        about[subject] = About(
            unit=row.unit,
            dataset=row.dataset,
            owner=row.owner,
            duty=duty_of(contract, row.unit, row.owner),
            advice=freshness_advice(row),
            runbook=page(word),
            since=row.said.due,
            details={"last_refresh": None if row.said.last is None else when(row.said.last)},
        )


def _quarantine(
    cases: Iterable[Case], contract: Contract, about: dict[str, About], now: float
) -> Iterator[Finding]:
    by_unit: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.state in UNRESOLVED:
            by_unit[case.unit if case.unit in contract.unit_by_name else BUS].append(case)
    for unit, some in by_unit.items():
        subject = f"{Scope.QUARANTINE}/{unit}"
        known = contract.unit_by_name.get(unit)
        owner = known.owner if known is not None else OFFICE
        is_closed = known is not None and _is_closed(contract, unit, now)
        yield Finding(subject, SEVERITY[Word.QUARANTINED], Word.QUARANTINED, is_closed)
        about[subject] = About(
            unit=unit,
            owner=owner,
            duty=duty_of(contract, unit, owner),
            advice="See what and why: `deptbus quarantine ls`",
            runbook=page(Word.QUARANTINED),
            since=min(case.note.noted_at_us for case in some) / 1e6,
            details={"notes": len(some), "reasons": dict(Counter(c.note.reason for c in some))},
        )


def _is_closed(contract: Contract, unit: str, now: float) -> bool:
    return not opening_of(contract.unit_by_name[unit], contract).is_open(now)


def _groups(lag: LagReport, about: dict[str, About]) -> Iterator[Finding]:
    for row in groups_document(lag)["groups"]:
        subject = f"{Scope.GROUP}/{row['group']}"
        verdict: Verdict | None = row["verdict"]
        yield Finding(subject, _severity(verdict), str(verdict) if verdict is not None else "")
        if verdict is not None and verdict.needs_a_person:
            about[subject] = About(
                unit="",
                owner="",
                duty=None,
                advice=f"Look at the readers of group {row['group']}",
                runbook=page_of(verdict),
                details={k: row[k] for k in ("group", "topics", "lag_records", "lag_seconds")},
            )
