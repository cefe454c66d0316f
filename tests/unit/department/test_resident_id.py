"""Resident numbers are checked by GB 11643 alone: digits, date and check character."""

from __future__ import annotations

import pytest

from deptbus.department.publication import is_resident_id


# The number in the standard's own example; one of a person who is older than the district whose
# code it bears.
@pytest.mark.parametrize("number", ["11010519491231002X", "330106194502030014"])
def test_a_right_number_passes(number: str) -> None:
    assert is_resident_id(number)


@pytest.mark.parametrize(
    "number",
    [
        "110105194912310021",  # check character
        "11010519491331002X",  # month 13
        "1101051949123100",  # too short
        "１10105194912310021",  # a digit that is not ASCII
        "11010519491231002x",  # not in canonical form
        "X1010519491231002X",
        "",
    ],
)
def test_a_wrong_number_does_not(number: str) -> None:
    assert not is_resident_id(number)
