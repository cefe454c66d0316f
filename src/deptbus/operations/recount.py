"""Counts a unit's saved entries once more, from its inbox: what an auditor holds against what the
unit told. Pure.

The rule is that of the recipient (`department.fold`), read from the other end: of each record (its
dataset, source unit and key) a delivery counts when its (version, policy) is greater than all that
came before it in the inbox. Of those that count, an upsert with the cause `live` is one change.

1. What is not greater came twice, or too late: it is counted as repeated.
2. A change whose projection has the same bytes as the one before it touched nothing that this unit
   receives: it is counted, as everywhere, and told beside that as unchanged.
3. A change to a record of which the inbox holds nothing earlier is told as first seen: it is new,
   or what was delivered before it is gone by retention, and nobody can tell what it changed.
4. What the unit has parked, or keeps for another claimant, it has not applied: it tells less. More
   than was delivered it cannot have applied: `Recount.is_too_much` says where it claims so.

Days are China's, by the time at which the bus wrote the delivery; an apply may fall into the next
day. So what was told is held against what was delivered up to the end of that day, not on it.
Deliveries refused behind a policy's marker are counted here; they are few and make no claim too
much. Content is compared by keyed digests that end with the process, and never kept.
"""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.operations.picture import SavedRow
from deptbus.routing import CHINA

DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Recount:
    """One unit, dataset and day: live changes delivered, and what of them is known."""

    unit: str
    dataset: str
    day: str
    delivered: int
    unchanged: int = 0
    first_seen: int = 0
    fields: int = 0  # of the projections, all delivered changes together
    repeated: int = 0  # deliveries of any cause that were not newer
    told: int = 0  # live changes that the unit says it has applied on that day
    is_too_much: bool = False  # up to this day it says that it applied more than it was delivered


@dataclass
class Tally:
    """Folds one partition of an inbox, in its order; `counts` go on over all of them."""

    counts: dict[tuple[str, str], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )  # (dataset, day) -> what was counted
    _seen: dict[tuple[str, str, bytes], tuple[int, int, bytes]] = field(default_factory=dict)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def begin_partition(self) -> None:
        """A record lies in one partition: what is known of others is needed no more."""
        self._seen.clear()

    def take(self, received: Received, written_ms: int) -> None:
        record = received.dataset, received.source_unit, received.key
        pair = received.version, received.policy
        counts = self.counts[received.dataset, day_of_ms(written_ms)]
        known = self._seen.get(record)
        if known is not None and pair <= known[:2]:
            counts["repeated"] += 1
            return
        digest = self._digest(received)
        self._seen[record] = (*pair, digest)
        if received.op is not DeliveryOp.UPSERT or received.cause is not Cause.LIVE:
            return
        counts["delivered"] += 1
        counts["fields"] += len(received.fields)
        if known is None:
            counts["first_seen"] += 1
        elif known[2] == digest:
            counts["unchanged"] += 1

    def _digest(self, received: Received) -> bytes:
        """Of the projection; of a delete and a withdrawal, which have none, empty."""
        if received.record is None:
            return b""
        found = blake2b(digest_size=DIGEST_BYTES, key=self._secret)
        found.update(",".join(received.fields).encode())
        for part in received.record:
            found.update(len(part).to_bytes(4, "big") + part)
        return found.digest()


def day_of_ms(at_ms: int) -> str:
    """The day in China."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(CHINA).date().isoformat()


def recounts(
    unit: str,
    counts: Mapping[tuple[str, str], Counter[str]],
    told: Iterable[SavedRow],
    whole_since: str | None = None,
) -> list[Recount]:
    """By day and dataset. `told`: what units say; `whole_since`: the first day of which every
    partition holds something, where retention has removed what was before; days before it cannot
    be counted again and are left out. None: nothing was ever removed."""
    since = whole_since or ""
    claims = {
        (row.dataset, row.day): row.live for row in told if row.unit == unit and row.day >= since
    }
    days = sorted(
        {at for at in (*counts, *claims) if at[1] >= since}, key=lambda at: (at[1], at[0])
    )
    found: list[Recount] = []
    ahead: Counter[str] = Counter()  # by dataset: delivered so far, less told so far
    for dataset, day in days:
        counted = counts.get((dataset, day), Counter())
        claimed = claims.get((dataset, day), 0)
        ahead[dataset] += counted["delivered"] - claimed
        if day == whole_since:  # some of what was applied on that day is gone from the inbox
            ahead[dataset] = max(0, ahead[dataset])
        found.append(
            Recount(
                unit,
                dataset,
                day,
                counted["delivered"],
                counted["unchanged"],
                counted["first_seen"],
                counted["fields"],
                counted["repeated"],
                claimed,
                ahead[dataset] < 0,
            )
        )
    return found
