"""Golden files of valid records: bytes that lie on somebody's bus must stay readable for ever.

When one of these fails, a schema of ours changed. Its id changed with it, and no record that was
written before can be read any longer: keep the old schema readable beside the new one, and add to
the golden file instead of changing it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from wire_samples import CONTROL, KEY, VALUES, change, contract, delivery

from deptbus.wire.codecs import Codecs
from deptbus.wire.control import (
    AppliedBeat,
    Control,
    Heartbeat,
    PolicyRecord,
    ProofOutcome,
    decode_control,
    encode_control,
    key_of,
)

GOLDEN: dict[str, dict[str, str | None]] = json.loads(
    (Path(__file__).parent / "golden" / "valid.json").read_text(encoding="utf-8")
)


def golden(name: str) -> tuple[bytes | None, bytes]:
    entry = GOLDEN[name]
    key, value = entry["key"], entry["value"]
    assert value is not None
    return (None if key is None else bytes.fromhex(key)), bytes.fromhex(value)


@pytest.fixture(scope="module")
def codecs() -> Codecs:
    return Codecs(contract())


def test_change(codecs: Codecs) -> None:
    upsert = change(codecs.record_codec("person", 1).encode(VALUES))
    for name, expected in {"change_upsert": upsert, "change_delete": change(None)}.items():
        key, value = golden(name)
        assert codecs.decode_change(key, value) == expected
        assert codecs.encode_change(expected) == value


def test_record_values(codecs: Codecs) -> None:
    record = codecs.decode_change(*golden("change_upsert")).record
    assert record is not None
    assert codecs.record_codec("person", 1).decode(record) == VALUES


def test_deliveries(codecs: Codecs) -> None:
    sent = change(codecs.record_codec("person", 1).encode(VALUES))
    values = codecs.encode_deliveries(sent, [delivery("name", "address"), delivery()], 3)
    assert values == [golden("delivery_upsert")[1], golden("delivery_withdraw")[1]]
    received = codecs.decode_inbox(*golden("delivery_upsert"))
    assert received.fields == ("name", "address")
    assert received.version == sent.version


@pytest.mark.parametrize("record", CONTROL, ids=lambda r: type(r).__name__)
def test_control_record(record: Control) -> None:
    key, value = golden(type(record).__name__)
    assert decode_control(value) == record
    assert encode_control(record) == value
    assert key_of(record) == key


def test_every_golden_record_is_read_by_fastavro_with_the_stored_schema(codecs: Codecs) -> None:
    """What the documents promise third parties: the schema store, five bytes of frame, any Avro."""
    codecs.delivery_schema_for("person", 1, ("name", "address"))
    codecs.delivery_schema_for("person", 1, ())
    stored = codecs.schemas()
    for name in GOLDEN:
        _, value = golden(name)
        schema = json.loads(stored[int.from_bytes(value[1:5], "big")])
        body = BytesIO(value[5:])
        read: Any = fastavro.schemaless_reader(body, fastavro.parse_schema(schema), None)
        assert body.read() == b""
        if name == "change_upsert":
            assert read["record"] == VALUES
            assert read["source_unit"] == "public_security@330106"
        if name == "delivery_upsert":
            assert read["record"] == {"name": VALUES["name"], "address": VALUES["address"]}


def test_a_policy_from_before_holds_holds_nothing() -> None:
    _, earlier = golden("PolicyRecord_before_holds")
    _, value = golden("PolicyRecord")
    now = decode_control(value)
    assert isinstance(now, PolicyRecord)
    assert decode_control(earlier) == replace(now, holds=())


def test_schema_ids_are_pinned(codecs: Codecs) -> None:
    ids = {name: int.from_bytes(golden(name)[1][1:5], "big") for name in GOLDEN}
    assert ids["change_upsert"] == ids["change_delete"]
    assert len(set(ids.values())) == len(ids) - 1
    assert golden("change_upsert")[0] == KEY


def test_a_note_from_before_notes_of_whole_batches_is_of_one_offset() -> None:
    _, earlier = golden("QuarantineNote_before_last_offset")
    _, value = golden("QuarantineNote")
    assert earlier != value
    assert decode_control(earlier) == decode_control(value)


def test_a_heartbeat_before_it_told_of_the_outbox_is_read() -> None:
    key, earlier = golden("Heartbeat_before_the_outbox")
    now = decode_control(golden("Heartbeat")[1])
    assert isinstance(now, Heartbeat)
    assert decode_control(earlier) == replace(now, outbox_rows=None, outbox_oldest_us=None)
    assert key == key_of(now)


def test_an_outcome_before_it_named_keys_is_read() -> None:
    key, earlier = golden("ProofOutcome_before_keys")
    now = decode_control(golden("ProofOutcome")[1])
    assert isinstance(now, ProofOutcome)
    assert decode_control(earlier) == replace(now, keys=(), key_classes=(), reasons=())
    assert key == key_of(now)


def test_a_sign_of_life_before_it_told_what_is_parked_is_read() -> None:
    key, earlier = golden("AppliedBeat_before_parked")
    now = decode_control(golden("AppliedBeat")[1])
    assert isinstance(now, AppliedBeat)
    nothing = replace(now, parked=None, parked_datasets=(), parked_reasons=(), parked_rows=())
    assert decode_control(earlier) == nothing
    assert key == key_of(now)
