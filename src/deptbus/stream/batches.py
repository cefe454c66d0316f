"""Whole partition batches on their way through the agents: what waits, what runs, what is done.

Rules (design, section 4: input is acked only after every output is acked):

1. At most one batch of a partition is with the agents; the next one waits for its ack.
2. A batch is delivered when every stream that reads its topic said so. An ack that comes without
   that (a stream that skips what belongs to an older generation acks it) commits nothing.
3. The offset to commit is the one after the last delivered batch. There is no older batch without
   ack behind it, because of rule 1.
4. What was forgotten (partitions revoked, positions reset) commits nothing however late it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from time import monotonic
from typing import Any

from faust.types import TP

BATCH_RECORDS = 2000  # 5,000 was slower
WAITING_RECORDS = 2 * BATCH_RECORDS  # of one partition, fetched and not yet with the agents
# The same: 4,000 of the largest records of one partition that stands still would be 4 GB.
WAITING_BYTES = 2 * 1024 * 1024


_SIZE = attrgetter("serialized_value_size")


class Batch:
    """Consecutive records of one partition, shared by all streams that read the topic.

    `records` have key, value and offset, ascending. `cache` is for what streams share (decoding,
    routing). Every stream calls `begin`, then `finish(delivered)` once.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_delivered",
        "_finished",
        "cache",
        "generation",
        "is_forgotten",
        "partition",
        "records",
        "streams",
        "topic",
        "touched_at",
    )

    def __init__(
        self, topic: str, partition: int, records: list[Any], streams: int, generation: int = 0
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.streams = streams  # how many streams must deliver it
        self.generation = generation  # of the consumer group, when it was handed over
        self.cache: dict[Any, Any] = {}
        self.touched_at = monotonic()
        self.is_forgotten = False  # its partition was revoked: somebody else may be doing it
        self._begun = self._finished = self._delivered = 0

    def begin(self) -> None:
        self._begun += 1
        self.touch()

    def finish(self, delivered: bool) -> None:
        """`delivered`: every output of this stream for this batch is acked by the bus."""
        self._finished += 1
        self._delivered += delivered
        self.touch()

    def touch(self) -> None:
        """A sign of life for the watchdog: call it in every round of a loop that may take long."""
        self.touched_at = monotonic()

    @property
    def is_running(self) -> bool:
        return self._begun > self._finished

    @property
    def is_delivered(self) -> bool:
        return self._delivered >= self.streams

    @property
    def next_offset(self) -> int:
        return self.records[-1].offset + 1

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)


def _few_enough(waiting: Iterable[Any]) -> int:
    """How many of the first records hold about WAITING_BYTES, at least one: 32 MiB of hostile ones
    that come at once would hold up the whole process for as long as it takes to refuse them."""
    total = 0
    for count, record in enumerate(waiting, 1):
        total += record.serialized_value_size
        if total >= WAITING_BYTES:
            return count
    return BATCH_RECORDS


class Progress:
    """What the consumer knows of each partition; pure bookkeeping, no I/O."""

    def __init__(self) -> None:
        self._waiting: dict[TP, deque[Any]] = {}
        self._bytes: dict[TP, int] = {}  # of the values that wait
        self.running: dict[TP, Batch] = {}
        self._done: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}

    def has_room(self, tp: TP) -> bool:
        waiting = self._waiting.get(tp)
        return waiting is None or (
            len(waiting) < WAITING_RECORDS and self._bytes.get(tp, 0) < WAITING_BYTES
        )

    def arrived(self, tp: TP, records: Sequence[Any]) -> None:
        self._waiting.setdefault(tp, deque()).extend(records)
        self._bytes[tp] = self._bytes.get(tp, 0) + sum(map(_SIZE, records))

    def waiting(self, tp: TP) -> Sequence[Any]:
        """Records that wait, ascending."""
        return self._waiting.get(tp, ())

    def undone(self, tp: TP) -> int | None:
        """The first offset that was handed to us and is not delivered; None when there is none."""
        batch = self.running.get(tp)
        records = batch.records if batch is not None else self.waiting(tp)
        return records[0].offset if records else None

    def ready(self) -> list[TP]:
        """Partitions with records waiting and no batch with the agents."""
        return [tp for tp, found in self._waiting.items() if found and tp not in self.running]

    def take(
        self, tp: TP, streams: int, generation: int, most: int = BATCH_RECORDS
    ) -> Batch | None:
        """The next batch of a partition, which runs from now on; None when it is not its turn."""
        waiting = self._waiting.get(tp)
        if not waiting or tp in self.running:
            return None
        count = min(len(waiting), most)
        if self._bytes[tp] > WAITING_BYTES:
            count = min(count, _few_enough(waiting))
        records = [waiting.popleft() for _ in range(count)]
        self._bytes[tp] = self._bytes[tp] - sum(map(_SIZE, records)) if waiting else 0
        batch = Batch(tp.topic, tp.partition, records, streams, generation)
        self.running[tp] = batch
        return batch

    def acked(self, batch: Batch) -> bool:
        """Every stream let go of the batch. True when it counts (rules 2 and 4)."""
        tp = batch.tp
        if self.running.get(tp) is not batch:
            return False
        if not batch.is_delivered:
            return False
        del self.running[tp]
        self._done[tp] = batch.next_offset
        return True

    def committable(self) -> dict[TP, int]:
        return {
            tp: offset for tp, offset in self._done.items() if offset > self._committed.get(tp, -1)
        }

    def committed(self, offsets: dict[TP, int]) -> None:
        self._committed.update(offsets)

    def forget(self) -> None:
        """Positions are reset: what was fetched comes again, what still runs does not count."""
        for batch in self.running.values():
            batch.is_forgotten = True
        self._waiting.clear()
        self._bytes.clear()
        self.running.clear()
        self._done.clear()
        self._committed.clear()
