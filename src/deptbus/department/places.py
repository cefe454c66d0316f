"""Which places a record may name: the division check, made once for one unit and contract. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from deptbus.contract.territory import covers, is_division_code, parent_of

# GB/T 2260: the province-level codes. A code of no province is a typing error wherever it points.
_PROVINCES = frozenset(
    str(code)
    for first, last in (
        (11, 15),
        (21, 23),
        (31, 37),
        (41, 46),
        (50, 54),
        (61, 65),
        (71, 71),
        (81, 82),
    )
    for code in range(first, last + 1)
)


class Where(Enum):
    WITHIN = "within"
    OUTSIDE = "outside"  # a valid place that is not the unit's: the record moved out
    NOWHERE = "nowhere"  # no place at all: a typing error


class Places:
    """Judges places for one unit under one contract.

    Rules: 1. A code has the form of GB/T 2260 and 10114 and a province that exists.
    2. Within the unit's territory it is listed in the contract, or lies beneath a listed one that
       has no listed parts: where the parts are listed, one that is not among them is mistyped.
    3. Outside the unit's territory rule 1 is enough: the contract need not list the whole country.
    """

    def __init__(self, territory: str, territories: Mapping[str, str]) -> None:
        self.territory = territory
        self._listed = frozenset(territories)
        self._divided = frozenset(p for p in map(parent_of, territories) if p)
        self._judged: dict[str, Where] = {}

    def where(self, place: object) -> Where:
        if not isinstance(place, str):
            return Where.NOWHERE
        found = self._judged.get(place)
        if found is None:
            found = self._judge(place)
            if len(self._judged) < 10_000:  # typing errors are without number
                self._judged[place] = found
        return found

    def _judge(self, place: str) -> Where:
        if not is_division_code(place) or place[:2] not in _PROVINCES:
            return Where.NOWHERE
        if not covers(self.territory, place):
            return Where.OUTSIDE
        above: str | None = place
        while above is not None and above not in self._listed:
            above = parent_of(above)
        if above is None:
            return Where.NOWHERE
        return Where.WITHIN if above == place or above not in self._divided else Where.NOWHERE
