"""Whether a number that people bear, or companies, is one at all. Pure, of canonical forms."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from operator import mul

from stdnum.cn import uscc

_RESIDENT_ENDS = "0123456789X"
_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_VALUES = {sign: value for value, sign in enumerate(_CREDIT_ALPHABET)}
_CREDIT_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))


def is_resident_id(number: str) -> bool:
    """GB 11643: 17 digits with a date of birth in them, and their check character.

    The first six digits are not looked up. `stdnum.cn.ric` wants the county to have been there in
    the year of birth, but numbers were first given in 1984, with the codes of that day: it would
    refuse most people of a district who were born before their district was.
    """
    digits = number[:17]
    if len(number) != 18 or not (digits.isascii() and digits.isdigit()):
        return False
    # ISO 7064 MOD 11-2: weights are the powers of two, and 2 is 13 modulo 11.
    return number[17] == _RESIDENT_ENDS[(1 - 2 * int(digits, 13)) % 11] and _is_day(number[6:14])


@lru_cache(maxsize=50_000)  # all the days of a hundred and thirty years
def _is_day(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return True


def is_credit_code(code: str) -> bool:
    """GB 32100: a unified social credit code, as `stdnum.cn.uscc` judges it."""
    if len(code) != 18 or not code.isalnum():
        return bool(uscc.is_valid(code))  # written with spaces or hyphens, or none at all
    values = [_CREDIT_VALUES.get(sign, 31) for sign in code]
    if max(values) > 30 or max(values[:8]) > 9:
        return bool(uscc.is_valid(code))
    return values[17] == -sum(map(mul, values, _CREDIT_WEIGHTS)) % 31
