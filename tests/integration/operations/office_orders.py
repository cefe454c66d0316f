"""Orders given by hand, without plan or proof, and how tests look at what came of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Literal

from office_bus import Bus, copy_of, until

from deptbus import names
from deptbus.change import Received
from deptbus.operations import audit
from deptbus.operations.replay_desk import ids_of, parts_of, place, read_orders
from deptbus.stream.log import read_to_end
from deptbus.stream.policies import read_policies
from deptbus.wire.control import JobOrder

WANG = audit.Operator("wang")


async def order_keys(
    bus: Bus, unit: str, keys: Collection[bytes], cause: Literal["replay", "repair"] = "replay"
) -> str:
    """The job that is to bring the unit the last state of these keys; raises as `place`."""
    job = f"{cause}-{uuid.uuid4().hex[:12]}"
    named = {"person": keys}
    order = JobOrder(
        job=job,
        unit=unit,
        cause=cause,
        datasets=("person",),
        topic_ids=await ids_of(bus.connection, ("person",)),
        places=(),
        starts=(),
        ends=(),
        key_parts=len(list(parts_of(job, named))),
        keys=len(set(keys)),
        plan="",
        policy=(await read_policies(bus.connection)).current().number,
        operator=WANG.name,
        bus_user="",
        reason="their disk",
        ordered_at_us=time.time_ns() // 1000,
    )
    await place(bus.connection, order, named, verb=audit.REPAIR_ORDER)
    return job


async def closed(bus: Bus, job: str) -> None:
    async def is_closed() -> bool:
        return not (await read_orders(bus.connection)).is_open(job)

    await until(is_closed, f"{job} is closed")


async def deliveries_behind(bus: Bus, unit: str, ends: list[int]) -> list[Received]:
    """What lies in the unit's inbox behind these offsets."""
    copy = await copy_of(bus, unit)
    records = await read_to_end(
        bus.connection, names.in_topic(unit), from_offsets=dict(enumerate(ends))
    )
    return [copy.codecs.decode_inbox(r.key, r.value) for r in records if r.key is not None]
