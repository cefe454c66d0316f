"""Outbox -> canonical topic: same bytes, same key, same partition; what is refused is noted.

Nothing is decided by what another record says (one bad change stops itself, not its neighbours),
except by announcements, which fence (fences.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deptbus.change import Change
from deptbus.contract.model import Contract
from deptbus.contract.territory import covers, is_division_code
from deptbus.errors import WireRefused
from deptbus.names import data_topic
from deptbus.stream import quarantine
from deptbus.stream.data import marker_key
from deptbus.stream.fences import Fences
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, Marker
from deptbus.wire.guard import UNKNOWN_SCHEMA
from deptbus.wire.partitioner import partition_of

Decoded = Change | Announcement | Marker | WireRefused


def decode_outbox(codecs: Codecs, records: Sequence[LogRecord]) -> list[Decoded]:
    """Each record, or why it is none."""
    decoded: list[Decoded] = []
    decode = codecs.decode_out
    for record in records:
        try:
            decoded.append(decode(record.key, record.value))
        except WireRefused as error:
            decoded.append(error)
    return decoded


def names_newer_policy(decoded: Iterable[object], policy: int) -> bool:
    """Whether a record can only be understood under a policy that we have not read: it says so, or
    its schema is not known to ours."""
    for found in decoded:
        if isinstance(found, Change):
            if found.policy > policy:
                return True
        elif isinstance(found, WireRefused) and found.reason == UNKNOWN_SCHEMA:
            return True
    return False


def judge(
    change: Change, *, unit: str, partition: int, contract: Contract, policy: int
) -> str | None:
    """Why a change in the outbox of `unit` cannot be accepted, as a constant; None when it can.

    1. Its source unit is the unit whose outbox it lies in.
    2. The contract lets the unit publish the dataset, in a schema version that was released.
    3. It names a policy that is or was in force.
    4. It lies in its key's partition: otherwise order per key is lost.
    5. Places are division codes; where the record is (of a delete: was last) lies in the unit's
       territory. Former places are not asked for that: the territory may have been another, and
       a withdrawal there carries nothing.
    """
    if change.source_unit != unit:
        return quarantine.WRONG_SOURCE_UNIT
    dataset = contract.datasets.get(change.dataset)
    if dataset is None or f"{change.dataset}.v{change.schema_version}" not in contract.schemas:
        return quarantine.UNKNOWN_DATASET
    if not contract.may_publish(unit, change.dataset):
        return quarantine.MAY_NOT_PUBLISH
    if not 1 <= change.policy <= policy:
        return quarantine.UNKNOWN_POLICY
    if partition_of(change.key, contract.partitions) != partition:
        return quarantine.WRONG_PARTITION
    if not is_division_code(change.division) or not all(
        map(is_division_code, change.former_divisions)
    ):
        return quarantine.BAD_DIVISION
    if not covers(unit.partition("@")[2], change.division):
        return quarantine.OUTSIDE_TERRITORY
    return None


@dataclass(slots=True)
class Judged:
    """What becomes of a batch."""

    accepted: list[Outgoing] = field(default_factory=list)
    refused: list[Outgoing] = field(default_factory=list)  # notes for bus.quarantine
    reasons: list[str] = field(default_factory=list)  # of `refused`, one for one

    @property
    def unannounced(self) -> bool:
        """Whether something was refused because its incarnation is not known."""
        return quarantine.NOT_ANNOUNCED in self.reasons


@dataclass(frozen=True, slots=True)
class Outbox:
    """One partition of one unit's outbox."""

    unit: str
    topic: str
    partition: int
    fences: Fences


def judge_batch(
    outbox: Outbox,
    records: Sequence[LogRecord],
    decoded: Sequence[Decoded],
    contract: Contract,
    policy: int,
    now_us: int,
) -> Judged:
    """Sort a batch into what goes on and what is noted; learns the announcements in it."""
    judged = Judged()
    for record, found in zip(records, decoded, strict=True):
        if isinstance(found, Change):
            reason = judge(
                found,
                unit=outbox.unit,
                partition=outbox.partition,
                contract=contract,
                policy=policy,
            ) or outbox.fences.refusal(found.incarnation, record.offset)
            if reason is None:
                judged.accepted.append(
                    Outgoing(
                        data_topic(found.dataset), outbox.partition, record.key, record.value or b""
                    )
                )
                continue
        elif isinstance(found, Announcement):
            reason = _announced(outbox, found, record.offset)
        elif isinstance(found, Marker):
            reason = _pass_on(outbox, found, record, contract, judged)
        else:
            reason = found.reason
        if reason is not None:
            judged.reasons.append(reason)
            change = found if isinstance(found, Change) else None
            judged.refused.append(
                quarantine.note(
                    contract, outbox.topic, outbox.partition, record, reason, now_us, change
                )
            )
    return judged


def _announced(outbox: Outbox, found: Announcement, offset: int) -> str | None:
    if found.unit != outbox.unit:
        return quarantine.WRONG_SOURCE_UNIT
    if found.partition != outbox.partition:
        return quarantine.WRONG_PARTITION
    outbox.fences.announce(found.system, found.incarnation, offset)
    return None


def _pass_on(
    outbox: Outbox, found: Marker, record: LogRecord, contract: Contract, judged: Judged
) -> str | None:
    """A marker goes to the same partition of every dataset that the unit publishes: whoever folds
    one of them then knows that all published before it is folded."""
    if found.unit != outbox.unit:
        return quarantine.WRONG_SOURCE_UNIT
    reason = outbox.fences.refusal(found.incarnation, record.offset)
    if reason is not None:
        return reason
    key = marker_key(found)
    judged.accepted += [
        Outgoing(data_topic(dataset), outbox.partition, key, record.value or b"")
        for dataset in contract.published_by(outbox.unit)
    ]
    return None
