"""Orders of people: replays of a range or of some keys, steered while they are at work (the steps
of one as in `operations.replay_job`, with what decides taken from the product).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deptbus.change import Cause, Change
from deptbus.names import data_topic, in_topic
from deptbus.operations.due import DueJob, older_policies
from deptbus.operations.fold import Fold
from deptbus.operations.replay_orders import CANCELLED, PAUSED, RUN, DueOrder
from deptbus.routing import settle
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.control import JobOrder, JobSteer, OrderedKeys, OrderProgress

from .county import CODECS, DATASET, RECIPIENTS
from .simulation import step

if TYPE_CHECKING:
    from .world import World

_TOPIC = data_topic(DATASET)
_PLACE = f"{DATASET}/0"


def order_or_steer(world: World) -> None:
    """A person orders a replay, or says what is to become of one."""
    orders, chance = world.bus.orders, world.chance
    opened = [job for job in orders.orders if orders.is_open(job)]
    if opened and chance.random() < 0.5:
        wanted = chance.choice((RUN, PAUSED, CANCELLED))
        orders.take(JobSteer(chance.choice(opened), wanted, "office", "", "a test", 0))
        return
    job, unit, end = (
        f"replay-{len(orders.orders)}",
        chance.choice(RECIPIENTS),
        world.bus.end(_TOPIC),
    )
    keys = [r.key for r in world.bus.read(_TOPIC, 0, end) if r.key is not None]
    by_key = bool(keys) and chance.random() < 0.4
    if by_key:
        chosen = tuple(sorted(set(chance.choices(keys, k=3))))
        orders.take(OrderedKeys(job, 0, DATASET, chosen))
    start, behind = sorted((chance.randint(0, end), chance.randint(0, end)))
    places, starts, ends = ((), (), ()) if by_key else ((_PLACE,), (start,), (behind,))
    orders.take(
        JobOrder(
            job, unit, "replay", (DATASET,), ("",), places, starts, ends, int(by_key), 1, "",
            world.bus.newest.number, "office", "", "a test", world.now_us,
        )
    )  # fmt: skip


def resume_all(world: World) -> None:
    orders = world.bus.orders
    for job in orders.orders:
        if orders.is_open(job) and orders.wanted(job) == PAUSED:
            orders.take(JobSteer(job, RUN, "office", "", "a test", 0))


async def carry_out(world: World, due: DueOrder) -> None:
    bus, order = world.bus, due.order
    progress = bus.orders.progress.get(due.job) or OrderProgress(
        due.job, due.unit, order.policy, "waiting", "", (), "", 0, 0, 0, 0, 0
    )
    await step()
    if due.wanted == CANCELLED:
        bus.report_order(progress, state="cancelled")
        return
    if due.wanted == PAUSED:
        bus.report_order(progress, state="paused")
        return
    policy = bus.newest
    if due.unit not in policy.contract.unit_by_name:
        bus.report_order(progress, state="refused", problem="it left the contract")
    elif policy.hold_of(due.unit, DATASET) is None:
        await _send(world, due, policy.number, progress)


def _gives_way(world: World, due: DueOrder, policy: int) -> bool:
    """As the desk, which looks at what is due and at what is wanted, and cancels the task."""
    return world.bus.newest.number != policy or world.bus.orders.due().get(due.unit) != due


async def _send(world: World, due: DueOrder, policy: int, progress: OrderProgress) -> None:
    bus, order = world.bus, due.order
    named = bus.orders.keys_of(order)
    if named is None:  # another leader has closed it
        assert not bus.orders.is_open(due.job)
        return
    end = bus.end(_TOPIC)
    changes: dict[int, Change] = {}
    chosen: set[tuple[str, bytes]] = set()
    fold = Fold()
    for record in bus.read(_TOPIC, 0, end):
        change = decode_data(CODECS, record.key, record.value)
        if isinstance(change, Change):
            changes[record.offset] = change
            fold.add(record.offset, change.source_unit, change.key, change.version)
            if _is_wanted(order, record) or change.key in named.get(DATASET, ()):
                chosen.add((change.source_unit, change.key))
    winners = fold.chosen(chosen, 0, end)
    rights = order.policy if world.bugs.replay_by_old_rights else policy
    numbers = older_policies(
        DueJob(due.unit, policy, (DATASET,), frozenset()), DATASET, bus.policies, bus.digests
    )
    older = [bus.router(number) for number in numbers]
    for offset, change in changes.items():
        if offset not in winners or offset < progress.next_offset:
            continue
        delivery = settle(change, due.unit, world.now, bus.router(rights), older)
        await step()
        if _gives_way(world, due, policy):
            return
        if delivery is not None and not _is_overtaken(world, end, change):
            (value,) = CODECS.encode_deliveries(
                change, [delivery], policy, cause=Cause.REPLAY, job=due.job
            )
            await step()
            bus.append(Outgoing(in_topic(due.unit), 0, change.key, value))
        if world.chance.random() < 0.5:
            progress = bus.report_order(progress, state="sending", next_offset=offset + 1)
    await step()
    bus.report_order(progress, state="done")


def _is_wanted(order: JobOrder, record: LogRecord) -> bool:
    return any(
        start <= record.offset < end for start, end in zip(order.starts, order.ends, strict=True)
    )


def _is_overtaken(world: World, end: int, change: Change) -> bool:
    """Whether a newer state lies behind the fold."""
    for record in world.bus.read(_TOPIC, end, world.bus.end(_TOPIC)):
        found = decode_data(CODECS, record.key, record.value)
        if isinstance(found, Change) and (found.source_unit, found.key) == (
            change.source_unit,
            change.key,
        ):
            return True
    return False
