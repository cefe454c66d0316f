"""What the recipient knows of each record: the nouns of its bookkeeping, without any database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from deptbus.change import Cause, DeliveryOp, Received, RecordFields
from deptbus.names import dataset_of_copy
from deptbus.wire.digest import delivered_digest


class RecordId(NamedTuple):
    """One record of the bus. Its order (source unit, then key) decides who holds a row."""

    dataset: str
    source_unit: str
    key: bytes


class Row(NamedTuple):
    """One row of the recipient: the dataset whose table it is in, and its own key, encoded
    (`wire.digest.encode_values` over the key columns)."""

    dataset: str
    key: bytes


class Entry(NamedTuple):
    """The ledger's line for one record; the fields are the columns of the ledger, in order.

    An entry is one of:
    - live, holding its row: op upsert, `row` set, `held`;
    - live, waiting: op upsert, `row` set, not `held`: a lesser claimant has the row;
    - parked: `parked` says why the newest delivery could not be written. With `held` an older,
      narrowed copy still stands in `row`; without it there is none;
    - gone: op delete or withdraw, no row. Kept as a tombstone, else an older version resurrects.

    `record` is the newest delivery's projection in Avro, null when gone: a waiting claimant
    or a parked one is written from it, and a holder that has to give way keeps its state in it.
    """

    dataset: str
    source_unit: str
    key: bytes
    version: int
    policy: int
    op: str
    cause: str
    job: str | None
    direction: str
    rule: str
    grants: str  # names, comma separated
    source_time_us: int
    schema_version: int
    fields: str  # names of the projection, comma separated
    record: bytes | None
    row: bytes | None
    held: bool
    delivered: bytes | None  # digest of the projection's bytes
    # Digest of the values written; null where it holds no row. Of a parked line it is that of what
    # was written before, and the database keeps it: here it is null.
    written: bytes | None
    parked: str | None
    parked_since_us: int | None
    attempts: int
    retry_at_us: int | None
    applied_at_us: int

    @property
    def id(self) -> RecordId:
        return RecordId(self.dataset, self.source_unit, self.key)

    @property
    def pair(self) -> tuple[int, int]:
        """Newer means a greater (version, policy)."""
        return self.version, self.policy

    @property
    def live(self) -> bool:
        """Claims its row. A parked entry does not: its remnant gives way to any live record."""
        return self.op == DeliveryOp.UPSERT and self.parked is None

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(self.fields.split(",")) if self.fields else ()


def entry_of(received: Received, now_us: int) -> Entry:
    """A delivery as the entry that it wants to become: not yet settled on any row."""
    record = received.record
    upsert = received.op is DeliveryOp.UPSERT and record is not None
    return Entry(
        received.dataset,
        received.source_unit,
        received.key,
        received.version,
        received.policy,
        received.op._value_,
        received.cause._value_,
        received.job,
        received.direction._value_,
        received.rule,
        ",".join(received.grants),
        received.source_time_us,
        received.schema_version,
        ",".join(received.fields) if upsert else "",
        b"".join(record) if upsert and record is not None else None,
        None,
        False,
        delivered_digest(
            dataset_of_copy(received.dataset), received.schema_version, received.fields, record
        )
        if upsert and record is not None
        else None,
        None,
        None,
        None,
        0,
        None,
        now_us,
    )


# Why a line is parked whose dataset waits for the department's yes, and when it is tried again by
# itself: it is not, `adoption` does it.
WAITS_FOR_JOIN = "existing: the first load waits for `deptbus department join`"
NEVER_US = 1 << 62

# Of a parked row's reason so much is told to the bus, and so much a request can name.
REASON_LETTERS = 160


class ParkedRow(NamedTuple):
    """A parked line of the ledger as others may know of it: no value of its record."""

    dataset: str
    source_unit: str
    key: bytes
    version: int
    reason: str  # its first REASON_LETTERS
    parked_at_us: int
    attempts: int


class ParkedChoice(NamedTuple):
    """Which parked lines are meant: those that are of all that is named."""

    dataset: str = ""
    key: bytes | None = None
    reason: str = ""  # as ParkedRow has it


class Prepared(NamedTuple):
    """A projection in the recipient's own words: which row, and what is to stand in it."""

    row: bytes  # its own key, encoded
    values: tuple[Any, ...]  # one per column of the target, in its order
    written: bytes  # digest of the values


# What the short cut makes of a projection: the row's own key, digest of the values, and the values
# in the form in which the database takes them.
Taken = tuple[bytes, bytes, Any]


class Unfit(NamedTuple):
    """A projection that has no form in the recipient's table; `reason` names table and column,
    never the value."""

    reason: str


# Who published what: (dataset, source unit).
Sender = tuple[str, str]
# What is read of a record to judge what comes for it: (key, version, policy, op, row, held); what a
# store reads more for itself stands behind.
Glimpse = Sequence[Any]


def glimpsed(sender: Sender, glimpse: Glimpse) -> Entry:
    """An entry as far as it was read. The rest is empty, so it must never be written back; only
    whole entries of other claimants are."""
    key, version, policy, op, row, held = glimpse[:6]
    who, told = (*sender, key, version, policy, op), ("", None, "", "", "", 0, 0, "")
    return Entry._make((*who, *told, None, row, bool(held), None, None, None, None, 0, None, 0))


_STATE = Entry._fields.index("row")
_DELIVERED = Entry._fields.index("delivered")


def holding(entry: Entry, fit: Prepared, now_us: int) -> Entry:
    """The entry as the holder of its row. (`_replace` takes three times as long.)"""
    state = (fit.row, True, entry[_DELIVERED], fit.written, None, None, 0, None, now_us)
    return Entry._make(entry[:_STATE] + state)


class Target(Protocol):
    """How a dataset's projections become rows. Pure; `department.target` has the real one."""

    on_remove: str  # what becomes of a row whose record goes

    def take(self, received: Received) -> Taken | None:
        """The short cut: as `prepare`, or None where that has to be asked."""

    def prepare(self, entry: Entry, record: RecordFields | None = None) -> Prepared | Unfit:
        """The row for an upsert's projection (`record`: the entry's, when it is still at hand in
        slices). A mapped column without a field in it is cleared."""

    def covers_key(self, fields: tuple[str, ...]) -> bool:
        """Whether the row's own key may be kept under this projection."""

    def closed_columns(self, fields: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of the columns, key columns aside, that a copy may not keep filled under this
        projection."""


REWRITES = frozenset({Cause.REPLAY.value, Cause.REPAIR.value})
