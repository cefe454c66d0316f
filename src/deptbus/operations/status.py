"""The whole bus on one screen: what needs a person, whom to ring, what to type, until when to wait.

Units whose adapter never began are told in one line: where a contract names more units than have
joined, they would hide the others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from deptbus.errors import Exit
from deptbus.operations.lag_report import exit_code, is_bad, unit_row, when
from deptbus.operations.lag_watch import LagReport
from deptbus.operations.stages import StageReport, unit_report
from deptbus.operations.verdicts import Verdict

FOREVER = "for_ever"


def status_document(report: LagReport) -> dict[str, Any]:
    """`red`: what somebody has to look at, one stage for each owner that a unit's way has, the
    worst first; `not_joined`: units whose adapter never began while something waits for them;
    `parked`: rows at sources and recipients; `holds`: deliveries that the data office itself keeps
    back, which nobody has to mend; `closed`: units that have switched off until they work again."""
    waiting = [s for s in report.stages if is_bad(s.verdict) and not s.has_lived]
    parked = [stage for stage in report.stages if stage.parked]
    verdicts = [stage.verdict for stage in report.stages]
    if parked:
        verdicts.append(Verdict.BEHIND)  # somebody has to look at what is parked
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
    }


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
