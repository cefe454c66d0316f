"""The encoding under digests and row keys: read back whole, and alike for equal values only."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deptbus.wire.digest import (
    DIGEST_BYTES,
    decode_values,
    delivered_digest,
    encode_values,
    values_digest,
)

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.times().map(lambda t: t.replace(fold=0)),  # no column keeps a fold
    st.datetimes().map(lambda t: t.replace(fold=0)),
    st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(fold=0)),
)
_ROWS = st.lists(_VALUES, max_size=6)


def _exact(row: list[Any]) -> list[tuple[type, str]]:
    return [(type(v), repr(v)) for v in row]


@given(_ROWS)
def test_reads_back_what_was_written(row: list[Any]) -> None:
    assert _exact(list(decode_values(encode_values(row)))) == _exact(row)


@given(_ROWS, _ROWS)
def test_only_equal_rows_encode_alike(one: list[Any], other: list[Any]) -> None:
    same = _exact(one) == _exact(other)
    assert (encode_values(one) == encode_values(other)) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([None], ["<null>"]),
        ([None], [""]),
        (["a|b", "c"], ["a", "b|c"]),
        ([Decimal("1.0")], [Decimal("1.00")]),
        ([1], [True]),
        ([1], ["1"]),
        ([1], [1.0]),
        (["é"], ["e\u0301"]),
        ([b"x"], ["x"]),
        ([datetime(1970, 1, 1)], [datetime(1970, 1, 1, tzinfo=UTC)]),  # noqa: DTZ001
        ([], [None]),
    ],
)
def test_pairs_on_which_other_tools_err(one: list[Any], other: list[Any]) -> None:
    assert values_digest(one) != values_digest(other)


def test_a_delivered_digest_tells_projection_and_bytes() -> None:
    base = delivered_digest("d", 1, ("a", "b"), (b"\x02x", b"\x00"))
    assert len(base) == DIGEST_BYTES
    assert base == delivered_digest("d", 1, ("a", "b"), (b"\x02x", b"\x00"))
    assert base != delivered_digest("d", 2, ("a", "b"), (b"\x02x", b"\x00"))
    assert base != delivered_digest("d", 1, ("a", "c"), (b"\x02x", b"\x00"))
    assert base != delivered_digest("d", 1, ("a", "b"), (b"\x02y", b"\x00"))
    assert base != delivered_digest("e", 1, ("a", "b"), (b"\x02x", b"\x00"))
