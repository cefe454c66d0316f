"""Pure: what is to be proved now, by the contract's hour and by what was proved so far.

1. A round begins each day at the hour of the contract, by China's clock, and lasts WINDOW: what has
   not begun by then waits for the next one, so that nobody's working day is disturbed.
2. A subject is due in a round until a proof of it was made since the round began. Nothing else is
   remembered, so that a process that is killed forgets nothing and proves nothing twice.
3. They go one after the other, those first that were proved longest ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from deptbus.contract.model import Contract
from deptbus.operations.proofs import Subject
from deptbus.routing import CHINA

WINDOW = timedelta(hours=6)
_DAY = timedelta(days=1)
_NEVER_US = 0


def round_begun(at: str, now: datetime) -> datetime | None:
    """When the round that lasts now began; None between two (rule 1). `now` aware."""
    here = now.astimezone(CHINA)
    began = here.replace(hour=int(at[:2]), minute=int(at[3:]), second=0, microsecond=0)
    if began > here:
        began -= _DAY
    return began if here - began < WINDOW else None


def due_subjects(
    contract: Contract, proved: Mapping[Subject, int | None], now: datetime
) -> list[Subject]:
    """`proved`: all that there are -> when each was proved last, in microseconds since 1970 (None:
    never). Rules 2 and 3."""
    began = None if contract.proofs is None else round_begun(contract.proofs.at, now)
    if began is None:
        return []
    began_us = int(began.timestamp()) * 1_000_000
    due = {subject: at for subject, at in proved.items() if at is None or at < began_us}
    return sorted(due, key=lambda subject: (due[subject] or _NEVER_US, subject))
