"""What changes something: each is a POST, asks the table of roles for the very unit that it is
about, and goes through the desk, which records it. What cannot be done is said on the page."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from deptbus.console.pages import case_of
from deptbus.console.roles import Act
from deptbus.console.show import row_name
from deptbus.console.visit import Visit
from deptbus.errors import DeptbusError
from deptbus.operations.parked_desk import Ask, asks_of
from deptbus.operations.quarantine import UNRESOLVED, Case

log = structlog.get_logger(__name__)


async def resend(visit: Visit) -> Response:
    cases = _chosen(visit, Act.RESEND)
    reason = visit.form.one("reason")
    try:
        asked = await visit.console.desk.resend(cases, visit.who, reason)
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.RESEND, cases=len(cases))
    return visit.redirect(
        "/quarantine", done="resend", count=asked.records, left_out=asked.left_out
    )


async def dismiss(visit: Visit) -> Response:
    cases = _chosen(visit, Act.DISMISS)
    reason = visit.form.one("reason")
    try:
        await visit.console.desk.dismiss(cases, visit.who, reason)
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.DISMISS, cases=len(cases))
    return visit.redirect("/quarantine", done="dismiss", count=len(cases))


def _chosen(visit: Visit, act: Act) -> list[Case]:
    """The notes that were ticked, or all that the filter shows. The person must be allowed to act
    on each of them. Raises HTTPException."""
    if visit.form.one("which") == "all":
        unit, reason = visit.form.one("unit"), visit.form.one("refused_for")
        cases = [
            case
            for case in visit.snapshot.cases or ()
            if case.state in UNRESOLVED
            and (not unit or case.unit == unit)
            and (not reason or case.note.reason == reason)
        ]
    else:
        cases = [case_of(visit, place) for place in dict.fromkeys(visit.form.get("place", []))]
    for case in cases:
        visit.require(act, case.unit)
    if not cases:
        raise HTTPException(400, detail="nothing_chosen")
    return cases


async def retry(visit: Visit) -> Response:
    asks = _parked_chosen(visit)
    reason = visit.form.one("reason")
    try:
        came = await visit.console.desk.retry(asks, visit.who, reason)
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.RETRY, requests=len(asks))
    return visit.redirect(
        "/quarantine",
        done="retry",
        count=came.rows,
        written=came.written,
        refused=came.still_parked,
        silent=came.silent,
    )


def _parked_chosen(visit: Visit) -> list[Ask]:
    """The parked rows that were ticked, or all that the filter finds: at each unit that lists one
    of them also those that stand on no list. Raises HTTPException."""
    parked = visit.snapshot.parked
    if visit.form.one("which") == "all":
        unit, refused_for = visit.form.one("unit"), visit.form.one("refused_for")
        systems = [(r.unit, r.system) for r in parked if r.is_of(unit, "", refused_for, None)]
        asks = asks_of(systems, refused_for=refused_for)
    else:
        ticked = set(visit.form.get("row", []))
        found = {row_name(row): row for row in parked}
        if not ticked <= found.keys():
            raise HTTPException(404)
        asks = [
            Ask(row.unit, frozenset({row.system}), row.dataset, row.key)
            for row in (found[name] for name in sorted(ticked))
        ]
    for ask in asks:
        visit.require(Act.RETRY, ask.unit)
    if not asks:
        raise HTTPException(400, detail="nothing_chosen")
    return asks


async def hold(visit: Visit) -> Response:
    unit, dataset = _target(visit)
    visit.require(Act.HOLD, unit or None)
    done = visit.console.desk.hold(unit, dataset, visit.who, visit.form.one("reason"))
    return await _held(visit, done, Act.HOLD, unit or dataset)


async def resume(visit: Visit) -> Response:
    unit, dataset = _target(visit)
    visit.require(Act.RESUME, unit or None)
    done = visit.console.desk.resume(unit, dataset, visit.who, visit.form.one("reason"))
    return await _held(visit, done, Act.RESUME, unit or dataset)


async def _held(visit: Visit, done: Awaitable[None], act: Act, target: str) -> Response:
    try:
        await done
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, act, target=target)
    return visit.redirect("/holds", done=act.value)


async def acknowledge(visit: Visit) -> Response:
    subjects = list(dict.fromkeys(visit.form.get("subject", [])))
    known = {told.subject for told, _ in visit.snapshot.alarms or ()}
    if not subjects or not set(subjects) <= known:
        raise HTTPException(400, detail="nothing_chosen")
    try:
        await visit.console.desk.acknowledge(subjects, visit.who, visit.form.one("reason"))
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.ACKNOWLEDGE, alarms=len(subjects))
    return visit.redirect("/alarms", done="acknowledge", count=len(subjects))


def _target(visit: Visit) -> tuple[str, str]:
    """(unit, dataset), one of them named and known."""
    unit, dataset = visit.form.one("unit"), visit.form.one("dataset")
    if bool(unit) == bool(dataset):
        raise HTTPException(400, detail="one_target")
    if (unit and unit not in visit.snapshot.units) or (
        dataset and dataset not in visit.snapshot.datasets
    ):
        raise HTTPException(404)
    return unit, dataset


def refused(visit: Visit, error: DeptbusError) -> Response:
    """The page says why, and keeps nothing of what was typed but in the browser's own history."""
    return visit.render("refused.html", 409, error=error)


def told(visit: Visit, act: Act, **fields: object) -> None:
    visit.console.wake()
    log.info("act_done", act=act.value, name=visit.who.name, **fields)
