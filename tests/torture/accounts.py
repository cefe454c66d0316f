"""What must be true of orders and proofs when all is over, whoever was killed: each job was done,
once; every act has its name in the audit; no answer to a proof is left lying.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable

from deptbus.names import control_topic
from deptbus.operations import audit
from deptbus.operations.audit import read_acts
from deptbus.operations.replay_desk import read_orders
from deptbus.operations.replay_orders import Orders
from deptbus.stream.log import read_to_end
from deptbus.wire.control import ProofPart, ProofRows, decode_control

from .county import PARTITIONS
from .gauges import codecs_of, inboxes
from .witness import comes_true
from .world import World

# Cause -> the acts without which its job is nobody's.
ACTS = {
    "replay": {audit.REPLAY_APPLY, audit.JOB_ENDED},
    "repair": {audit.RECONCILE_REPAIR, audit.REPAIR_ORDER, audit.JOB_ENDED},
}
_CLEARED_SECONDS = 20.0


def check_orders(world: World, deaths: int) -> Counter[str]:
    """`deaths`: of whoever carries jobs out, and of the broker: after each, what was sent and not
    noted may go once more. Unit -> how many jobs it had."""
    orders = asyncio.run(read_orders(world.connection))
    acts = defaultdict(set)
    endings = defaultdict(set)
    for act in asyncio.run(read_acts(world.connection)):
        for subject in act.subjects:
            if subject.startswith("job "):
                acts[subject[4:]].add(act.verb)
                if act.verb == audit.JOB_ENDED:
                    endings[subject[4:]].add(act.act)
    for job, order in orders.orders.items():
        world.verdict.check(job in orders.progress, f"nobody began {job}")
        world.verdict.check(not orders.is_open(job), f"{job} is still open")
        missing = ACTS[order.cause] - acts[job]
        world.verdict.check(not missing, f"the audit has no {', '.join(missing)} of {job}")
        world.verdict.check(
            endings[job] == {f"{job}/done"}, f"{job} ended as {sorted(endings[job])}"
        )
    found = Counter(order.unit for order in orders.orders.values())
    for unit in found:
        _check_sent(world, orders, unit, deaths)
    return found


def _check_sent(world: World, orders: Orders, unit: str, deaths: int) -> None:
    """What an order's progress says is in the inbox, and nothing is there more often than deaths
    explain."""
    sent: Counter[tuple[str, bytes]] = Counter()
    for _, delivery in inboxes(world, codecs_of(world), {unit: [0] * PARTITIONS}):
        if delivery.job in orders.orders:
            sent[delivery.job, delivery.key] += 1
    for (job, key), count in sent.items():
        if count > 1 + deaths:
            world.verdict.add("other", f"{job} sent {key.hex()} {count} times")
    for job, order in orders.orders.items():
        if order.unit == unit:
            there = sum(count for (name, _), count in sent.items() if name == job)
            noted = orders.progress[job].sent + orders.progress[job].withdrawn
            world.verdict.check(
                there >= noted, f"{job} says that it sent {noted} to {unit}, and {there} came"
            )


def check_cleared(world: World, units: Iterable[str]) -> None:
    """An adapter hears that its answer was read a moment after the command has ended."""
    seconds = _CLEARED_SECONDS if world.bug is None else _CLEARED_SECONDS / 4
    for unit in units:
        if not comes_true(lambda: not _left(world, unit), seconds):  # noqa: B023
            places = ", ".join(sorted(_left(world, unit)))
            world.verdict.add(
                "other", f"of proofs there is left in {control_topic(unit)}: {places}"
            )


def _left(world: World, unit: str) -> set[str]:
    """Slots of parts of answers that compaction would keep for ever."""
    newest: dict[bytes | None, bytes | None] = {}
    for record in asyncio.run(read_to_end(world.connection, control_topic(unit))):
        newest[record.key] = record.value
    found = set()
    for value in newest.values():
        said = decode_control(value)
        if isinstance(said, ProofRows) or (isinstance(said, ProofPart) and said.kind != "cleared"):
            found.add(f"{said.leg} of {said.dataset} part {said.part}")
    return found
