"""The broker fails: killed, full, robbed of topics and of rights. Nothing is lost that the commands
it asks for cannot bring back, and nothing is committed ahead of what was delivered.

Rights are taken away by an authorizer on the one broker; all clients are the same user there, so a
right is that of a topic, and each is used by one of our processes only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from .county import ARCHIVE, AUDIT, HOUSING, PARTITIONS, REGISTRY, SOURCES
from .disks import NoSmallDisk, mounted
from .gauges import command
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import World

PER_SECOND = 100
SOON_SECONDS = 90.0
BROKER_MEGABYTES = 700
AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
USER = "User:ANONYMOUS"

Fault = Callable[[World, bool], None]


def run(world: World, seed: int, short: bool) -> Verdict:
    with contextlib.ExitStack() as stack:
        if not short:
            try:
                stack.enter_context(mounted(BROKER_MEGABYTES, folder=Path(world.folder) / "broker"))
            except NoSmallDisk as error:
                world.did(f"left out: the broker's disk is full ({error})")
        world.begin(broker={"extra_settings": AUTHORIZED})
        world.watch()
        world.start_default(workers=1 if short else 2)
        world.write_on(per_second=PER_SECOND)
        for fault in SHORT if short else (*SHORT, *FULL):
            if not world.has_shown(0.0):
                fault(world, short)
        world.write_until(0 if short else 10_000)
        verdict = world.conclude()
        world.broker.stop()
        return verdict


def typed(world: World, changes: int, seconds: float = 0.0) -> None:
    """Until so many more changes were made, and for so long at the least; whoever asks to be
    started anew meanwhile is."""
    goal, until = world.changes + changes, time.monotonic() + seconds

    def is_done() -> bool:
        world.tend()
        return world.changes >= goal and time.monotonic() > until

    settled(is_done, SOON_SECONDS + seconds, f"{changes} changes more")


# -- killed, and full -----------------------------------------------------------------------------


def killed(world: World, short: bool) -> None:
    for _ in range(1 if short else 5):
        pid = world.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        world.broker.stop()
        typed(world, 60, 1.0)
        world.broker.start()
        typed(world, 60, 1.0)
    world.did("the broker was killed and started again under load")


def full(world: World, short: bool) -> None:
    """Kafka gives up a log folder that it cannot write, and ends: what is typed waits."""
    folder = world.folder / "broker"
    if not os.path.ismount(folder):
        return
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    settled(lambda: not _answers(world), SOON_SECONDS, "the broker gave up its full disk")
    typed(world, 200, 5.0)
    world.broker.stop()
    filler.unlink()
    world.broker.start()
    typed(world, 200, 2.0)
    world.did("the broker's disk was full, room was made, and it was started again")


def _answers(world: World) -> bool:
    return world.broker._process is not None and world.broker._process.poll() is None


# -- robbed of rights -----------------------------------------------------------------------------


def rights_are_taken(world: World, short: bool) -> None:
    """The workers' right to write one inbox, an adapter's to write its outbox, another's to read
    its inbox: for some seconds, all at once."""
    admin = AdminClient(world.connection.librdkafka())
    taken = (
        (_topic("in", AUDIT), AclOperation.WRITE),
        (_topic("out", REGISTRY), AclOperation.WRITE),
        (_topic("in", ARCHIVE), AclOperation.READ),
    )
    rules = [
        _rule(topic, operation, permission)
        for topic, what in taken
        for operation, permission in (
            (AclOperation.ALL, AclPermissionType.ALLOW),  # else nothing is allowed there any more
            (what, AclPermissionType.DENY),
        )
    ]
    for future in admin.create_acls(rules).values():
        future.result(30)
    typed(world, 100, 4.0 if short else 10.0)
    filters = [
        AclBindingFilter(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None,
                         AclOperation.ANY, AclPermissionType.ANY)
        for topic, _ in taken
    ]  # fmt: skip
    for future in admin.delete_acls(filters).values():
        future.result(30)
    typed(world, 60, 1.0)
    lines = [line for line in world.children["worker-0"].log.splitlines() if "in.audit" in line]
    told = [x for x in lines if "partition_stopped" in x or "deliveries_failed" in x]
    world.verdict.check(told, "the worker did not say that it may not write an inbox")
    world.did("rights to write an inbox and an outbox and to read an inbox were taken and given")


def _rule(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, USER, "*", operation, permission
    )


# -- robbed of topics -----------------------------------------------------------------------------


def canonical_topic_made_again(world: World, short: bool) -> None:
    _make_again(world, f"data.{SOURCES[REGISTRY]}")
    _ask(world, "resync", REGISTRY, "adapter-sources")
    world.did("a canonical topic was deleted and made again; its source resynced")


def outbox_made_again(world: World, short: bool) -> None:
    _make_again(world, _topic("out", HOUSING))
    _ask(world, "resync", HOUSING, "adapter-sources")
    world.did("an outbox was deleted and made again; its source resynced")


def inbox_made_again(world: World, short: bool) -> None:
    adapter = world.children["adapter-others"]
    adapter.freeze()  # so that something lies there unread
    before = _end(world, _topic("in", AUDIT))
    typed(world, 100, 2.0)
    settled(lambda: _end(world, _topic("in", AUDIT)) > before + 20, SOON_SECONDS, "deliveries wait")
    _make_again(world, _topic("in", AUDIT))
    adapter.wake()
    _ask(world, "rejoin", AUDIT, "adapter-others")
    # What is due is written anew once more, by the job that fills it.
    world.policies += 1
    world.did("an inbox was deleted and made again; its unit rejoined")


def _end(world: World, topic: str) -> int:
    """How many records were ever written to a topic."""
    asked = {TopicPartition(topic, n): OffsetSpec.latest() for n in range(PARTITIONS)}
    deadline = time.monotonic() + SOON_SECONDS
    while True:
        admin = AdminClient(world.connection.librdkafka())
        try:
            return sum(future.result(30).offset for future in admin.list_offsets(asked).values())
        except KafkaException:  # a broker that was started a moment ago
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _topic(kind: str, unit: str) -> str:
    return f"{kind}.{unit.replace('@', '-')}"


def _make_again(world: World, topic: str) -> None:
    """Deleted by mistake under load, and made again as it was a moment later."""
    admin = AdminClient(world.connection.librdkafka())
    described = {"cleanup.policy": "compact"} if topic.startswith("data.") else {}

    def is_made() -> bool:
        new = NewTopic(topic, PARTITIONS, 1, config=described)
        try:
            admin.create_topics([new])[topic].result(30)
        except KafkaException:
            return False  # marked for deletion still
        return True

    with world.foreign.blind_to(topic):
        admin.delete_topics([topic], operation_timeout=30)[topic].result(30)
        typed(world, 30, 0.5)
        settled(is_made, SOON_SECONDS, f"{topic} is made again")
    typed(world, 60, 2.0)


def _ask(world: World, verb: str, unit: str, adapter: str) -> None:
    """The command that the log asks for, and then the adapter again. A worker has said it."""
    settled(
        lambda: f"deptbus department {verb}" in _logs(world),
        SOON_SECONDS,
        f"somebody asks for `deptbus department {verb}`",
    )
    settled(lambda: not world.tend() and world.children["worker-0"].is_ready, SOON_SECONDS,
            "the worker is back")  # fmt: skip
    words = ["department", verb, "--config", str(world.county.config(unit))]
    if verb == "resync":  # rejoin asks the bus nothing
        words += ["--bootstrap", world.connection.bootstrap]
    code, _, err = command(*words)
    world.verdict.check(code in (0, 1), f"{verb}: {err[-300:]}")
    child = world.children[adapter]
    if child.is_alive:
        child.stop()
    child.start().wait_ready()


def _logs(world: World) -> str:
    return "".join(child.log for child in world.children.values())


SHORT: tuple[Fault, ...] = (rights_are_taken, killed, inbox_made_again)
FULL: tuple[Fault, ...] = (canonical_topic_made_again, outbox_made_again, full)

BUGS = {
    "nobody_fills_inboxes": Bug(
        "what an inbox lost is not delivered anew",
        ("lost",),
        {"operations": ["brokers:fills_no_inboxes"]},
    ),
}


def fills_no_inboxes() -> None:
    """In operations: an inbox that was made again is not noticed."""
    from deptbus.operations.inboxes import Inboxes

    Inboxes.due = lambda self, due, digests: dict(due)  # type: ignore[method-assign]


SCENARIO = Scenario(
    "brokers", "the broker is killed, full, robbed of topics and of rights", run, BUGS
)
