"""Chosen moments: a child kills or stops itself at a named point when a scenario orders it to.

In the child `worker`, `adapter`, ... (patches for launch.py) put a look at each point of their
role. In the scenario `Orders` places an order as a small file, `<point>`: what to do, and at the
how-manieth passing. The child that carries it out renames it first, so that one child obeys.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Point -> (role, what it lies between).
POINTS = {
    "taken-in": ("worker", "changes are in the canonical topic, and not acked"),
    "delivered": ("worker", "deliveries are in their inboxes, and not acked"),
    "committing": ("worker", "a batch is acked, and its offset not committed"),
    "revoked": ("worker", "a rebalance takes partitions away"),
    "sending-data": ("worker", "changes are judged and encoded, and not sent"),
    "inside-sql": ("adapter", "rows are written, and their transaction is open"),
    "applied": ("adapter", "rows are committed in SQL, and the offset not in Kafka"),
    "publishing": ("adapter", "numbers are durable, and nothing is sent"),
    "published": ("adapter", "changes are acked, and still in the outbox"),
    "asking": ("snapshot", "a snapshot is asked for, and nobody has waited for it"),
    "snapshot": ("adapter", "some rows of a snapshot are enqueued, and not all"),
    "job": ("operations", "a job has sent a stretch of a partition"),
}
# Of proofs, replays and repairs.
OF_ORDERS = {
    "answering": ("adapter", "a part of a copy's proof is told, and not the rest"),
    "telling": ("adapter", "a part of a source's proof is told, and not the rest"),
    "closing": ("operations", "the end of an order is in the audit, and not in its progress"),
    "asked": ("command", "a proof is asked for, and nobody has heard the answer"),
    "found": ("command", "what differs is known, and nothing is ordered"),
    "allowed": ("command", "an adapter is told what a repair may touch, and nothing brings it"),
    "placing": ("command", "an order is in the audit, and not given"),
    "placed": ("command", "an order is given, and nobody waits for it"),
}
POINTS |= OF_ORDERS


class Orders:
    """The scenario's side; `folder` is the world's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "moments"
        self._folder.mkdir(exist_ok=True)

    def place(self, point: str, *, passing: int = 1, stop: bool = False, who: str = "") -> None:
        """The next child (of this name) that passes the point for the `passing`th time dies, or
        stands still."""
        assert point in POINTS, point
        (self._folder / f"{point}.done").unlink(missing_ok=True)
        part = self._folder / f"{point}.part"
        part.write_text(f"{'stop' if stop else 'kill'} {passing} {who}", encoding="ascii")
        part.replace(self._folder / point)

    def take_back(self, point: str) -> None:
        (self._folder / point).unlink(missing_ok=True)

    def obeyed(self, point: str) -> int | None:
        """Process id of the child that carried the order out; None while none has."""
        done = self._folder / f"{point}.done"
        return int(done.read_text(encoding="ascii")) if done.exists() else None


# -- in the child ---------------------------------------------------------------------------------

_passed: Counter[str] = Counter()


def at(point: str) -> None:
    """Called by the child whenever it passes the point."""
    folder = Path(os.environ["TORTURE_FOLDER"]) / "moments"
    order = folder / point
    try:
        word, passing, *who = order.read_text(encoding="ascii").split()
    except (FileNotFoundError, ValueError):
        _passed[point] = 0
        return
    if who and who != [os.environ.get("TORTURE_NAME")]:
        return
    _passed[point] += 1
    if _passed[point] < int(passing):
        return
    mine = folder / f"{point}.{os.getpid()}"
    try:
        order.rename(mine)
    except FileNotFoundError:
        return  # another child was quicker
    _passed[point] = 0
    mine.write_text(str(os.getpid()), encoding="ascii")
    mine.rename(folder / f"{point}.done")
    os.kill(os.getpid(), signal.SIGSTOP if word == "stop" else signal.SIGKILL)


def _after(owner: Any, name: str, point: str, when: Callable[..., bool] | None = None) -> None:
    """Looks at the point each time that an async function has done its work."""
    original = getattr(owner, name)

    async def looked(*args: Any, **words: Any) -> Any:
        result = await original(*args, **words)
        if when is None or when(result, *args):
            at(point)
        return result

    setattr(owner, name, looked)


def _before(owner: Any, name: str, point: str, when: Callable[..., bool] | None = None) -> None:
    original = getattr(owner, name)

    async def looked(*args: Any, **words: Any) -> Any:
        if when is None or when(*args):
            at(point)
        return await original(*args, **words)

    setattr(owner, name, looked)


def worker() -> None:
    from deptbus.stream import work
    from deptbus.stream.sender import Sender
    from deptbus.stream.transport import BatchConsumer, BatchConsumerThread

    _after(work, "deliver", "delivered")
    _after(work.Gate, "take_in", "taken-in")
    _before(BatchConsumerThread, "commit_words", "committing", lambda _, offsets: bool(offsets))
    _before(BatchConsumer, "on_partitions_revoked", "revoked", lambda _, revoked: bool(revoked))
    _before(
        Sender,
        "send_boxes",
        "sending-data",
        lambda _, boxes: any(topic.startswith("data.") for topic, _ in boxes),
    )


def adapter() -> None:
    publisher()
    applier()


def publisher() -> None:
    from deptbus.department.capture_sqlite import SqliteCapture
    from deptbus.department.publisher import Publisher

    _before(Publisher, "_send", "publishing")
    _after(Publisher, "_send", "published")
    _after(SqliteCapture, "advance_snapshot", "snapshot", lambda chunk, *_: not chunk.done)
    prover("source", "telling")


def prover(leg: str, point: str) -> None:
    from deptbus.department.proof_desk import Reply

    _after(Reply, "part", point, lambda _, reply, *__: reply.request.leg == leg)


def applier() -> None:
    from deptbus.department.inbox import Inbox
    from deptbus.department.store_postgres import PostgresStore
    from deptbus.department.store_sqlite import SqliteStore

    _before(Inbox, "commit", "applied")
    prover("copy", "answering")
    _before(PostgresStore, "_write_books", "inside-sql")
    write_books = SqliteStore._write_books

    def looked(self: SqliteStore, *args: Any) -> None:
        at("inside-sql")
        write_books(self, *args)

    SqliteStore._write_books = looked  # type: ignore[method-assign]


def operations() -> None:
    from deptbus.operations.carrier import Carrier
    from deptbus.operations.replay_job import OrderedJob

    _after(Carrier, "_send_stretch", "job")
    _before(OrderedJob, "_report", "closing", lambda _, state, *__: state == "done")


def command() -> None:
    """Of `deptbus replay` and `deptbus reconcile`."""
    from deptbus.operations import replay_desk
    from deptbus.operations.copy_asking import Asking
    from deptbus.operations.reconcile_repair import _Repair
    from deptbus.stream.log import Sender
    from deptbus.wire.control import JobOrder, decode_control

    def gives_an_order(records: Any) -> bool:
        return any(isinstance(decode_control(r.value), JobOrder) for r in records)

    class Watched(Sender):
        async def send(self, records: Any) -> list[int]:
            if gives_an_order(records):
                at("placing")
            offsets = await super().send(records)
            if gives_an_order(records):
                at("placed")
            return offsets

    replay_desk.Sender = Watched  # type: ignore[misc]
    _after(Asking, "_send", "asked")
    _before(_Repair, "_send_orders", "found")
    _after(_Repair, "_send_orders", "allowed")


def snapshot() -> None:
    """Of `deptbus department snapshot`."""
    from deptbus.department.capture_sqlite import SqliteCapture

    _after(SqliteCapture, "begin_snapshot", "asking")


PATCHES = {"worker": worker, "adapter": adapter, "operations": operations}
UP = [f"{role}=moments:{role}" for role in PATCHES]  # for World.start_up


def wait_obeyed(orders: Orders, point: str, seconds: float) -> int | None:
    """Waits for the order at this point to be carried out; takes it back at the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid = orders.obeyed(point)
        if pid is not None:
            return pid
        time.sleep(0.05)
    orders.take_back(point)
    return orders.obeyed(point)
