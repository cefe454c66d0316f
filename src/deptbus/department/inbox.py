"""Reads `in.<unit>` from the offsets that SQL names, and turns records into what can be applied."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from deptbus.change import Received
from deptbus.connection import Connection
from deptbus.department.plain import Sifted
from deptbus.department.rebuild import is_of_rebuild
from deptbus.department.store import BusIdentity, PartitionBatch, Position, Unreadable
from deptbus.errors import BusUnreachable, DeptbusError, SourceRefused, WireRefused
from deptbus.names import adapter_group, in_topic
from deptbus.stream.brokers import open_consumer, partitions_of, translate, wait_long
from deptbus.stream.group import LagCommitter
from deptbus.stream.identity import topic_identity
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs, InboxControl
from deptbus.wire.control import (
    ParkedRetry,
    PolicyMarker,
    ProofRequest,
    RebuildOrder,
    RepairOrder,
    ResendOrder,
    ResendRequest,
)
from deptbus.wire.guard import KEY_BYTES, UNKNOWN_SCHEMA, first_offset
from deptbus.wire.partitioner import partitions_of as partitions_of_keys

log = structlog.get_logger(__name__)

WRONG_PARTITION = "wrong_partition"  # written with another partitioner: order per key is not sure
_NO_KEY = bytes(KEY_BYTES)
Request = ResendRequest | ResendOrder | ParkedRetry


@dataclass(slots=True)
class Arrived:
    """One read: what is to be applied by partition, and requests that are for others here."""

    batch: dict[int, PartitionBatch] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    proofs: list[ProofRequest] = field(default_factory=list)
    rebuilds: list[RebuildOrder] = field(default_factory=list)
    policy: int = 0  # the highest that a delivery names
    others: set[str] = field(default_factory=set)  # datasets of deliveries that were left out
    sifted: Sifted | None = None  # what the store said ahead of the batch


class Inbox:
    """`start`, `seek`, then `read` in a loop; `commit` now and then; `stop`.

    All raise BusUnreachable and BusRefused; after one of them use a new object.
    """

    def __init__(
        self,
        connection: Connection,
        unit: str,
        system: str,
        codecs: Codecs,
        schemas: SchemaFollower,
    ) -> None:
        self.topic = in_topic(unit)
        self._connection, self._group = connection, adapter_group(unit, system)
        self._codecs, self._schemas = codecs, schemas
        self._consumer: AIOKafkaConsumer | None = None
        self._places: list[TopicPartition] = []
        self._committer: LagCommitter | None = None
        self._committed: dict[int, int] = {}
        self._commit_fails = False
        self._identity: BusIdentity | None = None
        self._asked_before: Mapping[int, int] = {}

    async def start(self) -> tuple[BusIdentity, int]:
        """Which bus this is, and the number of partitions."""
        # Where reading goes on is decided by SQL, never by the client: it would begin anew without
        # a word where a topic that was made again is shorter.
        consumer = self._consumer = await open_consumer(self._connection, reset="none")
        self._places = await partitions_of(consumer, self.topic)
        identity = await topic_identity(consumer._client, self.topic)
        self._committer = LagCommitter(consumer._client, self._group)
        self._identity = BusIdentity(*identity)
        return self._identity, len(self._places)

    async def check_identity(self) -> None:
        """Raises BusUnreachable when the topic is another one than at the start: whoever opens it
        anew compares it with the one that was applied."""
        identity = BusIdentity(*await topic_identity(self._open()._client, self.topic))
        if identity != self._identity:
            raise BusUnreachable(f"topic {self.topic} was made again")

    async def seek(
        self,
        positions: Mapping[int, Position],
        *,
        fresh: Collection[str] = (),
        read_before: Mapping[int, int] | None = None,
    ) -> dict[int, int]:
        """Go on where SQL stands. Raises SourceRefused when the topic ends before that. Whatever is
        not kept any more behind that is told.

        `fresh`: datasets that are read for the first time, which goes from the beginning; where
        that is not 0 any more it is returned, by partition. `read_before`: partition -> where
        reading stood before it began anew for them; requests below were passed on already.
        """
        self._asked_before = before = read_before or {}
        begins: dict[int, int] = {}
        consumer = self._open()
        try:
            starts = await consumer.beginning_offsets(self._places)
            ends = await consumer.end_offsets(self._places)
            consumer.assign(self._places)
            for place in self._places:
                wanted = positions[place.partition].next_offset
                if wanted > ends[place]:
                    raise SourceRefused(
                        f"rebuilt topic: {self.topic} ends before what was applied from it",
                        mend="If it was rebuilt on purpose, run `deptbus department rejoin "
                        "--config FILE`, and then what that says",
                    )
                stood = before.get(place.partition, wanted)
                # Nothing stood anywhere where all that is received is fresh.
                if stood < starts[place] and (before or not fresh):
                    log.error(
                        "inbox_lost",
                        topic=self.topic,
                        partition=place.partition,
                        deliveries=starts[place] - stood,
                        mend="Ask the data office for a replay of what retention took",
                    )
                if fresh and wanted < starts[place]:
                    begins[place.partition] = starts[place]
                    log.error(
                        "inbox_begins_late",
                        topic=self.topic,
                        partition=place.partition,
                        datasets=sorted(fresh),
                        deliveries=starts[place],
                        mend="Ask the data office for a replay of these datasets",
                    )
                consumer.seek(place, max(wanted, starts[place]))
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=self.topic) from error
        return begins

    async def read(self, limit: int, timeout_seconds: float, datasets: Collection[str]) -> Arrived:
        """What came, at most `limit` records; empty when nothing did in time. Deliveries of other
        datasets than these are another system's."""
        try:
            consumer = self._open()
            found = await consumer.getmany(
                *self._places, timeout_ms=int(timeout_seconds * 1000), max_records=limit
            )
            wait_long(consumer, not found)
        except (KafkaError, OSError, TimeoutError) as error:
            raise translate(error, topic=self.topic) from error
        arrived = Arrived()
        for place, records in found.items():
            if records:
                part = PartitionBatch(records[-1].offset + 1)
                arrived.batch[place.partition] = part
                await self._take(arrived, part, records, datasets)
                # What is being applied holds locks: its session must not wait for all of this.
                await asyncio.sleep(0)
        return arrived

    async def _take(
        self,
        arrived: Arrived,
        part: PartitionBatch,
        records: Sequence[ConsumerRecord],
        datasets: Collection[str],
    ) -> None:
        """What came in one partition, one after the other. Nearly all are deliveries that are read
        at once: nothing is awaited for those."""
        decode, take = self._codecs.decode_inbox, part.items.append
        partition, policy = records[0].partition, arrived.policy
        # Of whatever else came as a key decoding knows: no delivery has one.
        keys = [
            r.key if r.key is not None and len(r.key) == KEY_BYTES else _NO_KEY for r in records
        ]
        places = partitions_of_keys(keys, len(self._places))
        for record, place in zip(records, places, strict=True):
            try:
                item = decode(record.key, record.value)
            except WireRefused as error:
                found = await self._look_again(part, record, error)
                if found is None:
                    continue
                item = found
            if item.__class__ is Received:
                assert isinstance(item, Received)
                if place != partition:
                    part.unreadable.append(Unreadable(record.offset, WRONG_PARTITION))
                    continue
                # Of a dataset that is left out too: only its policy may tell us of the dataset.
                policy = max(policy, item.policy)
                if item.dataset in datasets:
                    take(item)
                    if item.job is not None and is_of_rebuild(item):
                        part.has_rebuilt = True
                else:
                    arrived.others.add(item.dataset)
            elif isinstance(item, PolicyMarker):
                take(item)
            elif isinstance(item, RepairOrder):
                if item.dataset in datasets:
                    part.orders.append(item)
            elif isinstance(item, ProofRequest):
                arrived.proofs.append(item)
            elif isinstance(item, RebuildOrder):
                arrived.rebuilds.append(item)
            elif record.offset >= self._asked_before.get(partition, 0):
                assert isinstance(item, Request)
                arrived.requests.append(item)
        arrived.policy = policy

    async def _look_again(
        self, part: PartitionBatch, record: ConsumerRecord, error: WireRefused
    ) -> Received | InboxControl | None:
        """A schema is on the bus before its first delivery: what is unknown is looked up once. What
        stays unreadable is noted, and None."""
        try:
            if error.reason == UNKNOWN_SCHEMA:
                missing = self._codecs.missing_schema(record.value)
                if missing is not None and await self._schemas.ensure(missing):
                    return self._codecs.decode_inbox(record.key, record.value)
        except WireRefused as again:
            error = again
        offset = first_offset(record.offset, record.value)
        part.unreadable.append(Unreadable(offset, error.reason))
        log.error(
            "inbox_record_unreadable",
            topic=self.topic,
            partition=record.partition,
            offset=offset,
            last_offset=record.offset,
            reason=error.reason,
        )
        return None

    async def ahead(self, positions: Mapping[int, Position]) -> int:
        """How many deliveries lie between what SQL says that it applied and what was committed,
        which is never ahead but where the database was restored since; 0 also where nobody can tell
        now: it decides nothing."""
        if self._committer is None:
            return 0
        try:
            committed = await self._committer.committed(self.topic, positions)
        except DeptbusError:
            return 0  # the commit that follows meets the same, and says it
        return sum(max(0, end - positions[n].next_offset) for n, end in committed.items())

    async def commit(self, positions: Mapping[int, Position]) -> bool:
        """For lag only: what is applied. False when it failed, which is logged once."""
        offsets = {n: p.next_offset for n, p in positions.items()}
        if self._committer is None or offsets == self._committed:
            return True
        try:
            await self._committer.commit(self.topic, offsets)
        except DeptbusError as error:
            if not self._commit_fails:
                log.warning("lag_not_committed", group=self._group, error=error.what)
            self._commit_fails = True
            return False
        self._committed, self._commit_fails = offsets, False
        return True

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    def _open(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("Inbox is not started")
        return self._consumer
