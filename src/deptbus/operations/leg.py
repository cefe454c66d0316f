"""What one leg of a proof found: the one form in which both legs answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from deptbus.proof.certificate import HELD, Proof, Side
from deptbus.wire.control_proof import Leg


def _in_order(number: str) -> tuple[int, str]:
    return len(number), number


class Finding(NamedTuple):
    """One row that differs. `key`: 16 bytes of the bus, or of a row that no record stands for a
    digest of its own key."""

    key: bytes
    word: str  # its class
    reason: str
    on_bus: bool = True  # the key is one of the bus


@dataclass(frozen=True, slots=True)
class LegResult:
    """One leg of one dataset at one system of one unit. With `could_not_tell` nothing else is
    known. `findings` may be fewer than `by_class` counts, where very many rows differ. What a
    source holds back is among both, and is no difference."""

    leg: Leg
    unit: str
    system: str
    dataset: str
    could_not_tell: str = ""
    absent: str = ""  # why there is nothing to prove: the unit keeps no such table
    rows: int = 0
    by_class: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    cut: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # topic -> offsets
    bus: Side | None = None
    other: Side | None = None
    bytes: int = 0  # that both sides told each other
    seconds: float = 0.0
    deep: bool = False

    @property
    def differences(self) -> int:
        return sum(self.by_class.values()) - self.held

    @property
    def held(self) -> int:
        return self.by_class.get(HELD, 0)

    @property
    def holds(self) -> tuple[str, ...]:
        """The numbers of the source's holds, as far as they are named."""
        return tuple(sorted({f.reason for f in self.findings if f.word == HELD}, key=_in_order))

    def as_proof(self) -> Proof:
        """Its part of a certificate."""
        return Proof(
            unit=self.unit,
            system=self.system,
            dataset=self.dataset,
            leg=self.leg,
            cut=dict(self.cut),
            bus=self.bus,
            other=self.other,
            differences=dict(self.by_class),
            deep=self.deep,
            could_not_tell=self.could_not_tell,
        )
