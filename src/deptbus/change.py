"""Change and delivery: the nouns that everything else passes along (design, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# A record is kept as the Avro bytes of its fields, in the order of its schema. An Avro record is
# the plain concatenation of its fields, so a projection is a join of some of them, and nothing
# between source and recipient ever needs the values.
RecordFields = tuple[bytes, ...]


class ChangeOp(StrEnum):
    UPSERT = "upsert"
    DELETE = "delete"


class Reason(StrEnum):
    """Why a record was deleted at its source."""

    REMOVED = "removed"
    MOVED_OUT = "moved_out"


class DeliveryOp(StrEnum):
    UPSERT = "upsert"
    DELETE = "delete"
    WITHDRAW = "withdraw"


class Direction(StrEnum):
    HORIZONTAL = "horizontal"
    UPWARD = "upward"
    DOWNWARD = "downward"
    RETURN = "return"
    GRANTED = "granted"


class Cause(StrEnum):
    """Why this was sent. A change has the first three; a delivery may have any."""

    LIVE = "live"
    SNAPSHOT = "snapshot"
    RESEND = "resend"
    REPLAY = "replay"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One start of an adapter: greater is younger; the token breaks a tie of copied databases."""

    number: int
    token: bytes  # 8 random bytes


@dataclass(frozen=True, slots=True)
class Change:
    """This key of this dataset now has this state, at this version.

    `division` is where the record lies (of a delete: where it lay last); `former_divisions` are all
    other places that the source ever named for this key. `record` is None in a delete.
    """

    dataset: str
    key: bytes  # 16 bytes, the Kafka key
    op: ChangeOp
    reason: Reason | None  # of a delete
    source_unit: str
    incarnation: Incarnation
    version: int
    source_time_us: int  # microseconds since the epoch, by the source database's clock
    publication: int
    division: str
    former_divisions: tuple[str, ...]
    cause: Cause
    job: str | None
    policy: int  # the policy that the adapter worked under
    schema_version: int  # of the dataset's record schema that `record` is written in
    record: RecordFields | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What routing decides for one recipient: which fields of a change it gets, by what right."""

    unit: str
    op: DeliveryOp
    direction: Direction
    rule: str  # name of the rule in topics.yml, or of the first grant where only grants speak
    grants: tuple[str, ...]  # grants without which some of the fields would not flow
    fields: tuple[str, ...]  # the projection, in the order of the schema; empty unless upsert


@dataclass(frozen=True, slots=True)
class Received:
    """A delivery as the recipient's adapter reads it from its inbox."""

    dataset: str
    key: bytes
    op: DeliveryOp
    source_unit: str
    version: int
    source_time_us: int
    policy: int
    direction: Direction
    rule: str
    grants: tuple[str, ...]
    cause: Cause
    job: str | None
    fields: tuple[str, ...]  # the projection that `record` has
    record: RecordFields | None  # raw Avro bytes, one per field of the projection
    schema_version: int
