"""Whose deliveries went where: counted by offsets, attributed by those that were read. Pure.

An inbox has no holes: how far its end moved is how many records came, whether anybody reads them or
not. Whose they were says the envelope of each, and where too many come a sample of them:

1. All that came were read: each is counted as what it is.
2. Some were read: the rest is shared out in their proportion, and told as estimated. The counts of
   one inbox still add up to what came, less the share of what is no delivery (markers, requests).
3. None were read: shared out as the last ones of that inbox were. Where nothing was ever read of
   it, the count waits for the first that are.

A source that the contract does not know is not believed: its records count as no deliveries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import NamedTuple

from deptbus.operations.picture import Flow

REMEMBERED = 500  # read deliveries of one inbox, after which older ones count half


class Path(NamedTuple):
    """What one delivery says of its way to a recipient."""

    source: str
    dataset: str
    direction: str


class Attribution:
    """One for all inboxes; what it remembers is bounded by the paths that the contract opens."""

    def __init__(self) -> None:
        self._mix: dict[str, Counter[Path | None]] = {}
        self._waiting: Counter[str] = Counter()

    def forget_others(self, units: Container[str]) -> None:
        """Only these units have inboxes now."""
        for unit in [unit for unit in self._mix if unit not in units]:
            del self._mix[unit]
        for unit in [unit for unit in self._waiting if unit not in units]:
            del self._waiting[unit]

    def flows(self, unit: str, records: int, read: Sequence[Path | None], at: float) -> list[Flow]:
        """What came into the inbox of `unit`: so many records, of which these were read (None: no
        delivery). By the rules above."""
        if read:
            self._remember(unit, read)
        records += self._waiting.pop(unit, 0)
        is_estimated = records != len(read)
        mix = Counter(read) if read else self._mix.get(unit)
        if not mix:
            self._waiting[unit] = records
            return []
        paths = sorted(mix, key=str)
        shares = apportion(records, [mix[path] for path in paths])
        return [
            Flow(path.source, unit, path.dataset, path.direction, count, at, is_estimated)
            for path, count in zip(paths, shares, strict=True)
            if path is not None and count
        ]

    def _remember(self, unit: str, read: Sequence[Path | None]) -> None:
        mix = self._mix.setdefault(unit, Counter())
        mix.update(read)
        if mix.total() > REMEMBERED:
            self._mix[unit] = Counter({path: n // 2 for path, n in mix.items() if n > 1})


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights` (one at least is above zero), which add
    up to it: by the largest remainders, of equal ones the first."""
    every = sum(weights)
    shares = [total * weight // every for weight in weights]
    rest = [total * weight % every for weight in weights]
    for place in sorted(range(len(weights)), key=lambda i: (-rest[i], i))[: total - sum(shares)]:
        shares[place] += 1
    return shares
