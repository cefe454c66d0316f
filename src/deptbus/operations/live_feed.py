"""Follows what moves on the bus for the console: deliveries to every inbox, signs of life of every
recipient, what each recipient applied day by day. One consumer, idle as long as nothing comes.

Inboxes are followed from their ends on. Where more comes than `READ_AT_ONCE` records a look, a part
of it is read, of every inbox some, and the reader goes on at the end: what was passed over is known
by its number. So a look costs some ten milliseconds at the most, whatever comes. Envelopes are read
under the same guard as by a recipient; no value of a record is decoded or kept.

`control.<unit>` is read from its beginning, because what was applied on earlier days is told there
once. Contract and schemas are read along; every `TOPICS_SECONDS` it is looked whether there are
other topics, or others of the same names.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from deptbus import names
from deptbus.change import Received
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusRefused, ContractUnreadable, WireRefused
from deptbus.operations.flows import Attribution, Path
from deptbus.operations.offset_requests import EARLIEST, LATEST, Cluster
from deptbus.operations.offsets import Offsets
from deptbus.operations.parked import ParkedRecord, parked_records
from deptbus.operations.picture import Applied, Flow, Live, SavedEntries
from deptbus.operations.saved import is_day, saved_entries
from deptbus.stream.brokers import LONG_WAIT_MS, open_consumer, translate
from deptbus.stream.policies import PolicyHistory
from deptbus.stream.schemas import SCHEMA_KEY_BYTES
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import (
    AppliedBeat,
    AppliedDay,
    ParkedList,
    ParkedRetried,
    check_key,
    decode_control,
)

log = structlog.get_logger(__name__)

READ_AT_ONCE = 1_000  # deliveries of all inboxes in one look, 10 us each
INBOXES_AT_ONCE = 100  # partitions that are read from in one look
OTHERS_AT_ONCE, STEP = 20_000, 500  # records of all other topics in one look; in one step of it
BUFFER_BYTES = 32 * 1024 * 1024  # of all partitions together, at the most
_CONTROL = "control."
_PARTITION_BYTES = (4 * 1024, 64 * 1024)
TOPICS_SECONDS = 15.0
_LAST = (b"/applied", b"/parked", b"/retried")  # of each system the last one counts
_DAY = b"/day/"
_TOLD = AppliedBeat | AppliedDay | ParkedList | ParkedRetried


class BusFeed:
    """`start`, `look` again and again, `stop`; see picture.LiveFeed. Calls do not overlap."""

    def __init__(self, connection: Connection, now: Callable[[], float] = time.time) -> None:
        self._connection, self._now = connection, now
        self._consumer: AIOKafkaConsumer | None = None
        self._topic_ids: dict[str, str] = {}
        self._positions: dict[TopicPartition, int] = {}  # the first record not counted yet
        self._looked_for_topics_at = float("-inf")
        self._again: list[tuple[str, ConsumerRecord]] = []  # whose schema was not known yet
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._history = PolicyHistory()
        self._contract: Contract | None = None
        self._codecs = Codecs()
        self._schemas: dict[bytes, bytes] = {}  # that no contract explains yet
        self._attribution = Attribution()
        self._beats: dict[tuple[str, str], AppliedBeat] = {}
        self._days: dict[tuple[str, str, str], AppliedDay] = {}
        self._saved: SavedEntries | None = None  # of those days; None: to be made anew
        self._lists: dict[tuple[str, str], ParkedList] = {}
        self._parked: tuple[ParkedRecord, ...] | None = None  # of those lists; as above
        self._retried: dict[tuple[str, str], ParkedRetried] = {}
        self._to_read: dict[TopicPartition, int] = {}  # of earlier days, up to here

    async def start(self) -> None:
        """Finds the topics; what comes from here on is told by `look`."""
        await self._follow_topics()

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def look(self) -> Live:
        """What came since the last look; returns at once."""
        if self._consumer is None or self._now() - self._looked_for_topics_at > TOPICS_SECONDS:
            await self._follow_topics()
        assert self._consumer is not None
        try:
            await self._read_others(self._consumer)
            flows = await self._read_inboxes(self._consumer)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise translate(error) from error
        retried = tuple(self._retried.values())
        return Live(
            tuple(flows), self._applied(), self._saved_entries(), self._parked_records(), retried
        )

    # --- which topics there are ----------------------------------------------------------------

    async def _follow_topics(self) -> None:
        try:
            if self._consumer is None:
                self._consumer = await self._opened()
            cluster = await Offsets(self._consumer._client).cluster()
            wanted = _followed(cluster)
            ids = {topic: cluster.topics[topic].topic_id for topic, _ in wanted}
            made_again = {t for t, i in ids.items() if self._topic_ids.get(t, i) != i}
            if made_again:
                self._forget(made_again)
            self._topic_ids = ids
            if made_again or wanted != self._consumer.assignment():
                await self._assign(self._consumer, wanted, cluster)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise translate(error) from error
        self._looked_for_topics_at = self._now()

    async def _opened(self) -> AIOKafkaConsumer:
        """Its buffers are bounded by the partitions that there were when it was opened."""
        partitions = max(1, len(self._positions))
        least, most = _PARTITION_BYTES
        consumer = await open_consumer(
            self._connection,
            max_partition_fetch_bytes=min(most, max(least, BUFFER_BYTES // partitions)),
            fetch_max_bytes=BUFFER_BYTES // 8,
        )
        # It is looked at by a clock, so nothing is won by an early answer.
        consumer._fetcher._fetch_max_wait_ms = LONG_WAIT_MS
        return consumer

    def _forget(self, made_again: set[str]) -> None:
        """What the other topics told is read anew as well: which of it came from one that is gone
        nobody can tell any more."""
        log.warning("followed_topics_made_again", topics=sorted(made_again))
        for place in list(self._positions):
            if place.topic in made_again or not _is_inbox(place.topic):
                del self._positions[place]
        self._begin_anew()

    async def _assign(
        self, consumer: AIOKafkaConsumer, places: frozenset[TopicPartition], cluster: Cluster
    ) -> None:
        """What cannot be read now is left out until the next look for topics."""
        asking = Offsets(consumer._client)
        starts = await asking.offsets(places, cluster, EARLIEST)
        ends = await asking.offsets(places, cluster, LATEST)
        is_first = not self._positions
        positions: dict[TopicPartition, int] = {}
        for place in places:
            start, end = starts[place], ends[place]
            if isinstance(start, int) and isinstance(end, int):
                # An inbox that is new, because its unit is, is counted from its beginning.
                begin = end if _is_inbox(place.topic) and is_first else start
                positions[place] = min(max(self._positions.get(place, begin), start), end)
                if place.topic.startswith(_CONTROL) and positions[place] < end:
                    self._to_read[place] = end
        self._saved = None
        consumer.assign(list(positions))
        for place, position in positions.items():
            consumer.seek(place, position)
        kept = {place: at for place, at in self._positions.items() if place in places}
        self._positions = kept | positions

    # --- contract, schemas, control ------------------------------------------------------------

    async def _read_others(self, consumer: AIOKafkaConsumer) -> None:
        left = OTHERS_AT_ONCE
        told: dict[tuple[str, bytes], ConsumerRecord] = {}  # the last one of each
        while left > 0 and (ready := [p for p in _unread(consumer) if not _is_inbox(p.topic)]):
            found = await consumer.getmany(*ready, timeout_ms=0, max_records=STEP)
            for place, records in found.items():
                left -= len(records)
                self._positions[place] = records[-1].offset + 1
                if place in self._to_read and self._to_read[place] <= self._positions[place]:
                    del self._to_read[place]
                    self._saved = None
                for record in records:
                    if place.topic == names.CONTRACT:
                        self._take_contract(record.value)
                    elif place.topic == names.SCHEMAS:
                        self._take_schema(record.key or b"", record.value or b"")
                    elif record.key is not None and _is_wanted(record.key):
                        told[place.topic, record.key] = record
            await asyncio.sleep(0)
        for (topic, _), record in told.items():
            self._take_told(topic, record)

    def _take_contract(self, value: bytes | None) -> None:
        if self._history.take(value) is not None:
            return
        try:
            self._contract = self._history.current().contract
            self._codecs.add_contract(self._contract)
        except ContractUnreadable:
            return  # nothing is delivered under it either
        except WireRefused as error:
            log.error("contract_schemas_refused", reason=error.reason)
        assert self._contract is not None
        self._parked = None  # units and their owners are the contract's
        self._attribution.forget_others(self._contract.unit_by_name)
        schemas, self._schemas = self._schemas, {}
        for key, text in schemas.items():
            self._take_schema(key, text)

    def _take_schema(self, key: bytes, text: bytes) -> None:
        """One that belongs to a contract that is still to be read is tried again behind it."""
        if len(key) == SCHEMA_KEY_BYTES:
            try:
                self._codecs.add_schema(int.from_bytes(key, "big"), text)
            except WireRefused:
                self._schemas[key] = text

    def _take_told(self, topic: str, record: ConsumerRecord) -> None:
        try:
            told = decode_control(record.value)
            check_key(record.key, told)
        except WireRefused as error:
            log.warning("control_record_refused", topic=topic, reason=error.reason)
            return
        if not isinstance(told, _TOLD) or topic != names.control_topic(told.unit):
            return
        if isinstance(told, AppliedBeat):
            self._beats[told.unit, told.system] = told
        elif isinstance(told, ParkedList):
            self._lists[told.unit, told.system] = told
            self._parked = None
        elif isinstance(told, ParkedRetried):
            self._retried[told.unit, told.system] = told
        elif is_day(told.day):
            self._days[told.unit, told.system, told.day] = told
            self._saved = None

    def _applied(self) -> dict[str, Applied]:
        """By unit: the last apply of any of its systems, the rows parked in all of them."""
        by_unit: dict[str, list[AppliedBeat]] = defaultdict(list)
        for (unit, _), beat in self._beats.items():
            if self._contract is None or unit in self._contract.unit_by_name:
                by_unit[unit].append(beat)
        return {unit: _applied_of(beats) for unit, beats in by_unit.items()}

    def _parked_records(self) -> tuple[ParkedRecord, ...]:
        if self._parked is None and self._contract is not None:
            self._parked = tuple(parked_records(self._contract, self._lists.values()))
        return self._parked or ()

    def _saved_entries(self) -> SavedEntries:
        if self._saved is None:
            self._saved = saved_entries(self._days.values(), is_whole=not self._to_read)
        return self._saved

    # --- deliveries ----------------------------------------------------------------------------

    async def _read_inboxes(self, consumer: AIOKafkaConsumer) -> list[Flow]:
        ready = [place for place in _unread(consumer) if _is_inbox(place.topic)]
        random.shuffle(ready)
        share = max(1, READ_AT_ONCE // min(len(ready), INBOXES_AT_ONCE)) if ready else 0
        came: dict[str, int] = defaultdict(int)
        read: dict[str, list[Path | None]] = defaultdict(list)
        again, self._again = self._again, []
        for unit, record in again:
            came[unit] += 1
            read[unit].append(self._path(record))
        for number, place in enumerate(ready):
            unit = names.unit_of_topic(place.topic)
            if number < INBOXES_AT_ONCE:
                found = await consumer.getmany(place, timeout_ms=0, max_records=share)
                for record in found.get(place, ()):
                    if self._is_unknown(record) and len(self._again) < READ_AT_ONCE:
                        self._again.append((unit, record))
                        came[unit] -= 1
                    else:
                        read[unit].append(self._path(record))
            came[unit] += await self._pass_over(consumer, place)
        flows = []
        for unit, records in came.items():
            if records > 0:
                flows += self._attribution.flows(unit, records, read[unit], self._now())
        return flows

    async def _pass_over(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> int:
        """Goes on at the end that the last fetch told; how many records came since the last look,
        those that were read included."""
        position, end = await consumer.position(place), consumer.last_stable_offset(place)
        if end is not None and end > position:
            consumer.seek(place, end)
            position = end
        came = position - self._positions[place]
        self._positions[place] = position
        return max(0, came)

    def _is_unknown(self, record: ConsumerRecord) -> bool:
        """Its schema was on the bus before it, and is here with the next look."""
        try:
            return self._codecs.missing_schema(record.value) is not None
        except WireRefused:
            return False

    def _path(self, record: ConsumerRecord) -> Path | None:
        try:
            received = self._codecs.decode_inbox(record.key, record.value)
        except WireRefused:
            return None  # the recipient's adapter tells of it
        contract = self._contract
        if not isinstance(received, Received) or contract is None:
            return None
        if received.source_unit not in contract.unit_by_name:
            return None
        return Path(received.source_unit, received.dataset, received.direction.value)


def _unread(consumer: AIOKafkaConsumer) -> list[TopicPartition]:
    """Partitions of which something was fetched. Reaches into the client, whose version is
    pinned."""
    return list(consumer._fetcher._records)


def _is_wanted(key: bytes) -> bool:
    return key.endswith(_LAST) or _DAY in key


def _is_inbox(topic: str) -> bool:
    return topic.startswith("in.")


def _followed(cluster: Cluster) -> frozenset[TopicPartition]:
    """Raises BusRefused where this client may not see what is in force."""
    wanted = (names.CONTRACT, names.SCHEMAS)
    for topic in wanted:
        if topic not in cluster.topics:
            raise BusRefused(
                f"topic {topic} is unknown to the bus, or this client has no right to it",
                mend="Is this the bus of a deptbus? `deptbus topics apply` makes its topics",
            )
    return frozenset(
        TopicPartition(topic, partition)
        for topic, told in cluster.topics.items()
        if topic in wanted or topic.startswith(("in.", _CONTROL))
        for partition in range(len(told.leaders))
    )


def _applied_of(beats: list[AppliedBeat]) -> Applied:
    times = [beat.applied_at_us for beat in beats if beat.applied_at_us is not None]
    told = [beat.parked for beat in beats if beat.parked is not None]
    return Applied(
        max(times) / 1e6 if times else None,
        sum(told) if len(told) == len(beats) else None,
    )
