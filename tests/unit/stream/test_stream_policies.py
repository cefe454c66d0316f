"""The history of policies by its numbered rules."""

from __future__ import annotations

import pytest
import stream_town as town

from deptbus.errors import ContractUnreadable
from deptbus.stream.policies import PolicyHistory
from deptbus.wire.control import AgentReport, PolicyRecord, encode_control


def record(number: int, *, content: str | None = None, digest: str | None = None) -> bytes:
    contract = town.contract()
    text = contract.to_json() if content is None else content
    found = PolicyRecord(number, digest or contract.digest, 1_700_000_000_000_000, "me", text)
    return encode_control(found)


def test_policies_come_into_force_one_by_one():
    history = PolicyHistory()
    with pytest.raises(ContractUnreadable, match="no contract is in force"):
        history.current()
    assert history.take(record(1)) is None
    assert history.take(record(2)) is None
    assert history.current().number == 2
    assert history.current().contract == town.contract()
    assert sorted(history.policies) == [1, 2]


@pytest.mark.parametrize("number", [0, 1, 3, 99])
def test_rule_1_a_wrong_number_changes_nothing(number: int):
    history = PolicyHistory()
    history.take(record(1))
    assert history.take(record(number)) == "wrong_number"
    assert history.current().number == 1
    assert history.refused == 1


def test_rule_3_a_topic_begins_with_any_number_and_goes_on_from_there():
    history = PolicyHistory()
    assert history.take(record(8)) is None
    assert history.take(record(10)) == "wrong_number"
    assert history.take(record(9)) is None
    assert sorted(history.policies) == [8, 9]


def test_rule_3_behind_a_topic_made_again_nothing_is_in_force_until_a_number_that_never_was():
    history = PolicyHistory()
    for number in (1, 2):
        history.take(record(number))
    history.begin_anew()
    with pytest.raises(ContractUnreadable, match=r"bus\.contract was deleted and made again"):
        history.current()
    assert history.take(record(1)) == "wrong_number"
    assert history.take(record(2, content="{}")) == "wrong_number"
    with pytest.raises(ContractUnreadable, match="made again"):
        history.current()
    assert history.take(record(5)) is None
    assert history.current().number == 5
    assert sorted(history.policies) == [1, 2, 5]


def test_rule_3_what_was_read_before_it_was_noticed_is_read_twice():
    history = PolicyHistory()
    for number in (1, 2, 3):  # 2 and 3 lie in the new topic already
        history.take(record(number))
    history.begin_anew()
    assert history.take(record(2)) == "wrong_number"
    assert history.take(record(3)) is None
    assert history.current().number == 3
    assert history.take(record(4)) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"\xff\xff", "not_framed"),
        (encode_control(AgentReport("a", 1, "d", "running", 1)), "not_a_policy"),
        (record(2)[:-1], "malformed"),
    ],
)
def test_rule_1_what_is_no_policy_changes_nothing(value: bytes | None, reason: str):
    history = PolicyHistory()
    history.take(record(1))
    assert history.take(value) == reason
    assert history.current().number == 1


@pytest.mark.parametrize(
    "unreadable",
    [
        record(2, content="{}"),
        record(2, content="no json"),
        record(2, content=town.contract().to_json().replace('"partitions":4', '"shards":4')),
        record(2, digest="0" * 64),
    ],
)
def test_rule_2_a_newer_policy_that_cannot_be_read_stops_everything(unreadable: bytes):
    history = PolicyHistory()
    history.take(record(1))
    assert history.take(unreadable) is None
    with pytest.raises(ContractUnreadable, match="policy 2 cannot be read"):
        history.current()
    assert history.take(record(3)) is None
    assert history.current().number == 3
    assert sorted(history.policies) == [1, 3]
