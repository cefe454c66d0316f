"""Pure: from what lies in the inbox to the newest delivery of each record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from deptbus.change import Cause, DeliveryOp, Received, RecordFields
from deptbus.department.ledger import REWRITES, Entry, RecordId, entry_of
from deptbus.wire.control import PolicyMarker


class Outcome(StrEnum):
    """What became of a delivery, as the statistics count it."""

    APPLIED = "applied"
    KEPT = "kept"  # a lesser claimant holds the row; this one waits
    WITHDRAWN = "withdrawn"
    DELETED = "deleted"
    NOTED = "noted"  # a delete or withdrawal of what was not there
    PARKED = "parked"
    DUPLICATE = "duplicate"  # not newer than what is known
    OLD_POLICY = "refused_old_policy"
    REENTRY = "reentry"  # beside APPLIED: a live upsert that nobody had to type again


class Tally(NamedTuple):
    """One line of the statistics of a day."""

    dataset: str
    cause: str
    direction: str
    outcome: str


@dataclass(slots=True)
class Folded:
    """The newest accepted delivery of each record, and what became of the others.

    `retries` are candidates that were parked before and are tried again as they are. `records` has
    the projections of those that just came, still in slices.
    """

    candidates: dict[RecordId, Entry] = field(default_factory=dict)
    records: dict[RecordId, RecordFields] = field(default_factory=dict)
    had_copy: dict[RecordId, bool] = field(default_factory=dict)
    retries: set[RecordId] = field(default_factory=set)
    tallies: Counter[Tally] = field(default_factory=Counter)


Newer = Callable[[tuple[int, int], str, tuple[int, int]], bool]


def newer(pair: tuple[int, int], cause: str, known: tuple[int, int]) -> bool:
    """A greater (version, policy) is newer; replay and repair also write an equal pair again."""
    return pair > known or (pair == known and cause in REWRITES)


def fold(
    items: Iterable[Received | PolicyMarker],
    known: Mapping[RecordId, Entry],
    floors: dict[str, int],
    now_us: int,
    *,
    replacing: Collection[str] = (),
    into: Folded | None = None,
    is_newer: Newer = newer,
) -> Folded:
    """Read one partition's items in their order.

    `floors` (dataset -> least policy that is still accepted in this partition) is moved on by the
    markers met. `known` has the ledger's entries of all records met. `replacing` names the datasets
    whose mapping replaces a form. `into` goes on with the result for another partition.

    The tallies count as if deliveries had been applied one by one, wherever batches were cut.
    """
    folded = into if into is not None else Folded()
    candidates = folded.candidates
    for item in items:
        if isinstance(item, PolicyMarker):
            for dataset in item.datasets:
                floors[dataset] = max(floors.get(dataset, 0), item.policy)
            continue
        dataset, cause = item.dataset, item.cause.value
        rid = RecordId(dataset, item.source_unit, item.key)
        if item.policy < floors.get(dataset, 0):
            folded.tallies[Tally(dataset, cause, item.direction.value, Outcome.OLD_POLICY)] += 1
            continue
        earlier = candidates.get(rid)
        current = earlier if earlier is not None else known.get(rid)
        if current is not None and not is_newer((item.version, item.policy), cause, current.pair):
            folded.tallies[Tally(dataset, cause, item.direction.value, Outcome.DUPLICATE)] += 1
            continue
        if earlier is not None:
            count_settled(folded, earlier, replacing)
            folded.had_copy[rid] = earlier.op == DeliveryOp.UPSERT
        else:
            folded.had_copy[rid] = current is not None and current.op == DeliveryOp.UPSERT
        candidates[rid] = entry_of(item, now_us)
        if item.record is not None:
            folded.records[rid] = item.record
    return folded


def add_retries(folded: Folded, parked: Iterable[Entry]) -> None:
    """Parked entries whose time has come, unless something newer for them is in the batch."""
    for entry in parked:
        if entry.id not in folded.candidates:
            folded.candidates[entry.id] = entry
            folded.had_copy[entry.id] = True
            folded.retries.add(entry.id)


def count_settled(
    folded: Folded, entry: Entry, replacing: Collection[str], *, waiting: bool = False
) -> None:
    """Count a delivery that is not parked by what it did."""

    def count(outcome: Outcome) -> None:
        folded.tallies[Tally(entry.dataset, entry.cause, entry.direction, outcome)] += 1

    if entry.op == DeliveryOp.UPSERT:
        count(Outcome.KEPT if waiting else Outcome.APPLIED)
        if not waiting and entry.cause == Cause.LIVE and entry.dataset in replacing:
            count(Outcome.REENTRY)
    elif not folded.had_copy.get(entry.id, False):
        count(Outcome.NOTED)
    else:
        count(Outcome.DELETED if entry.op == DeliveryOp.DELETE else Outcome.WITHDRAWN)
