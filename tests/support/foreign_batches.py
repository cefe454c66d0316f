"""Record batches as no client of ours would make them, byte by byte (Kafka's message format v2)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence

import cramjam
from aiokafka.record.util import calc_crc32c, encode_varint

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


def _lz4(data: bytes) -> bytes:
    """The broker takes only blocks that do not refer to each other."""
    compressor = cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: lambda data: gzip.compress(data, 1),
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: _lz4,
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data)),
}
TRANSACTIONAL, CONTROL = 0x10, 0x20


def varint(number: int) -> bytes:
    found = bytearray()
    encode_varint(number, found.append)
    return bytes(found)


def field(value: bytes | None) -> bytes:
    return varint(-1) if value is None else varint(len(value)) + value


def record(
    offset: int,
    key: bytes | None,
    value: bytes | None,
    *,
    timestamp: int = 0,
    headers: Sequence[tuple[bytes, bytes | None]] = (),
) -> bytes:
    """`offset` and `timestamp` count from the batch's own."""
    body = b"\x00" + varint(timestamp) + varint(offset) + field(key) + field(value)
    body += varint(len(headers)) + b"".join(field(k) + field(v) for k, v in headers)
    return varint(len(body)) + body


def batch(
    payload: bytes,
    count: int,
    *,
    codec: int = NONE,
    base: int = 0,
    packed: bytes | None = None,
    attributes: int = 0,
    timestamp: int = 1_700_000_000_000,
    producer: tuple[int, int, int] = (-1, -1, -1),
) -> bytes:
    """One batch of `count` records whose bytes are `payload`; `packed`: instead of compressing."""
    body = packed if packed is not None else COMPRESS[codec](payload)
    tail = struct.pack(
        ">hiqqqhii", codec | attributes, count - 1, timestamp, timestamp, *producer, count
    )
    tail += body
    head = struct.pack(">ib", 0, 2) + struct.pack(">I", calc_crc32c(tail))
    return struct.pack(">qi", base, len(head) + len(tail)) + head + tail
