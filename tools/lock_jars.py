"""Writes src/deptbus/cluster/jars.lock: resolves Kafka's dependency graph, notes each digest; and
beside the tests what Kafka's own command line needs beyond that.

Run by a developer who changes KAFKA_VERSION; users only ever download what jars.lock names.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from jgo.maven import MavenContext, Model

KAFKA_VERSION = "4.3.1"
SLF4J_VERSION = "1.7.36"  # the version of slf4j-api that this Kafka was built against
ROOT = Path(__file__).parent.parent
LOCK = ROOT / "src" / "deptbus" / "cluster" / "jars.lock"
TOOLS_LOCK = ROOT / "tests" / "support" / "kafka_tools.lock"

HEAD = """\
# {what}: group:artifact:version, size in bytes, SHA-256.
# Made by tools/lock_jars.py; do not edit by hand.
"""


def artifacts_of(context: MavenContext, group: str, name: str, version: str) -> list[Any]:
    """A jar and all that it needs to run."""
    component = context.project(group, name).at_version(version)
    dependencies, _ = Model(component.pom(), context).dependencies()
    needed = [d.artifact for d in dependencies if d.scope in ("compile", "runtime")]
    return [*needed, component.artifact()]


def lines_of(artifacts: list[Any]) -> set[str]:
    lines = set()
    for artifact in artifacts:
        content = artifact.resolve().read_bytes()
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.add(f"{coordinate} {len(content)} {hashlib.sha256(content).hexdigest()}\n")
    return lines


def write(lock: Path, what: str, lines: set[str]) -> None:
    lock.write_text(HEAD.format(what=what) + "".join(sorted(lines)), encoding="utf-8")
    sys.stdout.write(f"{lock.name}: {len(lines)} jars\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        context = MavenContext(repo_cache=Path(cache), timeout=30)
        broker = artifacts_of(context, "org.apache.kafka", "kafka_2.13", KAFKA_VERSION)
        broker.append(
            context.project("org.slf4j", "slf4j-simple").at_version(SLF4J_VERSION).artifact()
        )
        tools = artifacts_of(context, "org.apache.kafka", "kafka-tools", KAFKA_VERSION)
        of_broker = lines_of(broker)
        write(LOCK, "Every jar of the embedded broker", of_broker)
        beyond = lines_of(tools) - of_broker
        write(TOOLS_LOCK, "What Kafka's own command line needs beside them, for tests", beyond)


if __name__ == "__main__":
    main()
