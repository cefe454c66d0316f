"""A worker's memory limit, and the places at which workers died of it.

Agents hold no state, and the next worker may be on another machine: a death is told in the metadata
of the group's own commit of the partition. Whoever takes the partition over reads it with the
offset, and it is gone by itself once the commit is beyond the place. Rules:

1. Only a death of the memory limit over known records counts; every other one leaves no word.
2. Another death over records within those of the last one is one more death at that place.
3. After a death its records are read in smaller batches (WIDTHS), each alone in its process: what
   dies then dies of itself, and what else there is has the memory back.
4. At DEATHS deaths the place is condemned: its records, by then one record or one record batch, are
   noted in quarantine and touched no more.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from faust.types import TP

from deptbus.errors import DeptbusError
from deptbus.stream.batches import BATCH_RECORDS

log = structlog.get_logger(__name__)

SETTING = "DEPTBUS_WORKER_MEMORY_MB"
DEFAULT_MB = 1024  # a worker of 60 units takes 60 to 180
LEAST_MB = 128  # below, none would start
DEATHS = 3
WIDTHS = (BATCH_RECORDS, 45, 1)  # records a batch, by the number of deaths before
_WORD = re.compile(r";memory=([1-3])/([0-9]{1,19})/([0-9]{1,19})\Z")
ALONE_SECONDS = 5.0  # a suspect that waits for the bus meanwhile holds up nobody for longer


def limit_memory() -> int:
    """Sets this process's limit (private memory, RLIMIT_DATA) to what the environment says, in MB;
    0: none. Returns it. Raises DeptbusError when the setting is no such number."""
    text = os.environ.get(SETTING, str(DEFAULT_MB))
    if not text.isascii() or not text.isdigit() or 0 < int(text) < LEAST_MB:
        raise DeptbusError(
            f"{SETTING} is not a number of megabytes",
            mend=f"Give 0 for no limit, or {LEAST_MB} and more (default {DEFAULT_MB})",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(text) * 1024 * 1024 or resource.RLIM_INFINITY
    if hard != resource.RLIM_INFINITY:
        wanted = hard if wanted == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    return int(text)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """`deaths` over the records from offset `first` to `last` of one partition."""

    deaths: int
    first: int
    last: int

    def __str__(self) -> str:
        """As it stands behind the origin in a commit's metadata (origins.py)."""
        return f";memory={self.deaths}/{self.first}/{self.last}"

    @classmethod
    def read(cls, metadata: str) -> Suspicion | None:
        """None where no such word stands at the end: metadata is anybody's who may commit."""
        word = _WORD.search(metadata)
        if word is None:
            return None
        found = cls(*map(int, word.groups()))
        return found if found.first <= found.last else None


class Suspects:
    """What is suspected in the partitions that this process has; pure, but for its clock."""

    def __init__(self) -> None:
        self._found: dict[TP, Suspicion] = {}
        self._alone: tuple[TP, float] | None = None

    def learn(self, words: Mapping[TP, str]) -> dict[TP, tuple[int, int]]:
        """What the commits of all our partitions say. Returns what is condemned: partition ->
        (first, last) offset."""
        read = {tp: Suspicion.read(text) for tp, text in words.items()}
        self._found = {tp: found for tp, found in read.items() if found is not None}
        self._alone = None
        return {
            tp: (found.first, found.last)
            for tp, found in self._found.items()
            if found.deaths >= DEATHS
        }

    def died(self, tp: TP, first: int, last: int) -> Suspicion:
        """One more death (rule 2)."""
        before = self._found.get(tp)
        deaths = 1
        if before is not None and before.first <= first and last <= before.last:
            deaths = min(DEATHS, before.deaths + 1)
        found = self._found[tp] = Suspicion(deaths, first, last)
        return found

    def word(self, tp: TP, offset: int) -> str:
        """What a commit of `offset` says of its partition; forgets what lies before it."""
        found = self._found.get(tp)
        if found is not None and offset > found.last:
            del self._found[tp]
            log.info("suspect_cleared", topic=tp.topic, partition=tp.partition)
        return str(found) if found is not None and offset <= found.last else ""

    def width(self, tp: TP, waiting: Sequence[Any]) -> int:
        """How many of the records that wait make up the next batch."""
        found = self._found.get(tp)
        if found is None or found.deaths >= DEATHS or waiting[0].offset > found.last:
            return BATCH_RECORDS
        if waiting[0].offset >= found.first:
            return WIDTHS[found.deaths]
        before = 0  # up to the place, not into it
        for record in waiting:
            if record.offset >= found.first or before == BATCH_RECORDS:
                break
            before += 1
        return before

    def turn(self, ready: Sequence[TP], first: Mapping[TP, int], running: int) -> list[TP]:
        """Whose batch may run now (rule 3). `first`: offset of the first record that waits;
        `running`: batches that run."""
        if not self._found:
            return list(ready)
        if self._alone is not None and running:
            if monotonic() - self._alone[1] < ALONE_SECONDS:
                return []
            return [tp for tp in ready if not self._is_suspect(tp, first[tp])]
        self._alone = None
        suspects = [tp for tp in ready if self._is_suspect(tp, first[tp])]
        if not suspects:
            return list(ready)
        if running:
            return []
        self._alone = (suspects[0], monotonic())
        return suspects[:1]

    def _is_suspect(self, tp: TP, offset: int) -> bool:
        found = self._found.get(tp)
        return found is not None and found.deaths < DEATHS and found.first <= offset <= found.last
