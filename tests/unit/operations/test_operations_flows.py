"""Flows add up to what came, whatever part of it was read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deptbus.operations.flows import REMEMBERED, Attribution, Path, apportion
from deptbus.operations.picture import Flow

HOUSING = "housing@330106"
HOUSES = Path("public_security@330106", "resident", "horizontal")
NOTICES = Path("government_office@33", "policy_notice", "return")


def _told(flows: list[Flow]) -> dict[str, int]:
    assert all(flow.recipient == HOUSING for flow in flows)
    return {flow.dataset: flow.count for flow in flows}


def test_all_that_was_read_is_counted_as_what_it_is() -> None:
    flows = Attribution().flows(HOUSING, 3, [HOUSES, NOTICES, HOUSES], 7.0)
    assert flows == [
        Flow(NOTICES.source, HOUSING, "policy_notice", "return", 1, 7.0),
        Flow(HOUSES.source, HOUSING, "resident", "horizontal", 2, 7.0),
    ]


def test_a_sample_is_scaled_up_and_told_as_such() -> None:
    flows = Attribution().flows(HOUSING, 1000, [HOUSES] * 9 + [NOTICES], 7.0)
    assert _told(flows) == {"resident": 900, "policy_notice": 100}
    assert all(flow.is_estimated for flow in flows)


def test_what_is_no_delivery_is_not_counted() -> None:
    assert _told(Attribution().flows(HOUSING, 4, [HOUSES, None], 7.0)) == {"resident": 2}
    assert Attribution().flows(HOUSING, 1, [None], 7.0) == []


def test_what_nobody_read_goes_as_the_last_ones_went() -> None:
    attribution = Attribution()
    attribution.flows(HOUSING, 4, [HOUSES, HOUSES, HOUSES, NOTICES], 7.0)
    flows = attribution.flows(HOUSING, 40, [], 8.0)
    assert _told(flows) == {"resident": 30, "policy_notice": 10}
    assert all(flow.is_estimated for flow in flows)


def test_what_came_before_anything_was_read_waits_for_it() -> None:
    attribution = Attribution()
    assert attribution.flows(HOUSING, 6, [], 7.0) == []
    assert _told(attribution.flows(HOUSING, 1, [HOUSES], 8.0)) == {"resident": 7}
    assert _told(attribution.flows(HOUSING, 1, [HOUSES], 9.0)) == {"resident": 1}


def test_a_unit_that_left_the_contract_is_forgotten() -> None:
    attribution = Attribution()
    attribution.flows(HOUSING, 6, [HOUSES], 7.0)
    attribution.forget_others({"health@330106"})
    assert attribution.flows(HOUSING, 6, [], 8.0) == []


def test_old_deliveries_count_less_and_memory_is_bounded() -> None:
    attribution = Attribution()
    for _ in range(20):
        attribution.flows(HOUSING, REMEMBERED, [NOTICES] * REMEMBERED, 7.0)
    for _ in range(3):
        attribution.flows(HOUSING, REMEMBERED, [HOUSES] * REMEMBERED, 8.0)
    told = _told(attribution.flows(HOUSING, 100, [], 9.0))
    assert told["resident"] > 80
    assert sum(told.values()) == 100


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1).filter(any))
def test_shares_are_whole_and_add_up(total: int, weights: list[int]) -> None:
    shares = apportion(total, weights)
    every = sum(weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / every) <= 1


Looks = st.lists(
    st.tuples(st.lists(st.sampled_from([HOUSES, NOTICES]), max_size=20), st.integers(0, 200)),
    max_size=30,
)


@given(Looks)
def test_over_many_looks_nothing_is_lost_or_made_up(looks: list[tuple[list[Path], int]]) -> None:
    attribution = Attribution()
    came = told = 0
    for number, (read, more) in enumerate(looks):
        came += len(read) + more
        flows = attribution.flows(HOUSING, len(read) + more, read, float(number))
        told += sum(flow.count for flow in flows)
    told += sum(f.count for f in attribution.flows(HOUSING, 1, [HOUSES], 99.0))
    assert told == came + 1
