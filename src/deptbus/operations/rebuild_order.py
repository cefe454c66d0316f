"""Orders a rebuild, and tells what came of it at the recipient."""

from __future__ import annotations

import time
import uuid

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import GuardedAct
from deptbus.errors import DeptbusError
from deptbus.operations import audit
from deptbus.operations.controls import read_controls
from deptbus.operations.proposals import asks_for_two
from deptbus.operations.rebuild import WHOLE
from deptbus.operations.replay_desk import check_alone, ids_of, place, read_orders, refused
from deptbus.operations.replay_planner import Desk
from deptbus.stream.log import end_offsets
from deptbus.wire.control import JobOrder, RebuildTold

_LIKE: tuple[GuardedAct, ...] = ("replay", "repair")  # a rebuild does what either does
NOT_JOINED = "the unit has not joined: no adapter of it ever ran"


async def order_rebuild(
    desk: Desk, unit: str, dataset: str, by: audit.Operator, reason: str
) -> tuple[str, bool]:
    """The job's name, and whether it was ordered now: while a rebuild of this copy is open, that is
    the one. Raises DeptbusError when there is no such copy, deliveries to it are held, a second
    person would have to agree, or another order of the recipient is open; BusUnreachable,
    BusRefused."""
    orders = await read_orders(desk.connection)
    for order in orders.open_of(unit):
        if order.job.startswith(names.REBUILD_JOBS) and order.datasets == (dataset,):
            return order.job, False
    await _check(desk, unit, dataset)
    check_alone(orders, unit)
    spans = await desk.logs.spans(dataset)
    order = JobOrder(
        job=f"{names.REBUILD_JOBS}{uuid.uuid4().hex[:12]}",
        unit=unit,
        cause="replay",
        datasets=(dataset,),
        topic_ids=await ids_of(desk.connection, (dataset,)),
        places=tuple(f"{dataset}/{number}" for number in range(len(spans))),
        starts=(0,) * len(spans),
        ends=(WHOLE,) * len(spans),
        key_parts=0,
        keys=0,
        plan="",
        policy=desk.policies.current().number,
        operator=by.name,
        bus_user=by.bus_user,
        reason=reason,
        ordered_at_us=time.time_ns() // 1000,
    )
    await place(desk.connection, order, {}, verb=audit.REBUILD_ORDER)
    return order.job, True


async def _check(desk: Desk, unit: str, dataset: str) -> None:
    policy = desk.policies.current()
    if unit not in policy.contract.unit_by_name:
        raise DeptbusError(f"the contract has no unit {unit}", mend="See `deptbus contract show`")
    if dataset not in desk.had(unit):
        raise refused(f"{unit} never had a right to {dataset}", "See `deptbus contract show`")
    if any(asks_for_two(policy.contract, act, [dataset]) for act in _LIKE):
        raise refused(
            f"grants.yml asks for two people before a replay or a repair of {dataset}, and nobody "
            "can confirm a rebuild",
            "Propose a repair (`deptbus reconcile --repair`), or change `two_people`",
        )
    held = policy.hold_of(unit, dataset)
    if held is not None:
        raise refused(
            f"deliveries of {dataset} are held by {held.held_by}: {held.reason}",
            "Let them go on first (`deptbus resume`)",
        )
    if not any(await end_offsets(desk.connection, names.control_topic(unit))):
        raise refused(NOT_JOINED, "`deptbus department run --config FILE` at that unit")


async def told_of(connection: Connection, unit: str, job: str) -> list[RebuildTold]:
    """What each system of the recipient said of it last, by its name."""
    found: dict[str, RebuildTold] = {}
    for told in await read_controls(connection, names.control_topic(unit)):
        if isinstance(told, RebuildTold) and told.job == job:
            found[told.system] = told
    return [found[system] for system in sorted(found)]
