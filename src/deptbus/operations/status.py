"""The whole bus on one screen: what needs a person, whom to ring, what to type, until when to wait.

Units whose adapter never began are told in one line: where a contract names more units than have
joined, they would hide the others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from deptbus.connection import Connection
from deptbus.errors import DeptbusError, Exit
from deptbus.operations.freshness import Fresh
from deptbus.operations.freshness_report import FreshnessRow, freshness_document, look_at_freshness
from deptbus.operations.lag_report import exit_code, is_bad, unit_row, when
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.proofs import (
    NEEDS_A_PERSON,
    Proved,
    joined,
    proofs_document,
    read_proved,
)
from deptbus.operations.quarantine import UNRESOLVED, Case, State
from deptbus.operations.quarantine_desk import read_quarantine
from deptbus.operations.search import deadline_in
from deptbus.operations.stages import OFFICE, Stage, StageReport, unit_report
from deptbus.operations.verdicts import Verdict
from deptbus.stream.policies import read_policies

log = structlog.get_logger(__name__)

_SEARCH_SECONDS = 20.0
FOREVER = "for_ever"


@dataclass(frozen=True, slots=True)
class Beside:
    """What else was looked at; None: it could not be."""

    freshness: Sequence[FreshnessRow] | None
    quarantine: Sequence[Case] | None
    proofs: Proved | None = None


async def look_beside(connection: Connection) -> Beside:
    """What cannot be read is told, and is None; the rest of the screen is worth having."""
    freshness: list[FreshnessRow] | None = None
    quarantine: tuple[Case, ...] | None = None
    proofs: Proved | None = None
    try:
        freshness = await look_at_freshness(connection)
    except DeptbusError as error:
        log.warning("freshness_unreadable", error=error.what)
    try:
        history = await read_policies(connection)
        found = await read_quarantine(connection, history, deadline=deadline_in(_SEARCH_SECONDS))
        quarantine = found.cases
    except DeptbusError as error:
        log.warning("quarantine_unreadable", error=error.what)
    try:
        proofs = await read_proved(connection)
    except DeptbusError as error:
        log.warning("proofs_unreadable", error=error.what)
    return Beside(freshness, quarantine, proofs)


def status_document(report: LagReport, beside: Beside | None = None) -> dict[str, Any]:
    """`red`: what somebody has to look at, one stage for each owner that a unit's way has, the
    worst first; `not_joined`: units whose adapter never began while something waits for them;
    `parked`: rows at sources and recipients; `holds`: deliveries that the data office itself keeps
    back, which nobody has to mend; `closed`: units that have switched off until they work again.
    `beside` None: nobody looked, and `late` and `quarantine` are not there. Those are datasets of
    units that have joined which are late or silent, and units with notes that are not resolved:
    `open` need a person; for `resend_asked` a source was asked that has not answered yet. `proofs`:
    every source and copy with the age and result of its last proof; null where they could not be
    read, which says nothing of the tables and is nobody's matter."""
    waiting = [s for s in report.stages if is_bad(s.verdict) and not s.has_lived]
    parked = [stage for stage in report.stages if stage.parked]
    verdicts = [stage.verdict for stage in report.stages]
    if parked:
        verdicts.append(Verdict.BEHIND)  # somebody has to look at what is parked
    late = _late(report, beside)
    notes = _notes(report, beside)
    if late or any(note["open"] for note in notes or ()):
        verdicts.append(Verdict.BEHIND)
    if beside is not None and None in (late, notes):
        verdicts.append(None)
    proofs = _proofs(report, beside)
    if any(row["state"] in NEEDS_A_PERSON for row in proofs or ()):
        verdicts.append(Verdict.BEHIND)
    seen = {"late": late, "quarantine": notes, "proofs": proofs}
    more = {} if beside is None else seen
    counts = Counter(str(u.verdict) if u.verdict else "UNKNOWN" for u in report.units)
    return {
        "at": when(report.at),
        "exit_code": int(exit_code(verdicts, is_whole=report.picture.is_whole)),
        "units": dict(counts),
        "red": [_red_row(stage, report.at) for stage in red_stages(report)],
        "not_joined": [
            {"unit": s.unit, "owner": s.owner, "safe_until": _safe_until(s, report.at)}
            for s in waiting
        ],
        "parked": [_parked_row(stage) for stage in parked],
        "holds": [hold.model_dump(mode="json") for hold in report.holds],
        "closed": [
            {"unit": u.unit, "until": when(u.closed_until)}
            for u in report.units
            if u.closed_until is not None
        ],
        "is_whole": report.picture.is_whole,
    } | more


def _late(report: LagReport, beside: Beside | None) -> list[dict[str, Any]] | None:
    if beside is None or beside.freshness is None:
        return None
    joined = {stage.unit for stage in report.stages if stage.stage is Stage.OUTBOX}
    rows = [
        row
        for row in beside.freshness
        if row.unit in joined and row.said.state in (Fresh.LATE, Fresh.SILENT)
    ]
    return freshness_document(rows, report.at, only_bad=True)["datasets"]


def _proofs(report: LagReport, beside: Beside | None) -> list[dict[str, Any]] | None:
    if beside is None or beside.proofs is None:
        return None
    rows = beside.proofs.rows(joined(report), report.at)
    return proofs_document(rows, report.at)


def _notes(report: LagReport, beside: Beside | None) -> list[dict[str, Any]] | None:
    """By unit; the empty one is nobody's that the contract has."""
    if beside is None or beside.quarantine is None:
        return None
    owners = {unit.unit: unit.owner for unit in report.contract.units} if report.contract else {}
    by_unit: dict[str, list[Case]] = defaultdict(list)
    for case in beside.quarantine:
        if case.state in UNRESOLVED:
            by_unit[case.unit].append(case)
    return [
        {
            "unit": unit,
            "owner": owners.get(unit, OFFICE),
            "open": sum(case.state is State.OPEN for case in cases),
            "resend_asked": sum(case.state is State.RESEND_ASKED for case in cases),
            "since": when(min(case.note.noted_at_us for case in cases) / 1e6),
        }
        for unit, cases in sorted(by_unit.items())
    ]


def red_stages(report: LagReport) -> list[StageReport]:
    """One stage for each owner that a unit's way has and who has to look, the worst first."""
    by_owner: dict[tuple[str, str], list[StageReport]] = defaultdict(list)
    for stage in report.stages:
        if is_bad(stage.verdict) and stage.has_lived:
            by_owner[stage.unit, stage.owner].append(stage)
    return sorted(map(unit_report, by_owner.values()), key=_worst_first)


def _red_row(stage: StageReport, at: float) -> dict[str, Any]:
    """`safe_until`: ISO 8601; "for_ever" where nothing is lost by waiting, null where nobody can
    tell."""
    return unit_row(stage) | {
        "safe_until": _safe_until(stage, at),
        "reason": stage.reason or None,
    }


def _parked_row(stage: StageReport) -> dict[str, Any]:
    """`reasons`: of a recipient, those that park the most rows; its own desk knows the rest."""
    return {
        "unit": stage.unit,
        "stage": stage.stage,
        "owner": stage.owner,
        "rows": stage.parked,
        "reasons": [one._asdict() for one in stage.parked_for],
    }


def status_exit_code(document: dict[str, Any]) -> Exit:
    return Exit(document["exit_code"])


def _safe_until(stage: StageReport, at: float) -> str | None:
    margin = stage.margin_seconds
    if margin is None:
        return None
    return FOREVER if math.isinf(margin) else when(at + margin)


def _worst_first(stage: StageReport) -> tuple[int, float]:
    severity = stage.verdict.severity if stage.verdict is not None else 0  # below all others
    return -severity, -(stage.lag_seconds or 0.0)
