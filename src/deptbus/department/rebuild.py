"""Pure: a second copy of a dataset that is made from nothing beside the one in use.

It has a table of its own for the mapped columns, and lines of its own in the ledger, under the name
`names.rebuilt_copy`. To the applier it is one more received dataset.

Rules:

1. From the order to begin on, whatever comes for the dataset is applied to both copies, in the
   same transactions: at every moment both are as of the same offsets of the inbox. Once they are
   equal they stay so, and a proof of the second one does not grow old.
2. What the job of the rebuild delivers is applied to the second copy alone: the one in use is not
   touched before the swap. Of a job that is unknown or over it is left out.
3. A job begins once. Whatever is read of it again, in another partition or after a restart, is
   nothing new; orders of a job that is over are nothing at all.
4. The swap waits until the inbox is applied up to where the second copy was proved: a database that
   was restored from a backup since has to come there first.
5. The swap applies to the copy in use, in one transaction, what differs: records whose lines are
   not alike, and records whose rows are not. A line that the second copy has not is forgotten, but
   for tombstones: they hold back older versions. Rows that no record stands for and columns that
   no mapping names are not touched.
6. A row that the table refuses is parked, as one that is delivered is. What the department has
   typed into a row that is now replaced is first kept in a file of the unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from deptbus import names
from deptbus.change import DeliveryOp, Received
from deptbus.contract.department import Receive
from deptbus.department.decide import Action, Remove, Write
from deptbus.department.ledger import Entry, RecordId, Row
from deptbus.department.repairs import Kept, OrderId, tombstone
from deptbus.department.seen import Values, row_digest
from deptbus.wire.control import PolicyMarker

State = Literal["filling", "swapping", "swapped", "dropped", "refused", "not_here"]
OPEN: frozenset[State] = frozenset({"filling", "swapping"})

# The columns of a ledger's line by which both copies are alike. Under which policy and in which job
# something was delivered, and when, is no difference.
COMPARED = (
    "version", "op", "direction", "rule", "grants", "schema_version", "fields", "record",
    "row_key", "held", "delivered", "written", "parked",
)  # fmt: skip


class Rebuild(NamedTuple):
    """One job, as the recipient's database has it; the fields are the columns of `rebuilds`."""

    job: str
    dataset: str
    state: State
    reason: str
    ends: tuple[int, ...]  # rule 4; empty before a swap is ordered
    counts: Mapping[str, int]  # what the swap came to
    is_tidy: bool  # nothing is left of the second copy
    changed_at_us: int

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def name(self) -> str:
        return names.rebuilt_copy(self.dataset)


def second_receive(receive: Receive, table: str) -> Receive:
    """The mapping for the second copy's table, which nobody but deptbus writes to."""
    alone: dict[str, object] = {"replaces": None, "on_remove": "delete", "mark": {}, "keeps": False}
    return receive.model_copy(update={"table": table, **alone})


def is_of_rebuild(item: Received) -> bool:
    return item.job is not None and item.job.startswith(names.REBUILD_JOBS)


def fan_out(
    items: Iterable[Received | PolicyMarker], jobs: Mapping[str, str]
) -> list[Received | PolicyMarker]:
    """Rules 1 and 2, of one partition. `jobs`: dataset -> the job that is open."""
    mine: list[Received | PolicyMarker] = []
    second: list[Received | PolicyMarker] = []
    copies = {dataset: names.rebuilt_copy(dataset) for dataset in jobs}
    for item in items:
        if isinstance(item, PolicyMarker):
            mine.append(item)
            marked = tuple(copies[d] for d in item.datasets if d in copies)
            if marked:
                second.append(replace(item, datasets=marked))
            continue
        is_ours = is_of_rebuild(item)
        if not is_ours:
            mine.append(item)
        if item.dataset in jobs and (not is_ours or item.job == jobs[item.dataset]):
            second.append(replace(item, dataset=copies[item.dataset]))
    return mine + second


def candidate(
    rid: RecordId, second: Entry | None, was: Entry | None, job: str, now_us: int
) -> Entry:
    """Rule 5: what the copy in use is to become for one record; `second`, `was`: its lines."""
    if second is None:
        told = tombstone(rid, job, now_us)
        return told if was is None else told._replace(source_time_us=was.source_time_us)
    return second._replace(
        dataset=rid.dataset,
        row=None,
        held=False,
        written=None,
        parked=None,
        parked_since_us=None,
        attempts=0,
        retry_at_us=None,
        applied_at_us=now_us,
    )


class Effects(NamedTuple):
    """What some actions do to real rows; `kept`: what is to be in a file before they are done."""

    inserted: int
    updated: int
    removed: int
    kept: list[Kept]


def effects(
    actions: Iterable[Action],
    real: Mapping[bytes, Values],
    holders: Mapping[Row, Entry],
    job: str,
) -> Effects:
    """Rule 6. `real`: the rows of these actions as they are; `holders`: the lines that held them
    before."""
    inserted = updated = removed = 0
    kept: list[Kept] = []
    for action in actions:
        before = real.get(action.row.key)
        if before is None:
            inserted += isinstance(action, Write)
            continue
        if isinstance(action, Write) and row_digest(before) == row_digest(action.values):
            continue
        if isinstance(action, Remove):
            removed += 1
        else:
            updated += 1
        holder = holders.get(action.row)
        if holder is None or holder.written != row_digest(before):
            kept.append(Kept(OrderId(job, action.row.dataset, action.id.key), before))
    return Effects(inserted, updated, removed, kept)


def had_copy(entry: Entry | None) -> bool:
    return entry is not None and entry.op == DeliveryOp.UPSERT
