"""Foreign producers write straight to every kind of topic, before and while the bus works.

All golden hostile inputs, tombstones, odd keys, headers and times; record batches that unpack to
far more than they weigh, in each codec; schemas under wrong ids; a foreign partitioner; a
transaction that is aborted. Whoever reads goes on; what lies in an outbox or canonical topic is
noted by its place, what lies in an inbox in the recipient's own tables; what the clerks write
arrives.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deptbus.errors import WireRefused
from deptbus.names import (
    AGENTS,
    CONTRACT,
    JOBS,
    QUARANTINE,
    SCHEMAS,
    control_topic,
    data_topic,
    in_topic,
    out_topic,
)
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import control_schemas
from deptbus.wire.partitioner import partition_of

from .county import AUDIT, OPEN, PARTITIONS, REGISTRY
from .scenario import Bug, Scenario
from .verdict import Verdict
from .witness import settled
from .world import World

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

import foreign_producer as foreign
import hostile_bytes as hostile

OUT, DATA, INBOX = out_topic(REGISTRY), data_topic("account"), in_topic(AUDIT)
COMPACTED = (DATA, control_topic(REGISTRY), SCHEMAS, QUARANTINE, AGENTS, JOBS)
EVERY_TOPIC = (OUT, INBOX, CONTRACT, *COMPACTED)
NOTED = (OUT, DATA)
BOMB_BYTES = 40 << 20  # beyond the bound; the foreign consumer unpacks it whole
NOTE_SECONDS = 40.0

Place = tuple[str, int, int]


def run(world: World, seed: int, short: bool) -> Verdict:
    world.begin()
    world.watch()
    partition = seed % PARTITIONS
    written = write_hostile(world, partition)
    world.did(f"{len(written)} hostile records in outbox and canonical topic, and in all others")
    try:
        world.start_default()
    except RuntimeError:
        for child in world.children.values():
            world.verdict.check(child.is_alive, f"{child.name} did not start: {child.code}")
        return world.verdict
    world.write_on(per_second=60)
    for _ in range(1 if short else 10):
        written |= write_hostile(world, partition)
        written |= write_bombs(world, partition)
        written |= write_astray(world)
        write_aborted(world, partition)
    world.did("once more under load, with bombs, wrong partitions and an aborted transaction")
    world.write_until(300 if short else 6_000)
    missing = set(written)

    def all_noted() -> bool:
        missing.difference_update(world.foreign.noted)
        return not missing

    seconds = NOTE_SECONDS if world.bug is None else 10.0
    try:
        settled(all_noted, seconds, "what was written is noted")
    except TimeoutError:
        topic, at, offset = min(missing)
        world.verdict.add("other", f"not noted: {topic}/{at}/{offset} and others", len(missing))
    check_processes(world)
    check_inbox(world)
    world.verdict.counted["hostile"] = len(written)
    return world.conclude()


def check_processes(world: World) -> None:
    """Nobody died, and nobody met what it did not expect."""
    for child in world.children.values():
        world.verdict.check(child.is_alive, f"{child.name} ended with {child.code}")
        world.verdict.check("Traceback" not in child.log, f"{child.name} met an error of ours")


def check_inbox(world: World) -> None:
    desk = world.county.desk(AUDIT, read_only=True)
    try:
        ((count,),) = desk.rows("SELECT count(*) FROM deptbus_unreadable")
    finally:
        desk.close()
    world.verdict.check(count > 0, "the recipient noted nothing of what lay in its inbox")


# -- what is written ------------------------------------------------------------------------------


def write_hostile(world: World, partition: int) -> set[Place]:
    """To every kind of topic; places of what has to be noted."""
    return asyncio.run(_write_hostile(world, partition))


async def _write_hostile(world: World, partition: int) -> set[Place]:
    codecs = Codecs(world.contract)
    found: set[Place] = set()
    async with foreign.RawProducer(world.connection) as producer:
        for topic in EVERY_TOPIC:
            at = partition if topic in (OUT, DATA, INBOX) else 0
            pairs = list(_pairs(topic, codecs))
            places = foreign.write(world.connection, topic, pairs, at, compression_type="gzip")
            found |= {(topic, p, offset) for p, offset in places if topic in NOTED}
            for batch in hostile.odd_batches():
                offset, refused = await producer.write(topic, at, batch)
                if refused is None and topic in NOTED:
                    found.add((topic, at, offset))
    return found


def _pairs(topic: str, codecs: Codecs) -> Iterable[foreign.Pair]:
    for key, value in [*hostile.golden_pairs(_heads(codecs)), *hostile.odd_pairs()]:
        if topic != INBOX or _is_refused(codecs, key, value):
            yield key, value
    if topic == SCHEMAS:
        for text in (*control_schemas().values(), *codecs.schemas().values()):
            yield from hostile.tampered_schemas(json.loads(text))
    if topic not in COMPACTED:
        yield from [(None, None), (None, b"x")]


def _heads(codecs: Codecs) -> dict[str, bytes]:
    """Frames of the schemas of changes and deliveries of accounts."""
    delivery, _ = codecs.delivery_schema_for("account", 1, OPEN)
    change = next(
        number
        for number, text in codecs.schemas().items()
        if (words := json.loads(text)["deptbus"])["kind"] == "change"
        and words["dataset"] == "account"
    )
    return {
        "change": b"\x00" + change.to_bytes(4, "big"),
        "delivery": b"\x00" + delivery.to_bytes(4, "big"),
    }


def _is_refused(codecs: Codecs, key: bytes | None, value: bytes | None) -> bool:
    """Whether an inbox refuses it: whoever may write there may also forge what is valid."""
    try:
        codecs.decode_inbox(key, value)
    except WireRefused:
        return True
    return False


def write_bombs(world: World, partition: int) -> set[Place]:
    return asyncio.run(_write_bombs(world, partition))


async def _write_bombs(world: World, partition: int) -> set[Place]:
    found: set[Place] = set()
    async with foreign.RawProducer(world.connection) as producer:
        for codec in hostile.BOMB_BYTES:
            bomb = hostile.bomb(codec, BOMB_BYTES)
            for topic in (OUT, DATA, INBOX):
                first, refused = await producer.write(topic, partition, bomb)
                world.verdict.check(refused is None, f"the broker refused the {codec} bomb")
                if topic in NOTED:
                    offsets = range(first, first + hostile.OFFSETS_OF_A_BOMB)
                    found |= {(topic, partition, offset) for offset in offsets}
    return found


def write_astray(world: World) -> set[Place]:
    """Real changes of the outbox once more, where librdkafka's own partitioner puts them."""
    settled(lambda: len(world.foreign.samples[OUT]) > 10, 30, "changes came to be copied")
    taken = list(world.foreign.samples[OUT])
    places = foreign.write(world.connection, OUT, taken, None)
    return {
        (OUT, partition, offset)
        for (key, _), (partition, offset) in zip(taken, places, strict=True)
        if partition_of(key, PARTITIONS) != partition
    }


def write_aborted(world: World, partition: int) -> None:
    pairs = [(hostile.KEY, b"never committed")]
    for topic in (OUT, DATA):
        foreign.write_aborted(world.connection, topic, pairs, partition)


# -- planted --------------------------------------------------------------------------------------


def client_unpacks() -> None:
    """Record batches are left to the client, which raises at some of them for ever."""
    from deptbus.stream import unpack

    unpack.install = lambda: None


def skips_batches() -> None:
    """What cannot be unpacked is passed over without a word."""
    from deptbus.stream.unpack import BoundedRecords

    def skip(self: Any, reason: str) -> Any:
        self.next_fetch_offset = self._batches.last.next_offset
        self._records_iterator = self._unpack_records()
        return next(self)

    BoundedRecords._refuse = skip  # type: ignore[method-assign]


BUGS = {
    "skips_batches": Bug(
        "what cannot be unpacked is passed over without a word",
        ("other",),
        {"worker": ["bad_bytes:skips_batches"]},
    ),
    "client_unpacks": Bug(
        "record batches are unpacked by the client, which raises at some of them for ever",
        ("lost", "other"),
        {"worker": ["bad_bytes:client_unpacks"]},
    ),
}

SCENARIO = Scenario("bad_bytes", "foreign producers write what they like, everywhere", run, BUGS)
