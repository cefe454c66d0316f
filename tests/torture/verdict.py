"""What was found wrong, counted by kind; a run without a fault has zeros only."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# In this order in every table. `other`: a promise that none of the kinds names (a writer that was
# refused, say); it is told in words.
KINDS = {
    "lost": "a committed change is not where it should be, or differs there",
    "doubled": "a change had its effect twice",
    "stale": "a recipient went back to an older state",
    "disordered": "changes of one key took effect out of order",
    "unentitled": "a recipient had a record or a field that is not its own to have",
    "leaked": "bytes of a field that is never shared are in Kafka, a log or another's database",
    "ahead": "an offset was committed beyond a change that was not delivered",
    "other": "something else that was promised did not hold",
}
_TOLD = 12  # findings of one kind that are told in words


@dataclass
class Verdict:
    """Filled while a scenario runs, by several threads; `did`, `counted` are for the reader."""

    scenario: str
    seed: int = 0
    bug: str | None = None
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    counted: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, what: str, count: int = 1) -> None:
        """Notes a finding of one of KINDS. `what` names keys and places, never content."""
        assert kind in KINDS, kind
        with self._lock:
            if self.counts[kind] < _TOLD:
                self.findings.append(f"{kind}: {what}")
            self.counts[kind] += count

    def check(self, condition: object, what: str) -> None:
        """A promise of the scenario's own: `other` when it does not hold."""
        if not condition:
            self.add("other", what)

    @property
    def is_clean(self) -> bool:
        return not any(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "bug": self.bug,
            "seconds": round(self.seconds, 1),
            "found": {kind: self.counts[kind] for kind in KINDS},
            "counted": self.counted,
            "findings": self.findings,
        }


def table(verdicts: Sequence[Verdict]) -> str:
    """One line a scenario, one column a kind."""
    head = f"{'scenario':<14}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'seconds':>10}"
    lines = [head]
    for v in verdicts:
        cells = "".join(f"{v.counts[kind]:>12}" for kind in KINDS)
        lines.append(f"{v.scenario:<14}{cells}{v.seconds:>10.1f}")
    return "\n".join(lines)


def json_line(verdicts: Sequence[Verdict]) -> str:
    total: Counter[str] = Counter()
    for v in verdicts:
        total.update(v.counts)
    content = {
        "found": {kind: total[kind] for kind in KINDS},
        "scenarios": [v.as_json() for v in verdicts],
    }
    return "TORTURE_JSON " + json.dumps(content, ensure_ascii=False)
