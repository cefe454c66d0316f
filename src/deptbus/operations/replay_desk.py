"""Where orders are given and steered: what people decide about replays and repairs, on the bus.

Every act is in `bus.audit` before it has an effect. What is ordered is carried out by the
operations process that leads (`replay_job.py`), whenever it runs; who ordered may be gone by then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import DeptbusError, Exit
from deptbus.operations import audit
from deptbus.operations.controls import read_controls
from deptbus.operations.replay_orders import ORDER_RECORDS, Orders
from deptbus.stream.brokers import consumer_of
from deptbus.stream.identity import topic_ids
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import (
    JobOrder,
    JobSteer,
    OrderedKeys,
    encode_control,
    key_of,
)

KEYS_A_PART = 20_000  # 320 kB, well below the cap of a record


async def read_orders(connection: Connection) -> Orders:
    """As the bus has them now. Raises BusUnreachable, BusRefused."""
    orders = Orders()
    for found in await read_controls(connection, names.JOBS):
        if isinstance(found, ORDER_RECORDS):
            orders.take(found)
    return orders


async def place(
    connection: Connection,
    order: JobOrder,
    keys: Mapping[str, Collection[bytes]],
    *,
    verb: str,
) -> None:
    """Puts an order on the bus, its keys before it. Raises DeptbusError while another order of the
    recipient is open, BusUnreachable, BusRefused; killed in the midst nothing is ordered."""
    check_alone(await read_orders(connection), order.unit)
    by = audit.Operator(order.operator, order.bus_user)
    subjects = (
        f"job {order.job}",
        *((f"plan {order.plan}",) if order.plan else ()),
        f"keys {order.keys}",
    )
    dataset = order.datasets[0] if len(order.datasets) == 1 else ""
    async with Sender(connection) as sender:
        for act in audit.acts_of(
            by, verb, order.reason, unit=order.unit, dataset=dataset, subjects=subjects
        ):
            await audit.record(sender, act)
        for part in parts_of(order.job, keys):
            await sender.send([Outgoing(names.JOBS, 0, key_of(part), encode_control(part))])
        await sender.send([Outgoing(names.JOBS, 0, key_of(order), encode_control(order))])


def check_alone(orders: Orders, unit: str) -> None:
    """Raises DeptbusError (the answer is no) while an order of this recipient is open."""
    for order in orders.open_of(unit):
        raise refused(
            f"job {order.job} of {unit} is still open, ordered by {order.operator}",
            "Wait for it (`deptbus replay status JOB`), or end it (`deptbus replay cancel JOB`)",
        )


def parts_of(job: str, keys: Mapping[str, Collection[bytes]]) -> Iterator[OrderedKeys]:
    """The keys as the records that they take."""
    number = 0
    for dataset, of_dataset in keys.items():
        ordered = sorted(set(of_dataset))
        for start in range(0, len(ordered), KEYS_A_PART):
            yield OrderedKeys(job, number, dataset, tuple(ordered[start : start + KEYS_A_PART]))
            number += 1


async def ids_of(connection: Connection, datasets: Collection[str]) -> tuple[str, ...]:
    """Of the canonical topic of each. Raises BusRefused for one that is not there."""
    topics = [names.data_topic(dataset) for dataset in datasets]
    async with consumer_of(connection) as consumer:
        ids = await topic_ids(consumer._client, topics)
    for topic in topics:
        if topic not in ids:
            raise DeptbusError(f"topic {topic} is not there", mend="Run `deptbus topics apply`")
    return tuple(ids[topic] for topic in topics)


_VERBS = {"paused": audit.JOB_PAUSE, "run": audit.JOB_RESUME, "cancelled": audit.JOB_CANCEL}


async def steer(
    connection: Connection,
    job: str,
    wanted: Literal["run", "paused", "cancelled"],
    reason: str,
    by: audit.Operator,
) -> None:
    """Says what an order is to do from now on. Raises DeptbusError when there is none of this name,
    or it is closed; BusUnreachable, BusRefused. To say it twice changes nothing."""
    orders = await read_orders(connection)
    order = orders.orders.get(job)
    if order is None:
        raise DeptbusError(f"there is no job {job}", mend="See `deptbus replay ls`")
    if not orders.is_open(job):
        raise refused(f"job {job} is {orders.progress[job].state} already", "Plan another one")
    if orders.wanted(job) == wanted:
        return
    said = JobSteer(job, wanted, by.name, by.bus_user, reason, time.time_ns() // 1000)
    async with Sender(connection) as sender:
        for act in audit.acts_of(
            by, _VERBS[wanted], reason, unit=order.unit, subjects=(f"job {job}",)
        ):
            await audit.record(sender, act)
        await sender.send([Outgoing(names.JOBS, 0, key_of(said), encode_control(said))])


def refused(what: str, mend: str) -> DeptbusError:
    """The answer is no, not: it could not be asked."""
    error = DeptbusError(what, mend=mend)
    error.exit_code = Exit.ANSWER_IS_NO
    return error
