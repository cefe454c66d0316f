"""A small contract of its own, and records of it, for the tests of bytes on the wire.

It is frozen: golden files hold its bytes. A new field is a new version of the schema here too.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from deptbus.change import (
    Cause,
    Change,
    ChangeOp,
    Delivery,
    DeliveryOp,
    Direction,
    Incarnation,
    Reason,
    RecordFields,
)
from deptbus.contract.model import Contract, Dataset, Line, Sharing
from deptbus.contract.territory import Level
from deptbus.wire.control import (
    Act,
    AgentReport,
    AlarmSeen,
    AlarmTold,
    Announcement,
    AppliedBeat,
    AppliedDay,
    Control,
    Heartbeat,
    Incarnated,
    Inventory,
    InventoryEnd,
    InventoryRequest,
    JobOrder,
    JobProgress,
    JobSteer,
    Marker,
    OrderedKeys,
    OrderProgress,
    OutboxSeen,
    ParkedList,
    ParkedRetried,
    ParkedRetry,
    PolicyMarker,
    PolicyRecord,
    ProofAnswer,
    ProofOutcome,
    ProofPart,
    ProofRequest,
    ProofRows,
    Proposal,
    ProposalCarried,
    ProposalDecided,
    QuarantineNote,
    RebuildOrder,
    RebuildTold,
    RepairOrder,
    ResendOrder,
    ResendRequest,
    Resolution,
    TopicNoted,
)

DATE = {"type": "int", "logicalType": "date"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
SEX = {"type": "enum", "name": "Sex", "symbols": ["male", "female", "unknown"]}

PERSON: dict[str, Any] = {
    "type": "record",
    "name": "Person",
    "namespace": "example.county",
    "doc": "一个人",
    "fields": [
        {"name": "person_id", "type": "string"},
        {"name": "name", "type": "string"},
        {"name": "sex", "type": SEX},
        {"name": "birth_date", "type": DATE},
        {"name": "division", "type": "string"},
        {"name": "address", "type": "string"},
        {"name": "household_id", "type": ["null", "string"], "default": None},
        {"name": "floor", "type": ["null", "int"], "default": None},
        {"name": "registered_at", "type": MICROS},
        {"name": "income", "type": ["null", MONEY], "default": None},
        {"name": "insured", "type": "boolean"},
        {"name": "serial", "type": "long"},
        {"name": "weight", "type": ["null", "double"], "default": None},
        {"name": "phone", "type": ["null", "string"], "default": None},
        {"name": "photo_digest", "type": ["null", "bytes"], "default": None},
    ],
}
FIELDS = tuple(f["name"] for f in PERSON["fields"])

VALUES: dict[str, Any] = {
    "person_id": "33010619900101001X",
    "name": "张三丰",
    "sex": "male",
    "birth_date": date(1990, 1, 1),
    "division": "330106109051",
    "address": "杭州市西湖区文一西路588号西溪首座商务中心3幢2单元1204室",
    "household_id": "330106-0001234",
    "floor": 12,
    "registered_at": datetime(2025, 8, 1, 9, 30, 15, 123456, tzinfo=UTC),
    "income": Decimal("12345.67"),
    "insured": True,
    "serial": 123_456_789_012,
    "weight": 71.5,
    "phone": "13800138000",
    "photo_digest": bytes(range(8)),
}

KEY = bytes(range(0xA0, 0xB0))
SENDER = Incarnation(7, bytes(range(8)))
SOURCE = "public_security@330106"


def contract(**more_schemas: dict[str, Any]) -> Contract:
    """A contract with the one dataset `person`; `person_v2=...` adds schema versions."""
    schemas = {"person.v1": PERSON}
    schemas |= {name.replace("_v", ".v"): schema for name, schema in more_schemas.items()}
    person = Dataset(
        title="Person",
        title_zh="人",
        line="public_security",
        levels=(Level.COUNTY,),
        schema_version=1,
        key=("person_id",),
        division="division",
        sharing=dict.fromkeys(FIELDS, Sharing.UNCONDITIONAL),
    )
    return Contract(
        territories={"33": "浙江省", "3301": "杭州市", "330106": "西湖区"},
        lines={"public_security": Line(title="Police", title_zh="公安")},
        units=(),
        datasets={"person": person},
        grants=(),
        schemas=schemas,
    )


def change(record: RecordFields | None, **other: Any) -> Change:
    """An upsert of `record`, or a delete when there is none; `other` replaces attributes."""
    deleted = record is None
    values: dict[str, Any] = {
        "dataset": "person",
        "key": KEY,
        "op": ChangeOp.DELETE if deleted else ChangeOp.UPSERT,
        "reason": Reason.MOVED_OUT if deleted else None,
        "source_unit": SOURCE,
        "incarnation": SENDER,
        "version": 1_234_567,
        "source_time_us": 1_785_000_000_123_456,
        "publication": 4711,
        "division": "330106109051",
        "former_divisions": ("330106109052", "330106110"),
        "cause": Cause.LIVE,
        "job": None,
        "policy": 3,
        "schema_version": 1,
        "record": record,
    }
    return Change(**(values | other))


def delivery(*fields: str, **other: Any) -> Delivery:
    """An upsert of these fields to one unit, or a withdrawal when there are none."""
    values: dict[str, Any] = {
        "unit": "housing@330106",
        "op": DeliveryOp.UPSERT if fields else DeliveryOp.WITHDRAW,
        "direction": Direction.HORIZONTAL,
        "rule": "person_housing",
        "grants": (),
        "fields": fields,
    }
    return Delivery(**(values | other))


TIME_US = 1_785_000_000_123_456

CONTROL: tuple[Control, ...] = (
    Announcement(SOURCE, "main", SENDER, 2, TIME_US),
    Marker("resync-1", "resync", SOURCE, "main", SENDER, TIME_US),
    Incarnated(SOURCE, "main", SENDER, (10, 0, 12, 13), "ab" * 16),
    Heartbeat(
        SOURCE, "main", SENDER, 4711, 1_234_567, 3, (10, 11, 12, 13), "ab" * 16, False, 2, TIME_US,
        17, TIME_US - 5_000_000,
    ),
    AppliedBeat(
        SOURCE, "main", SENDER, TIME_US - 1, TIME_US, 5, ("person", "person"),
        ("FOREIGN KEY constraint failed", "value: people.name: too long"), (4, 1),
    ),
    AppliedDay(
        SOURCE, "main", SENDER, "2027-01-31", ("household", "person"), (0, 1_200), (3, 1_300),
        (40_000, 0), TIME_US,
    ),
    ParkedList(
        SOURCE, "main", SENDER, 40, ("person", "household"), ("civil_affairs@330106", SOURCE),
        (KEY, bytes(16)), (7, 1_234_567),
        ("FOREIGN KEY constraint failed", "value: people.name: too long"),
        (TIME_US - 2, TIME_US - 1), (1, 17), TIME_US,
    ),
    ParkedRetried(SOURCE, "main", SENDER, "retry-1", 40, 30, 9, True, TIME_US),
    OutboxSeen(SOURCE, "main", SENDER, "0b5e2a4c-0000-0000-0000-000000000001"),
    PolicyMarker(4, ("person",), "policy-4/housing@330106"),
    ResendRequest("resend-1", "person", KEY, "correction"),
    ParkedRetry("retry-1", "person", KEY, "FOREIGN KEY constraint failed", "the table was mended"),
    InventoryRequest("resync-1", SOURCE, "main", SENDER, ("person",), TIME_US),
    Inventory(
        "resync-1", "answer-1", "person", 2, (KEY, bytes(16)), (7, 1_234_567),
        (bytes(range(16)), b""), ("330106109052,330106109051", "330106"),
    ),
    InventoryEnd("resync-1", "answer-1", "person", 2, 4, 2, ""),
    PolicyRecord(
        4, "cd" * 32, TIME_US, "operator", '{"territories":{}}',
        ('{"unit":"housing@330106","reason":"r","held_by":"王五","held_at":"2026-06-01T00:00:00Z"}',),
    ),
    QuarantineNote(
        "out.housing-330106", 1, 99, 99, "malformed", "李四", SOURCE, "person", KEY, 7, TIME_US
    ),
    Resolution(
        "out.housing-330106", 1, 99, "resend_asked", "act-1", "王五", "contract mended", "resend-1",
        ("person",), KEY, TIME_US,
    ),
    Act(
        "act-1", "quarantine_resend", "王五", "deptbus-operations", "contract mended",
        "housing@330106", "person", KEY, ("out.housing-330106/1/99",), TIME_US,
    ),
    AgentReport("worker-0/horizontal", 4, "ef" * 32, "running", TIME_US),
    JobProgress(
        "policy-4/housing@330106", "housing@330106", 4, ("person",), "sending",
        ("data.person/0",), 1000, 3, TIME_US, TIME_US + 1,
    ),
    JobOrder(
        "replay-0123456789ab", "housing@330106", "replay", ("person",),
        ("0b5e2a4c-0000-0000-0000-000000000001",), ("person/0", "person/2"), (10, 0), (20, 7), 1, 9,
        "ab" * 32, 4, "王五", "deptbus-operations", "their disk failed", TIME_US,
    ),
    OrderedKeys("repair-0123456789ab", 1, "person", (KEY, bytes(16))),
    JobSteer(
        "replay-0123456789ab", "paused", "王五", "deptbus-operations", "their busy hour", TIME_US
    ),
    OrderProgress(
        "replay-0123456789ab", "housing@330106", 4, "refused", "data.person was made again",
        ("person/0",), "person/2", 5, 1000, 3, TIME_US, TIME_US + 1,
    ),
    TopicNoted("in.housing-330106", "0d6c8f1e-0000-4000-8000-000000000001", TIME_US),
    AlarmTold(
        "0123456789ab", "lag/housing@330106/apply", 2, "worse", "STOPPED", 6, TIME_US - 60_000_000,
        TIME_US, ("duty",), '{"alarm":"0123456789ab"}',
    ),
    AlarmSeen(
        "0123456789ab", "lag/housing@330106/apply", 6, "act-2", "王五", "rung them", TIME_US
    ),
    ProofRequest(
        "proof-1", "copy", "sums", "person", True, (10, 0), 12, 800, b"salt", (), (KEY,), 1000,
        TIME_US + 60_000_000,
    ),
    ProofAnswer(
        "proof-1", "housing@330106", "estates", "copy", "person", "done", "", 2, 1000, (11, 1),
        (4, 0), ("parked", "claimed"), (3, 1), TIME_US, TIME_US + 1,
    ),
    ProofPart(
        "proof-1", "housing@330106", "estates", "copy", "person", 0, "leaves", b"\x01\x02"
    ),
    ProofRows(
        "proof-1", "housing@330106", "estates", "copy", "person", 1, (KEY,), ("parked",), (7,),
        (KEY,), (KEY,), ("name,phone",), ("value: estates.name: too long",),
    ),
    RepairOrder("repair-1", "person", (KEY,), (KEY,), ("deliver",), True, TIME_US),
    RebuildOrder("rebuild-1", "person", "swap", (7, 0), TIME_US),
    RebuildTold(
        "housing@330106", "main", "person", "rebuild-1", "swapped", "", ("updated",), (3,), TIME_US
    ),
    ResendOrder("repair-2", "person", (KEY,), ("330106109,330106110",), TIME_US),
    ProofOutcome(
        "housing@330106", "person", "copy", "different", 3, TIME_US, True, 1000,
        ("missing", "stale"), (2, 1), "王五", b"{}\n", (KEY,), ("missing",), ("not there",),
    ),
    Proposal(
        "mend-0123456789ab", "repair", "housing@330106", ("person",), '{"most":3}', "王五",
        "deptbus-operations", True, "a proof found it", TIME_US, TIME_US + 86_400_000_000,
    ),
    ProposalDecided(
        "mend-0123456789ab", "confirmed", "李四", "deptbus-operations", True, "looked at it",
        TIME_US + 1,
    ),
    ProposalCarried("mend-0123456789ab", "done", "person: 0 differences left", TIME_US + 2),
)  # fmt: skip
