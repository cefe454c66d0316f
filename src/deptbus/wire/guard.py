"""Limits and reasons: what a record may cost before it is believed, and how a refusal is called.

A reason is a constant, fit for quarantine notes, logs and metric labels. What a refusal says beside
it names schema fields and rules of the wire, never a value, a length or anything else of the bytes.
"""

from __future__ import annotations

from deptbus.errors import WireRefused

# A framed record, whatever its kind. Below Kafka's own default of 1,048,588 bytes a batch, so that
# what passes here also passes the broker.
MAX_RECORD_BYTES = 1024 * 1024
# A change. Less, because each of its deliveries must be a record too: the same record of data, and
# around it a rule and grants, whose names the source does not choose.
MAX_CHANGE_BYTES = MAX_RECORD_BYTES - 64 * 1024
# The JSON text of one schema in `bus.schemas`.
MAX_SCHEMA_BYTES = 256 * 1024
# Nesting of a schema's types (arrays, maps, unions and records within each other): the walk over
# the bytes nests as deep as the schema, and the schema is the only thing that nests. More than the
# lint of a contract allows a record schema, because an envelope stands around it.
MAX_SCHEMA_DEPTH = 12
MAX_SCHEMA_TYPES = 2000
# Brackets within brackets in the JSON text of a schema; each level of types costs three at most.
MAX_JSON_DEPTH = 64

KEY_BYTES = 16
TOKEN_BYTES = 8

NO_VALUE = "no_value"
TOO_LARGE = "too_large"
NOT_FRAMED = "not_framed"
UNKNOWN_SCHEMA = "unknown_schema"
WRONG_KIND = "wrong_kind"
MALFORMED = "malformed"
INCONSISTENT = "inconsistent"
BAD_KEY = "bad_key"
BAD_SCHEMA = "bad_schema"
SCHEMA_MISMATCH = "schema_mismatch"
SCHEMA_COLLISION = "schema_collision"
BAD_VALUE = "bad_value"
# Of a whole record batch, found before there was a record (stream/unpack.py).
INFLATES_TOO_FAR = "inflates_too_far"
UNREADABLE_BATCH = "unreadable_batch"
OUT_OF_MEMORY = "out_of_memory"

REASONS = {
    NO_VALUE: "A record without a value (a tombstone): this bus has none.",
    TOO_LARGE: "A record or a schema larger than the cap.",
    NOT_FRAMED: "The value does not begin with a zero byte and a schema id.",
    UNKNOWN_SCHEMA: "No schema of this id is known.",
    WRONG_KIND: "The schema is known, and its kind does not belong here.",
    MALFORMED: "The bytes are not exactly one valid Avro value of their schema.",
    INCONSISTENT: "Valid Avro whose fields contradict each other.",
    BAD_KEY: "The Kafka key is not what this kind of record bears.",
    BAD_SCHEMA: "A schema that this bus does not take: not JSON, not Avro, or unsafe.",
    SCHEMA_MISMATCH: "A schema whose text is not the one that its id or its dataset says.",
    SCHEMA_COLLISION: "Two different schemas have one id.",
    BAD_VALUE: "A value that does not fit its field, found before anything was sent.",
    INFLATES_TOO_FAR: "A record batch that unpacks to more bytes or records than the limit.",
    UNREADABLE_BATCH: "A record batch that cannot be unpacked, or whose records are cut wrongly.",
    OUT_OF_MEMORY: "A place at which workers ran out of memory three times.",
}


class RefusedBatch(bytes):
    """Stands as the value of one record for all records of a batch that could not be unpacked, at
    the batch's last offset. Empty, so that who does not know it finds bytes that are no record."""

    reason: str
    first_offset: int

    @classmethod
    def of(cls, reason: str, first_offset: int) -> RefusedBatch:
        made = cls()
        made.reason, made.first_offset = reason, first_offset
        return made


def first_offset(offset: int, value: bytes | None) -> int:
    """Where what is refused at `offset` begins: there, unless it stands for a whole batch."""
    return value.first_offset if isinstance(value, RefusedBatch) else offset


def refused_value(field: str, why: str) -> WireRefused:
    """A value that does not fit its field. `why` describes the rule, never the value."""
    return WireRefused(BAD_VALUE, f"field {field} {why}")
