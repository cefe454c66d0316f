"""What comes from `bus.schemas` proves itself before it is believed."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from wire_samples import KEY, PERSON, VALUES, change, contract, delivery

from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs
from deptbus.wire.framing import canonical_json, header, id_of_text, schema_id
from deptbus.wire.guard import MAX_SCHEMA_BYTES
from deptbus.wire.schemas import change_schema, delivery_schema, project
from deptbus.wire.types import resolve


def text_of(schema: Any) -> bytes:
    return canonical_json(schema).encode()


def record_of(*types: Any) -> dict[str, Any]:
    fields = [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]
    return {"type": "record", "name": "Visitor", "fields": fields}


def delivery_of(record: dict[str, Any], **attribute: Any) -> dict[str, Any]:
    """A delivery schema of a dataset that the contract does not know."""
    schema = delivery_schema("visitor", 1, record, [f["name"] for f in record["fields"]])
    schema["deptbus"] |= attribute
    return schema


def nested(depth: int) -> Any:
    schema: Any = "string"
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


# A record schema -> what is wrong with it. None may reach a walk, let alone fastavro.
UNSAFE: dict[str, Any] = {
    "array_of_null": record_of({"type": "array", "items": "null"}),
    "array_of_records_of_nothing": record_of(
        {"type": "array", "items": {"type": "record", "name": "Nothing", "fields": []}}
    ),
    "array_of_records_of_nulls": record_of(
        {"type": "array", "items": record_of("null", "null") | {"name": "Nulls"}}
    ),
    "union_in_union": record_of(["null", ["string", "null"]]),
    "union_of_nothing": record_of([]),
    "union_of_the_same": record_of(["string", "string"]),
    "recursion": record_of(["null", "Visitor"]),
    "recursion_by_array": record_of({"type": "array", "items": "Visitor"}),
    "too_deep": record_of(nested(20)),
    "too_many_types": record_of(*(["string"] * 2100)),
    "unknown_type": record_of("varchar"),
    "unknown_reference": record_of("Elsewhere"),
    "type_without_need": record_of({"type": {"type": "string"}}),
    "fixed_of_nothing": record_of({"type": "fixed", "name": "F", "size": 0}),
    "fixed_negative": record_of({"type": "fixed", "name": "F", "size": -1}),
    "fixed_huge": record_of({"type": "fixed", "name": "F", "size": 1 << 30}),
    "fixed_true": record_of({"type": "fixed", "name": "F", "size": True}),
    "enum_of_nothing": record_of({"type": "enum", "name": "E", "symbols": []}),
    "enum_twice": record_of({"type": "enum", "name": "E", "symbols": ["A", "A"]}),
    "enum_code": record_of({"type": "enum", "name": "E", "symbols": ["'+exit()+'"]}),
    "decimal_without_precision": record_of({"type": "bytes", "logicalType": "decimal"}),
    "decimal_scale": record_of(
        {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}
    ),
    "decimal_endless": record_of({"type": "bytes", "logicalType": "decimal", "precision": 10**6}),
    "field_code": {
        "type": "record",
        "name": "Visitor",
        "fields": [{"name": "x']; import os #", "type": "string"}],
    },
    "field_newline": {
        "type": "record",
        "name": "Visitor",
        "fields": [{"name": "x\n", "type": "string"}],
    },
    "field_twice": {
        "type": "record",
        "name": "Visitor",
        "fields": [{"name": "x", "type": "string"}, {"name": "x", "type": "string"}],
    },
    "name_code": record_of("string") | {"name": "Visitor\nimport os"},
    "name_of_envelope": record_of("string") | {"namespace": "deptbus.envelope", "name": "Cause"},
}


@pytest.mark.parametrize("record", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_record_is_refused(record: dict[str, Any]) -> None:
    schema = delivery_of(record)
    text = text_of(schema)
    tracemalloc.start()
    try:
        with pytest.raises(WireRefused) as refused:
            Codecs(contract()).add_schema(id_of_text(text), text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "bad_schema"
    assert refused.value.__context__ is None
    assert peak < 2_000_000
    with pytest.raises(WireRefused):
        resolve(schema)


@pytest.mark.parametrize(
    "avro_type",
    [
        {"type": "string", "logicalType": "date"},
        {"type": "bytes", "logicalType": "decimal", "precision": 39},
        {"type": "int", "logicalType": "no-such"},
    ],
)
def test_record_that_no_contract_may_have_is_refused(avro_type: Any) -> None:
    """Harmless to the walk, and yet read unalike by different readers: the contract's own lint."""
    schema = delivery_of(record_of(avro_type))
    resolve(schema)
    with pytest.raises(WireRefused) as refused:
        Codecs(contract()).add_schema(schema_id(schema), text_of(schema))
    assert refused.value.reason == "bad_schema"


def test_safe_unknown_record_is_taken() -> None:
    """The counter-check of the cases above: only what is wrong with them is refused."""
    codecs = Codecs(contract())
    record = record_of("string", ["null", "int"], {"type": "array", "items": "string"})
    text = text_of(delivery_of(record))
    codecs.add_schema(id_of_text(text), text)
    assert codecs.schemas()[id_of_text(text)] == text.decode()


GOOD = text_of(delivery_of(record_of("string")))

# Text -> what is wrong with it as text.
BAD_TEXT: dict[str, bytes] = {
    "empty": b"",
    "not_json": b"{",
    "not_utf8": GOOD.replace(b"Visitor", b"Visito\xff"),
    "list": b"[" + GOOD + b"]",
    "string": b'"string"',
    "null": b"null",
    "nan": GOOD.replace(b'"schema_version":1', b'"schema_version":NaN'),
    "infinity": GOOD.replace(b'"schema_version":1', b'"schema_version":-Infinity'),
    "spaces": GOOD.replace(b":", b": "),
    "newline_at_end": GOOD + b"\n",
    "byte_order_mark": b"\xef\xbb\xbf" + GOOD,
    "escaped": GOOD.replace(b"Visitor", b"\\u0056isitor"),
    "key_twice": GOOD.replace(b'"type":"record"}', b'"type":"record","type":"record"}'),
    "keys_unsorted": json.dumps(json.loads(GOOD), separators=(",", ":")).encode()[:1]
    + b'"type":"record",'
    + GOOD[1:].replace(b',"type":"record"}', b"}"),
    "number_form": GOOD.replace(b'"schema_version":1', b'"schema_version":1.0'),
    "number_endless": GOOD.replace(b'"schema_version":1', b'"schema_version":1' + b"0" * 9000),
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep_objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep_attribute": GOOD.replace(
        b'"name":"Visitor",',
        b'"name":"Visitor","note":' + b'{"a":' * 320 + b"1" + b"}" * 320 + b",",
    ),
    "surrogate": GOOD.replace(b"Visitor", b"\\ud800"),
}


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT)
def test_text_that_is_not_a_canonical_schema_is_refused(text: bytes) -> None:
    assert text != GOOD
    tracemalloc.start()
    try:
        with pytest.raises(WireRefused) as refused:
            Codecs().add_schema(id_of_text(text), text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "bad_schema"
    assert refused.value.__context__ is None
    assert peak < 4_000_000


def test_too_large() -> None:
    text = b'"' + b"a" * MAX_SCHEMA_BYTES + b'"'
    with pytest.raises(WireRefused) as refused:
        Codecs().add_schema(id_of_text(text), text)
    assert refused.value.reason == "too_large"


def test_id_must_be_the_hash_of_the_text() -> None:
    codecs = Codecs()
    for number in (0, id_of_text(GOOD) ^ 1, -1, 1 << 40):
        with pytest.raises(WireRefused) as refused:
            codecs.add_schema(number, GOOD)
        assert refused.value.reason == "schema_mismatch"


def tampered() -> dict[str, dict[str, Any]]:
    """Schemas whose ids are right and which lie about the dataset `person`."""
    released = delivery_schema("person", 1, PERSON, ("name", "phone"))
    renamed = json.loads(canonical_json(released))
    renamed["fields"][-1]["type"][1]["fields"][0]["name"] = "address"
    widened = json.loads(canonical_json(released))
    widened["fields"][-1]["type"][1]["fields"].append({"name": "secret", "type": "string"})
    swapped = json.loads(canonical_json(released))
    swapped["fields"][-1]["type"][1]["fields"].reverse()
    retyped = json.loads(canonical_json(released))
    retyped["fields"][-1]["type"][1]["fields"][0]["type"] = "bytes"
    attribute = json.loads(canonical_json(released))
    attribute["deptbus"]["fields"] = ["name", "address"]
    envelope = json.loads(canonical_json(released))
    envelope["fields"][0]["type"]["symbols"] = ["withdraw", "delete", "upsert"]
    change_lie = change_schema("person", 1, project(PERSON, ("name",)))
    return {
        "renamed": renamed,
        "widened": widened,
        "swapped": swapped,
        "retyped": retyped,
        "attribute": attribute,
        "envelope": envelope,
        "change": change_lie,
    }


@pytest.mark.parametrize("schema", tampered().values(), ids=tampered())
def test_tampered_schema_of_a_known_dataset_is_refused(schema: dict[str, Any]) -> None:
    codecs = Codecs(contract())
    text = text_of(schema)
    with pytest.raises(WireRefused) as refused:
        codecs.add_schema(id_of_text(text), text)
    assert refused.value.reason == "schema_mismatch"
    with pytest.raises(WireRefused) as refused:
        codecs.decode_inbox(KEY, header(id_of_text(text)) + bytes(40))
    assert refused.value.reason == "unknown_schema"


@pytest.mark.parametrize(
    "attribute",
    [{"kind": "other"}, {"kind": None}, {"dataset": 1}, {"schema_version": True},
     {"schema_version": 0}, {"schema_version": "1"}],
)  # fmt: skip
def test_schema_that_does_not_say_what_it_holds(attribute: dict[str, Any]) -> None:
    text = text_of(delivery_of(record_of("string"), **attribute))
    with pytest.raises(WireRefused) as refused:
        Codecs().add_schema(id_of_text(text), text)
    assert refused.value.reason == "bad_schema"


def test_bare_record_is_not_a_schema_of_this_bus() -> None:
    text = text_of(PERSON)
    with pytest.raises(WireRefused) as refused:
        Codecs().add_schema(id_of_text(text), text)
    assert refused.value.reason == "bad_schema"


def test_two_schemas_of_one_id_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collision of 31 bits cannot be made at will: the hash is made to collide."""
    monkeypatch.setattr("deptbus.wire.codecs.id_of_text", lambda text: 7)
    codecs = Codecs()
    with pytest.raises(WireRefused) as refused:
        codecs.add_contract(contract(person_v2=project(PERSON, ("name",))))
    assert refused.value.reason == "schema_collision"
    monkeypatch.setattr("deptbus.wire.schema_text.id_of_text", lambda text: 7)
    with pytest.raises(WireRefused) as refused:
        codecs.add_schema(7, GOOD)
    assert refused.value.reason == "schema_collision"


def test_a_reader_with_only_the_store_reads_what_a_writer_wrote() -> None:
    writer = Codecs(contract())
    sent = change(writer.record_codec("person", 1).encode(VALUES))
    values = writer.encode_deliveries(sent, [delivery("name", "phone"), delivery()], 3)
    reader = Codecs()
    for value in values:
        missing = reader.missing_schema(value)
        assert missing is not None
        with pytest.raises(WireRefused) as refused:
            reader.decode_inbox(KEY, value)
        assert refused.value.reason == "unknown_schema"
        reader.add_schema(missing, writer.schemas()[missing].encode())
        assert reader.missing_schema(value) is None
        assert reader.decode_inbox(KEY, value) == writer.decode_inbox(KEY, value)


def test_new_schemas_are_told_once_and_not_when_the_store_has_them() -> None:
    first = Codecs(contract())
    known = first.take_new_schemas()
    assert known == first.schemas()
    number, text = first.delivery_schema_for("person", 1, ("phone", "name"))
    assert first.take_new_schemas() == {number: text}
    assert first.take_new_schemas() == {}
    assert first.delivery_schema_for("person", 1, ("name", "phone"))[0] == number
    assert first.take_new_schemas() == {}

    second = Codecs(contract())
    for each, stored in first.schemas().items():
        second.add_schema(each, stored.encode())
    second.delivery_schema_for("person", 1, ("name", "phone"))
    assert second.take_new_schemas() == {}


def test_all_schemas_of_given_projections() -> None:
    codecs = Codecs(contract())
    before = set(codecs.schemas())
    after = codecs.schemas([("person", 1, ("name",)), ("person", 1, ())])
    assert len(set(after) - before) == 2
    assert all(id_of_text(text.encode()) == number for number, text in after.items())


def test_newer_contract_is_learned_beside_the_older_one() -> None:
    codecs = Codecs(contract())
    wider = {**PERSON, "fields": [*PERSON["fields"], {"name": "tax_id", "type": "string"}]}
    newer = Codecs(contract(person_v2=wider))
    sent = change(
        newer.record_codec("person", 2).encode(VALUES | {"tax_id": "t"}), schema_version=2
    )
    value = newer.encode_change(sent)
    number = schema_id(change_schema("person", 2, wider))
    codecs.add_schema(number, newer.schemas()[number].encode())
    with pytest.raises(WireRefused) as refused:  # in the store is not in the contract
        codecs.decode_change(KEY, value)
    assert refused.value.reason == "unknown_schema"
    codecs.add_contract(contract(person_v2=wider))
    assert codecs.decode_change(KEY, value) == sent
    old = change(codecs.record_codec("person", 1).encode(VALUES))
    assert codecs.decode_change(KEY, codecs.encode_change(old)) == old


def test_released_version_cannot_be_edited() -> None:
    codecs = Codecs(contract())
    edited = contract().model_copy(
        update={"schemas": {"person.v1": {**PERSON, "doc": "another text"}}}
    )
    with pytest.raises(WireRefused) as refused:
        codecs.add_contract(edited)
    assert refused.value.reason == "schema_mismatch"


def test_ids_depend_on_all_of_a_schema() -> None:
    """Logical types, docs, attributes and defaults too: they change what the bytes mean."""
    base = record_of({"type": "long", "logicalType": "timestamp-micros"})
    others = [
        record_of("long"),
        record_of({"type": "long", "logicalType": "timestamp-millis"}),
        base | {"doc": "x"},
        base | {"deptbus": {}},
    ]
    assert len({schema_id(s) for s in [base, *others]}) == 5
    assert schema_id(dict(reversed(base.items()))) == schema_id(base)
    assert all(0 <= schema_id(s) < 1 << 31 for s in others)
