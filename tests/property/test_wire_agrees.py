"""The generated codec against two others: the reference `avro` as judge, and fastavro.

What `avro` writes is accepted and cut into the very bytes of each field. What is accepted is read
by `avro` whole and written by it to the same bytes: so whatever `avro` refuses is refused, and so
is every second encoding of a value.
"""

from __future__ import annotations

import json
import random
from io import BytesIO
from typing import Any

import fastavro
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_oracle import Oracle, without_logical_types
from wire_samples import KEY, PERSON, VALUES, change, contract, delivery
from wire_schemas import record_and_value

from deptbus.errors import WireRefused
from deptbus.wire.codec import RecordCodec
from deptbus.wire.codecs import Codecs
from deptbus.wire.framing import canonical_json
from deptbus.wire.schemas import change_schema, delivery_schema, project

slow = settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def accepted(codec: RecordCodec, data: bytes) -> bool:
    """True when the walk accepts; any error but a refusal fails the test that asks."""
    refusal: WireRefused | None = None
    try:
        fields = codec.split(data)
    except WireRefused as refused:
        refusal = refused
    if refusal is not None:
        assert refusal.reason == "malformed"
        assert refusal.__context__ is None
        return False
    assert b"".join(fields) == data
    assert len(fields) == len(codec.names)
    return True


def judged(codec: RecordCodec, oracle: Oracle, data: bytes) -> bool:
    """Accepts what the judge reads and writes back alike, and nothing else that is told apart."""
    if not accepted(codec, data):
        return False
    assert oracle.write(oracle.read(data)) == data
    fields = codec.split(data)
    for again, once, field in zip(
        codec.encode(codec.decode(fields)), fields, codec.schema["fields"], strict=True
    ):
        # The one thing that has two encodings: `avro` and fastavro write some negative decimals
        # with a byte that they do not need, and what they write is accepted.
        assert again == once or "decimal" in str(field["type"])
    return True


@slow
@given(record_and_value())
def test_what_avro_writes_is_split_into_the_bytes_of_each_field(
    sample: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    schema, value = sample
    codec = RecordCodec(schema)
    each = [Oracle(f["type"]).write(value[f["name"]]) for f in schema["fields"]]
    whole = Oracle(schema).write(value)
    assert b"".join(each) == whole
    assert codec.split(whole) == tuple(each)


@slow
@given(record_and_value())
def test_values_are_written_and_read_as_avro_and_fastavro_do(
    sample: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    schema, value = sample
    codec = RecordCodec(schema)
    whole = Oracle(schema).write(value)
    assert b"".join(codec.encode(value)) == whole
    assert codec.decode(codec.split(whole)) == value
    parsed = fastavro.parse_schema(schema)
    out = BytesIO()
    fastavro.schemaless_writer(out, parsed, value)
    assert out.getvalue() == whole
    assert fastavro.schemaless_reader(BytesIO(whole), parsed, None) == value


@slow
@given(record_and_value(), st.data())
def test_a_projection_is_a_join_of_slices(
    sample: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    schema, value = sample
    names = [f["name"] for f in schema["fields"]]
    some = data.draw(st.lists(st.sampled_from(names), unique=True))
    whole = RecordCodec(schema)
    part = RecordCodec(schema, some)
    cut = dict(zip(names, whole.split(Oracle(schema).write(value)), strict=True))
    joined = b"".join(cut[n] for n in names if n in some)
    assert part.decode(part.split(joined)) == {n: value[n] for n in names if n in some}
    assert Oracle(part.schema).read(joined) == {n: value[n] for n in names if n in some}


# Bytes that mean much to Avro: nothing, minus one, the ends of a varint's byte, the largest.
_TELLING = (0x00, 0x01, 0x02, 0x03, 0x7E, 0x7F, 0x80, 0x81, 0xC0, 0xFE, 0xFF)


def mutations(data: bytes, seed: int) -> list[bytes]:
    """Every truncation, some extensions, and telling and random bytes at every place (of long
    records at some)."""
    rng = random.Random(seed)
    made = [data[:n] for n in range(len(data))]
    made += [data + bytes([b]) for b in _TELLING] + [data + data, data + bytes(20)]
    places = range(len(data)) if len(data) <= 60 else rng.sample(range(len(data)), 60)
    for at in places:
        bytes_here = {*rng.sample(_TELLING, 4), rng.randrange(256), data[at] ^ 0x80, data[at] ^ 1}
        made += [data[:at] + bytes([b]) + data[at + 1 :] for b in bytes_here]
        made += [data[:at] + data[at + 1 :], data[:at] + b"\x80" + data[at:]]
    return made


@settings(slow, max_examples=examples(60))
@given(record_and_value(), st.integers(0, 2**32))
def test_what_avro_refuses_is_refused_and_so_is_a_second_encoding(
    sample: tuple[dict[str, Any], dict[str, Any]], seed: int
) -> None:
    schema, value = sample
    codec, oracle = RecordCodec(schema), Oracle(schema)
    for data in mutations(oracle.write(value), seed):
        judged(codec, oracle, data)


@slow
@given(record_and_value(), st.binary(max_size=40))
def test_arbitrary_bytes(sample: tuple[dict[str, Any], dict[str, Any]], data: bytes) -> None:
    schema, _ = sample
    judged(RecordCodec(schema), Oracle(schema), data)


SHORT = {
    "person_id": "330x",
    "name": "张",
    "address": "文",
    "division": "33",
    "household_id": None,
    "phone": "1",
}


def test_every_byte_of_a_register_record_at_every_place() -> None:
    """All 255 single-byte mutations of a record with every column type, and what became of them."""
    codec = RecordCodec(PERSON)
    oracle = Oracle(without_logical_types(PERSON))
    with_logic = Oracle(PERSON)
    data = b"".join(codec.encode(VALUES | SHORT))
    taken = refused = 0
    for at in range(len(data)):
        for byte in range(256):
            mutated = data[:at] + bytes([byte]) + data[at + 1 :]
            if judged(codec, oracle, mutated):
                with_logic.read(mutated)  # no date, time or decimal that Python cannot hold
                taken += 1
            else:
                refused += 1
    assert taken > 2000
    assert refused > 2000


@pytest.fixture(scope="module")
def codecs() -> Codecs:
    return Codecs(contract())


def test_every_envelope_byte_of_a_change_and_a_delivery() -> None:
    """The walks over envelopes are written by hand: telling bytes, alone and paired, judged."""
    short = project(PERSON, ("name", "phone"))
    codecs = Codecs(contract(person_v2=short))
    record = codecs.record_codec("person", 2).encode({"name": "张", "phone": "1"})
    little = {"source_unit": "a@33", "division": "3301", "schema_version": 2}
    sent = change(record, former_divisions=("3302",), job="j", **little)
    change_value = codecs.encode_change(sent)
    rule = delivery("phone", rule="r", grants=("g",))
    (delivery_value,) = codecs.encode_deliveries(sent, [rule], 300)
    (withdrawal,) = codecs.encode_deliveries(sent, [delivery(rule="r")], 300)
    gone = codecs.encode_change(change(None, **little))
    of_change = Oracle(without_logical_types(change_schema("person", 2, short)))
    of_delivery, of_withdrawal = (
        Oracle(without_logical_types(delivery_schema("person", 2, short, fields)))
        for fields in (("phone",), ())
    )
    rng = random.Random(4)
    for value, oracle, door in (
        (change_value, of_change, codecs.decode_change),
        (gone, of_change, codecs.decode_change),
        (delivery_value, of_delivery, codecs.decode_inbox),
        (withdrawal, of_withdrawal, codecs.decode_inbox),
    ):
        tried = [value[:n] for n in range(5, len(value))]
        for at in range(5, len(value)):
            tried += [
                value[:at] + bytes([b]) + value[at + 1 :]
                for b in {*_TELLING, *rng.sample(range(256), 50)}
            ]
            for _ in range(15):
                pair = bytes([rng.choice(_TELLING), rng.choice(_TELLING)])
                tried.append(value[:at] + pair + value[at + 2 :])
        taken, reasons = 0, set()
        for each in tried:
            try:
                read = door(KEY, each)
            except WireRefused as refused:
                reasons.add(refused.reason)
                continue
            taken += 1
            datum = oracle.read(each[5:])
            assert oracle.write(datum) == each[5:]
            assert datum["version"] == read.version
            assert datum["source_time"] == read.source_time_us
            assert datum["policy"] == read.policy
            assert datum["source_unit"] == read.source_unit
        assert reasons == {"malformed", "inconsistent"}
        assert 200 < taken < len(tried) * 0.9


COUNTS = st.one_of(st.integers(0, 100), st.integers(0, 2**63 - 1))


@slow
@given(
    numbers=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS),
    time_us=st.one_of(st.integers(0, 253402300799999999), st.integers(10**15, 2 * 10**15)),
    texts=st.tuples(TEXT := st.text(max_size=40), TEXT, st.lists(TEXT, max_size=3), TEXT),
    deleted=st.booleans(),
)
def test_an_envelope_means_to_avro_what_it_means_to_us(
    codecs: Codecs,
    numbers: tuple[int, int, int, int],
    time_us: int,
    texts: tuple[str, str, list[str], str],
    deleted: bool,
) -> None:
    version, publication, policy, incarnation = numbers
    unit, place, former, job = texts
    record = None if deleted else codecs.record_codec("person", 1).encode(VALUES)
    base = change(record)
    sent = change(
        record,
        version=version,
        publication=publication,
        policy=policy,
        incarnation=type(base.incarnation)(incarnation, b"\x80" * 8),
        source_time_us=time_us,
        source_unit=unit,
        division=place,
        former_divisions=tuple(former),
        job=job,
    )
    value = codecs.encode_change(sent)
    assert codecs.decode_change(KEY, value) == sent
    oracle = Oracle(without_logical_types(change_schema("person", 1, PERSON)))
    datum = oracle.read(value[5:])
    assert oracle.write(datum) == value[5:]
    assert datum["op"] == sent.op.value
    assert datum["reason"] == (sent.reason.value if sent.reason else None)
    assert (datum["version"], datum["publication"], datum["policy"]) == numbers[:3]
    assert (datum["incarnation"], datum["token"]) == (incarnation, b"\x80" * 8)
    assert datum["source_time"] == time_us
    assert (datum["source_unit"], datum["division"], datum["job"]) == (unit, place, job)
    assert datum["former_divisions"] == former
    assert (datum["record"] is None) is deleted


def test_the_schemas_of_the_bus_are_valid_to_the_reference(codecs: Codecs) -> None:
    for text in codecs.schemas([("person", 1, ()), ("person", 1, ("name", "sex"))]).values():
        Oracle(json.loads(text))
        assert canonical_json(json.loads(text)) == text
