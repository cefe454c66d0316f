"""Codecs: changes, deliveries and control records at their doors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from wire_samples import (
    CONTROL,
    FIELDS,
    KEY,
    SENDER,
    SOURCE,
    TIME_US,
    VALUES,
    change,
    contract,
    delivery,
)

from deptbus.change import (
    Cause,
    Change,
    ChangeOp,
    DeliveryOp,
    Direction,
    Incarnation,
    Reason,
    Received,
    RecordFields,
)
from deptbus.errors import WireRefused
from deptbus.wire.codecs import Codecs, InboxControl
from deptbus.wire.control import (
    Announcement,
    Control,
    Heartbeat,
    Marker,
    ResendRequest,
    check_key,
    decode_control,
    encode_control,
    key_of,
)
from deptbus.wire.framing import frame, unframe
from deptbus.wire.guard import MAX_CHANGE_BYTES, MAX_RECORD_BYTES


@pytest.fixture(scope="module")
def codecs() -> Codecs:
    return Codecs(contract())


@pytest.fixture(scope="module")
def record(codecs: Codecs) -> RecordFields:
    return codecs.record_codec("person", 1).encode(VALUES)


NUMBERS = (0, 1, 63, 64, 8191, 8192, 1 << 20, (1 << 20) - 1, 1 << 21, 1 << 34, 2**63 - 1)


def envelopes() -> Iterator[dict[str, Any]]:
    for n in NUMBERS:
        yield {"version": n, "publication": n, "policy": n}
        yield {"incarnation": Incarnation(n, b"\xff" * 8)}
    for time_us in (0, 63, 1 << 41, 1 << 48, (1 << 48) - 1, 1 << 55, TIME_US, 253402300799999999):
        yield {"source_time_us": time_us}
        yield {"source_time_us": time_us}  # again, now that parts of it are remembered
    for cause in (Cause.LIVE, Cause.SNAPSHOT, Cause.RESEND):
        yield {"cause": cause, "job": f"job-{cause}"}
    yield {"former_divisions": ()}
    yield {"former_divisions": tuple(f"{n:012}" for n in range(200))}
    yield {"division": ""}
    yield {"division": "九" * 50, "source_unit": "é" * 40, "job": ""}
    yield {"source_unit": "u" * 63}
    yield {"source_unit": "u" * 64}


@pytest.mark.parametrize("envelope", list(envelopes()))
def test_change_comes_back(codecs: Codecs, record: RecordFields, envelope: dict[str, Any]) -> None:
    for sent in (
        change(record, **envelope),
        change(None, **envelope),
        change(None, reason=Reason.REMOVED, **envelope),
    ):
        value = codecs.encode_change(sent)
        read = codecs.decode_change(sent.key, value)
        assert read == sent
        assert type(read) is Change
        assert codecs.encode_change(read) == value
        assert codecs.decode_out(sent.key, value) == sent


def test_a_decoded_change_is_as_frozen_as_any(codecs: Codecs, record: RecordFields) -> None:
    read = codecs.decode_change(KEY, codecs.encode_change(change(record)))
    with pytest.raises(AttributeError):
        read.version = 5
    assert hash(read) == hash(change(record))
    assert replace(read, version=5).version == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": -1},
        {"version": 2**63},
        {"publication": -1},
        {"policy": -1},
        {"source_time_us": -1},
        {"source_time_us": 253402300800000000},
        {"incarnation": Incarnation(-1, bytes(8))},
        {"incarnation": Incarnation(1, bytes(7))},
        {"key": bytes(15)},
        {"source_unit": "\ud800"},
        {"division": "\ud800"},
        {"former_divisions": ("\ud800",)},
        {"job": "\ud800"},
        {"cause": Cause.REPLAY},
        {"reason": Reason.REMOVED},
        {"record": None},
        {"record": (b"\0",)},
        {"op": ChangeOp.DELETE},
    ],
)
def test_a_change_that_nobody_could_read_is_not_written(
    codecs: Codecs, record: RecordFields, wrong: dict[str, Any]
) -> None:
    with pytest.raises(WireRefused) as refused:
        codecs.encode_change(change(record, **{**wrong}) if "record" not in wrong else
                             replace(change(record), **wrong))  # fmt: skip
    assert refused.value.reason == "bad_value"
    assert refused.value.__context__ is None


def test_a_change_of_an_unknown_schema_is_not_written(codecs: Codecs, record: RecordFields) -> None:
    for wrong in ({"dataset": "other"}, {"schema_version": 9}):
        with pytest.raises(WireRefused) as refused:
            codecs.encode_change(change(record, **wrong))
        assert refused.value.reason == "unknown_schema"
    with pytest.raises(WireRefused):
        codecs.record_codec("person", 9)


def test_records_up_to_the_cap_pass_and_no_larger(codecs: Codecs) -> None:
    person = codecs.record_codec("person", 1)
    room = MAX_CHANGE_BYTES - len(
        codecs.encode_change(change(person.encode({**VALUES, "address": "x" * 100_000})))
    )
    largest = change(person.encode({**VALUES, "address": "x" * (100_000 + room)}))
    value = codecs.encode_change(largest)
    assert len(value) == MAX_CHANGE_BYTES
    assert codecs.decode_change(KEY, value) == largest
    too_large = change(person.encode({**VALUES, "address": "x" * (100_001 + room)}))
    with pytest.raises(WireRefused) as refused:
        codecs.encode_change(too_large)
    assert refused.value.reason == "too_large"
    with pytest.raises(WireRefused) as refused:
        codecs.decode_change(KEY, value + b"x")
    assert refused.value.reason == "too_large"
    # A delivery's envelope may be longer than the change's: there is room for rule and grants.
    named = delivery(*FIELDS, rule="r" * 5000, grants=("g" * 5000,) * 10)
    assert codecs.encode_deliveries(largest, [named], 3)
    with pytest.raises(WireRefused) as refused:
        codecs.encode_deliveries(largest, [delivery(*FIELDS, rule="r" * 100_000)], 3)
    assert refused.value.reason == "too_large"


def expected(sent: Change, index: tuple[int, ...], **other: Any) -> Received:
    assert sent.record is not None
    values: dict[str, Any] = {
        "dataset": "person",
        "key": sent.key,
        "op": DeliveryOp.UPSERT,
        "source_unit": SOURCE,
        "version": sent.version,
        "source_time_us": sent.source_time_us,
        "policy": 9,
        "direction": Direction.HORIZONTAL,
        "rule": "person_housing",
        "grants": (),
        "cause": Cause.LIVE,
        "job": None,
        "fields": tuple(FIELDS[i] for i in index),
        "record": tuple(sent.record[i] for i in index),
        "schema_version": 1,
    }
    return Received(**(values | other))


def test_deliveries_are_what_routing_decided(codecs: Codecs, record: RecordFields) -> None:
    sent = change(record)
    values = codecs.encode_deliveries(
        sent,
        [
            delivery("name", "address"),
            delivery("address", "name", unit="health@330106"),
            delivery(
                "phone", direction=Direction.GRANTED, rule="g-1", grants=("g-1", "g-2")
            ),
            delivery(*FIELDS, direction=Direction.UPWARD, rule="person_upward"),
            delivery(),
            delivery(op=DeliveryOp.DELETE, direction=Direction.RETURN),
        ],
        9,
    )  # fmt: skip
    read = [codecs.decode_inbox(KEY, value) for value in values]
    nothing = {"fields": (), "record": None}
    assert read == [
        expected(sent, (1, 5)),
        expected(sent, (1, 5)),
        expected(sent, (13,), direction=Direction.GRANTED, rule="g-1", grants=("g-1", "g-2")),
        expected(sent, tuple(range(15)), direction=Direction.UPWARD, rule="person_upward"),
        expected(sent, (), op=DeliveryOp.WITHDRAW, **nothing),
        expected(sent, (), op=DeliveryOp.DELETE, direction=Direction.RETURN, **nothing),
    ]
    assert all(type(r) is Received for r in read)
    assert [codecs.decode_inbox(KEY, value) for value in values] == read


@pytest.mark.parametrize("envelope", list(envelopes()))
def test_delivery_has_the_envelope_of_its_change(
    codecs: Codecs, record: RecordFields, envelope: dict[str, Any]
) -> None:
    sent = change(record, **envelope)
    (value,) = codecs.encode_deliveries(sent, [delivery("name")], sent.policy)
    read = codecs.decode_inbox(KEY, value)
    assert isinstance(read, Received)
    assert (read.version, read.source_time_us, read.policy, read.source_unit) == (
        sent.version,
        sent.source_time_us,
        sent.policy,
        sent.source_unit,
    )
    assert (read.cause, read.job) == (sent.cause, sent.job)


def test_recipients_of_one_rule_share_one_value(codecs: Codecs, record: RecordFields) -> None:
    many = [delivery("name", unit=f"u{n}@330106") for n in range(50)]
    values = codecs.encode_deliveries(change(record), many, 3)
    assert len({id(v) for v in values}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"op": DeliveryOp.DELETE},
        {"direction": Direction.RETURN},
        {"rule": "another"},
        {"grants": ("g-1",)},
        {"fields": ("phone",), "op": DeliveryOp.UPSERT},
    ],
    ids=lambda other: next(iter(other)),
)
def test_rules_that_differ_in_one_thing_are_told_apart(
    record: RecordFields, other: dict[str, Any]
) -> None:
    fresh = Codecs(contract())
    one = delivery()
    both = [one, replace(one, **other)]
    for _ in range(2):
        read = [
            fresh.decode_inbox(KEY, value)
            for value in fresh.encode_deliveries(change(record), both, 3)
        ]
        for received, wanted in zip(read, both, strict=True):
            assert isinstance(received, Received)
            assert received.op is wanted.op
            assert received.direction is wanted.direction
            assert (received.rule, received.grants) == (wanted.rule, wanted.grants)
            assert received.fields == wanted.fields


def test_rules_made_anew_for_every_change(record: RecordFields) -> None:
    """A router that keeps nothing: identities come and go, and none is taken for an earlier one."""
    fresh = Codecs(contract())
    for n in range(3000):
        rule = delivery(FIELDS[n % 15], rule=f"rule-{n % 7}", grants=(f"g-{n % 11}",))
        (value,) = fresh.encode_deliveries(change(record), [rule], 3)
        read = fresh.decode_inbox(KEY, value)
        assert isinstance(read, Received)
        assert (read.fields, read.rule, read.grants) == (rule.fields, rule.rule, rule.grants)


def test_nothing_of_a_change_leaks_into_another(codecs: Codecs, record: RecordFields) -> None:
    """Plans are kept from change to change; what belongs to the change is not."""
    person = codecs.record_codec("person", 1)
    rule = delivery("name", "phone")
    for n in range(5):
        each = change(
            person.encode({**VALUES, "name": f"人{n}", "phone": None}),
            version=n, key=bytes([n]) * 16, source_unit=f"u{n}@33",
        )  # fmt: skip
        (value,) = codecs.encode_deliveries(each, [rule], n)
        read = codecs.decode_inbox(each.key, value)
        assert isinstance(read, Received)
        assert (read.key, read.version, read.policy) == (each.key, n, n)
        assert read.source_unit == f"u{n}@33"
        assert person.decode(each.record or ())["name"] == f"人{n}"
        assert codecs.record_codec("person", 1, read.fields).decode(read.record or ()) == {
            "name": f"人{n}",
            "phone": None,
        }


def test_a_withdrawal_does_not_tell_where_the_person_went(
    codecs: Codecs, record: RecordFields
) -> None:
    sent = change(record, division="330106777777", former_divisions=("330106888888",))
    withdraw, delete = codecs.encode_deliveries(
        sent, [delivery(), delivery(op=DeliveryOp.DELETE)], 3
    )
    for value in (withdraw, delete):
        assert b"330106777777" not in value
        assert b"330106888888" not in value


def test_a_projection_holds_no_byte_of_another_field(codecs: Codecs) -> None:
    canaries = {name: f"canary-{name}" for name in ("name", "address", "phone", "household_id")}
    sent = change(codecs.record_codec("person", 1).encode(VALUES | canaries))
    (value,) = codecs.encode_deliveries(sent, [delivery("address")], 3)
    assert b"canary-address" in value
    assert value.count(b"canary") == 1


def test_jobs_say_their_own_cause(codecs: Codecs, record: RecordFields) -> None:
    sent = change(record, cause=Cause.SNAPSHOT, job="load-1")
    read = [
        codecs.decode_inbox(KEY, value)
        for value in (
            *codecs.encode_deliveries(sent, [delivery("name")], 3),
            *codecs.encode_deliveries(sent, [delivery("name")], 3, cause=Cause.REPLAY, job="r"),
        )
    ]
    assert [(r.cause, r.job) for r in read if isinstance(r, Received)] == [
        (Cause.SNAPSHOT, "load-1"),
        (Cause.REPLAY, "r"),
    ]


def test_deliveries_that_make_no_sense_are_not_written(
    codecs: Codecs, record: RecordFields
) -> None:
    for deliveries, sent in [
        ([delivery("name")], change(None)),
        ([delivery("name", op=DeliveryOp.WITHDRAW)], change(record)),
        ([delivery(op=DeliveryOp.UPSERT)], change(record)),
        ([delivery("name", rule="\ud800")], change(record)),
    ]:
        with pytest.raises(WireRefused) as refused:
            codecs.encode_deliveries(sent, deliveries, 3)
        assert refused.value.reason == "bad_value"
    with pytest.raises(WireRefused):
        codecs.encode_deliveries(change(record), [delivery("name")], -1)
    with pytest.raises(KeyError):
        codecs.encode_deliveries(change(record), [delivery("salary")], 3)
    assert codecs.encode_deliveries(change(record), [], 3) == []


@pytest.mark.parametrize("sent", CONTROL, ids=lambda r: type(r).__name__)
def test_control_records_pass_at_their_doors_only(codecs: Codecs, sent: Control) -> None:
    key, value = key_of(sent), encode_control(sent)
    assert decode_control(value) == sent
    for door, kinds in (
        (codecs.decode_out, Announcement | Marker),
        (codecs.decode_inbox, InboxControl),
    ):
        if isinstance(sent, kinds):
            assert door(key, value) == sent
        else:
            with pytest.raises(WireRefused) as refused:
                door(key, value)
            assert refused.value.reason == "wrong_kind"
    with pytest.raises(WireRefused) as refused:
        codecs.decode_change(KEY, value)
    assert refused.value.reason == "wrong_kind"


@pytest.mark.parametrize("sent", CONTROL, ids=lambda r: type(r).__name__)
def test_control_record_under_a_foreign_key(sent: Control) -> None:
    check_key(key_of(sent), sent)
    with pytest.raises(WireRefused) as refused:
        check_key(b"another/heartbeat", sent)
    assert refused.value.reason == "bad_key"


def test_control_records_that_nobody_could_read_are_not_written() -> None:
    heartbeat = next(r for r in CONTROL if isinstance(r, Heartbeat))
    marker = next(r for r in CONTROL if isinstance(r, Marker))
    wrong: list[Any] = [
        replace(heartbeat, version=-1),
        replace(heartbeat, ends=(1, -1)),
        replace(heartbeat, ends=("a",)),
        replace(heartbeat, parked=2**63),
        replace(heartbeat, unit=None),
        replace(heartbeat, resync_needed=1),
        replace(heartbeat, incarnation=Incarnation(1, b"")),
        replace(marker, kind="other"),
        replace(marker, marker="\ud800"),
    ]
    for record in wrong:
        with pytest.raises(WireRefused) as refused:
            encode_control(record)
        assert refused.value.reason == "bad_value"
    with pytest.raises(WireRefused) as refused:
        encode_control(replace(marker, marker="x" * MAX_RECORD_BYTES))
    assert refused.value.reason == "too_large"


def test_resend_of_a_whole_dataset_has_no_key() -> None:
    sent = ResendRequest("r", "person", None, "first load")
    assert decode_control(encode_control(sent)) == sent


def test_frame_and_unframe() -> None:
    assert frame(258, b"body") == b"\0\0\0\1\2body"
    assert unframe(b"\0\0\0\1\2body") == (258, b"body")
    assert unframe(b"\0\0\0\1\2") == (258, b"")


def test_incarnations_are_shared_and_right(codecs: Codecs, record: RecordFields) -> None:
    """What is remembered of one sender is not told of another."""
    senders = [
        (SOURCE, SENDER),
        (SOURCE, Incarnation(8, SENDER.token)),
        (SOURCE, Incarnation(7, b"another8")),
        ("housing@330106", SENDER),
        (SOURCE, Incarnation(100, SENDER.token)),
        (SOURCE, Incarnation(10_000, SENDER.token)),
    ]
    for _ in range(2):
        for unit, incarnation in senders:
            sent = change(record, source_unit=unit, incarnation=incarnation)
            assert codecs.decode_change(KEY, codecs.encode_change(sent)) == sent
