"""Grants: what they open, where, from when, until when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from routing_county import CITY, COUNTY, NOW, OTHER_TOWN, TOWN, VILLAGE, grant, policy, upsert

from deptbus.change import Delivery, Direction
from deptbus.contract.model import Grant, Sharing
from deptbus.routing import CHINA, Router

HOUSING = "housing@330106"
STRANGER = "housing@3301"  # an ancestor of another line: no rule reaches it


def _delivery(unit: str, place: str, *grants: Grant, now: datetime = NOW, **more: object):
    router = Router(policy(grants=grants, **more))  # type: ignore[arg-type]
    return router.route_for(upsert(place), unit, now)


def _known(delivery: Delivery | None) -> Delivery:
    assert delivery is not None
    return delivery


def test_a_conditional_field_of_the_rule_flows_under_a_grant_only() -> None:
    assert _known(_delivery(HOUSING, TOWN)).fields == ("id", "name")
    with_grant = _known(_delivery(HOUSING, TOWN, grant("g", HOUSING, ("phone",))))
    assert with_grant.fields == ("id", "name", "phone")
    assert (with_grant.direction, with_grant.rule) == (Direction.HORIZONTAL, "horizontal")
    assert with_grant.grants == ("g",)


def test_a_grant_may_open_what_no_rule_lists() -> None:
    listed = _known(_delivery(HOUSING, TOWN, grant("g", HOUSING, ("salary", "place"))))
    assert listed.fields == ("id", "name", "place", "salary")
    assert listed.grants == ("g",)


def test_a_grant_that_adds_nothing_is_not_named() -> None:
    assert _known(_delivery(HOUSING, TOWN, grant("g", HOUSING, ("id", "name")))).grants == ()


def test_every_grant_that_opens_a_field_is_named_in_the_order_of_the_contract() -> None:
    two = grant("b", HOUSING, ("phone",)), grant("a", HOUSING, ("phone", "salary"))
    assert _known(_delivery(HOUSING, TOWN, *two)).grants == ("b", "a")


def test_a_grant_alone_is_the_direction_granted() -> None:
    assert _delivery(STRANGER, TOWN) is None
    two = grant("g", STRANGER, ("phone",)), grant("h", STRANGER, ("id", "phone"))
    alone = _known(_delivery(STRANGER, TOWN, *two))
    assert alone.direction is Direction.GRANTED
    assert (alone.rule, alone.grants, alone.fields) == ("g", ("g", "h"), ("id", "phone"))


def test_a_rule_that_opens_no_field_by_itself_gives_direction_to_a_grant() -> None:
    from routing_county import rules

    only_conditional = rules(fields=("phone",))
    assert _delivery(HOUSING, TOWN, receivers=only_conditional) is None
    opened = _known(
        _delivery(HOUSING, TOWN, grant("g", HOUSING, ("phone",)), receivers=only_conditional)
    )
    assert (opened.direction, opened.rule) == (Direction.HORIZONTAL, "horizontal")
    assert (opened.grants, opened.fields) == (("g",), ("phone",))


def test_a_grant_to_another_unit_or_dataset_opens_nothing() -> None:
    other = grant("g", "grid@330106", ("phone",))
    elsewhere = grant("h", HOUSING, ("phone",)).model_copy(update={"dataset": "house"})
    assert _known(_delivery(HOUSING, TOWN, other, elsewhere)).fields == ("id", "name")


@pytest.mark.parametrize(
    ("territory", "place", "is_open"),
    [
        (TOWN, TOWN, True),
        (TOWN, VILLAGE, True),
        (TOWN, OTHER_TOWN, False),
        (TOWN, COUNTY, False),
        (CITY, TOWN, True),
    ],
    ids=["itself", "within", "beside", "a notice to what contains it", "bounded above the source"],
)
def test_a_grant_is_bounded_by_its_territory(territory: str, place: str, is_open: bool) -> None:
    bounded = grant("g", STRANGER, ("phone",), territory)
    assert (_delivery(STRANGER, place, bounded) is not None) is is_open


@pytest.mark.parametrize("unit", [HOUSING, STRANGER])
def test_not_shared_never_flows_whoever_lists_it(unit: str) -> None:
    """The contract check refuses such contracts; routing does not rely on it."""
    hidden = {
        "id": Sharing.UNCONDITIONAL,
        "name": Sharing.NOT_SHARED,
        "phone": Sharing.NOT_SHARED,
        # `place` and `salary` are not classified at all
    }
    lists_all = grant("g", unit, ("id", "name", "phone", "place", "salary", "religion"))
    assert _known(_delivery(unit, TOWN, lists_all, sharing=hidden)).fields == ("id",)
    lists_hidden = grant("g", STRANGER, ("name", "religion"))
    assert _delivery(STRANGER, TOWN, lists_hidden, sharing=hidden) is None


# -- time -----------------------------------------------------------------------------------------

ACTIVATED = datetime(2026, 6, 15, 17, tzinfo=UTC)  # 16 June, 01:00 in China


@pytest.mark.parametrize(
    ("starts", "is_open"),
    [(date(2026, 6, 15), True), (date(2026, 6, 16), True), (date(2026, 6, 17), False)],
    ids=["the day before", "the day of activation in China", "the day after"],
)
def test_a_grant_counts_when_it_had_started_at_activation(starts: date, is_open: bool) -> None:
    late = ACTIVATED + timedelta(days=30)  # long after it started: still not under this number
    started = grant("g", STRANGER, ("phone",), starts=starts)
    found = _delivery(STRANGER, TOWN, started, now=late, activated_at=ACTIVATED)
    assert (found is not None) is is_open


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        (datetime(2026, 6, 20, 23, 59, 59, 999_999, CHINA), True),
        (datetime(2026, 6, 21, 0, 0, 0, 0, CHINA), False),
        (datetime(2026, 6, 20, 15, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 6, 20, 16, 0, 0, tzinfo=UTC), False),
    ],
    ids=["last instant", "first instant after", "before, in UTC", "after, in UTC"],
)
def test_a_grant_ends_with_its_last_day_in_china(now: datetime, is_open: bool) -> None:
    ending = grant("g", HOUSING, ("phone",), until=date(2026, 6, 20))
    found = _known(_delivery(HOUSING, TOWN, ending, now=now, activated_at=ACTIVATED))
    assert ("phone" in found.fields) is is_open


def test_a_grant_that_ended_before_activation_never_counts() -> None:
    ended = grant("g", STRANGER, ("phone",), until=date(2026, 6, 15))
    earlier = datetime(2026, 6, 15, tzinfo=UTC)  # a worker whose clock is behind
    assert _delivery(STRANGER, TOWN, ended, now=earlier, activated_at=ACTIVATED) is None


def test_one_router_answers_for_any_instant_in_any_order() -> None:
    """Its cache of decisions must not outlive the end of a grant, nor a clock that is set back."""
    first = grant("g", STRANGER, ("phone",), until=date(2026, 6, 20))
    second = grant("h", STRANGER, ("id",), until=date(2026, 6, 25))
    router = Router(policy(grants=(first, second), activated_at=ACTIVATED))
    instants = {
        datetime(2026, 6, 18, tzinfo=UTC): ("id", "phone"),
        datetime(2026, 6, 22, tzinfo=UTC): ("id",),
        datetime(2026, 6, 28, tzinfo=UTC): (),
    }
    orders = [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)]
    for order in orders:
        for index in order:
            now, fields = list(instants.items())[index]
            delivery = router.route_for(upsert(TOWN), STRANGER, now)
            assert (delivery.fields if delivery else ()) == fields


def test_a_grant_without_end_and_one_as_old_as_dates_go() -> None:
    for_ever = grant("g", STRANGER, ("phone",), starts=date.min, until=date.max)
    assert _delivery(STRANGER, TOWN, for_ever) is not None


def test_an_instant_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Router(policy(activated_at=datetime(2026, 6, 1)))  # noqa: DTZ001
