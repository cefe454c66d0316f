"""Control records: what adapters, agents and operations tell each other, as typed values and bytes.

| record | topic | Kafka key |
|---|---|---|
| Announcement, Marker | out.<unit> | none; Announcement in every partition |
| Incarnated | control.<unit> | `<system>/incarnated/<number>/<token>` |
| Heartbeat | control.<unit> | `<system>/heartbeat` |
| AppliedBeat | control.<unit> | `<system>/applied` |
| AppliedDay | control.<unit> | `<system>/day/<day>` |
| ParkedList | control.<unit> | `<system>/parked` |
| ParkedRetried | control.<unit> | `<system>/retried` |
| OutboxSeen | control.<unit> | `<system>/outbox` |
| InventoryRequest | control.<unit> | `<system>/inventory` |
| ProofAnswer | control.<unit> | `<system>/proof/<leg>/<dataset>` |
| ProofPart, ProofRows | control.<unit> | `<system>/proof/<leg>/<dataset>/<part>` |
| PolicyMarker, ResendRequest, ParkedRetry, Inventory, InventoryEnd | in.<unit> | none |
| ProofRequest, RepairOrder, ResendOrder | in.<unit> | none; ProofRequest in every partition |
| RebuildOrder | in.<unit> | none; a beginning in every partition |
| RebuildTold | control.<unit> | `<system>/rebuild/<dataset>` |
| PolicyRecord | bus.contract | none |
| QuarantineNote | bus.quarantine | `<topic>/<partition>/<offset>` |
| Resolution | bus.quarantine | `resolved/<topic>/<partition>/<offset>` |
| Act | bus.audit | none |
| AgentReport | bus.agents | the agent |
| JobProgress | bus.jobs | the job: of each unit, the last completed one must outlive the next |
| JobOrder | bus.jobs | `order/<job>` |
| OrderedKeys | bus.jobs | `order/<job>/<part>` |
| JobSteer | bus.jobs | `steer/<job>` |
| OrderProgress | bus.jobs | `ordered/<job>` |
| Proposal | bus.jobs | `proposal/<proposal>` |
| ProposalDecided | bus.jobs | `decided/<proposal>` |
| ProposalCarried | bus.jobs | `carried/<proposal>` |
| TopicNoted | bus.jobs | `topic/<topic>` |
| AlarmTold | bus.alarms | `alarm/<subject>` |
| AlarmSeen | bus.alarms | `seen/<subject>` |
| ProofOutcome | bus.proofs | `<unit>/<dataset>/<leg>` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from deptbus.change import Incarnation
from deptbus.errors import WireRefused
from deptbus.wire import control_outcome, control_proof, control_proposal, control_rebuild
from deptbus.wire.codec import RecordCodec
from deptbus.wire.control_outcome import ProofOutcome
from deptbus.wire.control_proof import (
    ProofAnswer,
    ProofPart,
    ProofRequest,
    ProofRows,
    RepairOrder,
    ResendOrder,
)
from deptbus.wire.control_proposal import Proposal, ProposalCarried, ProposalDecided
from deptbus.wire.control_rebuild import RebuildOrder, RebuildTold
from deptbus.wire.framing import HEADER_BYTES, canonical_json, frame, header, schema_id, unframe
from deptbus.wire.guard import (
    BAD_KEY,
    KEY_BYTES,
    MAX_RECORD_BYTES,
    TOKEN_BYTES,
    TOO_LARGE,
    UNKNOWN_SCHEMA,
    refused_value,
)
from deptbus.wire.varint import malformed


@dataclass(frozen=True, slots=True)
class Announcement:
    """A younger incarnation of an adapter publishes in this partition from here on."""

    unit: str
    system: str
    incarnation: Incarnation
    partition: int
    announced_at_us: int


@dataclass(frozen=True, slots=True)
class Marker:
    """Cuts `out.<unit>` at one exact place: what lies before it was published before it."""

    marker: str
    kind: Literal["resync", "cut"]
    unit: str
    system: str
    incarnation: Incarnation
    sent_at_us: int


@dataclass(frozen=True, slots=True)
class Incarnated:
    """An incarnation was announced in every partition of `out`, at these offsets."""

    # Without any offset it has taken its database over and is about to be announced. This stands
    # here because the docstring is the schema's doc, by which records on every bus are known.

    unit: str
    system: str
    incarnation: Incarnation
    offsets: tuple[int, ...]  # by partition
    fingerprint: str  # of the unit's key secret


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a source has published so far, and how it is."""

    unit: str
    system: str
    incarnation: Incarnation
    publication: int
    version: int  # the highest published
    policy: int
    ends: tuple[int, ...]  # of `out`, by partition: all published before lies below
    fingerprint: str
    resync_needed: bool
    parked: int
    at_us: int
    # What waits in the outbox, which nobody sees from the bus; None: not told.
    outbox_rows: int | None = None
    outbox_oldest_us: int | None = None  # when the next row to be published was written


@dataclass(frozen=True, slots=True)
class AppliedBeat:
    """A recipient's adapter lives, and when it last applied something."""

    unit: str
    system: str
    incarnation: Incarnation
    applied_at_us: int | None  # None: nothing since it began
    at_us: int
    parked: int | None = None  # rows that wait here for a person; None: not told
    # Of those, by dataset and reason, the most frequent ones; the three go together.
    parked_datasets: tuple[str, ...] = ()
    parked_reasons: tuple[str, ...] = ()
    parked_rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AppliedDay:
    """What a recipient's system applied on one day, by dataset: what its own database counted in
    the very transactions that applied it. The four go together."""

    unit: str
    system: str
    incarnation: Incarnation
    day: str  # 2027-01-31, in China's time
    datasets: tuple[str, ...]
    entries: tuple[int, ...]  # live upserts that a form or screen was replaced for
    live: tuple[int, ...]  # all live upserts, those among them
    others: tuple[int, ...]  # upserts of first loads, resends, replays and repairs
    at_us: int


@dataclass(frozen=True, slots=True)
class ParkedList:
    """The rows that are parked at a recipient, one by one: those that wait the longest, as many as
    one record takes. Of each its record's name on the bus and the reason; never a value."""

    unit: str
    system: str
    incarnation: Incarnation
    rows: int  # that are parked, whether they stand here or not
    # The rows: these go together.
    datasets: tuple[str, ...]
    source_units: tuple[str, ...]
    keys: tuple[bytes, ...]
    versions: tuple[int, ...]
    reasons: tuple[str, ...]
    parked_at_us: tuple[int, ...]  # since when
    attempts: tuple[int, ...]  # to write it, the first included
    at_us: int


@dataclass(frozen=True, slots=True)
class ParkedRetried:
    """How far a recipient's adapter has come with the parked rows that it was asked to try again.
    What of `rows` is neither written nor still parked was overtaken by a newer delivery."""

    unit: str
    system: str
    incarnation: Incarnation
    request: str
    rows: int  # that were meant
    written: int
    still_parked: int  # tried, and refused again
    is_done: bool
    at_us: int


@dataclass(frozen=True, slots=True)
class OutboxSeen:
    """Which topic `out` was to this system; one that was made again has another id."""

    unit: str
    system: str
    incarnation: Incarnation
    topic_id: str


@dataclass(frozen=True, slots=True)
class PolicyMarker:
    """Behind this, deliveries of these datasets under an older policy are refused."""

    policy: int
    datasets: tuple[str, ...]
    job: str


@dataclass(frozen=True, slots=True)
class ResendRequest:
    """Asks a source to publish the present state of a key, or of a whole dataset (key None)."""

    request: str
    dataset: str
    key: bytes | None
    reason: str


@dataclass(frozen=True, slots=True)
class ParkedRetry:
    """Asks a recipient to try now what it has parked: rows that are of all that is named."""

    request: str
    dataset: str  # empty: of every one
    key: bytes | None  # None: every key
    refused_for: str  # the reason as ParkedList has it; empty: whatever it is
    reason: str  # why it is asked for


@dataclass(frozen=True, slots=True)
class InventoryRequest:
    """Asks what the canonical topics hold of the unit's own keys, behind the markers of this
    incarnation. Without datasets: it is not asked for any more."""

    request: str
    unit: str
    system: str
    incarnation: Incarnation
    datasets: tuple[str, ...]
    sent_at_us: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """Some keys of one partition of a canonical topic; without keys: a sign of life.

    Of each key: the highest version, the digest of that record (empty: it was deleted), and every
    place that it names, joined by commas, the present one last.
    """

    request: str
    answer: str  # one attempt to answer; another one begins anew
    dataset: str
    partition: int
    keys: tuple[bytes, ...]
    versions: tuple[int, ...]
    digests: tuple[bytes, ...]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InventoryEnd:
    """All keys of one partition were sent, so many of them; or why they cannot be."""

    request: str
    answer: str
    dataset: str
    partition: int
    partitions: int  # of the canonical topic
    keys: int
    problem: str  # empty: none


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A contract that came into force."""

    policy: int
    digest: str
    activated_at_us: int
    activated_by: str
    content: str  # Contract.to_json()
    holds: tuple[str, ...] = ()  # each a Hold as JSON


@dataclass(frozen=True, slots=True)
class QuarantineNote:
    """Where a record lies that could not be accepted, why, and whose it is; never its content."""

    topic: str
    partition: int
    offset: int
    last_offset: int  # the same, unless a whole record batch could not be unpacked
    reason: str
    owner: str
    unit: str
    dataset: str
    key: bytes | None
    version: int | None
    noted_at_us: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person decided about a note of quarantine; the last one of a place counts."""

    topic: str
    partition: int
    offset: int  # of the note: its first
    outcome: Literal["resend_asked", "dismissed"]
    act: str
    operator: str
    reason: str
    request: str  # the name of the request to the source; empty: none was made
    datasets: tuple[str, ...]  # of the request: several when the record could not tell its own
    key: bytes | None  # of the request
    resolved_at_us: int


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator set out to do: written before it is done, and kept for ever."""

    act: str  # an act on very many subjects is several records of one name
    verb: str
    operator: str
    bus_user: str  # as whom the brokers know him; empty: they do not ask
    reason: str
    unit: str  # empty: of no single one
    dataset: str
    key: bytes | None
    subjects: tuple[str, ...]  # of many things, each: places of quarantine
    acted_at_us: int


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The policy that an agent works under, with all output of older ones acknowledged."""

    agent: str
    policy: int
    topics_digest: str
    state: Literal["running", "stopped"]
    reported_at_us: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job of one recipient has come."""

    job: str
    unit: str
    policy: int
    datasets: tuple[str, ...]
    state: Literal["waiting", "marking", "sending", "done"]
    done_partitions: tuple[str, ...]
    sent: int
    withdrawn: int
    started_at_us: int
    updated_at_us: int


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A person's order: bring one recipient the last state of chosen keys. Never changed."""

    job: str
    unit: str
    cause: Literal["replay", "repair"]
    datasets: tuple[str, ...]
    topic_ids: tuple[str, ...]  # of the canonical topic of each dataset, in which offsets count
    # The keys that have a record in these ranges of `data.<dataset>`: `<dataset>/<partition>`, the
    # first offset, the one behind the last. The three go together.
    places: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    key_parts: int  # or the keys that so many OrderedKeys name
    keys: int  # how many were chosen
    plan: str  # SHA-256 of the plan, hexadecimal; empty: none was made
    policy: int  # in force when it was ordered; what is sent goes by the one that is in force then
    operator: str
    bus_user: str
    reason: str
    ordered_at_us: int


@dataclass(frozen=True, slots=True)
class OrderedKeys:
    """Some of the keys of an order; there before the order is."""

    job: str
    part: int  # from 0
    dataset: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class JobSteer:
    """What a person wants of an order from now on; the last one counts."""

    job: str
    wanted: Literal["run", "paused", "cancelled"]
    operator: str
    bus_user: str
    reason: str
    steered_at_us: int


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """How far an order has come; written by the operations process that leads."""

    job: str
    unit: str
    policy: int  # the one in force under which it was last at work
    state: Literal["waiting", "sending", "paused", "done", "cancelled", "refused"]
    problem: str  # why it waits or was refused; empty: no reason
    done_partitions: tuple[str, ...]
    place: str  # the `<dataset>/<partition>` at work; empty: none
    next_offset: int  # there: everything before it was acked
    sent: int
    withdrawn: int
    started_at_us: int
    updated_at_us: int


@dataclass(frozen=True, slots=True)
class TopicNoted:
    """Which topic had this name when it was last known to hold what it should."""

    topic: str
    topic_id: str
    noted_at_us: int


@dataclass(frozen=True, slots=True)
class AlarmTold:
    """The last notice of the last alarm of a subject."""

    alarm: str
    subject: str
    number: int  # of the notice, from 1
    kind: Literal["raised", "worse", "reminder", "over"]
    word: str
    severity: int
    raised_at_us: int
    told_at_us: int
    pending: tuple[str, ...]  # names of the ways by which it has still to go
    content: str  # the JSON that is delivered


@dataclass(frozen=True, slots=True)
class AlarmSeen:
    """A person has acknowledged an alarm, as bad as it was then."""

    alarm: str
    subject: str
    severity: int
    act: str
    operator: str
    reason: str
    seen_at_us: int


Control = (
    Announcement
    | Marker
    | Incarnated
    | Heartbeat
    | AppliedBeat
    | AppliedDay
    | ParkedList
    | ParkedRetried
    | OutboxSeen
    | PolicyMarker
    | ResendRequest
    | ParkedRetry
    | InventoryRequest
    | Inventory
    | InventoryEnd
    | PolicyRecord
    | QuarantineNote
    | Resolution
    | Act
    | AgentReport
    | JobProgress
    | JobOrder
    | OrderedKeys
    | JobSteer
    | OrderProgress
    | TopicNoted
    | AlarmTold
    | AlarmSeen
    | ProofRequest
    | ProofAnswer
    | ProofPart
    | ProofRows
    | RepairOrder
    | ResendOrder
    | ProofOutcome
    | Proposal
    | ProposalDecided
    | ProposalCarried
    | RebuildOrder
    | RebuildTold
)

_TEXTS = {"type": "array", "items": "string"}
_NUMBERS = {"type": "array", "items": "long"}
_TIME = {"type": "long", "logicalType": "timestamp-micros"}
_KEY = {"type": "fixed", "name": "Key", "size": KEY_BYTES}
_TOKEN = {"type": "fixed", "name": "Token", "size": TOKEN_BYTES}


def _symbols(name: str, *symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols)}


# kind -> (class, Avro fields in the order of the class; `incarnation` is two of them).
_INCARNATION = {"incarnation": "long", "token": _TOKEN}
_HEARTBEAT = {
    "unit": "string",
    "system": "string",
    **_INCARNATION,
    "publication": "long",
    "version": "long",
    "policy": "long",
    "ends": _NUMBERS,
    "fingerprint": "string",
    "resync_needed": "boolean",
    "parked": "long",
    "at_us": _TIME,
}
_APPLIED_BEAT = {
    "unit": "string",
    "system": "string",
    **_INCARNATION,
    "applied_at_us": ["null", _TIME],
    "at_us": _TIME,
}
_NOTE = {
    "reason": "string",
    "owner": "string",
    "unit": "string",
    "dataset": "string",
    "key": ["null", _KEY],
    "version": ["null", "long"],
    "noted_at_us": _TIME,
}
_RECORDS: dict[str, tuple[type, dict[str, Any]]] = {
    "announcement": (
        Announcement,
        {
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "partition": "int",
            "announced_at_us": _TIME,
        },
    ),
    "marker": (
        Marker,
        {
            "marker": "string",
            "kind": _symbols("MarkerKind", "resync", "cut"),
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "sent_at_us": _TIME,
        },
    ),
    "incarnated": (
        Incarnated,
        {
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "offsets": _NUMBERS,
            "fingerprint": "string",
        },
    ),
    "heartbeat": (
        Heartbeat,
        {**_HEARTBEAT, "outbox_rows": ["null", "long"], "outbox_oldest_us": ["null", _TIME]},
    ),
    "applied_beat": (
        AppliedBeat,
        {
            **_APPLIED_BEAT,
            "parked": ["null", "long"],
            "parked_datasets": _TEXTS,
            "parked_reasons": _TEXTS,
            "parked_rows": _NUMBERS,
        },
    ),
    "applied_day": (
        AppliedDay,
        {
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "day": "string",
            "datasets": _TEXTS,
            "entries": _NUMBERS,
            "live": _NUMBERS,
            "others": _NUMBERS,
            "at_us": _TIME,
        },
    ),
    "parked_list": (
        ParkedList,
        {
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "rows": "long",
            "datasets": _TEXTS,
            "source_units": _TEXTS,
            "keys": {"type": "array", "items": _KEY},
            "versions": _NUMBERS,
            "reasons": _TEXTS,
            "parked_at_us": _NUMBERS,
            "attempts": _NUMBERS,
            "at_us": _TIME,
        },
    ),
    "parked_retried": (
        ParkedRetried,
        {
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "request": "string",
            "rows": "long",
            "written": "long",
            "still_parked": "long",
            "is_done": "boolean",
            "at_us": _TIME,
        },
    ),
    "outbox_seen": (
        OutboxSeen,
        {"unit": "string", "system": "string", **_INCARNATION, "topic_id": "string"},
    ),
    "policy_marker": (PolicyMarker, {"policy": "long", "datasets": _TEXTS, "job": "string"}),
    "resend_request": (
        ResendRequest,
        {"request": "string", "dataset": "string", "key": ["null", _KEY], "reason": "string"},
    ),
    "parked_retry": (
        ParkedRetry,
        {
            "request": "string",
            "dataset": "string",
            "key": ["null", _KEY],
            "refused_for": "string",
            "reason": "string",
        },
    ),
    "inventory_request": (
        InventoryRequest,
        {
            "request": "string",
            "unit": "string",
            "system": "string",
            **_INCARNATION,
            "datasets": _TEXTS,
            "sent_at_us": _TIME,
        },
    ),
    "inventory": (
        Inventory,
        {
            "request": "string",
            "answer": "string",
            "dataset": "string",
            "partition": "int",
            "keys": {"type": "array", "items": _KEY},
            "versions": _NUMBERS,
            "digests": {"type": "array", "items": "bytes"},
            "places": _TEXTS,
        },
    ),
    "inventory_end": (
        InventoryEnd,
        {
            "request": "string",
            "answer": "string",
            "dataset": "string",
            "partition": "int",
            "partitions": "int",
            "keys": "long",
            "problem": "string",
        },
    ),
    "policy": (
        PolicyRecord,
        {
            "policy": "long",
            "digest": "string",
            "activated_at_us": _TIME,
            "activated_by": "string",
            "content": "string",
            "holds": _TEXTS,
        },
    ),
    "quarantine_note": (
        QuarantineNote,
        {
            "topic": "string",
            "partition": "int",
            "offset": "long",
            "last_offset": "long",
            **_NOTE,
        },
    ),
    "resolution": (
        Resolution,
        {
            "topic": "string",
            "partition": "int",
            "offset": "long",
            "outcome": _symbols("Outcome", "resend_asked", "dismissed"),
            "act": "string",
            "operator": "string",
            "reason": "string",
            "request": "string",
            "datasets": _TEXTS,
            "key": ["null", _KEY],
            "resolved_at_us": _TIME,
        },
    ),
    "act": (
        Act,
        {
            "act": "string",
            "verb": "string",  # no enum: an older reader has to show verbs that came after it
            "operator": "string",
            "bus_user": "string",
            "reason": "string",
            "unit": "string",
            "dataset": "string",
            "key": ["null", _KEY],
            "subjects": _TEXTS,
            "acted_at_us": _TIME,
        },
    ),
    "agent_report": (
        AgentReport,
        {
            "agent": "string",
            "policy": "long",
            "topics_digest": "string",
            "state": _symbols("AgentState", "running", "stopped"),
            "reported_at_us": _TIME,
        },
    ),
    "job_progress": (
        JobProgress,
        {
            "job": "string",
            "unit": "string",
            "policy": "long",
            "datasets": _TEXTS,
            "state": _symbols("JobState", "waiting", "marking", "sending", "done"),
            "done_partitions": _TEXTS,
            "sent": "long",
            "withdrawn": "long",
            "started_at_us": _TIME,
            "updated_at_us": _TIME,
        },
    ),
    "job_order": (
        JobOrder,
        {
            "job": "string",
            "unit": "string",
            "cause": _symbols("OrderCause", "replay", "repair"),
            "datasets": _TEXTS,
            "topic_ids": _TEXTS,
            "places": _TEXTS,
            "starts": _NUMBERS,
            "ends": _NUMBERS,
            "key_parts": "int",
            "keys": "long",
            "plan": "string",
            "policy": "long",
            "operator": "string",
            "bus_user": "string",
            "reason": "string",
            "ordered_at_us": _TIME,
        },
    ),
    "ordered_keys": (
        OrderedKeys,
        {
            "job": "string",
            "part": "int",
            "dataset": "string",
            "keys": {"type": "array", "items": _KEY},
        },
    ),
    "job_steer": (
        JobSteer,
        {
            "job": "string",
            "wanted": _symbols("Wanted", "run", "paused", "cancelled"),
            "operator": "string",
            "bus_user": "string",
            "reason": "string",
            "steered_at_us": _TIME,
        },
    ),
    "order_progress": (
        OrderProgress,
        {
            "job": "string",
            "unit": "string",
            "policy": "long",
            "state": _symbols(
                "OrderState", "waiting", "sending", "paused", "done", "cancelled", "refused"
            ),
            "problem": "string",
            "done_partitions": _TEXTS,
            "place": "string",
            "next_offset": "long",
            "sent": "long",
            "withdrawn": "long",
            "started_at_us": _TIME,
            "updated_at_us": _TIME,
        },
    ),
    "topic_noted": (TopicNoted, {"topic": "string", "topic_id": "string", "noted_at_us": _TIME}),
    "alarm_told": (
        AlarmTold,
        {
            "alarm": "string",
            "subject": "string",
            "number": "long",
            "kind": _symbols("NoticeKind", "raised", "worse", "reminder", "over"),
            "word": "string",
            "severity": "int",
            "raised_at_us": _TIME,
            "told_at_us": _TIME,
            "pending": _TEXTS,
            "content": "string",
        },
    ),
    "alarm_seen": (
        AlarmSeen,
        {
            "alarm": "string",
            "subject": "string",
            "severity": "int",
            "act": "string",
            "operator": "string",
            "reason": "string",
            "seen_at_us": _TIME,
        },
    ),
    **control_proof.RECORDS,
    **control_outcome.RECORDS,
    **control_proposal.RECORDS,
    **control_rebuild.RECORDS,
}


def _schema(kind: str, cls: type, avro_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a kind, its docstring in it: whoever rewords one makes another schema, with
    another id, and records that were written before cannot be read any longer."""
    return {
        "type": "record",
        "name": cls.__name__,
        "namespace": "deptbus.control",
        "doc": (cls.__doc__ or "").strip(),
        "deptbus": {"kind": kind},
        "fields": [{"name": name, "type": t} for name, t in avro_fields.items()],
    }


class _Kind:
    """One kind of control record: its schema, its id and how it is made from its fields."""

    def __init__(
        self,
        kind: str,
        cls: type,
        avro_fields: Mapping[str, Any],
        make: Callable[..., Any] | None = None,
    ) -> None:
        self.kind = kind
        self.cls = cls
        self._make = make or cls
        self.schema = _schema(kind, cls, avro_fields)
        self.id = schema_id(self.schema)
        self.codec = RecordCodec(self.schema, logical=False)
        self.names = tuple(f.name for f in fields(cls))

    def encode(self, record: Any) -> bytes:
        values: dict[str, Any] = {name: getattr(record, name) for name in self.names}
        incarnation = values.get("incarnation")
        if isinstance(incarnation, Incarnation):
            values["incarnation"] = incarnation.number
            values["token"] = incarnation.token
        below = _below_zero(values)
        if below is not None:
            raise refused_value(below, "counts something and is below zero")
        value = frame(self.id, b"".join(self.codec.encode(values)))
        if len(value) > MAX_RECORD_BYTES:
            raise WireRefused(TOO_LARGE, "the record is larger than the cap")
        return value

    def decode(self, body: bytes) -> Control:
        values = self.codec.decode(self.codec.split(body))
        if _below_zero(values) is not None:
            raise malformed()
        if "incarnation" in values:
            values["incarnation"] = Incarnation(values["incarnation"], values.pop("token"))
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cast(Control, self._make(**values))


def _below_zero(values: Mapping[str, Any]) -> str | None:
    """The first field with a number below zero: everything that control records say is a count, an
    offset or a time since the epoch."""
    for name, value in values.items():
        for n in value if isinstance(value, tuple | list) else (value,):
            if isinstance(n, int) and n < 0:
                return name
    return None


_KINDS = [_Kind(kind, cls, avro_fields) for kind, (cls, avro_fields) in _RECORDS.items()]
# Read for ever, never written: a note before there were notes of a whole record batch.
_EARLIER_NOTE = _Kind(
    "quarantine_note",
    QuarantineNote,
    {"topic": "string", "partition": "int", "offset": "long", **_NOTE},
    make=lambda offset, **values: QuarantineNote(offset=offset, last_offset=offset, **values),
)
# The same: a heartbeat before it told of the outbox.
_EARLIER_HEARTBEAT = _Kind("heartbeat", Heartbeat, _HEARTBEAT)
# A recipient's sign of life before it told what is parked.
_EARLIER_BEAT = _Kind("applied_beat", AppliedBeat, _APPLIED_BEAT)
# And a policy before deliveries could be held.
_EARLIER_POLICY = _Kind(
    "policy",
    PolicyRecord,
    {name: t for name, t in _RECORDS["policy"][1].items() if name != "holds"},
)
# And an outcome before it named keys.
_EARLIER_OUTCOME = _Kind("proof_outcome", ProofOutcome, control_outcome.EARLIER)
_EARLIER = (_EARLIER_NOTE, _EARLIER_HEARTBEAT, _EARLIER_BEAT, _EARLIER_POLICY, _EARLIER_OUTCOME)
_BY_ID = {kind.id: kind for kind in (*_KINDS, *_EARLIER)}
_BY_CLASS = {kind.cls: kind for kind in _KINDS}
_INVENTORY = frozenset(header(_BY_CLASS[cls].id) for cls in (Inventory, InventoryEnd))


def control_schemas() -> dict[int, str]:
    """id -> canonical JSON of every control schema."""
    return {kind.id: canonical_json(kind.schema) for kind in _BY_ID.values()}


def encode_control(record: Control) -> bytes:
    """A framed control record. Raises WireRefused (`bad_value`, `too_large`)."""
    return _BY_CLASS[type(record)].encode(record)


def is_control(number: int) -> bool:
    """Does this schema id belong to a control record?"""
    return number in _BY_ID


def is_inventory(value: bytes | None) -> bool:
    """Is this a part of the answer to a resync? Told by its frame alone: who only has to pass over
    them does not pay for their content."""
    return value is not None and value[:HEADER_BYTES] in _INVENTORY


def decode_control(value: bytes | None) -> Control:
    """The control record in a value. Raises WireRefused: `no_value`, `too_large`, `not_framed`,
    `unknown_schema`, `malformed`."""
    number, body = unframe(value)
    kind = _BY_ID.get(number)
    if kind is None:
        raise WireRefused(UNKNOWN_SCHEMA, "the schema is not that of a control record")
    return kind.decode(body)


_KEYS: dict[type, Callable[[Any], str]] = {
    Incarnated: lambda r: (
        f"{r.system}/incarnated/{r.incarnation.number}/{r.incarnation.token.hex()}"
    ),
    Heartbeat: lambda r: f"{r.system}/heartbeat",
    AppliedBeat: lambda r: f"{r.system}/applied",
    AppliedDay: lambda r: f"{r.system}/day/{r.day}",
    ParkedList: lambda r: f"{r.system}/parked",
    ParkedRetried: lambda r: f"{r.system}/retried",
    OutboxSeen: lambda r: f"{r.system}/outbox",
    InventoryRequest: lambda r: f"{r.system}/inventory",
    QuarantineNote: lambda r: f"{r.topic}/{r.partition}/{r.offset}",
    Resolution: lambda r: f"resolved/{r.topic}/{r.partition}/{r.offset}",
    AgentReport: lambda r: str(r.agent),
    JobProgress: lambda r: str(r.job),
    JobOrder: lambda r: f"order/{r.job}",
    OrderedKeys: lambda r: f"order/{r.job}/{r.part}",
    JobSteer: lambda r: f"steer/{r.job}",
    OrderProgress: lambda r: f"ordered/{r.job}",
    TopicNoted: lambda r: f"topic/{r.topic}",
    AlarmTold: lambda r: f"alarm/{r.subject}",
    AlarmSeen: lambda r: f"seen/{r.subject}",
    ProofAnswer: control_proof.slot,
    ProofPart: control_proof.slot,
    ProofRows: control_proof.slot,
    ProofOutcome: control_outcome.outcome_key,
    Proposal: lambda r: f"proposal/{r.proposal}",
    ProposalDecided: lambda r: f"decided/{r.proposal}",
    ProposalCarried: lambda r: f"carried/{r.proposal}",
    RebuildTold: control_rebuild.told_key,
}


def key_of(record: Control) -> bytes | None:
    """The Kafka key that a control record bears; None where it has none."""
    make = _KEYS.get(type(record))
    return make(record).encode() if make else None


def check_key(key: bytes | None, record: Control) -> None:
    """Raises WireRefused (`bad_key`) when a record lies under a key that is not its own.

    In a compacted topic a wrong key would keep a lie alive, or let it erase the truth.
    """
    if key != key_of(record):
        raise WireRefused(BAD_KEY, "the key is not that of the control record")
