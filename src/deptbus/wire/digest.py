"""Digests that two sides can compare: of what was delivered, and of what was written.

Both encodings are injective: different contents never encode alike. `encode_values` can be read
back (`decode_values`), so that it also serves as the stored form of a row's own key.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any

DIGEST_BYTES = 16  # BLAKE2b-128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall-clock time without a zone
_MICROSECOND = timedelta(microseconds=1)
_HEAD = struct.Struct(">cI")


def delivered_digest(
    dataset: str, schema_version: int, fields: tuple[str, ...], record: Sequence[bytes]
) -> bytes:
    """16 bytes over which projection of which schema was delivered, and its Avro bytes.

    An Avro record is the concatenation of its fields and is read back in one way only under a
    known schema, so the join needs no lengths.
    """
    digest = _projection_hash(dataset, schema_version, fields).copy()
    digest.update(b"".join(record))
    return digest.digest()


@lru_cache(maxsize=4096)
def _projection_hash(dataset: str, schema_version: int, fields: tuple[str, ...]) -> blake2b:
    return blake2b(encode_values((dataset, schema_version, *fields)), digest_size=DIGEST_BYTES)


def values_digest(values: Iterable[Any]) -> bytes:
    """16 bytes over the values of a row's mapped columns, in the order of the mapping."""
    return blake2b(encode_values(values), digest_size=DIGEST_BYTES).digest()


def encode_values(values: Iterable[Any]) -> bytes:
    """Each value as a type tag, a length of 4 bytes and its bytes. Text keeps its Unicode form, a
    decimal its scale; an aware time is microseconds in UTC, a naive one microseconds by its clock.

    Raises TypeError for a type that has no form here.
    """
    parts: list[bytes] = []
    for value in values:
        try:
            tag, encode = _FORMS[type(value)]
        except KeyError:
            raise TypeError(f"no digest form for {type(value).__name__}") from None
        body = encode(value)
        if tag == b"U" and value.tzinfo is None:
            tag = b"L"
        parts.append(_HEAD.pack(tag, len(body)))
        parts.append(body)
    return b"".join(parts)


def decode_values(data: bytes) -> tuple[Any, ...]:
    """The values that `encode_values` was given."""
    values, at = [], 0
    while at < len(data):
        tag, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        values.append(_READERS[tag](data[at : at + length]))
        at += length
    return tuple(values)


def _micros(value: datetime) -> bytes:
    epoch = _NAIVE_EPOCH if value.tzinfo is None else _EPOCH
    return b"%d" % ((value - epoch) // _MICROSECOND)


_FORMS: dict[type, tuple[bytes, Callable[[Any], bytes]]] = {
    type(None): (b"N", lambda _: b""),
    bool: (b"B", lambda v: b"1" if v else b"0"),
    int: (b"I", lambda v: b"%d" % v),
    float: (b"F", struct.Struct(">d").pack),
    str: (b"S", str.encode),
    bytes: (b"Y", bytes),
    Decimal: (b"M", lambda v: format(v, "f").encode()),
    date: (b"D", lambda v: v.isoformat().encode()),
    time: (b"T", lambda v: v.isoformat().encode()),
    datetime: (b"U", _micros),
}
_READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"N": lambda _: None,
    b"B": lambda b: b == b"1",
    b"I": int,
    b"F": lambda b: struct.unpack(">d", b)[0],
    b"S": bytes.decode,
    b"Y": bytes,
    b"M": lambda b: Decimal(b.decode()),
    b"D": lambda b: date.fromisoformat(b.decode()),
    b"T": lambda b: time.fromisoformat(b.decode()),
    b"U": lambda b: _EPOCH + int(b) * _MICROSECOND,
    b"L": lambda b: _NAIVE_EPOCH + int(b) * _MICROSECOND,
}
