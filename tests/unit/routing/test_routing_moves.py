"""Moves, deletes and withdrawals: who loses a record, and how it is told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from routing_county import (
    NOW,
    OTHER_TOWN,
    TOWN,
    VILLAGE,
    grant,
    moved_out,
    policy,
    removed,
    rules,
    upsert,
)

from deptbus.change import Change, Delivery, DeliveryOp, Direction
from deptbus.routing import Router, settle

COUNTY_POLICE, OTHER_GRID, TOWN_GRID = "police@330106", f"grid@{OTHER_TOWN}", f"grid@{TOWN}"
STRANGER = "housing@3301"


def _ops(change: Change, *grants: object, now: datetime = NOW) -> dict[str, DeliveryOp]:
    return {d.unit: d.op for d in Router(policy(grants=grants)).route(change, now)}  # type: ignore[arg-type]


def test_a_move_withdraws_from_the_former_place_and_upserts_at_the_new_one() -> None:
    ops = _ops(upsert(OTHER_TOWN, TOWN))
    assert ops[OTHER_GRID] is DeliveryOp.UPSERT
    assert ops[TOWN_GRID] is DeliveryOp.WITHDRAW
    assert ops["housing@330106"] is DeliveryOp.UPSERT  # entitled at both places: one delivery


def test_a_withdrawal_names_the_right_that_the_former_place_gave_and_carries_no_field() -> None:
    found = Router(policy()).route_for(upsert(OTHER_TOWN, VILLAGE), TOWN_GRID, NOW)
    expected = Delivery(TOWN_GRID, DeliveryOp.WITHDRAW, Direction.RETURN, "return", (), ())
    assert found == expected


def test_every_former_place_is_withdrawn_from_not_only_the_last() -> None:
    ops = _ops(upsert(OTHER_TOWN, "330106200", VILLAGE))
    assert ops[TOWN_GRID] is DeliveryOp.WITHDRAW
    assert ops[f"grid@{VILLAGE}"] is DeliveryOp.WITHDRAW


def test_a_return_to_a_former_place_is_an_upsert() -> None:
    assert _ops(upsert(TOWN, OTHER_TOWN, TOWN))[TOWN_GRID] is DeliveryOp.UPSERT


def test_a_former_place_outside_the_territory_concerns_nobody() -> None:
    assert _ops(upsert(TOWN, "330105001", "not a code")) == _ops(upsert(TOWN))


def test_a_removed_record_is_deleted_where_it_lay_and_withdrawn_where_it_lay_before() -> None:
    ops = _ops(removed(OTHER_TOWN, TOWN))
    assert ops[OTHER_GRID] is DeliveryOp.DELETE
    assert ops["housing@330106"] is DeliveryOp.DELETE
    assert ops[TOWN_GRID] is DeliveryOp.WITHDRAW


def test_a_record_that_moved_out_is_withdrawn_from_everyone() -> None:
    ops = _ops(moved_out(OTHER_TOWN, TOWN))
    assert set(ops.values()) == {DeliveryOp.WITHDRAW}
    assert {OTHER_GRID, TOWN_GRID, "housing@330106", "police@3301"} <= ops.keys()


def test_deletes_and_withdrawals_carry_no_fields() -> None:
    for change in (removed(OTHER_TOWN, TOWN), moved_out(OTHER_TOWN, TOWN)):
        assert all(d.fields == () for d in Router(policy()).route(change, NOW))


def test_a_granted_place_is_withdrawn_from_by_that_grant() -> None:
    bounded = grant("g", STRANGER, ("phone",), TOWN)
    router = Router(policy(grants=(bounded,)))
    assert router.route_for(upsert(OTHER_TOWN, VILLAGE), STRANGER, NOW) == Delivery(
        STRANGER, DeliveryOp.WITHDRAW, Direction.GRANTED, "g", ("g",), ()
    )


@pytest.mark.parametrize(
    "change",
    [upsert(TOWN), upsert(OTHER_TOWN, TOWN), removed(TOWN), moved_out(TOWN)],
    ids=["upsert", "move away", "removed", "moved out"],
)
def test_after_its_grant_ended_a_unit_still_hears_that_a_record_must_go(change: Change) -> None:
    """A withdrawal carries no data; waiting for the next policy number would only leave a copy."""
    ended = grant("g", STRANGER, ("phone",), TOWN, until=date(2026, 6, 10))
    after = datetime(2026, 6, 12, tzinfo=UTC)
    assert _ops(change, ended, now=after)[STRANGER] is DeliveryOp.WITHDRAW


def test_a_record_in_an_older_schema_without_any_open_field_is_withdrawn() -> None:
    """The recipient may hold a newer state of it; of this one it may have nothing."""
    receivers = rules(fields=("name",))
    router = Router(policy(receivers=receivers, fields={1: ("id",), 2: ("id", "name")}))
    assert {d.op for d in router.route(upsert(TOWN, schema_version=1), NOW)} == {
        DeliveryOp.WITHDRAW
    }


# -- jobs -----------------------------------------------------------------------------------------


def test_a_job_sends_what_the_newest_policy_gives() -> None:
    old, new = Router(policy()), Router(policy(number=2))
    found = settle(upsert(TOWN), TOWN_GRID, NOW, new, [old])
    assert found is not None
    assert found.op is DeliveryOp.UPSERT


def test_a_job_withdraws_what_an_older_policy_may_have_delivered() -> None:
    closed = policy(number=3, receivers=rules(lines=("police",)))
    older = [Router(policy(number=2, receivers=())), Router(policy(number=1))]
    found = settle(upsert(OTHER_TOWN, TOWN), TOWN_GRID, NOW, Router(closed), older)
    assert found is not None
    assert (found.op, found.direction) == (DeliveryOp.WITHDRAW, Direction.RETURN)


def test_a_job_withdraws_by_a_grant_that_has_ended_since() -> None:
    old = policy(grants=(grant("g", STRANGER, ("phone",), until=date(2026, 6, 10)),))
    late = NOW + timedelta(days=100)
    new = policy(number=2, activated_at=late, grants=old.contract.grants)
    found = settle(upsert(TOWN), STRANGER, late, Router(new), [Router(old)])
    assert found is not None
    assert (found.op, found.rule) == (DeliveryOp.WITHDRAW, "g")


def test_a_job_withdraws_a_record_written_in_a_schema_that_the_older_policy_did_not_know() -> None:
    new = policy(number=2, receivers=(), fields={1: ("id",), 2: ("id", "name")})
    old = policy(number=1, fields={1: ("id",)})
    change = upsert(TOWN, schema_version=2)
    found = settle(change, TOWN_GRID, NOW, Router(new), [Router(old)])
    assert found is not None
    assert found.op is DeliveryOp.WITHDRAW


def test_a_job_sends_nothing_to_a_unit_that_never_had_a_right() -> None:
    assert settle(upsert(OTHER_TOWN), TOWN_GRID, NOW, Router(policy()), [Router(policy())]) is None


# -- all recipients -------------------------------------------------------------------------------


def test_recipients_are_all_that_may_receive_anything() -> None:
    bounded = grant("g", STRANGER, ("phone",), VILLAGE)
    never = grant("h", "grid@33", ("phone",), TOWN, starts=date(2027, 1, 1))
    only_up = tuple(r for r in rules(lines=("police",)) if r.direction == "upward")
    router = Router(policy(receivers=only_up, grants=(bounded, never)))
    # police@330106 receives upward of nobody: only it and police@3301 publish
    assert router.recipients() == {"police@33", "police@3301", STRANGER}
