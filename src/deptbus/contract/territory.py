"""The division tree of GB/T 2260 and GB/T 10114.

The length of a code is its level, its prefixes are its parents.
"""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    PROVINCE = "province"
    PREFECTURE = "prefecture"
    COUNTY = "county"
    TOWNSHIP = "township"
    VILLAGE = "village"


_LENGTHS = {
    2: Level.PROVINCE,
    4: Level.PREFECTURE,
    6: Level.COUNTY,
    9: Level.TOWNSHIP,
    12: Level.VILLAGE,
}


def is_division_code(code: str) -> bool:
    return len(code) in _LENGTHS and code.isascii() and code.isdigit()


def level_of(code: str) -> Level:
    """Raises KeyError when `code` is not a division code by its length."""
    return _LENGTHS[len(code)]


def covers(territory: str, place: str) -> bool:
    """True when `place` lies within `territory` (equality included)."""
    return place.startswith(territory)


def strictly_covers(territory: str, place: str) -> bool:
    return len(territory) < len(place) and place.startswith(territory)


def parent_of(code: str) -> str | None:
    """The next code upwards; None for a province."""
    lengths = [n for n in _LENGTHS if n < len(code)]
    return code[: lengths[-1]] if lengths else None
