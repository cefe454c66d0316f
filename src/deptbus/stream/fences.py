"""Which incarnation may publish at which offset of one partition of an outbox.

Rules (design, section 4, "One publisher"):

1. An incarnation may publish behind its announcement, of which we know from the stream or from
   `control.<unit>`; a token that was never announced may not.
2. Behind the announcement of a greater incarnation of the same system a lesser one is fenced.
   What lies before that announcement is not, also when it is read (again) later: hence offsets.
3. Systems of one unit publish side by side and do not fence each other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from deptbus.change import Incarnation
from deptbus.stream.quarantine import FENCED, NOT_ANNOUNCED
from deptbus.wire.control import Incarnated

_LAST_OFFSET = (1 << 63) - 1


class Fences:
    """Announcements of one partition."""

    def __init__(self) -> None:
        self._systems: dict[Incarnation, str] = {}
        # Per system (offset, greatest incarnation announced up to there), offsets ascending.
        self._announced: dict[str, list[tuple[int, Incarnation]]] = {}
        self.edition = 0  # another one: somebody may publish who might not before, or the reverse

    def learn(self, records: Iterable[Incarnated], partition: int) -> None:
        """Announcements that the control records of the unit know of in this partition."""
        for record in records:
            if partition < len(record.offsets):
                self.announce(record.system, record.incarnation, record.offsets[partition])

    def announce(self, system: str, incarnation: Incarnation, offset: int) -> None:
        """An announcement lies at `offset`; telling it again changes nothing."""
        self._systems.setdefault(incarnation, system)
        found = self._announced.setdefault(system, [])
        if (offset, incarnation) not in found:
            insort(found, (offset, incarnation))
            self.edition += 1

    def refusal(self, incarnation: Incarnation, offset: int) -> str | None:
        """Why an incarnation may not publish at `offset`; None when it may."""
        system = self._systems.get(incarnation)
        if system is None:
            return NOT_ANNOUNCED
        found = self._announced[system]
        before = bisect_left(found, offset, key=lambda entry: entry[0])
        greatest = max((entry[1] for entry in found[:before]), default=None)
        if greatest is None:
            return NOT_ANNOUNCED  # only behind this offset
        return FENCED if incarnation < greatest else None

    def span(self, incarnation: Incarnation) -> tuple[int, int]:
        """The first and the last offset at which `refusal` answers None, as far as announcements
        are known in this edition; the first is behind the last when there is none."""
        found = self._announced.get(self._systems.get(incarnation, ""), ())
        if not found:
            return 1, 0
        greater = (offset for offset, other in found if other > incarnation)
        return found[0][0] + 1, next(greater, _LAST_OFFSET)
