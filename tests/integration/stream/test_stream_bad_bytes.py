"""Hostile bytes written to every kind of topic by foreign producers: nothing crashes, hangs or
misleads; what cannot be accepted is noted by its place; what is good arrives."""

from __future__ import annotations

import asyncio
import json
import time

import foreign_producer as foreign
import hostile_bytes as hostile
import pytest
import stream_town as town
from stream_crew import Crew, committed, learn_schemas, versions_in

from deptbus.connection import Connection
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
from deptbus.stream.log import Sender, end_offsets, read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import QuarantineNote, control_schemas, decode_control

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

OUT, DATA = out_topic(town.POLICE), data_topic("resident")
COMPACTED = (DATA, control_topic(town.POLICE), SCHEMAS, QUARANTINE, AGENTS, JOBS)
EVERY_TOPIC = (OUT, in_topic(town.HOUSING), CONTRACT, *COMPACTED)
PARTITION = 1


def heads(source: town.Source) -> dict[str, bytes]:
    change = source.codecs.encode_change(source.change("a", 1))[:5]
    schema, _ = source.codecs.delivery_schema_for("resident", 1, ("id", "name", "division"))
    return {"change": change, "delivery": b"\x00" + schema.to_bytes(4, "big")}


async def write_hostile(bus: Connection, topic: str, source: town.Source) -> None:
    """All of it into one partition."""
    partition = PARTITION if topic in (OUT, DATA, in_topic(town.HOUSING)) else 0
    pairs = [*hostile.golden_pairs(heads(source)), *hostile.odd_pairs()]
    if topic == SCHEMAS:
        for text in control_schemas().values():
            pairs += hostile.tampered_schemas(json.loads(text))
    if topic not in COMPACTED:
        pairs += [(None, None), (None, b"x")]
    await asyncio.to_thread(
        foreign.write, bus, topic, pairs, partition, **{"compression_type": "gzip"}
    )
    for batch in hostile.odd_batches():
        await foreign.write_batch(bus, topic, partition, batch)  # some are refused by the broker


async def notes_by_place(bus: Connection) -> dict[tuple[str, int, int], str]:
    found = {}
    for record in await read_to_end(bus, QUARANTINE):
        try:
            note = decode_control(record.value)
        except WireRefused:  # what this test itself wrote there
            continue
        if isinstance(note, QuarantineNote):
            for offset in range(note.offset, note.last_offset + 1):
                found[note.topic, note.partition, offset] = note.reason
    return found


async def wait_committed(bus: Connection, topic: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        ends = await end_offsets(bus, topic)
        offsets = await asyncio.to_thread(committed, bus, topic)
        if all(offsets[p] >= end for p, end in enumerate(ends)):
            return
        assert time.monotonic() < deadline, f"{topic} is not committed: {offsets} of {ends}"
        await asyncio.sleep(0.1)


async def test_hostile_bytes_in_every_kind_of_topic(bus: Connection, crew: Crew) -> None:
    await town.open_town(bus)
    source = town.Source()
    good = [source.change(f"g{n}", 1) for n in range(60)]
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(good[:20]))
        for topic in EVERY_TOPIC:
            await write_hostile(bus, topic, source)
        await sender.send(source.outgoing(good[20:40]))
        worker = await asyncio.to_thread(crew.start().wait_ready)
        for topic in EVERY_TOPIC:
            await write_hostile(bus, topic, source)
        await sender.send(source.outgoing(good[40:]))
        await wait_committed(bus, OUT)
        await wait_committed(bus, DATA)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log
    arrived = await versions_in_lenient(bus, source.codecs)
    written_here = {key for key, _ in hostile.golden_pairs(heads(source))}  # into the inbox itself
    assert arrived - written_here == {change.key for change in good}
    noted = await notes_by_place(bus)
    for topic in (OUT, DATA):
        accepted = {change.key for change in good}
        for record in await read_to_end(bus, topic):
            place = (topic, record.partition, record.offset)
            is_good = record.key in accepted or (
                record.key is None and is_announcement(record.value)
            )
            assert is_good != (place in noted), (place, noted.get(place))
    assert worker.stop() == 0


def is_announcement(value: bytes | None) -> bool:
    try:
        return type(decode_control(value)).__name__ == "Announcement"
    except WireRefused:
        return False


async def versions_in_lenient(bus: Connection, codecs: Codecs) -> set[bytes]:
    """Keys of the deliveries to housing that can be read."""
    await learn_schemas(bus, codecs)
    found = set()
    for record in await read_to_end(bus, in_topic(town.HOUSING)):
        try:
            found.add(codecs.decode_inbox(record.key, record.value).key)
        except WireRefused:  # what this test itself wrote there
            continue
    return found


@pytest.mark.parametrize("codec", sorted(hostile.BOMB_BYTES))
async def test_a_bomb_is_noted_and_its_neighbours_arrive(
    bus: Connection, crew: Crew, codec: str
) -> None:
    await town.open_town(bus)
    source = town.Source()
    before, behind = source.change("before", 1), source.change("behind", 1)
    place = source.outgoing([before])[0].partition
    behind = next(
        c
        for n in range(100)
        if source.outgoing([c := source.change(f"behind{n}", 1)])[0].partition == place
    )
    assert place is not None
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing([before]))
        bomb = await asyncio.to_thread(hostile.bomb, codec)
        first = {}
        for topic in (OUT, DATA):
            first[topic], error = await foreign.write_batch(bus, topic, place, bomb)
            assert error is None
        await sender.send(source.outgoing([behind]))
        worker = await asyncio.to_thread(crew.start().wait_ready)
        await wait_committed(bus, OUT)
        await wait_committed(bus, DATA)
    noted = await notes_by_place(bus)
    assert noted == {
        (topic, place, first[topic] + n): "inflates_too_far"
        for topic in (OUT, DATA)
        for n in range(hostile.OFFSETS_OF_A_BOMB)
    }
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert versions.keys() == {before.key, behind.key}
    assert worker.stop() == 0


async def test_what_a_transaction_aborted_is_no_change(bus: Connection, crew: Crew) -> None:
    await town.open_town(bus)
    source = town.Source()
    kept, dropped, last = (source.outgoing([source.change(n, 1)])[0] for n in ("k", "d", "l"))
    async with Sender(bus) as sender:
        await source.announce(sender)
        for topic in (OUT, DATA):
            await asyncio.to_thread(
                foreign.write_aborted, bus, topic, [(dropped.key, dropped.value)], dropped.partition
            )
        await asyncio.to_thread(
            foreign.write_committed, bus, OUT, [(kept.key, kept.value)], kept.partition
        )
        worker = await asyncio.to_thread(crew.start().wait_ready)
        await sender.send([last])
        deadline = time.monotonic() + 30
        while sum(await end_offsets(bus, in_topic(town.HOUSING))) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert versions.keys() == {kept.key, last.key}
    assert await notes_by_place(bus) == {}
    assert worker.stop() == 0


async def test_a_foreign_partitioner_is_noted(bus: Connection, crew: Crew) -> None:
    """librdkafka's own default puts keys elsewhere: order per key would be lost."""
    await town.open_town(bus)
    source = town.Source()
    records = source.outgoing([source.change(f"k{n}", 1) for n in range(40)])
    async with Sender(bus) as sender:
        await source.announce(sender)
    places = await asyncio.to_thread(
        foreign.write, bus, OUT, [(r.key, r.value) for r in records], None
    )
    right = {r.key for r, (p, _) in zip(records, places, strict=True) if p == r.partition}
    assert 0 < len(right) < len(records)
    crew.start()
    await wait_committed(bus, OUT)
    await wait_committed(bus, DATA)
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert versions.keys() == right
    noted = await notes_by_place(bus)
    assert set(noted.values()) == {"wrong_partition"}
    assert len(noted) == len(records) - len(right)
