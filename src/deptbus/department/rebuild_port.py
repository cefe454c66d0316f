"""The port to one recipient's database for its rebuilds: what is remembered of jobs, the table of
the second copy, and the statements of the swap. Rules: `rebuild`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from deptbus.department.decide import Action, Decision
from deptbus.department.ledger import Entry, RecordId
from deptbus.department.rebuild import Rebuild
from deptbus.department.seen import Values

CHUNK_RECORDS = 500  # of a swap, decided at a stretch


class Shadows(ABC):
    """Each call but those within `swapping` is a transaction of its own, behind the fence. All
    raise DatabaseUnavailable, DatabaseBusy, Fenced; nothing is done then."""

    @abstractmethod
    async def load(self) -> list[Rebuild]:
        """All that is remembered, the oldest change first."""

    @abstractmethod
    async def note(self, rebuild: Rebuild) -> None:
        """Remember this of its job; within `swapping`, in its transaction."""

    @abstractmethod
    async def begin(self, rebuild: Rebuild) -> None:
        """Make the empty table, and note."""

    @abstractmethod
    async def attach(self, dataset: str) -> bool:
        """Have the second copy among the store's targets; False when its table is not there, or has
        not all columns that are mapped now."""

    @abstractmethod
    def detach(self, dataset: str) -> None: ...

    @abstractmethod
    async def tidy(self, rebuild: Rebuild) -> bool:
        """Take away some of what is left of a second copy that is over; True when that was all,
        which is noted then."""

    # -- the swap ----------------------------------------------------------------------------------

    @abstractmethod
    async def differing(self, dataset: str) -> list[RecordId]:
        """Records for which the copies are not alike, those that the second one has not first."""

    @abstractmethod
    def swapping(self) -> AbstractAsyncContextManager[None]:
        """One transaction: committed at the end, taken back by any exception. Raises RowRefused
        where the database refuses a row only then."""

    @abstractmethod
    async def entries(self, name: str, ids: Collection[RecordId]) -> list[Entry]:
        """Whole lines of these records in the copy of this name; within `swapping`."""

    @abstractmethod
    async def real(self, dataset: str, rows: Collection[bytes]) -> dict[bytes, Values]:
        """The rows with these own keys as they are; from here on nobody else changes them."""

    @abstractmethod
    async def carry_out(self, decision: Decision, now_us: int) -> None:
        """Rows and lines. Raises RowRefused: nothing of the decision is done then, and all before
        it still stands."""

    @abstractmethod
    async def refused(self, decision: Decision) -> list[tuple[Action, str]]:
        """Which of its actions the database refuses, and why; changes nothing."""


# -- how a job is written -------------------------------------------------------------------------

OPEN_REBUILD = "state IN ('filling', 'swapping')"
REBUILD_LIST = "job, dataset, state, reason, ends, counts, is_tidy, changed_at_us"


def words_of(rebuild: Rebuild) -> tuple[Any, ...]:
    """In the order of REBUILD_LIST."""
    ends, counts = json.dumps(rebuild.ends), json.dumps(dict(rebuild.counts), sort_keys=True)
    return (
        rebuild.job, rebuild.dataset, rebuild.state, rebuild.reason, ends, counts, rebuild.is_tidy,
        rebuild.changed_at_us,
    )  # fmt: skip


def rebuild_of(row: Sequence[Any]) -> Rebuild:
    job, dataset, state, reason, ends, counts, is_tidy, at = row
    return Rebuild(
        job, dataset, state, reason, tuple(json.loads(ends)), json.loads(counts), bool(is_tidy), at
    )
