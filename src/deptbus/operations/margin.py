"""How long a reader that is behind may stay so before something is lost to it: pure.

1. A topic that deletes by time: retention less the age of the first unread record. (Whole segments
   are deleted, so it is later by up to a segment: never sooner.)
2. A topic that deletes by size as well: nobody can tell, because it depends on what comes.
3. A topic that only compacts: the least time that compaction leaves a record alone, less that age.
   Behind it superseded versions are gone: no last state, but who folds versions has to be quicker.
4. A topic that keeps everything: no margin is needed.
5. An age that is not known has no known margin. With nothing unread it is that of a record that
   would come now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deptbus.operations.lag import Lag

FOR_EVER = math.inf


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a topic does with what is old; times in seconds, None: for ever."""

    deletes: bool
    compacts: bool
    retention_seconds: float | None = None
    retention_bytes: int | None = None
    untouched_seconds: float = 0.0  # min.compaction.lag.ms


SETTINGS = ("cleanup.policy", "retention.ms", "retention.bytes", "min.compaction.lag.ms")


def keeping_of(settings: Mapping[str, str]) -> Keeping:
    """From a topic's settings as Kafka tells them. Raises KeyError where one is not among them."""
    policies = settings["cleanup.policy"].split(",")
    retention_ms = int(settings["retention.ms"] or -1)
    size = int(settings["retention.bytes"] or -1)
    return Keeping(
        deletes="delete" in policies,
        compacts="compact" in policies,
        retention_seconds=None if retention_ms < 0 else retention_ms / 1000,
        retention_bytes=None if size < 0 else size,
        untouched_seconds=int(settings["min.compaction.lag.ms"] or 0) / 1000,
    )


def margin_seconds(lag: Lag, keeping: Keeping | None) -> float | None:
    """By the rules above: 0 when it is overdue, FOR_EVER where none is needed, None where nobody
    can tell. `keeping` None: not known."""
    if keeping is None or lag.seconds is None:
        return None
    bounds = []
    if keeping.deletes:
        if keeping.retention_bytes is not None:
            return None
        if keeping.retention_seconds is not None:
            bounds.append(keeping.retention_seconds)
    if keeping.compacts and not keeping.deletes:
        bounds.append(keeping.untouched_seconds)
    return max(0.0, min(bounds) - lag.seconds) if bounds else FOR_EVER
