"""Applies a plan: checks all of it again, orders its job, and tells how an order stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import BusRefused, DeptbusError
from deptbus.operations import audit
from deptbus.operations.board import JobsBoard
from deptbus.operations.groups import Groups
from deptbus.operations.leader import GROUP
from deptbus.operations.office import utc_now
from deptbus.operations.proposal_desk import check_second
from deptbus.operations.replay_desk import check_alone, parts_of, place, read_orders, refused
from deptbus.operations.replay_orders import CANCELLED, CLOSED, PAUSED, Orders
from deptbus.operations.replay_plan import Plan, why_not
from deptbus.operations.replay_planner import Desk, known_plans
from deptbus.operations.rights import difference
from deptbus.wire.control import JobOrder, OrderProgress

_LOOK_SECONDS = 0.5


async def apply_plan(desk: Desk, plan: Plan, by: audit.Operator) -> tuple[str, bool]:
    """The job's name, and whether it was ordered now: a plan that was applied before is not
    ordered again. Raises DeptbusError with the reason why the plan may not be applied any more, or
    while another order of the recipient is open, or where two people are asked for and nobody else
    has confirmed it; BusUnreachable, BusRefused."""
    orders = await read_orders(desk.connection)
    if plan.job in orders.orders:
        return plan.job, False
    contract = desk.policies.current().contract
    agreed = await check_second(
        desk.connection, contract, "replay", plan.datasets, proposal=plan.job
    )
    if agreed is not None and agreed.content != plan.as_file():
        raise refused("another plan was confirmed under this name", "Plan anew, and propose that")
    await check(desk, plan, utc_now())
    check_alone(orders, plan.unit)
    if not plan.sent:
        raise refused("there is nothing to send by this plan", "Choose more, and plan anew")
    ranges = [r for r in plan.ranges if r.start < r.end]
    keys = {d: [bytes.fromhex(key) for key in keys] for d, keys in plan.keys.items()}
    order = JobOrder(
        job=plan.job,
        unit=plan.unit,
        cause="replay",
        datasets=plan.datasets,
        topic_ids=plan.topic_ids,
        places=tuple(f"{r.dataset}/{r.partition}" for r in ranges),
        starts=tuple(r.start for r in ranges),
        ends=tuple(r.end for r in ranges),
        key_parts=len(list(parts_of(plan.job, keys))),
        keys=plan.keys_chosen,
        plan=plan.sha256,
        policy=desk.policies.current().number,
        operator=by.name,
        bus_user=by.bus_user,
        reason=plan.reason,
        ordered_at_us=time.time_ns() // 1000,
    )
    await place(desk.connection, order, keys, verb=audit.REPLAY_APPLY)
    return plan.job, True


async def check(desk: Desk, plan: Plan, now: datetime) -> None:
    """Raises DeptbusError with the reason why a plan may not be applied any more."""
    policy = desk.policies.current()
    cluster, ids, spans = "", dict[str, str](), dict[tuple[str, int], tuple[int, int]]()
    for dataset in plan.datasets:
        try:
            cluster, ids[dataset] = await desk.identity(dataset)
            for number, span in enumerate(await desk.logs.spans(dataset)):
                spans[dataset, number] = span.start, span.end
        except BusRefused:
            continue  # it is not there: `why_not` says so
    problem = why_not(
        plan,
        now=now,
        cluster=cluster or plan.cluster,
        topic_ids=ids,
        spans=spans,
        rights=desk.rights(plan.unit),
        known_plans=known_plans(await audit.read_acts(desk.connection)),
    )
    for dataset in plan.datasets:
        held = policy.hold_of(plan.unit, dataset)
        if held is not None:
            problem = f"deliveries of {dataset} are held by {held.held_by}: {held.reason}"
    if problem is not None:
        more = _words(desk, plan, policy)
        raise refused(
            f"the plan is refused: {problem}" + (f" ({more})" if more else ""), "Plan anew"
        )


def _words(desk: Desk, plan: Plan, policy: Policy) -> str:
    """How the unit's rights differ from those of the plan; empty when they do not, or when nobody
    can tell."""
    before = desk.policies.history().get(plan.policy)
    if before is None or before.number == policy.number:
        return ""
    words = []
    for change in difference(before, policy):
        if change.unit == plan.unit and change.dataset in plan.datasets:
            gained = (*change.gained, *change.gained_scope)
            lost = (*change.lost, *change.lost_scope)
            words += [f"gained {', '.join(gained)}"] * bool(gained)
            words += [f"lost {', '.join(lost)}"] * bool(lost)
    return "; ".join(words)


# -- how orders stand -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """One order at one moment."""

    order: JobOrder
    state: str  # `ordered` before any operations process has taken it up, else the progress's
    wanted: str
    progress: OrderProgress | None

    @property
    def is_closed(self) -> bool:
        return self.state in CLOSED

    @property
    def is_settled(self) -> bool:
        """Nothing more happens of itself."""
        return self.is_closed or (self.state == PAUSED == self.wanted)

    @property
    def done(self) -> int:
        return 0 if self.progress is None else self.progress.sent + self.progress.withdrawn

    @property
    def rate(self) -> float | None:
        """Deliveries a second since it was begun; None: not known."""
        if self.progress is None or not self.done:
            return None
        seconds = (self.progress.updated_at_us - self.progress.started_at_us) / 1e6
        return self.done / seconds if seconds > 0 else None


def standing_of(orders: Orders, job: str) -> Standing:
    """Raises DeptbusError when there is no such job."""
    order = orders.orders.get(job)
    if order is None:
        raise DeptbusError(f"there is no job {job}", mend="See `deptbus replay ls`")
    progress = orders.progress.get(job)
    state: str = "ordered" if progress is None else progress.state
    wanted = orders.wanted(job)
    if state not in CLOSED and wanted == CANCELLED:
        state = "cancelling"
    elif state not in CLOSED and wanted == PAUSED and state != PAUSED:
        state = "pausing"
    return Standing(order, state, wanted, progress)


async def follow(connection: Connection, job: str) -> AsyncIterator[tuple[Standing, bool]]:
    """How an order stands, again and again until nothing more happens of itself; and whether an
    operations process is there that carries it out. Raises as `standing_of`, BusUnreachable."""
    board = JobsBoard(connection)
    await board.start()
    try:
        async with Groups(connection) as groups:
            while True:
                await board.refresh()
                standing = standing_of(board.orders, job)
                yield standing, await groups.has_members(GROUP)
                if standing.is_settled:
                    return
                await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await board.stop()
