"""The pages that show: each takes from the snapshot what the person may see, and draws it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.responses import Response

from deptbus.console.map_layout import lay_out
from deptbus.console.roles import Act
from deptbus.console.visit import Visit
from deptbus.errors import DeptbusError
from deptbus.operations.lag_report import is_bad
from deptbus.operations.proofs import NEEDS_A_PERSON, ProofRow, ProofState, joined
from deptbus.operations.quarantine import UNRESOLVED, Case, State, place_of
from deptbus.operations.stages import StageReport

_CASES_SHOWN = 200
_ACTS_SHOWN = 200
_SAID = ("unit", "stage", "dataset", "owner", "duty", "advice", "runbook")  # of an alarm


async def show_map(visit: Visit) -> Response:
    snapshot = visit.snapshot
    contract = snapshot.policy.contract if snapshot.policy is not None else None
    drawn = None
    if contract is not None:
        drawn = lay_out(contract, snapshot, visit.words, only=visit.who.own_unit_only)
    return visit.render("map.html", map=drawn)


async def show_units(visit: Visit) -> Response:
    snapshot = visit.snapshot
    said = {u.unit: u for u in snapshot.lag.units} if snapshot.lag is not None else {}
    return visit.render("units.html", said=said, open_cases=_open_by_unit(snapshot.cases))


async def show_unit(visit: Visit) -> Response:
    name = visit.request.path_params["unit"]
    snapshot = visit.snapshot
    sheet = snapshot.units.get(name)
    if sheet is None:
        raise HTTPException(404)
    lag = snapshot.lag
    stages: Iterable[StageReport] = lag.stages if lag is not None else ()
    return visit.render(
        "unit.html",
        sheet=sheet,
        stages=[s for s in stages if s.unit == name],
        applied=snapshot.applied.get(name),
        freshness=[row for row in snapshot.freshness or () if row.unit == name],
        cases=[c for c in snapshot.cases or () if c.unit == name and c.state in UNRESOLVED],
        hold=_hold_of(visit, unit=name),
        flows=[f for f in snapshot.flows if name in (f.source, f.recipient)],
    )


async def show_datasets(visit: Visit) -> Response:
    return visit.render("datasets.html")


async def show_dataset(visit: Visit) -> Response:
    name = visit.request.path_params["dataset"]
    snapshot = visit.snapshot
    sheet = snapshot.datasets.get(name)
    if sheet is None:
        raise HTTPException(404)
    return visit.render(
        "dataset.html",
        sheet=sheet,
        freshness=[row for row in snapshot.freshness or () if row.dataset == name],
        hold=_hold_of(visit, dataset=name),
    )


async def show_lag(visit: Visit) -> Response:
    snapshot, only_bad = visit.snapshot, visit.query.get("bad") == "1"
    units = snapshot.lag.units if snapshot.lag is not None else ()
    tracks = snapshot.lag.picture.tracks if snapshot.lag is not None else {}
    return visit.render(
        "lag.html",
        only_bad=only_bad,
        units=[u for u in units if not only_bad or is_bad(u.verdict)],
        partitions=[
            (place, track)
            for place, track in sorted(tracks.items())
            if is_bad(track.verdict) or track.lag.waits
        ],
    )


async def show_quarantine(visit: Visit) -> Response:
    snapshot, every = visit.snapshot, visit.query.get("all") == "1"
    unit, reason = visit.query.get("unit", ""), visit.query.get("reason", "")
    states = tuple(State) if every else UNRESOLVED
    found = [
        case
        for case in snapshot.cases or ()
        if case.state in states
        and (not unit or case.unit == unit)
        and (not reason or case.note.reason == reason)
    ]
    found.sort(key=lambda case: -case.note.noted_at_us)
    parked = [row for row in snapshot.parked if row.is_of(unit, "", reason, None)]
    reasons = {case.note.reason for case in snapshot.cases or ()}
    units = {case.unit for case in snapshot.cases or () if case.unit}
    return visit.render(
        "quarantine.html",
        cases=found[:_CASES_SHOWN],
        count=len(found),
        every=every,
        unit=unit,
        reason=reason,
        reasons=sorted(reasons | {row.reason for row in snapshot.parked}),
        units=sorted(units | {row.unit for row in snapshot.parked}),
        parked=parked[:_CASES_SHOWN],
        parked_count=len(parked),
        parked_rows=sum(
            applied.parked or 0 for name, applied in snapshot.applied.items() if unit in ("", name)
        ),
        retried=[told for told in snapshot.retried if unit in ("", told.unit)],
    )


async def show_case(visit: Visit) -> Response:
    """One note, and what lies at its place, read for this page alone."""
    case = case_of(visit, visit.request.path_params["place"])
    record, trouble = None, None
    may_see = visit.may(Act.SHOW_RECORD, case.unit)
    if may_see:
        try:
            record = await visit.console.desk.show(case)
        except DeptbusError as error:
            trouble = error
    return visit.render(
        "case.html", case=case, record=record, trouble=trouble, may_see_record=may_see
    )


def case_of(visit: Visit, text: str) -> Case:
    """Raises HTTPException 404: no such note, or one that this person may not see."""
    place = place_of(text)
    for case in visit.snapshot.cases or ():
        if case.place == place:
            return case
    raise HTTPException(404)


async def show_saved(visit: Visit) -> Response:
    saved = visit.snapshot.saved
    rows = saved.rows if saved is not None else ()
    by_unit: Counter[str] = Counter()
    by_day: Counter[str] = Counter()
    by_dataset: Counter[str] = Counter()
    for row in rows:
        by_unit[row.unit] += row.entries
        by_day[row.day] += row.entries
        by_dataset[row.dataset] += row.entries
    return visit.render(
        "saved.html",
        saved=saved,
        total=sum(by_unit.values()),
        by_unit=by_unit.most_common(),
        by_day=sorted(by_day.items(), reverse=True),
        by_dataset=by_dataset.most_common(),
    )


async def show_proof(visit: Visit) -> Response:
    snapshot, only_bad = visit.snapshot, visit.query.get("bad") == "1"
    rows, lag, proofs = None, snapshot.lag, snapshot.proofs
    if lag is not None and proofs is not None:
        rows = proofs.rows(joined(lag), lag.at)
        # What needs a person first, then what was proved the longest ago.
        rows.sort(key=lambda row: (row.state not in NEEDS_A_PERSON, _proved_at(row), row.subject))
    return visit.render(
        "proof.html",
        only_bad=only_bad,
        rows=rows,
        shown=[row for row in rows or () if not only_bad or row.state in NEEDS_A_PERSON],
        equal=sum(row.state is ProofState.EQUAL for row in rows or ()),
    )


def _proved_at(row: ProofRow) -> int:
    return 0 if row.outcome is None else row.outcome.proved_at_us


async def show_holds(visit: Visit) -> Response:
    return visit.render("holds.html")


async def show_alarms(visit: Visit) -> Response:
    alarms = [
        (told, seen, dict.fromkeys(_SAID) | json.loads(told.content))
        for told, seen in visit.snapshot.alarms or ()
    ]
    return visit.render("alarms.html", alarms=alarms)


async def show_audit(visit: Visit) -> Response:
    acts = visit.snapshot.acts or ()
    return visit.render("audit.html", acts=acts[: -_ACTS_SHOWN - 1 : -1], count=len(acts))


def _hold_of(visit: Visit, *, unit: str = "", dataset: str = "") -> object:
    policy = visit.snapshot.policy
    holds = policy.holds if policy is not None else ()
    return next((hold for hold in holds if hold.target == (unit, dataset)), None)


def _open_by_unit(cases: Iterable[Case] | None) -> Counter[str]:
    return Counter(case.unit for case in cases or () if case.state in UNRESOLVED)
