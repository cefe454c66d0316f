"""How far one reader is behind in one partition: pure, from what was seen there at one moment.

Committed offsets are read before ends (a reader that goes on meanwhile would seem to be ahead), and
the end is the last stable offset: what an open transaction holds back nobody can read yet. Rules,
the first that fits; *position* is the greater one of committed offset and log start:

1. The coordinator or the partition's leader gave no answer, or an error: `unreachable`.
2. Nothing is committed: `never_committed`. Where such a reader begins is its own setting, so there
   is no number; what waits there has an age.
3. The committed offset lies below the log's start: `lost`. As many records are gone as lie between.
4. The committed offset lies above the log's last record: `lost`. It counts records of another
   topic of that name; how many are gone nobody can tell. (Behind the last stable offset but not
   above the last record is a reader that does not wait for transactions: it is at the end.)
5. Reading from the position to the end gave no record: `phantom`. Only transaction markers, aborted
   records and compacted offsets lie there: nothing is unread.
6. Else `ok`, with a number: offsets between position and end; or, once a look reached the end, the
   records that it met, because offsets of markers and compacted records are none.
7. The age is that of the first record that is really unread, 0 where none is. A record that was
   not got yet or bears no time has no known age: None, which is not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class PartitionState(StrEnum):
    OK = "ok"
    NEVER_COMMITTED = "never_committed"
    LOST = "lost"
    PHANTOM = "phantom"
    UNREACHABLE = "unreachable"


class Place(NamedTuple):
    """A reader's place: one consumer group in one partition."""

    group: str
    topic: str
    partition: int


class Look(NamedTuple):
    """What reading a partition gave, from `origin` up to, not including, `upto`."""

    origin: int
    upto: int
    first: int | None = None  # the offset of the first record; None: there is none
    first_ms: int | None = None  # its time, milliseconds since 1970; None: it bears none
    records: int = 0

    def tells(self, position: int) -> bool:
        """Whether it says which record is the first at or behind this position."""
        if self.origin > position:
            return False
        return self.first >= position if self.first is not None else self.upto > position


class Seen(NamedTuple):
    """One partition as a reader has it, at one moment."""

    committed: int | None  # None: nothing is committed
    start: int
    end: int  # the last stable offset
    high: int | None = None  # the log's end; asked for only where committed lies above `end`
    look: Look | None = None  # None: nobody looked yet
    topic_id: str | None = None

    @property
    def position(self) -> int:
        return self.start if self.committed is None else max(self.committed, self.start)


class Unseen(NamedTuple):
    """Nobody can tell: `reason` is a word of Kafka's for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lag:
    """What is known of one reader in one partition. Numbers are None where they are not known."""

    state: PartitionState
    records: int | None = None
    seconds: float | None = None
    gone: int | None = None  # records that were removed before they were read
    waits: bool | None = None  # whether something is unread
    reason: str = ""  # why it could not be seen


_AT_THE_END = Lag(PartitionState.OK, 0, 0.0, waits=False)


def measure(seen: Seen | Unseen, now: float) -> Lag:
    """By the rules above. `now`: seconds since 1970."""
    if isinstance(seen, Unseen):
        return Lag(PartitionState.UNREACHABLE, reason=seen.reason)
    position = seen.position
    waits, records, seconds = _unread(seen, position, now)
    if seen.committed is None:
        return Lag(PartitionState.NEVER_COMMITTED, seconds=seconds, waits=waits)
    if seen.committed < seen.start:
        gone = seen.start - seen.committed
        return Lag(PartitionState.LOST, records, seconds, gone=gone, waits=waits)
    if seen.committed > seen.end:
        if seen.high is None:
            return Lag(PartitionState.UNREACHABLE, reason="end_not_known")
        if seen.committed > seen.high:
            return Lag(PartitionState.LOST)
    if position >= seen.end:
        return _AT_THE_END
    if not waits:
        return Lag(PartitionState.PHANTOM, 0, 0.0, waits=False)
    return Lag(PartitionState.OK, records, seconds, waits=True)


def _unread(seen: Seen, position: int, now: float) -> tuple[bool, int, float | None]:
    """Whether something waits, how many records (at most), and how old the first of them is."""
    span = seen.end - position
    if span <= 0:
        return False, 0, 0.0
    look = seen.look
    if look is None or not look.tells(position):
        return True, span, None
    if look.first is None:
        # Markers and gaps up to `upto`; what lies behind was not looked at.
        return (False, 0, 0.0) if look.upto >= seen.end else (True, seen.end - look.upto, None)
    if look.first >= seen.end:
        return False, 0, 0.0
    records = look.records if look.upto >= seen.end else span
    seconds = None if look.first_ms is None else max(0.0, now - look.first_ms / 1000)
    return True, records, seconds
