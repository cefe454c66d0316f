"""Resident numbers are checked by GB 11643 alone: digits, date and check character; credit codes as
`stdnum` checks them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum.cn import ric, uscc
from stdnum.exceptions import ValidationError

from deptbus.department.checks import is_credit_code, is_resident_id


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


def _by_the_library(number: str) -> bool:
    if len(number) != 18 or not (number[:17].isascii() and number[:17].isdigit()):
        return False
    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return bool(number[17] == ric.calc_check_digit(number))


@settings(deadline=None)
@given(st.from_regex(r"[0-9]{6}(19|20|00)[0-9]{9}[0-9X]", fullmatch=True), st.integers(0, 10))
def test_resident_numbers_are_judged_as_the_library_does(number: str, end: int) -> None:
    for whole in (number, number[:17] + "0123456789X"[end]):
        assert is_resident_id(whole) == _by_the_library(whole)
    right = number[:17] + ric.calc_check_digit(number)
    assert is_resident_id(right) == _by_the_library(right)


@settings(deadline=None)
@given(
    st.text("0123456789ABCDEFGHJKLMNPQRTUWXYIOSVZa -", min_size=16, max_size=20)
    | st.from_regex(r"9[0-9]{7}[0-9A-HJ-NP-RTUWXY]{10}", fullmatch=True)
)
def test_credit_codes_are_judged_as_the_library_does(code: str) -> None:
    assert is_credit_code(code) == uscc.is_valid(code)
    if len(code) == 18 and set(code) <= set("0123456789ABCDEFGHJKLMNPQRTUWXY"):
        right = code[:17] + uscc.calc_check_digit(code[:17])
        assert is_credit_code(right) == uscc.is_valid(right)
