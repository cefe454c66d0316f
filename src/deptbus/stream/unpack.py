"""Unpacks fetched record batches under a bound: one that cannot be had becomes one refused record.

The client inflates whatever a batch holds, and 16 KB of zstd hold 512 MiB; a batch that it cannot
take apart it raises for on every fetch, for ever. Here such a batch is read as one record, at its
last offset, whose value is a RefusedBatch: every decoder refuses it, so it is noted like any other
record that cannot be accepted, and reading goes on behind it. What it costs is bounded by
INFLATED_BYTES a thread, whatever it says of itself.

Reaches into the client, whose version is pinned; the codecs are its own (cramjam).
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import cramjam
import structlog
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import ConsumerRecord, TopicPartition

from deptbus.wire.guard import INFLATES_TOO_FAR, OUT_OF_MEMORY, UNREADABLE_BATCH, RefusedBatch

log = structlog.get_logger(__name__)

# A batch arrives compressed in at most max.message.bytes (1 MiB). Ours are 2 MiB at the most before
# compression; a foreign producer's may be larger, but no honest records compress 32 to 1.
INFLATED_BYTES = 32 * 1024 * 1024
# The other bomb: each record of seven bytes would be noted for itself.
RECORDS_IN_BATCH = 128 * 1024


class LogRecord(NamedTuple):
    """A record as readers of logs have it; made at once, instead of the client's own, which costs
    more than all that is done with it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def as_logged(key: bytes | None) -> bytes | None:
    """Given to a consumer as the deserializer of its keys: it gets every record as LogRecord."""
    return key


# Offsets (first, last) of a partition that this process must not touch again: see memory.py.
condemned: dict[TopicPartition, tuple[int, int]] = {}

_XERIAL_HEADER = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_BLOCK = struct.Struct(">i")

_local = threading.local()


class _Refused(Exception):
    """A batch that is not read further, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Condemned(Exception):
    """A batch that lies within what is condemned."""


class OutOfMemory(MemoryError):
    """Memory ran out over the records `first` to `last` of one partition."""

    def __init__(self, topic: str, partition: int, first: int, last: int) -> None:
        super().__init__(f"over {topic}/{partition}/{first}-{last}")
        self.topic, self.partition, self.first, self.last = topic, partition, first, last


def install() -> None:
    """From now on all consumers of this process unpack under the bound. May be called again."""
    for name in (
        "aiokafka.record._crecords.default_records",
        "aiokafka.record._crecords.legacy_records",
        "aiokafka.record.default_records",
        "aiokafka.record.legacy_records",
    ):
        module = import_module(name)
        for codec, inflate in _INFLATE.items():
            if hasattr(module, codec):
                setattr(module, codec, inflate)
    fetcher.PartitionRecords = BoundedRecords


class BoundedRecords(fetcher.PartitionRecords):
    """The records of one fetch from one partition. Raises CorruptRecordException when the broker's
    own log is damaged (nobody can write such bytes), OutOfMemory."""

    next_fetch_offset: int
    _records_iterator: Any

    def __init__(self, tp: TopicPartition, records: Any, *words: Any) -> None:
        # ..., aborted_transactions, fetch_offset, two deserializers, check_crcs, isolation_level
        self._batches = _Batches(tp, records)
        *before, _check_crcs, isolation_level = words
        self._is_logged = as_logged in before
        super().__init__(tp, self._batches, *before, False, isolation_level)

    def __next__(self) -> Any:
        try:
            record = next(self._records_iterator)
        except StopIteration:
            self._records_iterator = None  # it refers to us
            raise
        except _Condemned:
            return self._refuse(OUT_OF_MEMORY)
        except _Refused as error:
            reason = error.reason
        except _Damaged as error:
            raise CorruptRecordException(str(error)) from None
        except (CorruptRecordException, UnicodeDecodeError):
            # Whole on its way, cut wrongly by whoever wrote it; or a header's name is no UTF-8,
            # which the broker takes and the client does not.
            reason = UNREADABLE_BATCH
        except MemoryError:
            reason = OUT_OF_MEMORY
        else:
            return self._spare(record) if condemned else record
        if reason == OUT_OF_MEMORY:  # here, where the error holds on to nothing
            batch, (topic, partition) = self._batches.last, self._tp
            first = max(batch.base_offset, self.next_fetch_offset)
            raise OutOfMemory(topic, partition, first, batch.next_offset - 1)
        return self._refuse(reason)

    def _consumer_record(self, tp: TopicPartition, record: Any) -> Any:
        if self._is_logged:
            return LogRecord(
                tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value
            )
        return super()._consumer_record(tp, record)

    def _spare(self, record: Any) -> Any:
        """The record, or one without its content when its offset is condemned."""
        spared = condemned.get(self._tp)
        if spared is None or not spared[0] <= record.offset <= spared[1]:
            return record
        value = RefusedBatch.of(OUT_OF_MEMORY, record.offset)
        if isinstance(record, LogRecord):
            return record._replace(key=None, value=value)
        return replace(record, key=None, value=value, serialized_value_size=0)

    def _refuse(self, reason: str) -> Any:
        """The record that stands for the rest of the batch; the next one is behind it."""
        batch = self._batches.last
        first, last = max(batch.base_offset, self.next_fetch_offset), batch.next_offset - 1
        topic, partition = self._tp
        log.error(
            "record_batch_refused",
            topic=topic,
            partition=partition,
            offset=first,
            last_offset=last,
            reason=reason,
        )
        self.next_fetch_offset = last + 1
        self._records_iterator = self._unpack_records()  # goes on with the next batch
        if first > last:
            return next(self)  # all its records were read: what is wrong lies behind them
        value = RefusedBatch.of(reason, first)
        if self._is_logged:
            return LogRecord(topic, partition, last, 0, None, value)
        return ConsumerRecord(topic, partition, last, 0, 0, None, value, None, -1, 0, ())


class _Damaged(Exception):
    """A batch whose check sum is wrong."""


class _Batches:
    """A fetch's batches one by one, and the one that was given last."""

    def __init__(self, tp: TopicPartition, records: Any) -> None:
        self._tp = tp
        self._records = records
        self.last: Any = None
        self.has_next: Callable[[], bool] = records.has_next

    def next_batch(self) -> Any:
        batch = self.last = self._records.next_batch()
        first, end = batch.base_offset, batch.next_offset
        if not batch.validate_crc():
            raise _Damaged(f"{self._tp.topic}/{self._tp.partition}/{first}")
        if end - first > RECORDS_IN_BATCH:
            raise _Refused(INFLATES_TOO_FAR)
        spared = condemned.get(self._tp)
        if spared is not None and spared[0] <= first and end - 1 <= spared[1]:
            raise _Condemned
        return batch


# -- codecs ---------------------------------------------------------------------------------------


def _scratch() -> memoryview:
    """Each thread's own. Mapped, because a bytearray is written full of zeros when it is made: so
    pages that no batch was ever unpacked to cost nothing."""
    found: memoryview | None = getattr(_local, "scratch", None)
    if found is None or len(found) != INFLATED_BYTES:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            found = memoryview(mmap.mmap(-1, INFLATED_BYTES, flags=private))
        except OSError:  # how a map says that memory ran out
            raise MemoryError from None
        _local.scratch = found
    return found


def _bounded(into: Callable[[Any, Any], int]) -> Callable[[Any], bytes]:
    def inflate(payload: Any) -> bytes:
        scratch = _scratch()
        try:
            count = into(payload, scratch)
        except cramjam.DecompressionError as error:
            # The one that says that `scratch` is full is told apart by its text only.
            is_full = "whole buffer" in str(error)
            raise _Refused(INFLATES_TOO_FAR if is_full else UNREADABLE_BATCH) from None
        return bytes(scratch[:count])

    return inflate


def _snappy_into(payload: Any, scratch: memoryview) -> int:
    """Blocks of the Java library, each with its length before it, or one block and nothing else."""
    view = memoryview(payload)
    if bytes(view[: len(_XERIAL_HEADER)]) != _XERIAL_HEADER:
        return _snappy_block(view, scratch)
    filled, at = 0, _XERIAL_HEADER_BYTES
    while at < len(view):
        if at + _BLOCK.size > len(view):
            raise _Refused(UNREADABLE_BATCH)
        (length,) = _BLOCK.unpack_from(view, at)
        at += _BLOCK.size
        if not 0 < length <= len(view) - at:
            raise _Refused(UNREADABLE_BATCH)
        filled += _snappy_block(view[at : at + length], scratch[filled:])
        at += length
    return filled


def _snappy_block(block: memoryview, room: memoryview) -> int:
    if cramjam.snappy.decompress_raw_len(block) > len(room):
        raise _Refused(INFLATES_TOO_FAR)
    return int(cramjam.snappy.decompress_raw_into(block, room))


# By their names in the client.
_INFLATE: dict[str, Callable[[Any], bytes]] = {
    "gzip_decode": _bounded(cramjam.gzip.decompress_into),
    "snappy_decode": _bounded(_snappy_into),
    "lz4_decode": _bounded(cramjam.lz4.decompress_into),
    "zstd_decode": _bounded(cramjam.zstd.decompress_into),
}
