"""Acts of operators: what is recorded, and what is refused before it is kept for ever."""

from __future__ import annotations

import pytest

from deptbus.connection import Connection
from deptbus.errors import DeptbusError
from deptbus.operations.audit import (
    QUARANTINE_DISMISS,
    Operator,
    acts_of,
    checked_reason,
    operator_of,
)

BUS = Connection(bootstrap="127.0.0.1:1", sasl_username="deptbus-operations")
WANG = Operator("wang", "deptbus-operations")


def test_an_operator_is_who_he_says_beside_whom_the_brokers_know() -> None:
    assert operator_of(BUS, " wang ") == WANG


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "33010619900101001X"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DeptbusError, match="no operator's name"):
        operator_of(BUS, name)


def test_a_reason_is_one_line() -> None:
    assert checked_reason("  contract\n mended ") == "contract mended"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "missing"),
        (" \n", "missing"),
        ("bell \a", "missing"),
        ("x" * 501, "longer"),
        ("asked by 33010619900101001X", "resident number"),
        ("330106199001010011", "resident number"),
    ],
)
def test_a_reason_that_must_not_be_kept_is_refused(text: str, said: str) -> None:
    with pytest.raises(DeptbusError, match=said) as refused:
        checked_reason(text)
    assert "330106199" not in str(refused.value)


def test_one_act_has_one_record_and_is_still_one_when_it_takes_several() -> None:
    (one,) = acts_of(WANG, QUARANTINE_DISMISS, "old", unit="housing@330106")
    assert (one.operator, one.bus_user, one.reason) == ("wang", "deptbus-operations", "old")
    places = [f"out.housing-330106/0/{offset}" for offset in range(1001)]
    several = list(acts_of(WANG, QUARANTINE_DISMISS, "old", subjects=places))
    assert [len(act.subjects) for act in several] == [500, 500, 1]
    assert len({act.act for act in several}) == 1
    assert [s for act in several for s in act.subjects] == places
    assert one.act != several[0].act
