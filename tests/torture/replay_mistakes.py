"""Mistakes of replays, proofs and repairs that are planted in `replays` (see launch.py)."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from .patches import SLOW_SECONDS

BEYOND = 20  # offsets


# -- operations -----------------------------------------------------------------------------------


def resumes_beyond() -> None:
    """A job tells the offset that it has read, instead of the one below which all is acked."""
    from deptbus.operations.replay_job import OrderedJob

    count = OrderedJob._count

    async def read(self: OrderedJob, sent: int, withdrawn: int, next_offset: int) -> None:
        await count(self, sent, withdrawn, next_offset + BEYOND)

    OrderedJob._count = read  # type: ignore[method-assign]


def tells_before_ack() -> None:
    """Progress is noted as soon as deliveries were handed over; the bus gets them later."""
    from deptbus.operations.inbox import Inbox

    send = Inbox.send
    tasks: set[asyncio.Task[None]] = set()

    async def later(self: Inbox, records: Any) -> None:
        async def in_time() -> None:
            await asyncio.sleep(SLOW_SECONDS)
            await send(self, records)

        task = asyncio.create_task(in_time())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    Inbox.send = later  # type: ignore[method-assign]


def ends_without_an_act() -> None:
    """The end of an order is nobody's."""
    from deptbus.operations import audit

    record = audit.record

    async def but_ends(sender: Any, act: Any) -> None:
        if act.verb != audit.JOB_ENDED:
            await record(sender, act)

    audit.record = but_ends


# -- adapter --------------------------------------------------------------------------------------


def keeps_halves() -> None:
    """Parts of an answer that were told before a death are not told anew."""
    import os
    from pathlib import Path

    from deptbus.department.proof_desk import Reply

    part, folder = Reply.part, Path(os.environ["TORTURE_FOLDER"])

    async def unless_told(self: Reply, kind: Any, content: bytes) -> None:
        asked = self.request
        told = folder / f"told-{asked.request}-{asked.wanted}-{self.parts}"
        if told.exists():
            self.parts += 1
            return
        await part(self, kind, content)
        told.touch()

    Reply.part = unless_told  # type: ignore[method-assign]


def leaves_answers() -> None:
    """What was read of an answer keeps its place."""
    from deptbus.department.proof_desk import Reply

    async def clear(self: Reply, parts: int) -> None:
        return

    Reply.clear = clear  # type: ignore[method-assign]


# -- command --------------------------------------------------------------------------------------


def orders_again() -> None:
    """Each time that a plan is applied it is another job."""
    from deptbus.operations.replay_plan import Plan

    name = f"replay-{uuid.uuid4().hex[:12]}"
    Plan.job = property(lambda _: name)  # type: ignore[assignment,method-assign]
