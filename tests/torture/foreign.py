"""A consumer from outside of the product: no committed offset is ever ahead of what was delivered.

It reads every topic from the beginning to its end, again and again, and keeps (key, version) of
what lies where. In each round it first asks for the offsets that the workers' group has committed
and only then reads on: output that comes meanwhile cannot hide a commit that is ahead. What was
checked once is not checked again, so a round costs what is new.

A record of `out.<unit>` below the committed offset must lie in the canonical topic, or be noted in
quarantine; one of `data.<dataset>` in the inbox of every unit that must have it: an upsert in those
that may have its place, a delete in those that may have every place.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from deptbus.change import Change, ChangeOp
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import QuarantineNote, decode_control

from .county import CANARY, DISTRICT, PARTITIONS, SOURCES, Rights
from .verdict import Verdict

WORKER_GROUP = "deptbus.worker"
SCHEMAS, QUARANTINE = "bus.schemas", "bus.quarantine"
ROUND_SECONDS = 0.5
END_SECONDS = 60.0  # a round that is under way is waited for
_PATIENCE = 5.0

Place = tuple[str, int]


class Seen(NamedTuple):
    """A record of an outbox or a canonical topic that has to be somewhere else."""

    offset: int
    dataset: str
    key: bytes
    version: int
    place: str | None  # of an upsert


class Foreign:
    """`start` ... `finish`, which looks once more and raises what stopped it meanwhile."""

    def __init__(
        self,
        connection: Callable[[], Connection | None],
        contract: Callable[[], Contract],
        rights: Callable[[], Rights],
        verdict: Verdict,
    ) -> None:
        """`connection` gives None while there is no bus, `contract` the newest one."""
        self._connection, self._contract, self._rights = connection, contract, rights
        self._verdict = verdict
        self.rounds = 0
        self.checked: Counter[str] = Counter()
        self.records = 0
        self.last_committed: dict[Place, int] = {}
        self.versions: dict[tuple[str, str, int], set[int]] = defaultdict(set)
        self.refused: Counter[str] = Counter()  # reasons of notes in quarantine
        self.keys_of: dict[tuple[str, str], bytes] = {}  # (dataset, no) -> the bus's key
        self.history: dict[tuple[str, bytes], list[tuple[int, int, int]]] = defaultdict(list)
        self._codecs = Codecs()
        self._learnt: Contract | None = None
        self._clients: tuple[Consumer, AdminClient, Consumer] | None = None
        self._address = ""
        self._next: dict[Place, int] = {}
        self._waiting: dict[Place, list[Seen]] = defaultdict(list)
        self._there: dict[str, set[tuple[bytes, int]]] = defaultdict(set)
        self.noted: set[tuple[str, int, int]] = set()  # places that quarantine names
        # Outbox -> some of the changes in it.
        self.samples: dict[str, deque[tuple[bytes, bytes | None]]] = defaultdict(
            lambda: deque(maxlen=20)
        )
        self._made_again: set[str] = set()
        self._undecoded: list[Any] = []
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="foreign", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        if not self._is_over():
            raise TimeoutError("the foreign consumer did not come to the end of its round")
        if self._failure is not None:
            raise self._failure
        self._look_at_last()
        self._close()

    def _look_at_last(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.look():
                    return
            except KafkaException:  # a partition has got another leader
                self._close()
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                self._verdict.add("other", "some of the bus's topics are not there at the end")
                return
            time.sleep(0.2)

    def abandon(self) -> None:
        """The world ends: whatever it met is no news any more."""
        if self._is_over():
            self._close()

    def _is_over(self) -> bool:
        """Whether its thread has ended: a client that is closed under a thread that is in it takes
        the process down."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        return self._thread is None or not self._thread.is_alive()

    def is_drained(self, since: int) -> bool:
        """Whether the workers have committed everything that was there when it had looked so many
        times: a round that was under way by then does not count."""
        return self.rounds >= since + 2 and not any(self._waiting.values())

    def _watch(self) -> None:
        while not self._stop.wait(ROUND_SECONDS):
            try:
                with self._looking:
                    try:
                        self._look()
                    except KafkaException:
                        self._close()  # the bus is away; positions are ours and stay
            except BaseException as error:  # noqa: BLE001 - raised again by finish
                self._failure = error
                return

    # -- one round --------------------------------------------------------------------------------

    @contextmanager
    def blind_to(self, topic: str) -> Iterator[None]:
        """Looks nowhere meanwhile, and begins a topic that is made again from its beginning. What
        was to be checked by then cannot be any more: the topic that it may lie in is gone."""
        with self._looking:
            yield
            for places in (self._next, self._waiting):
                for place in [p for p in places if p[0] == topic]:
                    del places[place]
            deadline = time.monotonic() + 30
            while True:
                try:
                    connection = self._connection()
                    assert connection is not None
                    consumer, admin, _ = self._open(connection)
                    self._read_on(consumer, admin)
                    break
                except KafkaException:  # the new topic has no leader yet
                    self._close()
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            self._waiting.clear()
            self._made_again.add(topic)

    def look(self) -> bool:
        """Whether all was seen and checked. Raises KafkaException while the bus is away."""
        with self._looking:
            return self._look()

    def _look(self) -> bool:
        connection = self._connection()
        if connection is None:
            return False
        consumer, admin, asker = self._open(connection)
        committed = self._committed(asker)
        is_whole = self._read_on(consumer, admin)
        if is_whole:
            for (topic, partition), offset in committed.items():
                self._check(topic, partition, offset)
        else:
            # Librdkafka remembers that a topic was not there for as long as it is asked for it: one
            # that is being made is never found by who asked a moment too early.
            self._close()
        self.last_committed = committed
        self.rounds += 1
        return is_whole

    def _open(self, connection: Connection) -> tuple[Consumer, AdminClient, Consumer]:
        if self._clients is not None and self._address == connection.bootstrap:
            return self._clients
        self._close()
        self._address = connection.bootstrap
        words = connection.librdkafka() | {"log_level": 0}
        consumer = Consumer(
            words
            | {
                "group.id": "foreign-witness",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
                "queued.max.messages.kbytes": 16384,
            }
        )
        # It never subscribes, so it is no member of the group: it only asks.
        asker = Consumer(words | {"group.id": WORKER_GROUP, "enable.auto.commit": False})
        self._clients = consumer, AdminClient(words), asker
        return self._clients

    def _close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            clients[0].close()
            clients[2].close()

    def _places(self) -> list[Place]:
        contract = self._contract()
        topics = [f"{kind}.{u.unit.replace('@', '-')}" for u in contract.units
                  for kind in ("out", "in")]  # fmt: skip
        topics += [f"data.{dataset}" for dataset in contract.datasets]
        places = [(topic, n) for topic in topics for n in range(PARTITIONS)]
        return [(SCHEMAS, 0), (QUARANTINE, 0), *sorted(set(places) | self._next.keys())]

    def _committed(self, asker: Consumer) -> dict[Place, int]:
        places = [TopicPartition(*p) for p in self._places() if p[0][:4] in ("out.", "data")]
        return {
            (tp.topic, tp.partition): tp.offset
            for tp in asker.committed(places, timeout=_PATIENCE)
            if tp.offset > 0
        }

    def _read_on(self, consumer: Consumer, admin: AdminClient) -> bool:
        """Everything up to the ends that the topics have now; False if not all ends are known (a
        topic is being made, a leader is dead): nothing can be called missing then."""
        places = list(dict.fromkeys(self._places()))
        asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}
        ends: dict[Place, int] = {}
        for tp, future in admin.list_offsets(asked, request_timeout=_PATIENCE).items():
            try:
                end = future.result().offset
            except KafkaException as error:
                if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                    raise
                continue
            if end >= 0:  # the client says -1001, and no error, where a leader did not answer
                ends[tp.topic, tp.partition] = end
        wanted = {p: end for p, end in ends.items() if end > self._next.get(p, 0)}
        if wanted:
            self._read_to(consumer, wanted)
        self._decode_again()
        return len(ends) == len(places)

    def _read_to(self, consumer: Consumer, wanted: dict[Place, int]) -> None:
        consumer.assign(
            [TopicPartition(*p, self._next.get(p, OFFSET_BEGINNING)) for p in sorted(wanted)]
        )
        deadline = time.monotonic() + 30
        while wanted:
            for message in consumer.consume(2000, timeout=0.2):
                if message.error():
                    raise KafkaException(message.error())
                self._take(message)
            # Markers of transactions and compacted records have no message of their own.
            for tp in consumer.position([TopicPartition(*p) for p in wanted]):
                place = (tp.topic, tp.partition)
                if tp.offset >= 0:
                    self._next[place] = max(self._next.get(place, 0), tp.offset)
                if self._next.get(place, 0) >= wanted[place]:
                    del wanted[place]
            if wanted and time.monotonic() > deadline:
                raise KafkaException(f"no end of {sorted(wanted)[:3]} within 30 s")

    # -- what lies where --------------------------------------------------------------------------

    def _take(self, message: Any) -> None:
        topic, key, value = message.topic(), message.key(), message.value()
        self.records += 1
        for part in (key, value):
            if part is not None and CANARY.encode() in part:
                self._verdict.add(
                    "leaked", f"{topic}/{message.partition()}/{message.offset()} has a canary"
                )
        if topic == SCHEMAS:
            if value is not None:
                self._learn(key, value)
        elif topic == QUARANTINE:
            self._take_note(value)
        else:
            self._decode(topic, message.partition(), message.offset(), key, value)

    def _learn(self, key: bytes, value: bytes) -> None:
        try:
            self._known().add_schema(int.from_bytes(key, "big"), value)
        except WireRefused:
            self.refused["schema"] += 1

    def _take_note(self, value: bytes | None) -> None:
        try:
            note = decode_control(value)
        except WireRefused:
            self.refused["note"] += 1  # somebody else's bytes
            return
        if isinstance(note, QuarantineNote):
            self.refused[note.reason] += 1
            self.noted |= {
                (note.topic, note.partition, offset)
                for offset in range(note.offset, note.last_offset + 1)
            }

    def _known(self) -> Codecs:
        contract = self._contract()
        if contract is not self._learnt:
            self._codecs.add_contract(contract)
            self._learnt = contract
        return self._codecs

    def _decode(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None
    ) -> None:
        codecs = self._known()
        try:
            found = (codecs.decode_inbox if topic.startswith("in.") else codecs.decode_out)(
                key, value
            )
        except WireRefused as error:
            if error.reason == "unknown_schema":
                self._undecoded.append((topic, partition, offset, key, value))
            elif topic.startswith("out."):
                # Foreign bytes: they have to be noted.
                self._waiting[topic, partition].append(Seen(offset, "", b"", 0, None))
            return
        version = getattr(found, "version", None)
        if version is None or key is None:
            return  # announcements, markers, requests
        if topic.startswith("in."):
            self._there[topic].add((key, version))
            return
        assert isinstance(found, Change)
        if topic == f"out.{found.source_unit.replace('@', '-')}":
            self.samples[topic].append((key, value))
        place = found.division if found.op is ChangeOp.UPSERT else None
        seen = Seen(offset, found.dataset, key, version, place)
        self._waiting[topic, partition].append(seen)
        if topic.startswith("data."):
            self._there[topic].add((key, version))
            self._note_version(found, partition, offset)

    def _note_version(self, change: Change, partition: int, offset: int) -> None:
        """How often one state was published anew: more than once, and a recipient writes it more
        than once by right."""
        self.history[change.dataset, change.key].append((partition, offset, change.version))
        if change.record is None:
            return
        codec = self._known().record_codec(change.dataset, change.schema_version)
        values = codec.decode(change.record)
        self.versions[change.dataset, values["no"], values["seq"]].add(change.version)
        self.keys_of[change.dataset, values["no"]] = change.key

    def _decode_again(self) -> None:
        waiting, self._undecoded = self._undecoded, []
        for one in waiting:
            self._decode(*one)
        self._waiting_in_order()

    def _waiting_in_order(self) -> None:
        for seen in self._waiting.values():
            seen.sort()

    # -- the verdict ------------------------------------------------------------------------------

    def _check(self, topic: str, partition: int, committed: int) -> None:
        if topic in self._made_again and committed > self._next.get((topic, partition), 0):
            return  # it counts records of the topic that is gone, and no worker goes by it
        waiting = self._waiting[topic, partition]
        count = 0
        for seen in waiting:
            if seen.offset >= committed:
                break
            count += 1
            missing = self._missing(topic, partition, seen)
            if missing:
                self._verdict.add(
                    "ahead",
                    f"{topic}/{partition} is committed up to {committed}, but offset "
                    f"{seen.offset} is not in {missing}",
                )
        del waiting[:count]
        self.checked[topic.partition(".")[0]] += count

    def _missing(self, topic: str, partition: int, seen: Seen) -> str | None:
        """The first topic in which it should be and is not."""
        if (topic, partition, seen.offset) in self.noted:
            return None
        what = (seen.key, seen.version)
        if topic.startswith("out."):
            target = f"data.{seen.dataset}"
            return None if what in self._there[target] else target
        for (unit, dataset), right in self._rights().items():
            if dataset != seen.dataset or SOURCES.get(unit) == dataset:
                continue
            due = right.covers(seen.place) if seen.place is not None else right.within == DISTRICT
            target = f"in.{unit.replace('@', '-')}"
            if due and what not in self._there[target]:
                return target
        return None

    def went_back(self, dataset: str) -> list[bytes]:
        """Keys of which a lower version lies somewhere behind a higher one."""
        found = []
        for (name, key), records in self.history.items():
            versions = [version for *_, version in sorted(records)]
            if name == dataset and any(b < a for a, b in itertools.pairwise(versions)):
                found.append(key)
        return found

    def out_of_place(self, dataset: str) -> list[bytes]:
        """Keys whose highest version is not the last of its canonical topic."""
        return [
            key
            for (name, key), found in self.history.items()
            if name == dataset and max(v for *_, v in found) != max(found)[2]
        ]
