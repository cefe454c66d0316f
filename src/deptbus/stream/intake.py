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
from deptbus.wire.framing import HEADER_BYTES
from deptbus.wire.guard import KEY_BYTES, UNKNOWN_SCHEMA
from deptbus.wire.outgoing import what_decides
from deptbus.wire.partitioner import partition_of, partitions_of
from deptbus.wire.passage import Pair, Way, Ways

Decoded = Change | Announcement | Marker | WireRefused


def _read(codecs: Codecs, record: LogRecord) -> Decoded:
    """The record, or why it is none."""
    try:
        return codecs.decode_out(record.key, record.value)
    except WireRefused as error:
        return error


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
    """What becomes of a batch.

    `names_newer`: a record names a newer policy, or a schema that ours does not know; what is here
    must not be used, and the contract has to be read to its end.
    """

    # Canonical topic -> what goes there, into the outbox's own partition.
    accepted: dict[str, list[Pair]] = field(default_factory=dict)
    refused: list[Outgoing] = field(default_factory=list)  # notes for bus.quarantine
    reasons: list[str] = field(default_factory=list)  # of `refused`, one for one
    names_newer: bool = False

    @property
    def unannounced(self) -> bool:
        """Whether something was refused because its incarnation is not known."""
        return quarantine.NOT_ANNOUNCED in self.reasons


class Outbox:
    """One partition of one unit's outbox, and what was learnt of the changes in it: those that are
    like one that was accepted take the quick pass of `wire.passage`."""

    def __init__(self, unit: str, topic: str, partition: int, fences: Fences) -> None:
        self.unit = unit
        self.topic = topic
        self.partition = partition
        self.fences = fences
        self._ways: dict[bytes, tuple[str, Ways[Way]]] = {}  # frame -> canonical topic, ways
        self._learnt_under = (0, 0)  # policy, edition of the fences

    def pass_on(
        self, codecs: Codecs, records: Sequence[LogRecord], first: int, policy: int, judged: Judged
    ) -> int:
        """Accept what is known to be right; the place of the first record that is not, or the end.
        That keys lie in their partition was looked at before."""
        if self._learnt_under != (policy, self.fences.edition):
            self._ways.clear()
            self._learnt_under = policy, self.fences.edition
        frame = (records[first].value or b"")[:HEADER_BYTES]
        known, passage = self._ways.get(frame), codecs.passage(frame)
        if known is None or passage is None:
            return first
        topic, ways = known
        box = judged.accepted.setdefault(topic, [])
        return passage(records, first, len(records), ways.senders, (box,))

    def learn(self, change: Change, frame: bytes) -> None:
        """A change of this outbox was accepted."""
        topic = data_topic(change.dataset)
        _, ways = self._ways.setdefault(frame, (topic, Ways()))
        first, last = self.fences.span(change.incarnation)
        ways.learn(*what_decides(change), Way(change.record is not None, (), first, last))


def judge_batch(
    outbox: Outbox,
    records: Sequence[LogRecord],
    codecs: Codecs,
    contract: Contract,
    policy: int,
    now_us: int,
    *,
    is_newest: bool = False,
) -> Judged:
    """Sort a batch into what goes on and what is noted; learns the announcements in it.

    `is_newest`: the contract was read to its end since a record named a newer policy; what does so
    still is refused.
    """
    judged = Judged()
    is_quick = _all_lie_right(outbox.partition, records, contract.partitions)
    place = 0
    while place < len(records):
        if is_quick:
            passed = outbox.pass_on(codecs, records, place, policy, judged)
            if passed > place:
                place = passed
                continue  # what ended the run may be of another dataset, and known too
        record = records[place]
        place += 1
        found = _read(codecs, record)
        if not is_newest and names_newer_policy([found], policy):
            judged.names_newer = True
            return judged
        reason = _judge_one(outbox, found, record, contract, policy, judged)
        if reason is not None:
            judged.reasons.append(reason)
            change = found if isinstance(found, Change) else None
            judged.refused.append(
                quarantine.note(
                    contract, outbox.topic, outbox.partition, record, reason, now_us, change
                )
            )
    return judged


def _all_lie_right(partition: int, records: Sequence[LogRecord], partitions: int) -> bool:
    """Whether every record's key that can be one of a change lies in its partition."""
    keys = [r.key for r in records if r.key is not None and len(r.key) == KEY_BYTES]
    return all(found == partition for found in partitions_of(keys, partitions))


def _judge_one(
    outbox: Outbox,
    found: Decoded,
    record: LogRecord,
    contract: Contract,
    policy: int,
    judged: Judged,
) -> str | None:
    """Accept one record, or say why not."""
    if isinstance(found, Announcement):
        return _announced(outbox, found, record.offset)
    if isinstance(found, Marker):
        return _pass_on(outbox, found, record, contract, judged)
    if isinstance(found, WireRefused):
        return found.reason
    reason = judge(
        found, unit=outbox.unit, partition=outbox.partition, contract=contract, policy=policy
    ) or outbox.fences.refusal(found.incarnation, record.offset)
    if reason is None:
        value = record.value or b""
        judged.accepted.setdefault(data_topic(found.dataset), []).append((found.key, value))
        outbox.learn(found, value[:HEADER_BYTES])
    return reason


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
    for dataset in contract.published_by(outbox.unit):
        judged.accepted.setdefault(data_topic(dataset), []).append((key, record.value or b""))
    return None
