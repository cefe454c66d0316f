"""Pure: the deliveries of a batch for which the whole rule (`fold`, `decide`) has one answer only.

Nearly every delivery is plain: the batch's only one of its record, an upsert that is allowed and
newer than what is known, whose row no other record of the batch wants or leaves, and which either

- is held by this very record, live or parked: the holder is the least of the live claimants, or
  there is none, and nothing in the batch changes who the others are; or
- is named by no record at all, and this record holds no other; nor can it be a row of the
  department, because its table had none before the bus (see `adoption`).

Then it is written and its record holds the row. All others go the long way, and so does the whole
batch once the database has refused something. A property test plays both against each other.

In a bulk of changes nearly all are held by their very record already. A database that can tell so
while it writes them is not asked before (`presume`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deptbus.change import Cause, DeliveryOp, Received
from deptbus.department.fold import Outcome, Tally, newer
from deptbus.department.ledger import Glimpse, Row, Sender, Taken, Target
from deptbus.names import dataset_of_copy
from deptbus.wire.digest import projection_hash

Known = Mapping[Sender, Mapping[bytes, Glimpse]]
_Candidate = tuple[Received, Taken, int]  # and its partition
_UPSERT = DeliveryOp.UPSERT
_NONE: Mapping[bytes, Glimpse] = {}


class Terms(NamedTuple):
    """What many deliveries have in common, as the ledger says it."""

    dataset: str
    source_unit: str
    policy: int
    cause: str
    job: str | None
    direction: str
    rule: str
    grants: str
    schema_version: int
    fields: str


class Plain(NamedTuple):
    """One record that is to hold its row: the rest of its ledger's line, and the values."""

    row: bytes
    key: bytes
    version: int
    source_time_us: int
    record: bytes
    delivered: bytes
    written: bytes
    payload: Any  # of `Target.take`
    received: Received


class Lot(NamedTuple):
    """Plain records of one dataset, in the order of their rows; `terms` has those that occur, and
    `places` which of them each record is under."""

    plain: list[Plain]
    terms: list[Terms]
    places: list[int]


class Presumed(NamedTuple):
    """What a batch writes when `presume` is right of it, by dataset; `packed`: the lots as the
    database takes them, where it takes them as bytes."""

    lots: Mapping[str, Lot]
    packed: Mapping[str, bytes]


@dataclass(slots=True)
class Sifted:
    """First look at a batch. `keys` names every record of it, by sender and key: with what may be
    plain, and None for those that go the long way; their deliveries are `others`, by partition.
    `floors`: partition -> dataset -> least policy that is accepted in it. `presumed`: where that
    was worth while, what is to be written when all of it is as in a bulk of changes."""

    floors: Mapping[int, Mapping[str, int]]
    keys: dict[Sender, dict[bytes, _Candidate | None]] = field(default_factory=dict)
    others: dict[int, list[Received]] = field(default_factory=dict)
    presumed: Presumed | None = None


def sift(
    batch: Mapping[int, Sequence[Received]], targets: Mapping[str, Target], sifted: Sifted
) -> None:
    """Adds partitions to `sifted`."""
    senders = sifted.keys
    for number, items in batch.items():
        others = sifted.others.setdefault(number, [])
        least = sifted.floors[number]
        unit = dataset = ""
        for item in items:
            if item.source_unit is not unit or item.dataset is not dataset:
                unit, dataset = item.source_unit, item.dataset
                mine = senders.setdefault((dataset, unit), {})
                take, floor = targets[dataset].take, least.get(dataset, 0)
            key = item.key
            if key in mine:
                earlier = mine[key]
                if earlier is not None:
                    sifted.others[earlier[2]].append(earlier[0])
                    mine[key] = None
                others.append(item)
                continue
            taken = take(item) if item.op is _UPSERT and item.policy >= floor else None
            if taken is None:
                others.append(item)
                mine[key] = None
            else:
                mine[key] = item, taken, number


def fresh_rows(sifted: Sifted, known: Known) -> list[Row]:
    """The rows for which it has to be asked whether any record names them, in order."""
    found = []
    for sender, keys in sifted.keys.items():
        glimpses = known.get(sender, _NONE)
        for key, candidate in keys.items():
            if candidate is not None:
                glimpse = glimpses.get(key)
                if glimpse is None or glimpse[4] is None:
                    found.append(Row(sender[0], candidate[1][0]))
    return sorted(found)


def presume(sifted: Sifted) -> dict[str, dict[bytes, Plain]] | None:
    """As `judge`, when each record is newer than what is known of it and holds its row already:
    what the database has to find true of all of them. None when some go the long way anyhow."""
    if any(sifted.others.values()):
        return None
    found = Sifted(sifted.floors, sifted.keys, {number: [] for number in sifted.others})
    plain = judge(found, None, ())
    return None if any(found.others.values()) else plain


def judge(
    sifted: Sifted,
    known: Known | None,
    named: Collection[Row],
    existing: Collection[str] = (),
) -> dict[str, dict[bytes, Plain]]:
    """Dataset -> row -> who is plain; all others are added to `sifted.others`.

    `known`: None when that is presumed. `named`: those of the fresh rows that some record names.
    `existing`: datasets whose tables had rows before the bus."""
    found: dict[str, dict[bytes, Plain]] = {}
    for sender, keys in sifted.keys.items():
        dataset = sender[0]
        glimpses = _NONE if known is None else known.get(sender, _NONE)
        rows = found.setdefault(dataset, {})
        may_be_fresh = dataset not in existing
        fields: tuple[str, ...] | None = None
        version = 0
        for key, candidate in keys.items():
            if candidate is None:
                continue
            item, taken, number = candidate
            row = taken[0]
            glimpse = glimpses.get(key)
            if glimpse is None:  # none is known, or all is presumed
                is_plain = may_be_fresh and (not named or Row(dataset, row) not in named)
            elif item.version <= glimpse[1] and not newer(
                (item.version, item.policy), item.cause, (glimpse[1], glimpse[2])
            ):
                is_plain = False
            elif glimpse[4] is None:
                is_plain = may_be_fresh and (not named or Row(dataset, row) not in named)
            else:
                is_plain = glimpse[4] == row and bool(glimpse[5])
            if not is_plain or row in rows:
                sifted.others[number].append(item)
                continue
            if item.fields is not fields or item.schema_version != version:
                fields, version = item.fields, item.schema_version
                begun = projection_hash(dataset_of_copy(dataset), version, fields)
            record = b"".join(item.record or ())
            digest = begun.copy()
            digest.update(record)
            rows[row] = Plain(
                row, key, item.version, item.source_time_us, record, digest.digest(), taken[1],
                taken[2], item,
            )  # fmt: skip
    return found


def lot_of(plain: Iterable[Plain]) -> Lot:
    found = sorted(plain)
    known: dict[Terms, int] = {}
    places: list[int] = []
    last, place = None, 0
    for one in found:
        item = one.received
        if last is None or not _has_same_terms(item, last):
            place = known.setdefault(terms_of(item), len(known))
            last = item
        places.append(place)
    return Lot(found, list(known), places)


def _has_same_terms(a: Received, b: Received) -> bool:
    """By identity where values are remembered by the codec: False only costs a second look."""
    return (
        a.fields is b.fields
        and a.rule is b.rule
        and a.grants is b.grants
        and a.source_unit is b.source_unit
        and a.direction is b.direction
        and a.cause is b.cause
        and a.job == b.job
        and a.policy == b.policy
        and a.schema_version == b.schema_version
        and a.dataset == b.dataset
    )


def terms_of(item: Received) -> Terms:
    return Terms(
        item.dataset,
        item.source_unit,
        item.policy,
        item.cause._value_,
        item.job,
        item.direction._value_,
        item.rule,
        ",".join(item.grants),
        item.schema_version,
        ",".join(item.fields),
    )


def entries_of(lot: Lot, now_us: int) -> Iterator[tuple[Any, ...]]:
    """The ledger's whole lines, as `Entry` has them."""
    upsert = _UPSERT.value
    for one, place in zip(lot.plain, lot.places, strict=True):
        row, key, version, time, record, delivered, written, _, _ = one
        dataset, unit, policy, cause, job, direction, rule, grants, schema, fields = lot.terms[
            place
        ]
        yield (
            dataset, unit, key, version, policy, upsert, cause, job, direction, rule, grants, time,
            schema, fields, record, row, True, delivered, written, None, None, 0, None, now_us,
        )  # fmt: skip


def tally_plain(lots: Iterable[Lot], replacing: Collection[str], tallies: Counter[Tally]) -> None:
    """As `decide.tally` counts what was applied."""
    for lot in lots:
        for place, count in Counter(lot.places).items():
            terms = lot.terms[place]
            tallies[Tally(terms.dataset, terms.cause, terms.direction, Outcome.APPLIED)] += count
            if terms.cause == Cause.LIVE and terms.dataset in replacing:
                line = Tally(terms.dataset, terms.cause, terms.direction, Outcome.REENTRY)
                tallies[line] += count
