"""The rules of department/decide.py, by their numbers, and those of folding."""

from __future__ import annotations

import pytest
from recipient_world import CLEARED, POISON, Recipient, received, row

from deptbus.change import Cause, DeliveryOp
from deptbus.department.decide import LAST_RETRY_US, Clear, Remove, Write
from deptbus.department.ledger import RecordId
from deptbus.wire.control import PolicyMarker

OLD = {"number": "r1", "name": "Li", "phone": "1"}
A = RecordId("resident", "police@330106", b"a")


@pytest.fixture
def recipient() -> Recipient:
    return Recipient()


def test_a_newer_version_overwrites_and_an_older_one_changes_nothing(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 2, OLD | {"name": "new"})])
    assert recipient.apply([received(b"a", 1, OLD)]).actions == []
    assert recipient.table() == {"r1": ("new", "1")}


def test_the_policy_decides_between_equal_versions(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, {"number": "r1", "name": "Li"}, policy=2)])
    recipient.apply([received(b"a", 1, OLD, policy=1)])
    assert recipient.table() == {"r1": ("Li", CLEARED)}


def test_an_older_policy_with_a_newer_version_is_newer(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD, policy=2)])
    recipient.apply([received(b"a", 2, OLD | {"name": "new"}, policy=1)])
    assert recipient.table() == {"r1": ("new", "1")}


@pytest.mark.parametrize("cause", [Cause.REPLAY, Cause.REPAIR])
def test_replay_and_repair_write_an_equal_pair_again(recipient: Recipient, cause: Cause) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.rows.clear()
    assert recipient.apply([received(b"a", 1, OLD, cause=Cause.SNAPSHOT)]).actions == []
    recipient.apply([received(b"a", 1, OLD, cause=cause)])
    assert recipient.table() == {"r1": ("Li", "1")}


def test_the_highest_of_a_batch_wins_and_all_are_counted(recipient: Recipient) -> None:
    recipient.apply([received(b"a", n, OLD | {"name": str(n)}) for n in (1, 3, 2)])
    assert recipient.table() == {"r1": ("3", "1")}
    assert recipient.tallies == {"applied": 2, "reentry": 2, "duplicate": 1}


def test_counts_do_not_depend_on_where_batches_are_cut() -> None:
    stream = [received(b"a", 1, OLD), received(b"a", 2, None), received(b"a", 3, None)]
    at_once, singly = Recipient(), Recipient()
    at_once.apply(stream)
    for delivery in stream:
        singly.apply([delivery])
    assert at_once.tallies == singly.tallies == {
        "applied": 1, "reentry": 1, "withdrawn": 1, "noted": 1,
    }  # fmt: skip


def test_only_live_upserts_save_a_reentry(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD, cause=Cause.SNAPSHOT)])
    recipient.apply([received(b"b", 1, OLD | {"number": "r9"}, dataset="household")])
    assert recipient.tallies == {"applied": 2}


def test_rule_1_the_least_claimant_holds_the_row_in_any_order() -> None:
    lesser = received(b"b", 1, OLD | {"name": "lesser"}, unit="police@330105")
    greater = received(b"a", 9, OLD | {"name": "greater"}, unit="police@330106")
    for order in ([lesser, greater], [greater, lesser]):
        recipient = Recipient()
        for delivery in order:
            recipient.apply([delivery])
        assert recipient.table() == {"r1": ("lesser", "1")}


def test_rule_2_the_next_claimant_takes_the_place(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD | {"name": "lesser"}, unit="police@330105")])
    recipient.apply([received(b"a", 1, OLD | {"name": "greater"})])
    recipient.apply([received(b"a", 2, None, unit="police@330105", op=DeliveryOp.DELETE)])
    assert recipient.table() == {"r1": ("greater", "1")}
    recipient.apply([received(b"a", 2, None)])
    assert recipient.table() == {}


def test_rule_2_a_changed_row_key_leaves_the_old_row(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    decision = recipient.apply([received(b"a", 2, OLD | {"number": "r2"})])
    assert [type(a) for a in decision.actions] == [Remove, Write]
    assert recipient.table() == {"r2": ("Li", "1")}


def test_rule_2_rows_that_swap_their_keys(recipient: Recipient) -> None:
    one, two = OLD, {"number": "r2", "name": "Wu", "phone": "2"}
    recipient.apply([received(b"a", 1, one), received(b"b", 1, two)])
    recipient.apply(
        [received(b"a", 2, one | {"number": "r2"}), received(b"b", 2, two | {"number": "r1"})]
    )
    assert recipient.table() == {"r1": ("Wu", "2"), "r2": ("Li", "1")}


def test_rule_3_a_column_whose_field_was_closed_is_cleared(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.apply([received(b"a", 1, {"number": "r1", "name": "Li"}, policy=2)])
    assert recipient.table() == {"r1": ("Li", CLEARED)}


def test_rule_4_a_parked_delivery_clears_what_was_closed(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    decision = recipient.apply([received(b"a", 2, {"number": "r1", "name": POISON})])
    assert [type(a) for a in decision.actions] == [Clear]
    assert recipient.table() == {"r1": ("Li", CLEARED)}
    entry = recipient.ledger[A]
    assert (entry.version, entry.parked, entry.written) == (2, "value: table.name: poison", None)


def test_rule_4_the_old_copy_goes_when_its_key_is_closed(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.apply([received(b"a", 2, {"name": "Li"})])
    assert recipient.table() == {}
    assert recipient.ledger[A].parked == "key: table.number would be empty"


def test_rule_4_the_old_copy_goes_when_clearing_is_refused_too(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.refuse = {(Write, row("r1")), (Clear, row("r1"))}
    recipient.apply([received(b"a", 2, {"number": "r1", "name": "Wu"})])
    assert recipient.table() == {}
    assert recipient.ledger[A].parked == "refused by the database"


def test_rule_4_a_database_that_refuses_all_keeps_the_copy_and_the_parked_state(
    recipient: Recipient,
) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.refuse = {(kind, row("r1")) for kind in (Write, Clear, Remove)}
    recipient.apply([received(b"a", 2, {"number": "r1", "name": "Wu"})])
    assert recipient.table() == {"r1": ("Li", "1")}
    assert recipient.ledger[A].held


def test_rule_4_retries_back_off_and_end(recipient: Recipient) -> None:
    recipient.refuse = {(Write, row("r1"))}
    recipient.apply([received(b"a", 1, OLD)], now_us=0)
    waits = []
    for _ in range(15):
        at = recipient.ledger[A].retry_at_us
        assert at is not None
        recipient.apply([], retry=True, now_us=at)
        waits.append((recipient.ledger[A].retry_at_us or 0) - at)
    assert waits == sorted(waits)
    assert waits[-1] == LAST_RETRY_US
    assert recipient.ledger[A].attempts == 16
    assert recipient.ledger[A].parked_since_us == 0
    recipient.refuse = set()
    recipient.apply([], retry=True)
    assert recipient.table() == {"r1": ("Li", "1")}
    assert recipient.tallies == {"parked": 1, "applied": 1, "reentry": 1}


def test_rule_5_a_withdrawal_that_is_refused_empties_the_row(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.refuse = {(Remove, row("r1"))}
    recipient.apply([received(b"a", 2, None)])
    assert recipient.table() == {"r1": (CLEARED, CLEARED)}
    assert recipient.ledger[A].parked is not None
    recipient.refuse = set()
    recipient.apply([], retry=True)
    assert recipient.table() == {}


def test_rule_6_a_remnant_gives_way_to_a_live_claimant(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD, unit="police@330105")])
    recipient.apply([received(b"a", 2, OLD | {"name": POISON}, unit="police@330105")])
    recipient.apply([received(b"a", 1, OLD | {"name": "live"})])
    assert recipient.table() == {"r1": ("live", "1")}


def test_rule_7_a_tombstone_keeps_an_older_version_out(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 2, None)])
    recipient.apply([received(b"a", 1, OLD)])
    assert recipient.table() == {}
    assert recipient.tallies == {"noted": 1, "duplicate": 1}


def test_a_withdrawn_entry_keeps_no_content(recipient: Recipient) -> None:
    recipient.apply([received(b"a", 1, OLD)])
    recipient.apply([received(b"a", 2, None)])
    entry = recipient.ledger[A]
    assert (entry.record, entry.row, entry.delivered, entry.written) == (None, None, None, None)


def test_behind_a_marker_older_policies_are_refused_per_partition(recipient: Recipient) -> None:
    marker = PolicyMarker(policy=2, datasets=("resident",), job="j")
    recipient.apply([received(b"a", 1, OLD), marker, received(b"a", 2, OLD | {"name": "late"})])
    recipient.apply([received(b"a", 3, OLD | {"name": "later"})])
    assert recipient.table() == {"r1": ("Li", "1")}
    assert recipient.tallies["refused_old_policy"] == 2
    recipient.apply([received(b"a", 4, OLD | {"name": "allowed"}, policy=2)])
    recipient.apply([received(b"b", 1, OLD | {"number": "r2"}, dataset="household")])
    recipient.apply([received(b"c", 1, OLD | {"number": "r3"})], partition=1)
    assert recipient.table().keys() == {"r1", "r3"}
    assert recipient.table("household").keys() == {"r2"}
    recipient.apply([PolicyMarker(policy=1, datasets=("resident",), job="older")])
    assert recipient.floors[0] == {"resident": 2}
