"""Avro's numbers: zigzag varints, read strictly (one encoding for one number), and written.

The readers are called by the generated walks for what does not fit one byte. Each takes the whole
record and an offset and never looks further than ten bytes ahead; running off the end raises
IndexError, which the walk turns into a refusal.
"""

from __future__ import annotations

from functools import lru_cache

from deptbus.errors import WireRefused
from deptbus.wire.guard import MALFORMED, MAX_RECORD_BYTES

_WHY = "the bytes are not exactly one valid value of their schema"

# Numbers whose varint has one byte: most lengths, indexes and small counts.
ONE_BYTE = tuple(bytes((n << 1,)) for n in range(64))


_BYTE = tuple(bytes((i,)) for i in range(256))
# The first two bytes of all varints of three bytes or more, by their 14 bits: half a megabyte that
# makes writing a version or a time three times as quick.
_TWO_MORE = tuple(bytes((i & 127 | 128, i >> 7 | 128)) for i in range(1 << 14))


def malformed() -> WireRefused:
    return WireRefused(MALFORMED, _WHY)


def read_long(v: bytes, p: int) -> tuple[int, int]:
    """(number, offset behind it); refuses overlong encodings and more than 64 bits."""
    b = v[p]
    if b < 128:
        return (b >> 1) ^ -(b & 1), p + 1
    n = b & 127
    shift = 7
    while True:
        p += 1
        b = v[p]
        n |= (b & 127) << shift
        if b < 128:
            break
        shift += 7
        if shift > 63:
            raise malformed()
    if b == 0 or n >> 64:
        raise malformed()
    return (n >> 1) ^ -(n & 1), p + 1


# Eight bytes as one little-endian number: which of them must, and which may, have the top bit.
_TOP_BITS = 0x8080808080808080
_TOP_BITS_OF_EIGHT = 0x0080808080808080


def instant_end(v: bytes, p: int, least: int, most: int) -> int:
    """`bounded_end` for times in microseconds, quick for those that have eight bytes: 1978 to 3111
    (and as far before 1970), which lies within every bound that is asked for."""
    eight = int.from_bytes(v[p : p + 8], "little")
    if eight & _TOP_BITS == _TOP_BITS_OF_EIGHT and eight >> 56:
        return p + 8
    return bounded_end(v, p, least, most)


def long_end(v: bytes, p: int) -> int:
    """The offset behind a long of two bytes or more."""
    start = p
    p += 1
    while v[p] > 127:
        p += 1
        if p - start > 9:
            raise malformed()
    last = v[p]
    if last == 0 or (p - start == 9 and last > 1):
        raise malformed()
    return p + 1


def int_end(v: bytes, p: int) -> int:
    """The offset behind an int (32 bits) of two bytes or more."""
    start = p
    p += 1
    while v[p] > 127:
        p += 1
        if p - start > 4:
            raise malformed()
    last = v[p]
    if last == 0 or (p - start == 4 and last > 15):
        raise malformed()
    return p + 1


def bounded_end(v: bytes, p: int, least: int, most: int) -> int:
    """The offset behind a number that must lie within `least` and `most`."""
    n, p = read_long(v, p)
    if not least <= n <= most:
        raise malformed()
    return p


def read_length(v: bytes, p: int) -> tuple[int, int]:
    """(length of bytes or text, offset of its first byte); never negative, never above the cap."""
    n, p = read_long(v, p)
    if not 0 <= n <= MAX_RECORD_BYTES:
        raise malformed()
    return n, p


def read_count(v: bytes, p: int, end: int, least_bytes: int) -> tuple[int, int]:
    """(items of an array's or map's one block, offset of the first).

    The count is bounded by the bytes that are there, so no loop runs longer than the record.
    Negative counts (a block with its size) are refused: writers of this bus put all items into one
    block, so that one value has one encoding.
    """
    n, p = read_long(v, p)
    if not 1 <= n <= (end - p) // least_bytes:
        raise malformed()
    return n, p


def check_decimal(v: bytes, start: int, end: int, bound: int) -> None:
    """A decimal has one byte at least, one more than its precision needs at most, and keeps it."""
    size = end - start
    if not 1 <= size <= bound.bit_length() // 8 + 2:
        raise malformed()
    if not -bound < int.from_bytes(v[start:end], "big", signed=True) < bound:
        raise malformed()


def check_fixed_decimal(v: bytes, start: int, end: int, bound: int) -> None:
    """A decimal of fixed size keeps its precision."""
    if not -bound < int.from_bytes(v[start:end], "big", signed=True) < bound:
        raise malformed()


_NAN_DOUBLE = bytes((0, 0, 0, 0, 0, 0, 0xF8, 0x7F))
_NAN_FLOAT = bytes((0, 0, 0xC0, 0x7F))
_INFINITE_DOUBLE = (bytes((0, 0, 0, 0, 0, 0, 0xF0, 0x7F)), bytes((0, 0, 0, 0, 0, 0, 0xF0, 0xFF)))
_INFINITE_FLOAT = (bytes((0, 0, 0x80, 0x7F)), bytes((0, 0, 0x80, 0xFF)))


def check_double(v: bytes, p: int) -> None:
    """Of a double whose exponent is all ones: infinite, or the one NaN that stands for all."""
    got = v[p : p + 8]
    if got != _NAN_DOUBLE and got not in _INFINITE_DOUBLE:
        raise malformed()


def check_float(v: bytes, p: int) -> None:
    """As `check_double`, of four bytes."""
    got = v[p : p + 4]
    if got != _NAN_FLOAT and got not in _INFINITE_FLOAT:
        raise malformed()


def long_bytes(n: int) -> bytes:
    """The varint of a number. Raises OverflowError beyond 64 bits."""
    if 0 <= n < 64:
        return ONE_BYTE[n]
    if not -(1 << 63) <= n < 1 << 63:
        raise OverflowError
    z = (n << 1) ^ (n >> 63)
    if z < 1 << 7:
        return _BYTE[z]
    if z < 1 << 14:
        return _BYTE[z & 127 | 128] + _BYTE[z >> 7]
    if z < 1 << 21:
        return _TWO_MORE[z & 16383] + _BYTE[z >> 14]
    return _TWO_MORE[z & 16383] + _BYTE[z >> 14 & 127 | 128] + _upper_bytes(z >> 21)


@lru_cache(maxsize=4096)
def _upper_bytes(z: int) -> bytes:
    """What is above the lowest 21 bits; of times in microseconds it changes once a second."""
    out = bytearray()
    while z > 127:
        out.append(z & 127 | 128)
        z >>= 7
    out.append(z)
    return bytes(out)


def text_bytes(text: str) -> bytes:
    """Length and UTF-8 of a text. Raises UnicodeEncodeError for lone surrogates."""
    data = text.encode()
    n = len(data)
    return (ONE_BYTE[n] if n < 64 else long_bytes(n)) + data


def text_at(v: bytes, p: int) -> tuple[str, int]:
    """(the text, offset behind it). Raises UnicodeDecodeError, as the walk does."""
    n, p = read_length(v, p)
    end = p + n
    if end > len(v):
        raise malformed()
    return v[p:end].decode(), end
