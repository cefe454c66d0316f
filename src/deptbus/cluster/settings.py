"""Broker settings: those that every shape of the bus has, and those of the single embedded node.

docker-compose.yml repeats SHARED with its own replication; a test holds the two together.
"""

from __future__ import annotations

from pathlib import Path

from deptbus.cluster.ports import LOOPBACK

MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # of a batch: one record of 1 MiB, its envelope, and room

SHARED: dict[str, str] = {
    # Topics are made by `topics apply` only: a topic that springs up by a misspelt name has the
    # wrong number of partitions and no retention.
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_MESSAGE_BYTES),
    # A version that was acked must never be lost to a leader that was behind.
    "unclean.leader.election.enable": "false",
    # Adapters commit for lag only; a department that is away for a month is still shown as behind.
    "offsets.retention.minutes": str(31 * 24 * 60),
    # Workers come and go while the bus runs; waiting for more of them at each start helps nobody.
    "group.initial.rebalance.delay.ms": "0",
}

SINGLE_NODE: dict[str, str] = {
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    # The default of 128 MB is half of our heap; 16 MB hold 600,000 keys a pass.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    # After a SIGKILL the controller believes in the old broker until its session ends: with the
    # default of 9 s that alone is most of the time that a restart takes.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
}


def single_node(log_folder: Path, port: int, controller_port: int) -> dict[str, str]:
    """All settings of the embedded broker, which is its own controller; on the loopback only."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(log_folder),
        **SHARED,
        **SINGLE_NODE,
    }


def as_properties(settings: dict[str, str]) -> str:
    """Text of a Java properties file; backslashes (of Windows paths) are doubled as it asks."""
    return "".join(
        f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in settings.items()
    )
