"""What an operator is shown of a record: fields by their sharing class, and no personal number."""

from __future__ import annotations

import hashlib
import json

import pytest
from wire_samples import KEY, PERSON, VALUES, change, contract

from deptbus.contract.model import Check, Policy, Sharing
from deptbus.operations.describe import describe
from deptbus.operations.masking import masked, masked_fields, shown
from deptbus.stream.log import LogRecord
from deptbus.wire.codecs import Codecs

DATASET = contract().datasets["person"].model_copy(
    update={
        "sharing": {
            "person_id": Sharing.UNCONDITIONAL,
            "name": Sharing.UNCONDITIONAL,
            "division": Sharing.UNCONDITIONAL,
            "phone": Sharing.CONDITIONAL,
            "income": Sharing.NOT_SHARED,
        },
        "checks": {"person_id": Check.RESIDENT_ID},
    }
)  # fmt: skip
CONTRACT = contract().model_copy(update={"datasets": {"person": DATASET}})


def policy() -> Policy:
    from datetime import UTC, datetime

    now = datetime(2026, 6, 1, tzinfo=UTC)
    return Policy(number=3, activated_at=now, activated_by="test", contract=CONTRACT)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", "张三丰", "张三丰"),
        ("phone", "13800138000", "(masked: conditional)"),
        ("income", 1, "(masked: not_shared)"),
        ("smuggled", "x", "(masked: not in the contract)"),
        ("person_id", "any", "(masked: a personal number)"),
        ("name", "id 33010619900101001X", "(masked: a personal number)"),
        ("name", "a\x1b[2Jb\n", "a\\u001b[2Jb\\u000a"),
        ("name", "x" * 500, "x" * 120 + "..."),
        ("name", None, "None"),
    ],
)
def test_a_value_is_shown_only_where_the_contract_opens_its_field(
    field: str, value: object, expected: str
) -> None:
    assert masked(DATASET, field, value) == expected


def test_of_an_unknown_dataset_nothing_is_shown() -> None:
    assert masked_fields(None, {"name": "x"}) == {"name": "(masked: not in the contract)"}
    assert shown(b"33010619900101001X") == "(18 bytes)"


def record(value: bytes | None, key: bytes | None = KEY) -> LogRecord:
    return LogRecord("out.public_security-330106", 1, 7, 1_000, key, value)


def test_a_record_is_described_without_what_is_masked() -> None:
    codecs = Codecs(CONTRACT)
    fields = codecs.record_codec("person", 1).encode(VALUES)
    value = codecs.encode_change(change(fields))
    found = describe(codecs, policy(), record(value))
    text = json.dumps(found, ensure_ascii=False)
    for hidden in (VALUES["person_id"], VALUES["phone"], VALUES["address"], "12345.67"):
        assert str(hidden) not in text
    assert hashlib.sha256(value).hexdigest() not in text  # a phone number is soon guessed
    assert found["change"]["fields"]["name"] == VALUES["name"]
    assert found["change"]["fields"].keys() == {f["name"] for f in PERSON["fields"]}
    assert found["change"]["version"] == 1_234_567
    # A unit that the contract does not know is a text like any other.
    assert found["change"]["source_unit"] is None


def test_a_place_is_masked_with_the_field_that_says_it() -> None:
    closed = dict(DATASET.sharing) | {"division": Sharing.CONDITIONAL}
    closed_dataset = DATASET.model_copy(update={"sharing": closed})
    agreed = CONTRACT.model_copy(update={"datasets": {"person": closed_dataset}})
    in_force = policy().model_copy(update={"contract": agreed})
    codecs = Codecs(agreed)
    found = describe(codecs, in_force, record(codecs.encode_change(change(None))))
    assert found["change"]["fields"] is None
    assert "330106109" not in json.dumps(found)


@pytest.mark.parametrize("value", [None, b"", b"junk 33010619900101001X", b"\x00\x00\x00\x00\x01x"])
def test_bytes_that_are_no_record_are_told_and_never_quoted(value: bytes | None) -> None:
    found = describe(Codecs(CONTRACT), policy(), record(value, key=b"33010619900101001X"))
    assert found["unreadable"]
    assert found["key"] is None
    assert "33010619900101001X" not in json.dumps(found)
    assert b"33010619900101001X".hex() not in json.dumps(found)
