"""How many entries nobody typed: by unit, day and dataset, from what recipients told. Pure.

One entry is one change that a person made at its source and that was applied at a recipient, in a
dataset for which the recipient's `department.yml` says what it replaced: a form, a screen, a sheet.

1. It is counted by the recipient's own database, in the transaction that applies it: what was
   delivered twice counts once, what was parked not until it is applied, what was rolled back never.
2. Only live upserts count. First loads, resends, replays, repairs and what a job brings after a
   change of rights or a hold were typed by nobody, bus or not; deletes and withdrawals neither.
3. Days are days in China (UTC+8) of the apply.
4. A change is a delivery, also where it touched only fields that this unit does not receive: nobody
   compares there. `recount.py` counts again from the inbox, and says how many those are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from deptbus.operations.picture import SavedEntries, SavedRow
from deptbus.routing import CHINA
from deptbus.wire.control import AppliedDay


def saved_entries(told: Iterable[AppliedDay], *, is_whole: bool = True) -> SavedEntries:
    """The rows of all that was told, by day, unit and dataset. Systems of a unit are added up."""
    entries: Counter[tuple[str, str, str]] = Counter()
    live: Counter[tuple[str, str, str]] = Counter()
    others: Counter[tuple[str, str, str]] = Counter()
    for one in told:
        parts = zip(one.datasets, one.entries, one.live, one.others, strict=False)
        for dataset, saved, changes, rest in parts:
            row = one.day, one.unit, dataset
            entries[row] += saved
            live[row] += changes
            others[row] += rest
    rows = tuple(
        SavedRow(unit, dataset, day, entries[day, unit, dataset], live[day, unit, dataset],
                 others[day, unit, dataset])
        for day, unit, dataset in sorted(live.keys() | others.keys() | entries.keys())
    )  # fmt: skip
    first = min((row.day for row in rows), default=None)
    return SavedEntries(rows, None if first is None else _midnight(first), is_whole)


def is_day(text: str) -> bool:
    """Whether a record names a day as all of them do."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").strftime("%Y-%m-%d") == text  # noqa: DTZ007
    except ValueError:
        return False


def _midnight(day: str) -> float:
    return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=CHINA).timestamp()
