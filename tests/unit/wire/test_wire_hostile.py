"""Golden files of hostile records: each refused for its reason, in bounded memory and work.

`golden/hostile.json` holds every hostile input that the project ever met or thought of: `body` is
framed with the schema that belongs at its door, `value` is taken as it is. Add to it; never remove.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wire_samples import KEY, VALUES, change, contract, delivery
from wire_work import lines_run

from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import decode_control
from deptbus.wire.guard import MAX_CHANGE_BYTES, MAX_RECORD_BYTES, REASONS
from deptbus.wire.varint import long_bytes

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "hostile.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def codecs() -> Codecs:
    return Codecs(contract())


@pytest.fixture(scope="module")
def heads(codecs: Codecs) -> dict[str, bytes]:
    record = codecs.record_codec("person", 1).encode(VALUES)
    sent = change(record)
    to_inbox = codecs.encode_deliveries(sent, [delivery("name", "address")], 3)
    value = codecs.encode_change(sent)
    # The decoders are written at first use: that is no part of what a refusal costs.
    assert codecs.decode_change(KEY, value) == sent
    assert codecs.decode_inbox(KEY, to_inbox[0])
    return {"change": value[:5], "delivery": to_inbox[0][:5]}


def read(codecs: Codecs, heads: dict[str, bytes], case: dict[str, Any]) -> Callable[[], Any]:
    """What the case is to be given to, as a call."""
    door = case["door"]
    key = None if case["key"] is None else bytes.fromhex(case["key"])
    if "body" in case:
        value: bytes | None = heads[door] + bytes.fromhex(case["body"])
    else:
        value = None if case["value"] is None else bytes.fromhex(case["value"])
    if door == "control":
        return lambda: decode_control(value)
    if door == "delivery":
        return lambda: codecs.decode_inbox(key, value)
    return lambda: codecs.decode_out(key, value)


def size_of(case: dict[str, Any]) -> int:
    return len(case.get("body") or case.get("value") or "") // 2


every_case = pytest.mark.parametrize("case", CASES, ids=[f"{c['door']}-{c['name']}" for c in CASES])


@every_case
def test_refused_for_its_reason(
    codecs: Codecs, heads: dict[str, bytes], case: dict[str, Any]
) -> None:
    call = read(codecs, heads, case)
    for _ in range(2):  # a second time, when parts of it might be remembered
        with pytest.raises(WireRefused) as refused:
            call()
        assert refused.value.reason == case["reason"]
        assert refused.value.reason in REASONS


@every_case
def test_refusal_holds_nothing_of_the_bytes(
    codecs: Codecs, heads: dict[str, bytes], case: dict[str, Any]
) -> None:
    """Neither in its words nor in the errors that it hangs on: logs print both."""
    with pytest.raises(WireRefused) as refused:
        read(codecs, heads, case)()
    error = refused.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert error.args == (error.what,)
    assert error.what.isascii()
    assert not any(c.isdigit() for c in error.what.replace("16 bytes", ""))


@every_case
def test_refused_in_bounded_memory(
    codecs: Codecs, heads: dict[str, bytes], case: dict[str, Any]
) -> None:
    call = read(codecs, heads, case)
    tracemalloc.start()
    try:
        with pytest.raises(WireRefused):
            call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 20 * size_of(case)


@every_case
def test_refused_after_bounded_work(
    codecs: Codecs, heads: dict[str, bytes], case: dict[str, Any]
) -> None:
    most = 400 + 20 * size_of(case)
    assert lines_run(read(codecs, heads, case), most) > 0


def test_work_is_measured_at_all(codecs: Codecs, heads: dict[str, bytes]) -> None:
    """The walk over a valid record runs more lines than its fields: the measure sees the walk."""
    value = codecs.encode_change(change(codecs.record_codec("person", 1).encode(VALUES)))
    assert lines_run(lambda: codecs.decode_change(KEY, value)) > 60


def test_too_large_is_refused_before_it_is_looked_at(
    codecs: Codecs, heads: dict[str, bytes]
) -> None:
    value = heads["change"] + bytes(MAX_RECORD_BYTES)
    for door in (codecs.decode_change, codecs.decode_out, codecs.decode_inbox):
        with pytest.raises(WireRefused) as refused:
            door(KEY, value)
        assert refused.value.reason == "too_large"
        assert lines_run(lambda door=door: door(KEY, value)) < 30  # type: ignore[misc]
    with pytest.raises(WireRefused) as refused:
        decode_control(value)
    assert refused.value.reason == "too_large"


def test_the_largest_array_costs_no_more_than_its_bytes(codecs: Codecs) -> None:
    """Nearly a megabyte of empty former divisions, and then a byte that is wrong."""
    good = codecs.encode_change(change(None))
    start = good.index(b"\x04\x18" + b"330106109052")
    count = MAX_CHANGE_BYTES - 200
    value = good[:start] + long_bytes(count) + bytes(count) + b"\x01"
    tracemalloc.start()
    try:
        with pytest.raises(WireRefused) as refused:
            codecs.decode_change(KEY, value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "malformed"
    assert peak < 20 * len(value)


def test_what_is_remembered_is_bounded(codecs: Codecs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that never says the same twice does not fill the memory."""
    monkeypatch.setattr("deptbus.wire.envelope.MOST_REMEMBERED", 50)
    fresh = Codecs(contract())
    for n in range(500):
        sent = change(None, source_unit=f"u{n}@330106", division=f"{n:012}", source_time_us=n << 40)
        assert fresh.decode_change(KEY, fresh.encode_change(sent)) == sent
    memory = fresh._memory
    for remembered in (memory.senders, memory.texts, memory.rights, memory.times):
        assert len(remembered) <= 50


def test_the_list_is_long_enough() -> None:
    assert len(CASES) >= 100
    assert len({(c["door"], c["name"]) for c in CASES}) == len(CASES)
    assert all(c["why"] for c in CASES)
