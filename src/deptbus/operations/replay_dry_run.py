"""How many rows of a recipient a planned replay would change: by a proof of its copies."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from deptbus.connection import Connection
from deptbus.operations.office import Settings, open_office
from deptbus.operations.reconcile_classes import Class
from deptbus.operations.reconcile_copy import CopyProved, prove_copy

# What a delivery of the last state, or a withdrawal, would write: a replay writes an equal version
# again, so it takes local edits back as well. A row that another record holds stays as it is, and
# whether one that is parked can be written by now only its database can tell.
_CHANGED = frozenset(
    {
        Class.MISSING,
        Class.STALE,
        Class.WRONG,
        Class.UNENTITLED,
        Class.EXTRA,
        Class.EDITED_LOCALLY,
    }
)


@dataclass(frozen=True, slots=True)
class DryRun:
    """`rows` None: nobody can tell, and `problem` says why."""

    rows: int | None
    problem: str = ""


async def dry_run(
    connection: Connection, unit: str, keys: Mapping[str, Set[bytes]], *, deadline_seconds: float
) -> DryRun:
    """`keys`: dataset -> the keys that would be sent. Nothing is changed by it; the unit's adapters
    look into their databases. Raises BusUnreachable, BusRefused."""
    rows = 0
    async with open_office(connection, Settings(keeper_interval_hours=None)) as office:
        for dataset, chosen in keys.items():
            if not chosen:
                continue
            found = await prove_copy(
                office, connection, unit, dataset, deep=True, deadline_seconds=deadline_seconds
            )
            for copy in found:
                told = count(copy, chosen)
                if told.rows is None:
                    return told
                rows += told.rows
    return DryRun(rows)


def count(copy: CopyProved, chosen: Set[bytes]) -> DryRun:
    """Of one system's copy. Pure."""
    result = copy.result
    if result.could_not_tell:
        return DryRun(None, result.could_not_tell)
    if result.absent:
        return DryRun(0)
    if result.differences > len(copy.seen):
        return DryRun(None, "more rows differ than can be named")
    return DryRun(
        sum(one.finding.key in chosen and one.finding.word in _CHANGED for one in copy.seen)
    )
