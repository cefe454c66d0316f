"""Who lives: pure, from the signs of life that adapters and workers leave on the bus.

1. A sign that changed since we last looked was given by one who lives, whatever his clock says.
2. Else its age counts, by our clock once we have watched for longer than `SILENT_SECONDS`, and by
   the time that it bears before that.
3. Silent for longer than that: gone. No sign at all, in a topic that was read whole: gone, and has
   never lived (`last` None). In a topic that could not be read: nobody can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from deptbus.operations.verdicts import Reader
from deptbus.wire.control import AgentReport, AppliedBeat, Heartbeat

SILENT_SECONDS = 60.0


class Sign(NamedTuple):
    """The last sign of one reader: when it says that it was given, since when we know it, whether
    we saw it follow another one."""

    at_us: int
    known_at: float
    is_news: bool = False


class Life(NamedTuple):
    reader: Reader
    last: float | None = None  # when the last sign was given, seconds since 1970

    @property
    def silent_since(self) -> float | None:
        """Of one that lived once and is gone."""
        return self.last if self.reader is Reader.GONE else None


UNREADABLE = Life(Reader.UNKNOWN)


def next_sign(before: Sign | None, at_us: int, now: float) -> Sign:
    if before is None:
        return Sign(at_us, now)
    return before if before.at_us == at_us else Sign(at_us, now, is_news=True)


def life_of(sign: Sign | None, now: float) -> Life:
    """By the rules above; `sign` None: there is none in a topic that was read whole."""
    if sign is None:
        return Life(Reader.GONE)
    last = sign.known_at if sign.is_news else min(sign.at_us / 1e6, sign.known_at)
    is_gone = now - last > SILENT_SECONDS
    return Life(Reader.GONE if is_gone else Reader.ALIVE, last)


@dataclass(frozen=True, slots=True)
class SystemSigns:
    """What one system of a unit tells of itself."""

    source: Heartbeat | None = None
    source_sign: Sign | None = None
    recipient: AppliedBeat | None = None
    recipient_sign: Sign | None = None

    def took(self, beat: Heartbeat | AppliedBeat, now: float) -> SystemSigns:
        if isinstance(beat, Heartbeat):
            sign = next_sign(self.source_sign, beat.at_us, now)
            return SystemSigns(beat, sign, self.recipient, self.recipient_sign)
        sign = next_sign(self.recipient_sign, beat.at_us, now)
        return SystemSigns(self.source, self.source_sign, beat, sign)


@dataclass(frozen=True, slots=True)
class AgentSigns:
    """What one agent of a worker tells of itself."""

    report: AgentReport
    sign: Sign

    def life(self, now: float) -> Life:
        """One that said that it stopped is gone at once."""
        life = life_of(self.sign, now)
        return Life(Reader.GONE, life.last) if self.report.state == "stopped" else life


def latest(lives: list[Life]) -> Life:
    """Of several that do the same work: alive when one is, else the one that was seen last."""
    if not lives:
        return Life(Reader.GONE)
    return max(lives, key=lambda life: (life.reader is Reader.ALIVE, life.last or 0.0))
