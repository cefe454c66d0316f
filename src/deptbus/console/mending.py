"""Replays and repairs: what is proposed, ordered and under way; and the acts upon it.

Each act is a POST that asks the table of roles and goes through the desk, which records it."""

from __future__ import annotations

from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.responses import Response

from deptbus.console.acts import refused, told
from deptbus.console.desk import Decision, Wanted, WantedReplay
from deptbus.console.roles import Act
from deptbus.console.visit import Visit
from deptbus.errors import DeptbusError
from deptbus.operations.proofs import Subject, differences_of
from deptbus.operations.proposal_desk import RepairTerms
from deptbus.operations.proposals import asks_for_two
from deptbus.operations.reconcile_classes import Class
from deptbus.wire.control import ProofOutcome

_SHOWN = 100


async def show_jobs(visit: Visit) -> Response:
    snapshot = visit.snapshot
    proposals, orders = snapshot.proposals or (), snapshot.orders or ()
    return visit.render(
        "jobs.html",
        open_proposals=[one for one in proposals if one.is_open],
        closed_proposals=[one for one in proposals if not one.is_open][:_SHOWN],
        orders=orders[:_SHOWN],
        open_orders=[one for one in orders if not one.is_closed],
    )


async def plan(visit: Visit) -> Response:
    """The plan as a page, from which it can be proposed."""
    form = visit.form
    wanted = WantedReplay(form.one("unit"), form.one("dataset"), form.one("from"), form.one("to"))
    if bool(form.one("all")) == bool(wanted.begins or wanted.ends):
        raise HTTPException(400, detail="one_choice")
    try:
        made = await visit.console.desk.plan(wanted, visit.who, form.one("reason"))
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.REPLAY, plan=made.job)
    policy = visit.snapshot.policy
    needs_two = policy is not None and asks_for_two(policy.contract, "replay", made.datasets)
    return visit.render("plan.html", plan=made, text=made.as_file(), needs_two=needs_two)


async def propose_replay(visit: Visit) -> Response:
    # As it was written into the page: a plan with one byte changed is refused.
    text = visit.form.get("plan", [""])[0].replace("\r\n", "\n")
    try:
        name = await visit.console.desk.propose_replay(text, visit.who)
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.REPLAY, proposal=name)
    return visit.redirect("/jobs", done="propose")


async def show_differences(visit: Visit) -> Response:
    """What the last proof of one table has found, and what may be done about it."""
    outcome = _proved(visit, visit.query)
    if outcome.verdict != "different":
        raise HTTPException(404)
    policy = visit.snapshot.policy
    needs_two = policy is not None and asks_for_two(policy.contract, "repair", [outcome.dataset])
    counts = dict(zip(outcome.classes, outcome.counts, strict=True))
    return visit.render(
        "differences.html",
        outcome=outcome,
        named=list(zip(outcome.keys, outcome.key_classes, outcome.reasons, strict=True)),
        counts=counts,
        extra=counts.get(Class.EXTRA, 0),
        edited=counts.get(Class.EDITED_LOCALLY, 0),
        needs_two=needs_two,
    )


async def propose_repair(visit: Visit) -> Response:
    outcome = _proved(visit, {name: visit.form.one(name) for name in ("unit", "dataset", "leg")})
    counts = dict(zip(outcome.classes, outcome.counts, strict=True))
    extra = counts.get(Class.EXTRA, 0)
    if outcome.verdict != "different":
        raise HTTPException(404)
    terms = RepairTerms(
        leg=outcome.leg,
        deep=outcome.deep,
        most=differences_of(outcome),
        max_delete=extra if visit.form.one("delete_extra") else 0,
        overwrite_local=bool(visit.form.one("overwrite_local")),
    )
    subject = Subject(outcome.unit, outcome.dataset, outcome.leg)
    visit.require(Act.REPAIR, subject.unit)
    try:
        name = await visit.console.desk.propose_repair(
            subject, terms, visit.who, visit.form.one("reason")
        )
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.REPAIR, proposal=name)
    return visit.redirect("/jobs", done="propose")


async def decide(visit: Visit) -> Response:
    name, word = visit.form.one("proposal"), visit.form.one("word")
    found = next((p for p in visit.snapshot.proposals or () if p.proposal.proposal == name), None)
    if found is None:
        raise HTTPException(404)
    if word not in ("confirmed", "declined"):
        raise HTTPException(400)
    visit.require(Act.DECIDE, found.proposal.unit)
    try:
        await visit.console.desk.decide(
            name, cast(Decision, word), visit.who, visit.form.one("reason")
        )
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.DECIDE, proposal=name, word=word)
    return visit.redirect("/jobs", done=word)


async def steer(visit: Visit) -> Response:
    job, wanted = visit.form.one("job"), visit.form.one("wanted")
    found = next((one for one in visit.snapshot.orders or () if one.order.job == job), None)
    if found is None:
        raise HTTPException(404)
    if wanted not in ("run", "paused", "cancelled"):
        raise HTTPException(400)
    visit.require(Act.STEER, found.order.unit)
    try:
        await visit.console.desk.steer(
            job, cast(Wanted, wanted), visit.who, visit.form.one("reason")
        )
    except DeptbusError as error:
        return refused(visit, error)
    told(visit, Act.STEER, job=job, wanted=wanted)
    return visit.redirect("/jobs", done=f"job_{wanted}")


async def download_certificate(visit: Visit) -> Response:
    """The signed file, byte by byte: whoever has the office's public key can verify it."""
    outcome = _proved(visit, visit.query)
    if not outcome.certificate:
        raise HTTPException(404)
    words = outcome.unit.replace("@", "-"), outcome.dataset, outcome.leg
    name = f"certificate-{'-'.join(words)}-{outcome.proved_at_us // 1_000_000}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    answer = Response(outcome.certificate, media_type="application/json", headers=headers)
    return visit.with_cookie(answer)


def _proved(visit: Visit, words: Any) -> ProofOutcome:
    """The last outcome of one table that this person may see. Raises HTTPException 404."""
    proofs = visit.snapshot.proofs
    names = (words.get("unit", ""), words.get("dataset", ""), words.get("leg", ""))
    outcome = proofs.outcomes.get(Subject(*names)) if proofs is not None else None
    if outcome is None:
        raise HTTPException(404)
    return outcome
