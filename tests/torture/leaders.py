"""Three brokers, replication 3, two of three in sync: leaders are killed in turn under load.

Every other one dies *alone*: its followers stand still first, so that it holds at its death what
nobody else has. Whoever took such a record for stored has lost it; whoever waits for the replicas
sends it again. The next one dies only when all partitions have three replicas in sync again.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from confluent_kafka.admin import ConfigResource, ResourceType

from deptbus.cluster.admin import Admin
from deptbus.cluster.settings import SINGLE_NODE
from deptbus.errors import BusRefused, BusUnreachable

from .county import AUDIT, LOG_TABLE
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import comes_true, settled
from .world import SMALL_INDEXES, World

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from three_brokers import Three

PER_SECOND = 100
SOON_SECONDS = 120.0
CARRIED = ("out.", "data.", "in.")  # topics whose leader is sought
FLOWING = 40  # rows that a recipient writes beyond a death before it is called overcome
POLL_SECONDS = 0.3
# A follower's request waits this long at the leader (replica.fetch.wait.max.ms), and what comes
# meanwhile reaches it when it wakes.
FETCH_SECONDS = 0.7
EARLY_ACK_SECONDS = 0.5  # for the answer of a leader that asks nobody
HOLDS, HOLD_SECONDS = 6, 6.0  # attempts, and how long each may take
# The file's brokers have a machine each; here all three share one with everything else.
SMALL = {
    name: SINGLE_NODE[name]
    for name in (
        "log.cleaner.dedupe.buffer.size",
        "num.io.threads",
        "num.network.threads",
        "num.recovery.threads.per.data.dir",
        "offsets.topic.num.partitions",
    )
} | SMALL_INDEXES


def run(world: World, seed: int, short: bool) -> Verdict:
    cluster = Three(world.folder / "three", SMALL)
    world.begin(bus=cluster)
    world.watch()
    world.start_default(workers=1 if short else 2)
    admin = Admin(cluster.connection)
    await_replicas(world, admin, 3, "all replicas are in sync")
    check_replication(world, admin)
    world.did("three brokers carry the bus")
    world.write_on(per_second=PER_SECOND)
    deaths: Counter[str] = Counter()
    told = []
    for number in range(2 if short else 2 * len(cluster.names)):
        victim, led = next_leader(cluster, admin, deaths)
        measured = die(world, cluster, admin, victim, alone=number % 2 == 0)
        told.append({"broker": victim, "led": led, **measured})
        deaths[victim] += 1
        if world.bug is not None:
            break
    world.verdict.counted["deaths"] = told
    world.write_until(0 if short else 10_000)
    return world.conclude()


def next_leader(cluster: Three, admin: Admin, deaths: Counter[str]) -> tuple[str, int]:
    """Of those that died least often, the one that leads most; and how many partitions it leads."""
    led: Counter[str] = Counter()
    for topic, found in admin.metadata().topics.items():
        if topic.startswith(CARRIED):
            led.update(cluster.names[p.leader] for p in found.partitions.values())
    victim = min(cluster.names.values(), key=lambda name: (deaths[name], -led[name]))
    return victim, led[victim]


def die(
    world: World, cluster: Three, admin: Admin, victim: str, *, alone: bool
) -> dict[str, object]:
    """One death, until all is in sync again; what was measured."""
    others = [name for name in cluster.names.values() if name != victim]
    held = hold_alone(world, cluster, victim, others) if alone else 0
    cluster.kill(victim)
    for name in others:
        cluster.wake(name)
    died = time.monotonic()
    await_replicas(world, admin, 2, f"{victim} is missed")
    if world.bug is None:
        await_flow(world, f"changes flow without {victim}")
    else:
        for writer in world.writers.values():
            writer.stop()  # so that no later change covers what is lost
    stalled = time.monotonic() - died
    cluster.start_one(victim)
    await_replicas(world, admin, 3, f"{victim} is in sync")
    world.did(f"{victim} was killed{' with what nobody else had' if alone else ''}, and is back")
    back = time.monotonic() - died
    return {"held_alone": held, "stalled": round(stalled, 1), "back": round(back, 1)}


def await_flow(world: World, what: str) -> None:
    """Until a recipient has written so many rows more."""
    with contextlib.closing(world.county.desk(AUDIT, read_only=True)) as desk:

        def written() -> int:
            return int(desk.rows(f"SELECT coalesce(max(id), 0) FROM {LOG_TABLE}")[0][0])

        goal = written() + FLOWING
        _tended(world, lambda: written() > goal, what)


def await_replicas(world: World, admin: Admin, count: int, what: str) -> None:
    """Until every partition has a leader and so many replicas in sync."""

    def is_reached() -> bool:
        try:
            topics = admin.metadata().topics.values()
        except (BusUnreachable, BusRefused):  # of a broker that has just been started
            return False
        return all(
            p.leader in p.isrs and len(p.isrs) == count
            for topic in topics for p in topic.partitions.values()
        )  # fmt: skip

    _tended(world, is_reached, what)


def _tended(world: World, condition: Callable[[], bool], what: str) -> None:
    """Waits; whoever asks to be started anew meanwhile is."""

    def is_reached() -> bool:
        world.tend()
        if condition():
            return True
        time.sleep(POLL_SECONDS)
        return False

    settled(is_reached, SOON_SECONDS, what)


def hold_alone(world: World, cluster: Three, victim: str, others: list[str]) -> int:
    """Bytes of outboxes that were published to the victim while its followers stood still. The
    publishers wait until no follower's request is pending any more, which would take them along.

    A publisher whose batch in flight waits for a broker that stands still publishes nothing more:
    then all go on for a moment, and it is tried again."""
    adapter = world.children["adapter-sources"]

    def is_written() -> bool:
        return _outbox_bytes(cluster, victim) > before

    for _ in range(HOLDS):
        adapter.freeze()
        _tended(world, _still(lambda: _outbox_bytes(cluster, *cluster.names.values())), "stillness")
        for name in others:
            cluster.freeze(name)
        time.sleep(FETCH_SECONDS)
        before = _outbox_bytes(cluster, victim)
        adapter.wake()
        if comes_true(is_written, HOLD_SECONDS):
            time.sleep(EARLY_ACK_SECONDS)
            return _outbox_bytes(cluster, victim) - before
        for name in others:
            cluster.wake(name)
        await_flow(world, "changes flow again")
    raise TimeoutError(f"{victim} was not written alone in {HOLDS} attempts")


def _still(measured: Callable[[], int]) -> Callable[[], bool]:
    """Whether it was the same at the last look."""
    last = -1

    def is_still() -> bool:
        nonlocal last
        last, before = measured(), last
        return last == before

    return is_still


def _outbox_bytes(cluster: Three, *brokers: str) -> int:
    return sum(
        file.stat().st_size for name in brokers for file in cluster.logs(name).glob("out.*/*.log")
    )


def check_replication(world: World, admin: Admin) -> None:
    """Of every topic, Kafka's own too: three replicas, two of which must have a record."""
    there = admin.metadata().topics
    world.verdict.check("__consumer_offsets" in there, "the group's offsets have no topic")
    for name, topic in there.items():
        copies = {len(p.replicas) for p in topic.partitions.values()}
        world.verdict.check(copies == {3}, f"{name} has {copies} replicas")
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in there]
    for resource, entries in admin.results(admin.client.describe_configs(asked)).items():
        least = entries["min.insync.replicas"].value
        world.verdict.check(least == "2", f"{resource.name}: {least} replicas must have a record")


BUGS = {
    "leader_alone_acks": Bug(
        "senders take for stored what only the leader has",
        ("lost", "ahead"),
        {role: ["patches:leader_alone_acks"] for role in ("adapter", "worker")},
    ),
}

SCENARIO = Scenario(
    "leaders", "of three brokers the leader is killed, in turn, also with what nobody else has",
    run, BUGS,
)  # fmt: skip
