"""Record batches that hold more than they should, or cannot be taken apart: read as one refused
record each, at a bounded cost, and what lies around them is read."""

from __future__ import annotations

import threading
import time
import tracemalloc

import cramjam
import foreign_batches as foreign
import psutil
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord, TopicPartition

from deptbus.stream import unpack
from deptbus.wire.guard import (
    INFLATES_TOO_FAR,
    OUT_OF_MEMORY,
    UNREADABLE_BATCH,
    RefusedBatch,
    first_offset,
)

TP = TopicPartition("out.x", 3)
GOOD = foreign.record(0, b"k", b"v")
BOMB_BYTES = 256 * 1024 * 1024


@pytest.fixture(autouse=True)
def _bounded() -> None:
    unpack.install()


@pytest.fixture(scope="module")
def zeros() -> bytes:
    return foreign.record(0, b"k", bytes(BOMB_BYTES))


def read(*batches: bytes, offset: int = 0) -> list[ConsumerRecord]:
    records = MemoryRecords(b"".join(batches))
    return list(fetcher.PartitionRecords(TP, records, [], offset, None, None, True, 1))


def between(bad: bytes, count: int = 1) -> list[ConsumerRecord]:
    """The records of a good batch, a bad one of `count` offsets and a good one."""
    return read(
        foreign.batch(GOOD, 1, base=0), bad, foreign.batch(GOOD, 1, base=1 + count), offset=0
    )


def refused(found: list[ConsumerRecord]) -> tuple[int, int, str]:
    """First and last offset and reason of the one refused record among three."""
    before, bad, behind = found
    assert before.value == behind.value == b"v"
    assert behind.offset == bad.offset + 1
    assert isinstance(bad.value, RefusedBatch)
    return first_offset(bad.offset, bad.value), bad.offset, bad.value.reason


@pytest.mark.parametrize("codec", [foreign.GZIP, foreign.SNAPPY, foreign.LZ4, foreign.ZSTD])
def test_a_bomb_costs_no_more_than_the_bound(zeros: bytes, codec: int) -> None:
    bomb = foreign.batch(zeros, 1, codec=codec, base=1)
    unpack._scratch()
    tracemalloc.start()
    begun = time.process_time()
    try:
        found = between(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused(found) == (1, 1, INFLATES_TOO_FAR)
    assert peak < 3 * len(bomb) + 1024 * 1024
    assert time.process_time() - begun < 1.0


def test_a_java_snappy_bomb_is_refused_too() -> None:
    block = bytes(cramjam.snappy.compress_raw(bytes(8 * 1024 * 1024)))
    packed = b"\x82SNAPPY\x00" + bytes(8) + (len(block).to_bytes(4, "big") + block) * 5
    bomb = foreign.batch(b"", 1, codec=foreign.SNAPPY, base=1, packed=packed)
    assert refused(between(bomb)) == (1, 1, INFLATES_TOO_FAR)


@pytest.mark.parametrize("codec", list(foreign.COMPRESS))
def test_honest_batches_come_as_they_are(codec: int) -> None:
    payload = b"".join(foreign.record(n, b"k%d" % n, b"v" * 100) for n in range(1000))
    found = read(foreign.batch(payload, 1000, codec=codec, base=5), offset=7)
    assert [r.offset for r in found] == list(range(7, 1005))
    assert {r.value for r in found} == {b"v" * 100}


def test_readers_of_logs_have_records_of_their_own_and_refused_ones_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpack, "RECORDS_IN_BATCH", 10)
    good = foreign.batch(foreign.record(0, b"k", b"v") + foreign.record(1, None, None), 2, base=0)
    payload = b"".join(foreign.record(n, None, None) for n in range(11))
    records = MemoryRecords(good + foreign.batch(payload, 11, codec=foreign.ZSTD, base=2))
    first, second, bad = fetcher.PartitionRecords(
        TP, records, [], 0, unpack.as_logged, None, True, 1
    )
    assert first == unpack.LogRecord(TP.topic, TP.partition, 0, first.timestamp_ms, b"k", b"v")
    assert second[2:] == (1, first.timestamp_ms, None, None)
    assert isinstance(bad, unpack.LogRecord)
    assert (first_offset(bad.offset, bad.value), bad.offset) == (2, 12)
    monkeypatch.setitem(unpack.condemned, TP, (0, 0))
    again = fetcher.PartitionRecords(
        TP, MemoryRecords(good), [], 0, unpack.as_logged, None, True, 1
    )
    assert [isinstance(r.value, RefusedBatch) for r in again] == [True, False]


def test_a_java_snappy_batch_comes_as_it_is() -> None:
    blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in (GOOD[:3], GOOD[3:])]
    packed = b"\x82SNAPPY\x00" + bytes(8)
    packed += b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    found = read(foreign.batch(b"", 1, codec=foreign.SNAPPY, packed=packed))
    assert [r.value for r in found] == [b"v"]


def test_a_batch_of_too_many_records_is_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "RECORDS_IN_BATCH", 10)
    payload = b"".join(foreign.record(n, None, None) for n in range(11))
    bad = foreign.batch(payload, 11, codec=foreign.ZSTD, base=1)
    assert refused(between(bad, 11)) == (1, 11, INFLATES_TOO_FAR)


@pytest.mark.parametrize("codec", [foreign.GZIP, foreign.SNAPPY, foreign.LZ4, foreign.ZSTD])
@pytest.mark.parametrize("packed", [b"", b"garbage" * 9, None])
def test_what_is_no_compressed_data_is_refused(codec: int, packed: bytes | None) -> None:
    body = foreign.COMPRESS[codec](GOOD * 20)[:-4] if packed is None else packed
    bad = foreign.batch(b"", 3, codec=codec, base=1, packed=body)
    assert refused(between(bad, 3)) == (1, 3, UNREADABLE_BATCH)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 40,
        GOOD[:-1],
        foreign.record(0, b"k", b"v", headers=[(b"\xff\xfe", b"x")]),
        foreign.varint(2_000_000) + GOOD,
    ],
    ids=["ones", "cut", "header_not_utf8", "length"],
)
def test_records_that_are_cut_wrongly_are_refused(payload: bytes) -> None:
    assert refused(between(foreign.batch(payload, 1, base=1))) == (1, 1, UNREADABLE_BATCH)


def test_what_lies_behind_the_last_record_is_left_out() -> None:
    found = between(foreign.batch(GOOD + b"\x00", 1, base=1))
    assert [(r.offset, r.value) for r in found] == [(n, b"v") for n in range(3)]


def test_records_before_the_wrong_one_come() -> None:
    payload = GOOD + foreign.record(1, b"k", b"v") + b"\xff" * 9
    found = read(foreign.batch(payload, 5, base=0), foreign.batch(GOOD, 1, base=5))
    assert [r.offset for r in found] == [0, 1, 4, 5]
    assert first_offset(found[2].offset, found[2].value) == 2


def test_a_damaged_log_is_told_and_not_skipped() -> None:
    bad = bytearray(foreign.batch(GOOD, 1, base=1))
    bad[-1] ^= 1
    with pytest.raises(CorruptRecordException, match=r"out\.x/3/1"):
        between(bytes(bad))


def test_memory_that_runs_out_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory() -> bytearray:
        raise MemoryError

    monkeypatch.setattr(unpack, "_scratch", no_memory)
    with pytest.raises(unpack.OutOfMemory) as told:
        between(foreign.batch(GOOD * 3, 3, codec=foreign.ZSTD, base=1), 3)
    assert (told.value.topic, told.value.partition) == TP
    assert (told.value.first, told.value.last) == (1, 3)


def test_what_is_kept_to_unpack_into_costs_what_was_unpacked() -> None:
    """A worker with 32 MiB full of zeros is a third larger than it need be."""
    before = psutil.Process().memory_info().rss

    def unpack_one() -> None:  # in a thread of its own, which has no room yet
        batch = foreign.batch(GOOD, 1, codec=foreign.ZSTD, base=1)
        taken.append((len(between(batch)), psutil.Process().memory_info().rss - before))

    taken: list[tuple[int, int]] = []
    thread = threading.Thread(target=unpack_one)
    thread.start()
    thread.join()
    ((records, more),) = taken
    assert records > 0
    assert more < unpack.INFLATED_BYTES // 2


def test_a_condemned_batch_is_not_touched(monkeypatch: pytest.MonkeyPatch, zeros: bytes) -> None:
    monkeypatch.setattr(unpack, "condemned", {TP: (1, 1)})
    bomb = foreign.batch(zeros, 1, codec=foreign.ZSTD, base=1)
    assert refused(between(bomb)) == (1, 1, OUT_OF_MEMORY)


def test_planted_the_clients_own_codecs_inflate_without_bound(zeros: bytes) -> None:
    """What the first test would see without the bound."""
    from aiokafka.codec import zstd_decode

    assert len(zstd_decode(foreign.COMPRESS[foreign.ZSTD](zeros))) > BOMB_BYTES
