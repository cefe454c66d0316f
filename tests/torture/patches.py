"""Mistakes that are put into child processes on purpose, each one function (see launch.py).

Public doors of the product are wrapped where that is enough, so that a mistake stays the same when
the product is rewritten behind them.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

SLOW_SECONDS = 3.0


# -- worker ---------------------------------------------------------------------------------------


def slow_deliveries() -> None:
    """No mistake: deliveries take long, so that a commit has the time to run ahead if it can."""
    from deptbus.stream import work

    deliver = work.deliver

    async def slow(*args: Any) -> None:
        await asyncio.sleep(SLOW_SECONDS)
        await deliver(*args)

    work.deliver = slow


def ack_before_delivery() -> None:
    """A batch is acked as soon as it comes."""
    from deptbus.stream import application

    slow_deliveries()

    async def work_on(self: application.BusApp, event: Any, do: application.Work) -> None:
        event.value.finish(delivered=True)
        event.ack()
        await do(event.value)

    application.BusApp._work_on = work_on  # type: ignore[method-assign]


def commit_ahead() -> None:
    """The offset behind a batch that is still with the agents is committed."""
    from deptbus.stream.batches import Progress

    slow_deliveries()

    def committable(self: Progress) -> dict[Any, int]:
        return {tp: batch.next_offset for tp, batch in self.running.items()}

    Progress.committable = committable  # type: ignore[method-assign]


def delivers_again() -> None:
    """No mistake: what was delivered is delivered once more behind what came after it, as after
    the death of a worker between delivery and ack. Versions make it harmless."""
    from deptbus.stream.sender import Sender

    send = Sender.send_boxes
    before: dict[Any, list[Any]] = {}

    async def twice(self: Sender, boxes: Any, **words: Any) -> Any:
        offsets = await send(self, boxes, **words)
        inboxes = {place: list(pairs) for place, pairs in boxes.items() if place[0][:3] == "in."}
        again = {place: before[place] for place in inboxes if place in before}
        before.update(inboxes)
        await send(self, again, **words)
        return offsets

    Sender.send_boxes = twice  # type: ignore[method-assign]


def every_field_flows() -> None:
    """Projections are left out: whoever gets a record gets all of it."""
    from deptbus.change import DeliveryOp
    from deptbus.routing import Router

    route = Router.route

    def all_fields(self: Router, change: Any, now: Any) -> Any:
        names = self.policy.contract.field_names(change.dataset)
        return tuple(
            replace(d, fields=names) if d.op is DeliveryOp.UPSERT else d
            for d in route(self, change, now)
        )

    Router.route = all_fields  # type: ignore[method-assign]


def no_withdrawals() -> None:
    """Who may no longer have a record is not told to remove it."""
    from deptbus.change import DeliveryOp
    from deptbus.routing import Router

    route = Router.route

    def upserts_only(self: Router, change: Any, now: Any) -> Any:
        return tuple(d for d in route(self, change, now) if d.op is not DeliveryOp.WITHDRAW)

    Router.route = upserts_only  # type: ignore[method-assign]


def no_announcement_check() -> None:
    """Intake takes in whatever any adapter sends, whoever has taken over."""
    from deptbus.stream.fences import Fences

    Fences.refusal = lambda self, incarnation, offset: None  # type: ignore[method-assign]


# -- worker and adapter ---------------------------------------------------------------------------


def leader_alone_acks() -> None:
    """A producer is content when the leader has a record, whatever its followers have."""
    from aiokafka import AIOKafkaProducer

    from deptbus.stream import brokers

    class Hasty(AIOKafkaProducer):
        def __init__(self, **words: Any) -> None:
            super().__init__(**(words | {"acks": 1, "enable_idempotence": False}))

    brokers.AIOKafkaProducer = Hasty


# -- adapter --------------------------------------------------------------------------------------


def no_version_check() -> None:
    """A recipient applies whatever comes, in the order in which it comes."""
    from deptbus.department.fold import fold

    fold.__kwdefaults__["is_newer"] = lambda pair, cause, known: True


def rows_before_offset() -> None:
    """A recipient's rows are committed, and what is known of them and how far it has read in a
    transaction of their own; between the two it may be killed."""
    from deptbus.department.store_sqlite import SqliteStore

    from .moments import at

    write_books = SqliteStore._write_books

    def apart(self: SqliteStore, connection: Any, work: Any) -> None:
        connection.execute("COMMIT")
        at("inside-sql")
        connection.execute("BEGIN IMMEDIATE")
        write_books(self, connection, work)

    SqliteStore._write_books = apart  # type: ignore[method-assign]


def forgets_before_ack() -> None:
    """Outbox rows are deleted as soon as they were read; the bus gets them a moment later."""
    from deptbus.department.publisher import Publisher

    send = Publisher._send
    tasks: set[asyncio.Task[None]] = set()

    async def later(self: Publisher, *args: Any) -> None:
        async def in_time() -> None:
            await asyncio.sleep(SLOW_SECONDS)
            await send(self, *args)

        task = asyncio.create_task(in_time())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    Publisher._send = later  # type: ignore[method-assign]


def no_fence() -> None:
    """An adapter writes without a look whether another has taken over."""
    from deptbus.department import fence

    async def unchecked(*_: Any) -> None:
        pass

    fence.check = fence.check_postgres = unchecked
    fence.check_sqlite = lambda *_: None
    fence.lock_postgres = lambda _: "SELECT true FROM deptbus.adapter"


def tells_secrets() -> None:
    """A line for debugging shows a row of the unit's own table."""
    from deptbus.department.capture_sqlite import SqliteCapture

    read = SqliteCapture.read

    async def told(self: SqliteCapture, *args: Any) -> Any:
        rows = await read(self, *args)
        shown = await self.database.run(lambda c: c.execute("SELECT * FROM zh LIMIT 1").fetchall())
        print("captured", shown, flush=True)
        return rows

    SqliteCapture.read = told  # type: ignore[method-assign]


# -- operations -----------------------------------------------------------------------------------


def idle_keeper() -> None:
    """The keeper looks at nothing."""
    from deptbus.operations.keeper import Keeper

    async def keep(self: Keeper, dataset: str) -> list[Any]:
        return []

    Keeper.keep = keep  # type: ignore[method-assign]
