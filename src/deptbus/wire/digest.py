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
from itertools import repeat
from types import NoneType
from typing import Any

DIGEST_BYTES = 16  # BLAKE2b-128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall-clock time without a zone
_MICROSECOND = timedelta(microseconds=1)


def delivered_digest(
    dataset: str, schema_version: int, fields: tuple[str, ...], record: Sequence[bytes]
) -> bytes:
    """16 bytes over which projection of which schema was delivered, and its Avro bytes.

    An Avro record is the concatenation of its fields and is read back in one way only under a
    known schema, so the join needs no lengths.
    """
    digest = projection_hash(dataset, schema_version, fields).copy()
    digest.update(b"".join(record))
    return digest.digest()


def record_digest(dataset: str, schema_version: int, record: Sequence[bytes]) -> bytes:
    """16 bytes over a whole record as its source published it: which schema, and its Avro bytes."""
    return delivered_digest(dataset, schema_version, (), record)


def copy_digest(source_unit: str, delivered: bytes) -> bytes:
    """16 bytes over whose record a copy is and what was delivered of it (`delivered_digest`)."""
    digest = unit_hash(source_unit).copy()
    digest.update(delivered)
    return digest.digest()


@lru_cache(maxsize=4096)
def unit_hash(source_unit: str) -> blake2b:
    """What `copy_digest` begins with. To be copied, never updated."""
    return blake2b(encode_values(("copy", source_unit)), digest_size=DIGEST_BYTES)


@lru_cache(maxsize=4096)
def projection_hash(dataset: str, schema_version: int, fields: tuple[str, ...]) -> blake2b:
    """What `delivered_digest` begins with. To be copied, never updated."""
    return blake2b(encode_values((dataset, schema_version, *fields)), digest_size=DIGEST_BYTES)


def values_digest(values: Iterable[Any]) -> bytes:
    """16 bytes over the values of a row's mapped columns, in the order of the mapping."""
    return blake2b(encode_values(values), digest_size=DIGEST_BYTES).digest()


def values_digests(rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """`values_digest` of each of some rows with equally many values; column by column, which takes
    a third less. Raises as it does."""
    if not rows or not rows[0]:
        return [values_digest(row) for row in rows]
    columns = [_encode_column(column) for column in zip(*rows, strict=True)]
    if all(isinstance(tags, int) for tags, _ in columns):
        tags: Iterable[bytes] = repeat(bytes(tags for tags, _ in columns))  # type: ignore[misc]
    else:
        each = [repeat(tags) if isinstance(tags, int) else tags for tags, _ in columns]
        tags = map(bytes, zip(*each, strict=False))
    bodies = [bodies for _, bodies in columns]
    lengths = zip(*(map(len, of_column) for of_column in bodies), strict=True)
    count = len(columns)
    pack = _head(count).pack
    heads = [pack(count, *head) for head in map(_in_one, tags, lengths)]
    return [
        blake2b(head + b"".join(body), digest_size=DIGEST_BYTES).digest()
        for head, body in zip(heads, zip(*bodies, strict=True), strict=True)
    ]


def _in_one(tags: bytes, lengths: tuple[int, ...]) -> tuple[Any, ...]:
    return tags, *lengths


def _encode_column(column: tuple[Any, ...]) -> tuple[int | list[int], list[bytes]]:
    """The tag of all values, or one for each; and the bytes of each."""
    kinds = set(map(type, column))
    has_null = NoneType in kinds
    kinds.discard(NoneType)
    (kind, *others) = kinds or (NoneType,)
    tag, form = (TEXT, str.encode) if kind is str else _FORMS.get(kind, (NULL, None))
    if form is not None and not others and not (kind is datetime and _has_naive(column)):
        if not has_null:
            return tag, list(map(form, column))
        bodies = [b"" if value is None else form(value) for value in column]
        return [NULL if value is None else tag for value in column], bodies
    pairs = [encode_value(value) for value in column]
    return [tag for tag, _ in pairs], [body for _, body in pairs]


def _has_naive(column: Iterable[datetime | None]) -> bool:
    return any(value is not None and value.tzinfo is None for value in column)


def encode_values(values: Iterable[Any]) -> bytes:
    """How many values (2 bytes), a type tag for each, a length of 4 bytes for each, then their
    bytes. Text keeps its Unicode form, a decimal its scale; an aware time is microseconds in UTC, a
    naive one microseconds by its clock.

    Raises TypeError for a type that has no form here.
    """
    tags, bodies = bytearray(), []
    for value in values:
        if type(value) is str:
            tags.append(TEXT)
            bodies.append(value.encode())
        else:
            tag, body = encode_value(value)
            tags.append(tag)
            bodies.append(body)
    head = _head(len(bodies)).pack(len(bodies), tags, *map(len, bodies))
    return head + b"".join(bodies)


def encode_value(value: Any) -> tuple[int, bytes]:
    """Type tag and bytes of one value, as they stand in `encode_values`. Raises TypeError as it."""
    kind = type(value)
    if kind is str:
        return TEXT, value.encode()
    if value is None:
        return NULL, b""
    try:
        tag, encode = _FORMS[kind]
    except KeyError:
        raise TypeError(f"no digest form for {kind.__name__}") from None
    return (_NAIVE if kind is datetime and value.tzinfo is None else tag), encode(value)


def decode_values(data: bytes) -> tuple[Any, ...]:
    """The values that `encode_values` was given."""
    count = int.from_bytes(data[:2], "big")
    head = _head(count)
    _, tags, *lengths = head.unpack_from(data)
    values, at = [], head.size
    for tag, length in zip(tags, lengths, strict=True):
        values.append(_READERS[tag](data[at : at + length]))
        at += length
    return tuple(values)


@lru_cache(maxsize=1024)
def _head(count: int) -> struct.Struct:
    return struct.Struct(f">H{count}s{count}I")


def _micros(value: datetime) -> bytes:
    since = value - (_NAIVE_EPOCH if value.tzinfo is None else _EPOCH)
    return b"%d" % ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


@lru_cache(maxsize=50_000)  # all the days of a hundred and thirty years
def _day(value: date) -> bytes:
    return value.isoformat().encode()


TEXT, NULL, _NAIVE = b"SNL"
_FORMS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    bool: (ord("B"), lambda v: b"1" if v else b"0"),
    int: (ord("I"), lambda v: b"%d" % v),
    float: (ord("F"), struct.Struct(">d").pack),
    bytes: (ord("Y"), bytes),
    Decimal: (ord("M"), lambda v: str(v).encode()),
    date: (ord("D"), _day),
    time: (ord("T"), lambda v: v.isoformat().encode()),
    datetime: (ord("U"), _micros),
}
_READERS: dict[int, Callable[[bytes], Any]] = {
    NULL: lambda _: None,
    TEXT: bytes.decode,
    ord("B"): lambda b: b == b"1",
    ord("I"): int,
    ord("F"): lambda b: struct.unpack(">d", b)[0],
    ord("Y"): bytes,
    ord("M"): lambda b: Decimal(b.decode()),
    ord("D"): lambda b: date.fromisoformat(b.decode()),
    ord("T"): lambda b: time.fromisoformat(b.decode()),
    ord("U"): lambda b: _EPOCH + int(b) * _MICROSECOND,
    _NAIVE: lambda b: _NAIVE_EPOCH + int(b) * _MICROSECOND,
}
