"""Mistakes that digests are made with, each of which the drawn pairs must find."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any
from zlib import crc32

from deptbus.wire.digest import encode_values, values_digest

from .verdict import Digest


def _skips_a_column(values: Iterable[Any]) -> bytes:
    return values_digest(list(values)[:-1])


def _null_is_a_text(values: Iterable[Any]) -> bytes:
    return values_digest("<null>" if value is None else value for value in values)


def _null_is_nothing(values: Iterable[Any]) -> bytes:
    return values_digest(value for value in values if value is not None)


def _without_lengths(values: Iterable[Any]) -> bytes:
    return blake2b(
        b"".join(encode_values([value])[7:] if value is not None else b"\x00" for value in values),
        digest_size=16,
    ).digest()


def _with_a_separator(values: Iterable[Any]) -> bytes:
    texts = (repr(value) if not isinstance(value, str) else value for value in values)
    return blake2b("|".join(texts).encode(), digest_size=16).digest()


def _crc(values: Iterable[Any]) -> bytes:
    return crc32(encode_values(values)).to_bytes(16)


def _one_unicode_form(values: Iterable[Any]) -> bytes:
    return values_digest(
        unicodedata.normalize("NFC", value) if isinstance(value, str) else value for value in values
    )


def _no_case(values: Iterable[Any]) -> bytes:
    return values_digest(value.casefold() if isinstance(value, str) else value for value in values)


def _trims(values: Iterable[Any]) -> bytes:
    return values_digest(value.strip() if isinstance(value, str) else value for value in values)


def _milliseconds(values: Iterable[Any]) -> bytes:
    return values_digest(
        value.replace(microsecond=value.microsecond // 1000 * 1000)
        if isinstance(value, datetime)
        else value
        for value in values
    )


def _by_the_clock_on_the_wall(values: Iterable[Any]) -> bytes:
    return values_digest(
        value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in values
    )


def _amounts_as_doubles(values: Iterable[Any]) -> bytes:
    return values_digest(
        round(float(value), 1) if isinstance(value, Decimal) else value for value in values
    )


PLANTED: dict[str, Digest] = {
    "skips_a_column": _skips_a_column,
    "null_is_a_text": _null_is_a_text,
    "null_is_nothing": _null_is_nothing,
    "without_lengths": _without_lengths,
    "with_a_separator": _with_a_separator,
    "crc": _crc,
    "one_unicode_form": _one_unicode_form,
    "no_case": _no_case,
    "trims": _trims,
    "milliseconds": _milliseconds,
    "by_the_clock_on_the_wall": _by_the_clock_on_the_wall,
    "amounts_as_doubles": _amounts_as_doubles,
}
