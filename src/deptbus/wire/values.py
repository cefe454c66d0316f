"""One field's value <-> its Avro bytes, by type; strict in what is taken, with logical types.

| Avro type | Python value |
|---|---|
| boolean; int, long; float, double | bool; int; float (or int) |
| string; bytes, fixed | str; bytes |
| enum | the symbol as str |
| date | datetime.date |
| time-millis, time-micros | datetime.time without a zone |
| timestamp-millis, timestamp-micros | datetime.datetime with a zone; read back in UTC |
| local-timestamp-millis, -micros | datetime.datetime without a zone |
| decimal | decimal.Decimal (or int) |

A value that would have to be rounded, cut or guessed is refused: a register's value arrives as it
was typed or not at all. Arrays, maps, records and unions of several types go through fastavro,
whose bytes are walked like any others before they are believed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from typing import Any

from deptbus.wire.types import Type
from deptbus.wire.varint import ONE_BYTE, long_bytes, read_long, text_at, text_bytes
from deptbus.wire.walk import LOGICAL_RANGES

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local timestamps have no zone by definition
# Arithmetic that never rounds: it raises Inexact instead. More digits than any schema allows.
_EXACT = Context(prec=3000, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation])
_NAN = {"float": bytes.fromhex("0000c07f"), "double": bytes.fromhex("000000000000f87f")}


class Unfit(Exception):
    """A value does not fit its type. The text is a rule, never the value."""


def encoder(t: Type) -> Encode | None:
    """The encoder of a simple type, or of the union of one with null; None for the others."""
    if t.optional is not None:
        null, other, inner = t.optional
        encode = encoder(inner)
        if encode is None:
            return None
        nothing, head = ONE_BYTE[null], ONE_BYTE[other]
        return lambda x: nothing if x is None else head + encode(x)
    if t.logical == "decimal":
        return _decimal_encoder(t)
    if t.logical is not None:
        return _LOGICAL[t.logical][0]
    if t.kind == "enum":
        table = {s: long_bytes(i) for i, s in enumerate(t.symbols)}
        return lambda x: _symbol(table, x)
    if t.kind == "fixed":
        return lambda x: _fixed(t.size, x)
    return _PLAIN[t.kind][0] if t.kind in _PLAIN else None


def decoder(t: Type) -> Decode | None:
    """The inverse of `encoder`, for bytes that were walked."""
    if t.optional is not None:
        null, _, inner = t.optional
        decode = decoder(inner)
        if decode is None:
            return None
        nothing = ONE_BYTE[null]
        return lambda f: None if f == nothing else decode(f[1:])
    if t.logical == "decimal":
        return lambda f: _decimal_of(t, f)
    if t.logical is not None:
        return _LOGICAL[t.logical][1]
    if t.kind == "enum":
        table = {long_bytes(i): s for i, s in enumerate(t.symbols)}
        return table.__getitem__
    if t.kind == "fixed":
        return bytes
    return _PLAIN[t.kind][1] if t.kind in _PLAIN else None


def _null(x: Any) -> bytes:
    if x is not None:
        raise Unfit("takes no value")
    return b""


def _boolean(x: Any) -> bytes:
    if x is True:
        return b"\x01"
    if x is False:
        return b"\x00"
    raise Unfit("is not true or false")


def _whole(x: Any) -> int:
    if not isinstance(x, int) or isinstance(x, bool):
        raise Unfit("is not a whole number")
    return x


def _int(x: Any) -> bytes:
    if not -(1 << 31) <= _whole(x) < 1 << 31:
        raise Unfit("does not fit 32 bits")
    return long_bytes(x)


def _long(x: Any) -> bytes:
    if not -(1 << 63) <= _whole(x) < 1 << 63:
        raise Unfit("does not fit 64 bits")
    return long_bytes(x)


def _floating(kind: str) -> Encode:
    packer = struct.Struct("<f" if kind == "float" else "<d")

    def encode(x: Any) -> bytes:
        if not isinstance(x, float | int) or isinstance(x, bool):
            raise Unfit("is not a number")
        if x != x:
            return _NAN[kind]
        try:
            return packer.pack(x)
        except OverflowError:
            raise Unfit("does not fit a floating point number") from None

    return encode


def _string(x: Any) -> bytes:
    if not isinstance(x, str):
        raise Unfit("is not text")
    return text_bytes(x)


def _bytes(x: Any) -> bytes:
    if not isinstance(x, bytes):
        raise Unfit("is not bytes")
    return long_bytes(len(x)) + x


def _fixed(size: int, x: Any) -> bytes:
    if not isinstance(x, bytes) or len(x) != size:
        raise Unfit("is not bytes of the fixed size")
    return x


def _symbol(table: Mapping[str, bytes], x: Any) -> bytes:
    found = table.get(x) if isinstance(x, str) else None
    if found is None:
        raise Unfit("is none of the codes that the schema lists")
    return found


def _date(x: Any) -> bytes:
    if not isinstance(x, date) or isinstance(x, datetime):
        raise Unfit("is not a date")
    return long_bytes(x.toordinal() - _EPOCH_DAY)


def _number_of(f: bytes) -> int:
    return read_long(f, 0)[0]


def _date_of(f: bytes) -> date:
    return date.fromordinal(_number_of(f) + _EPOCH_DAY)


def _instant(micros_per_unit: int, local: bool) -> tuple[Encode, Decode]:
    epoch = _LOCAL_EPOCH if local else _EPOCH
    least, most = LOGICAL_RANGES["timestamp-micros"]

    def encode(x: Any) -> bytes:
        if not isinstance(x, datetime):
            raise Unfit("is not a time stamp")
        if (x.utcoffset() is None) is not local:
            raise Unfit("bears a time zone" if local else "bears no time zone")
        # Exact: the difference is kept in whole microseconds, where float seconds would round.
        since = x - epoch
        micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        if not least <= micros <= most:  # the first hours of year 1 by a clock ahead of UTC
            raise Unfit("is no time of the years 1 to 9999 in UTC")
        units, rest = divmod(micros, micros_per_unit)
        if rest:
            raise Unfit("is more precise than the schema")
        return long_bytes(units)

    def decode(f: bytes) -> datetime:
        return epoch + timedelta(microseconds=_number_of(f) * micros_per_unit)

    return encode, decode


def _time_of_day(micros_per_unit: int) -> tuple[Encode, Decode]:
    def encode(x: Any) -> bytes:
        if not isinstance(x, time) or x.tzinfo is not None:
            raise Unfit("is not a time of day without a zone")
        micros = ((x.hour * 60 + x.minute) * 60 + x.second) * 1_000_000 + x.microsecond
        units, rest = divmod(micros, micros_per_unit)
        if rest:
            raise Unfit("is more precise than the schema")
        return long_bytes(units)

    def decode(f: bytes) -> time:
        return (_LOCAL_EPOCH + timedelta(microseconds=_number_of(f) * micros_per_unit)).time()

    return encode, decode


def _decimal_encoder(t: Type) -> Encode:
    bound = 10**t.precision

    def encode(x: Any) -> bytes:
        unscaled = _unscaled(x, t)
        if not -bound < unscaled < bound:
            raise Unfit("has more digits than the schema")
        if t.kind == "fixed":
            return unscaled.to_bytes(t.size, "big", signed=True)
        # The least number of bytes, as Java's BigInteger writes it: n bits and a sign bit.
        bits = unscaled.bit_length() if unscaled >= 0 else (unscaled + 1).bit_length()
        return _bytes(unscaled.to_bytes(bits // 8 + 1, "big", signed=True))

    return encode


def _unscaled(x: Any, t: Type) -> int:
    """The whole number of units of 10 ** -scale that `x` is, exactly."""
    if isinstance(x, int) and not isinstance(x, bool):
        return x * 10**t.scale
    if not isinstance(x, Decimal):
        raise Unfit("is not a decimal number")
    if not x.is_finite():
        raise Unfit("is not a finite number")
    if x and x.adjusted() >= t.precision - t.scale:
        # Asked before anything is computed: 1E+999999 has as many digits as it says.
        raise Unfit("has more digits than the schema")
    try:
        unscaled = _EXACT.to_integral_exact(_EXACT.scaleb(x, t.scale))
    except Inexact:
        unscaled = None
    if unscaled is None:
        raise Unfit("has more decimal places than the schema")
    return int(unscaled)


def _decimal_of(t: Type, f: bytes) -> Decimal:
    data = f if t.kind == "fixed" else f[read_long(f, 0)[1] :]
    return _EXACT.scaleb(Decimal(int.from_bytes(data, "big", signed=True)), -t.scale)


def _floating_of(kind: str) -> Decode:
    unpack = struct.Struct("<f" if kind == "float" else "<d").unpack
    return lambda f: unpack(f)[0]


_PLAIN: dict[str, tuple[Encode, Decode]] = {
    "null": (_null, lambda f: None),
    "boolean": (_boolean, lambda f: f == b"\x01"),
    "int": (_int, _number_of),
    "long": (_long, _number_of),
    "float": (_floating("float"), _floating_of("float")),
    "double": (_floating("double"), _floating_of("double")),
    "string": (_string, lambda f: text_at(f, 0)[0]),
    "bytes": (_bytes, lambda f: f[read_long(f, 0)[1] :]),
}

_LOGICAL: dict[str, tuple[Encode, Decode]] = {
    "date": (_date, _date_of),
    "time-millis": _time_of_day(1000),
    "time-micros": _time_of_day(1),
    "timestamp-millis": _instant(1000, local=False),
    "timestamp-micros": _instant(1, local=False),
    "local-timestamp-millis": _instant(1000, local=True),
    "local-timestamp-micros": _instant(1, local=True),
}

assert set(_LOGICAL) == set(LOGICAL_RANGES)
