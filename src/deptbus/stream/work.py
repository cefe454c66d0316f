"""What an agent does with a batch until all its output is acked: take in, or route and deliver."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog

from deptbus.errors import WireRefused
from deptbus.metrics.counts import Counts
from deptbus.names import control_topic, dataset_of_topic, unit_of_topic
from deptbus.stream.batches import Batch
from deptbus.stream.delivery import HORIZONTAL, Routed, route_batch
from deptbus.stream.desk import DELIVERY_SECONDS, ENVIRONMENT, Bench, Desk
from deptbus.stream.fences import Fences
from deptbus.stream.intake import Judged, Outbox, judge_batch
from deptbus.stream.log import read_to_end
from deptbus.stream.sender import Pair, Place
from deptbus.wire.control import Incarnated, check_key, decode_control

log = structlog.get_logger(__name__)


class Gate:
    """Intake of one worker: remembers the announcements of each partition that it holds."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._generation = 0
        self._outboxes: dict[tuple[str, int], Outbox] = {}
        self._incarnated: dict[str, asyncio.Task[list[Incarnated]]] = {}

    async def take_in(self, batch: Batch) -> None:
        """Returns when every record of the batch is in its canonical topic or noted, and acked."""
        await self._desk.persist(batch, lambda: self._attempt(batch))

    async def _attempt(self, batch: Batch) -> None:
        outbox = await self._outbox(batch)
        bench, is_newest = self._desk.bench(), False
        judged = self._judge(batch, outbox, bench, is_newest)
        if judged.names_newer:
            bench, is_newest = await self._desk.newest_bench(), True
            judged = self._judge(batch, outbox, bench, is_newest)
        if judged.unannounced:
            # The control record is on the bus before the first change of its incarnation, but
            # perhaps not yet when we took the partition over.
            known = await read_incarnated(self._desk, outbox.unit)
            outbox.fences.learn(known, outbox.partition)
            judged = self._judge(batch, outbox, bench, is_newest)
        _tell_refused(batch, judged.reasons)
        boxes = {(topic, batch.partition): pairs for topic, pairs in judged.accepted.items()}
        for note in judged.refused:
            boxes.setdefault((note.topic, note.partition or 0), []).append((note.key, note.value))
        await self._desk.sender("intake").send_boxes(boxes)
        self._count(judged)

    def _count(self, judged: Judged) -> None:
        counts = self._desk.counts
        for topic, pairs in judged.accepted.items():
            counts.add("deptbus_taken_in_records_total", (dataset_of_topic(topic),), len(pairs))
        for reason, records in Counter(judged.reasons).items():
            counts.add("deptbus_quarantined_total", ("intake", reason), records)

    def _judge(self, batch: Batch, outbox: Outbox, bench: Bench, is_newest: bool) -> Judged:
        """What the bench's policy says of the batch; it may be asked again, with another answer."""
        policy, codecs = bench.policy, self._desk.codecs
        return judge_batch(
            outbox,
            batch.records,
            codecs,
            policy.contract,
            policy.number,
            time.time_ns() // 1000,
            is_newest=is_newest,
        )

    async def _outbox(self, batch: Batch) -> Outbox:
        """The partition's announcements: known from `control` when it was taken over, since then
        from the stream. Another generation of the group is a new take-over."""
        if batch.generation > self._generation:
            self._generation = batch.generation
            self._outboxes.clear()
            self._incarnated.clear()
        found = self._outboxes.get((batch.topic, batch.partition))
        if found is None:
            unit = unit_of_topic(batch.topic)
            found = Outbox(unit, batch.topic, batch.partition, Fences())
            found.fences.learn(await self._read_once(unit), batch.partition)
            self._outboxes[batch.topic, batch.partition] = found
        return found

    async def _read_once(self, unit: str) -> list[Incarnated]:
        """One reading for all partitions of a unit."""
        task = self._incarnated.get(unit)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._incarnated[unit] = asyncio.create_task(read_incarnated(self._desk, unit))
        return await asyncio.shield(task)


async def read_incarnated(desk: Desk, unit: str) -> list[Incarnated]:
    """All incarnations that a unit's control topic knows. Raises BusUnreachable, BusRefused."""
    found = []
    topic = control_topic(unit)
    for record in await read_to_end(desk.connection, topic):
        try:
            control = decode_control(record.value)
            check_key(record.key, control)
        except WireRefused as error:
            log.error("control_record_refused", topic=topic, reason=error.reason)
            continue
        if isinstance(control, Incarnated) and control.unit == unit:
            found.append(control)
    return found


async def deliver(desk: Desk, agent: str, batch: Batch) -> None:
    """Returns when every delivery of this agent for the batch is acked by its inbox."""
    await desk.persist(batch, lambda: _attempt_delivery(desk, agent, batch))


async def _attempt_delivery(desk: Desk, agent: str, batch: Batch) -> None:
    is_newest = False
    while True:
        bench = await desk.newest_bench() if is_newest else desk.bench()
        with desk.at_work.under(bench.policy.number):
            routed = await _routed(desk, batch, bench, is_newest)
            # Routing waits for the bus too: what was routed under a policy that is no longer the
            # newest, or may not be, does not go out.
            if not routed.names_newer and desk.bench() is bench:
                await _send(desk, agent, batch, routed)
                _count(desk.counts, agent, batch, routed)
                return
        is_newest = routed.names_newer


def _count(counts: Counts, agent: str, batch: Batch, routed: Routed) -> None:
    """Once for each agent, when all that is its own is acked; what concerns the batch as a whole
    with one of them."""
    for (carried_by, direction), deliveries in routed.went.items():
        if carried_by == agent:
            counts.add("deptbus_delivered_total", (direction.value,), deliveries)
    if agent != HORIZONTAL:
        return
    dataset = dataset_of_topic(batch.topic)
    passed = len(batch.records) - len(routed.reasons)
    counts.add("deptbus_routed_records_total", (dataset,), passed)
    counts.add("deptbus_withheld_total", (dataset,), routed.held_back)
    for reason, records in Counter(routed.reasons).items():
        counts.add("deptbus_quarantined_total", ("routing", reason), records)


async def _send(desk: Desk, agent: str, batch: Batch, routed: Routed) -> None:
    """All inboxes at once; when that fails each for itself, so that one that refuses does not let
    the others be filled again and again."""
    boxes = routed.deliveries[agent]
    done: set[str] | None = batch.cache.get((agent, routed.policy))
    sender = desk.sender(agent)
    if done is None:
        done = batch.cache[agent, routed.policy] = set()
        together = {(topic, batch.partition): pairs for topic, pairs in boxes.items()}
        try:
            await sender.send_boxes(together, deadline_seconds=DELIVERY_SECONDS)
        except ENVIRONMENT as error:
            log.warning("deliveries_failed", agent=agent, topic=batch.topic, error=error.what)
        else:
            done.update(boxes)
            return
    left = {(topic, batch.partition): p for topic, p in boxes.items() if topic not in done}
    await _each_for_itself(desk, agent, left, done)


async def _each_for_itself(
    desk: Desk, agent: str, boxes: dict[Place, list[Pair]], done: set[str]
) -> None:
    sender = desk.sender(agent)
    results = await asyncio.gather(
        *[
            sender.send_boxes({place: pairs}, deadline_seconds=DELIVERY_SECONDS)
            for place, pairs in boxes.items()
        ],
        return_exceptions=True,
    )
    failed = None
    for (topic, _), result in zip(boxes, results, strict=True):
        if isinstance(result, BaseException):
            failed = failed or result
        else:
            done.add(topic)
    if failed is not None:
        raise failed


async def _routed(desk: Desk, batch: Batch, bench: Bench, is_newest: bool) -> Routed:
    """The batch routed under one policy; once for both agents, and anew when a grant has ended
    while an inbox was waited for."""
    now = datetime.now(UTC)
    key = ("routed", bench.policy.number, bench.router.span(now), is_newest)
    task = batch.cache.get(key)
    if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
        task = batch.cache[key] = asyncio.create_task(_route(desk, batch, bench, now, is_newest))
    routed: Routed = await asyncio.shield(task)
    return routed


async def _route(desk: Desk, batch: Batch, bench: Bench, now: datetime, is_newest: bool) -> Routed:
    """Route, write the schemas that this takes, and note what cannot be routed."""
    began = time.monotonic()
    routed = await route_batch(
        batch.topic,
        batch.partition,
        batch.records,
        carrier=bench.carrier,
        codecs=desk.codecs,
        now=now,
        is_newest=is_newest,
    )
    if routed.names_newer:
        return routed
    desk.counts.histogram("deptbus_route_seconds").observe(time.monotonic() - began)
    await desk.flush_schemas()
    if routed.refused:
        _tell_refused(batch, routed.reasons)
        await desk.sender("notes").send(routed.refused)
    return routed


def _tell_refused(batch: Batch, reasons: Iterable[str]) -> None:
    for reason, count in Counter(reasons).items():
        log.warning(
            "changes_quarantined",
            topic=batch.topic,
            partition=batch.partition,
            reason=reason,
            count=count,
        )
