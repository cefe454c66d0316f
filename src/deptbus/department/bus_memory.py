"""What the bus knows of one system's adapters: read from the unit's own two topics at the start.

The highest publication that the bus knows is that of the last heartbeat, or of a record in `out`
behind the ends that this heartbeat names. If it is above the database's own, the database was
restored from a backup, whatever was typed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from deptbus.change import Change, Incarnation
from deptbus.connection import Connection
from deptbus.errors import SourceRefused, WireRefused
from deptbus.names import control_topic, out_topic
from deptbus.stream.brokers import consumer_of, partitions_of
from deptbus.stream.identity import topic_identity
from deptbus.stream.log import LogRecord, read_to_end, scan_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Heartbeat, Incarnated, OutboxSeen, check_key, decode_control

log = structlog.get_logger(__name__)

WRONG_UNIT = "wrong_unit"
_RESYNC = "Run `deptbus department resync`"


@dataclass(frozen=True, slots=True)
class BusMemory:
    """Of one (unit, system). Zero where the bus knows nothing."""

    incarnation: int = 0  # the highest number
    publication: int = 0
    version: int = 0
    ends: tuple[int, ...] = ()  # of `out`, by partition: all up to `publication` lies below
    tokens: frozenset[bytes] = frozenset()  # of every incarnation that was announced
    fingerprints: frozenset[str] = frozenset()  # of every key secret that was ever used
    outbox_id: str = ""  # of `out` as the youngest adapter saw it; empty: not known

    @property
    def is_of_one_that_began(self) -> bool:
        """Whether an adapter of this system ever got past the checks of its start on this bus. Its
        incarnation does not tell: one that was refused has left that behind, too."""
        return bool(self.outbox_id or self.ends)


def remembered(records: Iterable[LogRecord], unit: str, system: str) -> BusMemory:
    """Pure: what the records of `control.<unit>` say of one system. One of another unit, or under a
    key that is not its own, is refused: it would make an adapter believe that its secret is wrong
    or its database restored."""
    memory = BusMemory()
    seen = Incarnation(0, b"")
    for record in records:
        try:
            control = decode_control(record.value)
            check_key(record.key, control)
        except WireRefused as refused:
            log.warning("control_record_refused", offset=record.offset, reason=refused.reason)
            continue
        if getattr(control, "unit", None) != unit:
            log.warning("control_record_refused", offset=record.offset, reason=WRONG_UNIT)
            continue
        if isinstance(control, OutboxSeen) and control.system == system:
            if control.incarnation >= seen:
                seen, memory = control.incarnation, replace(memory, outbox_id=control.topic_id)
            continue
        if not isinstance(control, Incarnated | Heartbeat) or control.system != system:
            continue
        memory = replace(
            memory,
            incarnation=max(memory.incarnation, control.incarnation.number),
            tokens=memory.tokens | {control.incarnation.token},
            fingerprints=memory.fingerprints | {control.fingerprint},
        )
        # Not the last one but the highest: an older adapter that wakes may write one more.
        if isinstance(control, Heartbeat) and control.publication >= memory.publication:
            memory = replace(
                memory,
                publication=control.publication,
                version=max(memory.version, control.version),
                ends=control.ends,
            )
    return memory


async def read_control(connection: Connection, unit: str, system: str) -> BusMemory:
    """Raises BusUnreachable, BusRefused."""
    return remembered(await read_to_end(connection, control_topic(unit)), unit, system)


async def read_outbox(connection: Connection, unit: str) -> tuple[str, list[int]]:
    """(id of `out`, the first offset that is still kept in each partition). Raises BusUnreachable,
    BusRefused."""
    topic = out_topic(unit)
    async with consumer_of(connection) as consumer:
        begins = await consumer.beginning_offsets(await partitions_of(consumer, topic))
        identity = await topic_identity(consumer._client, topic)
    return identity.topic_id, [begins[place] for place in sorted(begins)]


async def read_behind(
    connection: Connection,
    unit: str,
    memory: BusMemory,
    codecs: Codecs,
    upto: Mapping[int, int] | None,
) -> BusMemory:
    """`memory` with what records of `out` behind its heartbeat's ends add, below `upto`: partition
    -> offset of this adapter's own announcement (None: it has not announced itself). What an older
    adapter sends behind that is refused by intake, so it is nothing that the bus knows."""
    starts = dict(enumerate(memory.ends))
    publication, version = memory.publication, memory.version
    async with aclosing(scan_to_end(connection, out_topic(unit), from_offsets=starts)) as batches:
        async for records in batches:
            for record in records:
                if upto is not None and record.offset >= upto.get(record.partition, 0):
                    continue
                try:
                    change = codecs.decode_out(record.key, record.value)
                except WireRefused:
                    continue  # intake notes it; a record that nobody accepts is nothing published
                if isinstance(change, Change) and change.incarnation.token in memory.tokens:
                    publication = max(publication, change.publication)
                    version = max(version, change.version)
    return replace(memory, publication=publication, version=version)


def check_secret(memory: BusMemory, *, unit: str, agreed: str | None, fingerprint: str) -> None:
    """Pure: raises SourceRefused when the secret is not the one that the contract names, or not
    the one that this system's adapters had before."""
    if agreed is not None and agreed != fingerprint:
        raise SourceRefused(
            f"{unit}: wrong secret: its fingerprint is not the one in departments.yml",
            mend="Put the unit's own secret file back, or agree on the new fingerprint",
        )
    if memory.fingerprints - {fingerprint}:
        raise SourceRefused(
            f"{unit}: wrong secret: what this unit published before has other keys",
            mend="Put the unit's own secret file back; a new one would double every record",
        )


def check_outbox(memory: BusMemory, *, topic: str, topic_id: str, begins: Sequence[int]) -> None:
    """Pure: raises SourceRefused when nobody can tell any more what the last adapters published:
    `out` is another topic than it was, or retention took records behind the last heartbeat's ends.
    Then neither that database and bus fit, nor that all of it was taken in, is sure."""
    if memory.outbox_id not in ("", topic_id):
        raise SourceRefused(
            f"topic {topic} was made again: what was published there and not yet taken in is lost",
            mend=_RESYNC,
        )
    if any(begin > end for begin, end in zip(begins, memory.ends, strict=False)):
        raise SourceRefused(
            f"topic {topic}: what was published behind the last sign of life is gone by retention",
            mend=_RESYNC,
        )


def was_restored(place: str, published: int, publication: int) -> SourceRefused:
    """`published`: the highest number that is on the bus; `publication`: the database's own."""
    return SourceRefused(
        f"{place}: the database was restored from a backup: the bus knows publication "
        f"{published}, the database {publication}",
        mend=_RESYNC,
    )


def check_publication(memory: BusMemory, *, place: str, publication: int) -> None:
    """Pure: raises SourceRefused when the database was restored, or the bus rebuilt. `publication`
    is the database's own number; it counts only once nobody else can publish."""
    if memory.publication > publication:
        raise was_restored(place, memory.publication, publication)
    if publication > 0 and not memory.is_of_one_that_began:
        raise SourceRefused(
            f"{place}: the database has published before, and this bus knows nothing of it: it was "
            "rebuilt, or it is another one",
            mend="Check the address; if the bus was rebuilt, run `deptbus department resync`",
        )
