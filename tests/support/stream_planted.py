"""Workers with a bug put in on purpose, to show that the tests catch it; run as a program."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from deptbus.stream import application, work, worker
from deptbus.stream.batches import Batch
from deptbus.stream.desk import Desk

SLOW_SECONDS = 6.0


def slow() -> None:
    """No bug: deliveries take long, so that a commit has the time to run ahead if it can."""
    send = work._send

    async def slow_send(desk: Desk, agent: str, batch: Batch, routed: Any) -> None:
        await asyncio.sleep(SLOW_SECONDS)
        await send(desk, agent, batch, routed)

    work._send = slow_send


def ack_before_delivery() -> None:
    slow()

    async def work_on(self: application.BusApp, event: Any, do: application.Work) -> None:
        event.value.finish(delivered=True)
        event.ack()
        await do(event.value)

    application.BusApp._work_on = work_on  # type: ignore[method-assign]


def agent_raises() -> None:
    """An unexpected error in the middle of a batch."""

    async def broken(desk: Desk, agent: str, batch: Batch, routed: Any) -> None:
        raise RuntimeError("planted")

    work._send = broken


if __name__ == "__main__":
    {"slow": slow, "ack_before_delivery": ack_before_delivery, "agent_raises": agent_raises}[
        sys.argv[1]
    ]()
    worker.main()
