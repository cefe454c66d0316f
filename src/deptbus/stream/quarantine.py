"""Notes of what could not be accepted: where it lies, why, and whose it is; never its content."""

from __future__ import annotations

from deptbus.change import Change
from deptbus.contract.model import Contract
from deptbus.names import QUARANTINE, dataset_of_topic, unit_of_topic
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.control import QuarantineNote, encode_control, key_of
from deptbus.wire.guard import first_offset

# Who looks after what no unit answers for: foreign bytes in a canonical topic.
OPERATIONS = "operations"

# Reasons of the stream, beside those of the wire (wire.guard.REASONS). Constants: fit for labels.
WRONG_SOURCE_UNIT = "wrong_source_unit"
MAY_NOT_PUBLISH = "may_not_publish"
UNKNOWN_DATASET = "unknown_dataset"
UNKNOWN_POLICY = "unknown_policy"
OUTSIDE_TERRITORY = "outside_territory"
BAD_DIVISION = "bad_division"
WRONG_PARTITION = "wrong_partition"
NOT_ANNOUNCED = "not_announced"
FENCED = "fenced"
WRONG_DATASET = "wrong_dataset"

REASONS = {
    WRONG_SOURCE_UNIT: "The record names another source unit than the one whose outbox it lies in.",
    MAY_NOT_PUBLISH: "The contract does not let this unit publish this dataset.",
    UNKNOWN_DATASET: "The contract in force has no such dataset, or not in this schema version.",
    UNKNOWN_POLICY: "The record names a policy that was never in force.",
    OUTSIDE_TERRITORY: "The record is about a place outside the unit's territory.",
    BAD_DIVISION: "A place is not a division code.",
    WRONG_PARTITION: "The record lies in another partition than its key belongs to.",
    NOT_ANNOUNCED: "The record is of an incarnation that was never announced.",
    FENCED: "A younger incarnation of the adapter was announced before this record.",
    WRONG_DATASET: "The record lies in the topic of another dataset.",
}


def owner_of(contract: Contract, topic: str) -> str:
    """Who is rung about a record of this topic."""
    unit = contract.unit_by_name.get(unit_of_topic(topic)) if topic.startswith("out.") else None
    return unit.owner if unit is not None else OPERATIONS


def note(
    contract: Contract,
    topic: str,
    partition: int,
    record: LogRecord,
    reason: str,
    now_us: int,
    change: Change | None = None,
) -> Outgoing:
    """The record for `bus.quarantine`. Its key is the place: noting it again after a crash changes
    nothing. A record batch that could not be unpacked has one note. Of texts in the record only
    what the contract knows too is named: any other may be content."""
    unit = dataset = ""
    key = version = None
    if topic.startswith("out."):
        unit = unit_of_topic(topic)
    else:
        dataset = dataset_of_topic(topic)
        if change is not None and change.source_unit in contract.unit_by_name:
            unit = change.source_unit
    if change is not None:
        dataset, key, version = change.dataset, change.key, change.version
    noted = QuarantineNote(
        topic=topic,
        partition=partition,
        offset=first_offset(record.offset, record.value),
        last_offset=record.offset,
        reason=reason,
        owner=owner_of(contract, topic),
        unit=unit,
        dataset=dataset,
        key=key,
        version=version,
        noted_at_us=now_us,
    )
    return Outgoing(QUARANTINE, 0, key_of(noted), encode_control(noted))
