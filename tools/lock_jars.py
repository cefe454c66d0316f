"""Writes src/deptbus/cluster/jars.lock: resolves Kafka's dependency graph, notes each digest.

Run by a developer who changes KAFKA_VERSION; users only ever download what the lock names.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext, Model

KAFKA_VERSION = "4.3.1"
SLF4J_VERSION = "1.7.36"  # the version of slf4j-api that this Kafka was built against
LOCK = Path(__file__).parent.parent / "src" / "deptbus" / "cluster" / "jars.lock"

HEAD = """\
# Every jar of the embedded broker: group:artifact:version, size in bytes, SHA-256.
# Made by tools/lock_jars.py; do not edit by hand.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        context = MavenContext(repo_cache=Path(cache), timeout=30)
        kafka = context.project("org.apache.kafka", "kafka_2.13").at_version(KAFKA_VERSION)
        dependencies, _ = Model(kafka.pom(), context).dependencies()
        artifacts = [d.artifact for d in dependencies if d.scope in ("compile", "runtime")]
        artifacts.append(kafka.artifact())
        artifacts.append(
            context.project("org.slf4j", "slf4j-simple").at_version(SLF4J_VERSION).artifact()
        )
        lines = []
        for artifact in artifacts:
            content = artifact.resolve().read_bytes()
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            lines.append(f"{coordinate} {len(content)} {hashlib.sha256(content).hexdigest()}\n")
    LOCK.write_text(HEAD + "".join(sorted(lines)), encoding="utf-8")
    sys.stdout.write(f"{len(lines)} jars\n")


if __name__ == "__main__":
    main()
