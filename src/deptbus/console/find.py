"""Find: one record's way over the bus, by its bus key, or by the number that a person has.

The natural value comes by POST, becomes a key here, and is forgotten: it stands in no address, no
log, no error, and not on the answer's page.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response

from deptbus.console.roles import Act
from deptbus.console.visit import Visit
from deptbus.errors import DeptbusError
from deptbus.operations.trace import Trace
from deptbus.wire.guard import KEY_BYTES

NATURAL_LETTERS = 200


async def show_find(visit: Visit) -> Response:
    if not (visit.may(Act.FIND) or visit.may(Act.FIND_NATURAL)):
        raise HTTPException(403)
    return _page(visit)


async def find(visit: Visit) -> Response:
    form = visit.form
    policy = visit.snapshot.policy
    dataset = form.one("dataset")
    if policy is None or dataset not in policy.contract.datasets:
        raise HTTPException(404)
    try:
        if "natural" in form:
            unit = form.one("unit")
            visit.require(Act.FIND_NATURAL, unit)
            natural = tuple(part.strip() for part in form["natural"])
            if not all(0 < len(part) <= NATURAL_LETTERS for part in natural):
                return _page(visit, 400, problem="natural")
            key = await visit.console.desk.key_of(unit, dataset, natural, policy.contract)
        else:
            visit.require(Act.FIND)
            unit = ""
            found = _key(form.one("key"))
            if found is None:
                return _page(visit, 400, problem="key")
            key = found
        trace = await visit.console.desk.find(dataset, key, unit)
    except DeptbusError as error:
        return _page(visit, 409, error=error)
    return _page(visit, found=_seen_by(trace, visit))


def _page(visit: Visit, status: int = 200, **context: object) -> Response:
    """By dataset the units whose secret lies here, and of whose records this person may ask."""
    by_number: dict[str, list[str]] = {}
    for unit, datasets in sorted(visit.console.desk.key_units().items()):
        for dataset in datasets:
            if dataset in visit.snapshot.datasets and visit.may(Act.FIND_NATURAL, unit):
                by_number.setdefault(dataset, []).append(unit)
    return visit.render("find.html", status, by_number=by_number, **context)


def _key(text: str) -> bytes | None:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    return raw if len(raw) == KEY_BYTES else None


def _seen_by(trace: Trace, visit: Visit) -> Trace:
    """A clerk finds records of his own unit; another's of the same key he does not see."""
    unit = visit.who.own_unit_only
    if not unit:
        return trace
    return Trace(
        trace.dataset,
        trace.key,
        [v for v in trace.versions if v.change.source_unit == unit],
        [a for a in trace.arrivals if a.received.source_unit == unit],
        list(trace.waits) if any(v.change.source_unit == unit for v in trace.versions) else [],
        trace.not_looked_at,
    )
