"""Sets a copy back by SQL, behind the bus's back: as after a lost week, and as after a bored clerk.

While no adapter writes to that copy, so that what is spoilt is known exactly. The witness passes
over rows that bear his mark; whatever bears it at the end differs from its source, and is found.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

from .county import held
from .desks import Statement
from .witness import SPOILT
from .world import World

# How a row is spoilt, and how often of ten.
SORTS = {
    "lost": 4,  # row and bookkeeping are of a time at which it was not there
    "gone": 2,  # the row alone
    "older": 2,  # row and bookkeeping are of an older version
    "typed": 1,  # somebody typed into the row
    "forgotten": 1,  # the bookkeeping alone is of an older version
}


Spoilt = dict[str, list[bytes]]  # sort -> keys on the bus


def spoil(
    world: World,
    unit: str,
    datasets: Iterable[str],
    rng: random.Random,
    share: float,
    sorts: Mapping[str, int] = SORTS,
) -> Spoilt:
    """So large a part of a unit's rows of each dataset, of those that the foreign consumer has met
    on the bus."""
    ledger = "deptbus.ledger" if unit in world.county.urls else "deptbus_ledger"
    known = world.foreign.keys_of
    done: Spoilt = defaultdict(list)
    statements: list[Statement] = []
    with closing(world.county.desk(unit)) as desk:
        for dataset in datasets:
            table = held(dataset)
            there = [no for (no,) in desk.rows(f"SELECT no FROM {table}") if (dataset, no) in known]
            for no in rng.sample(sorted(there), round(len(there) * share)):
                (sort,) = rng.choices(list(sorts), list(sorts.values()))
                key = known[dataset, no]
                done[sort].append(key)
                statements += _spoilt(sort, table, no, ledger, (dataset, key))
        desk.commit(statements)
    return done


def _spoilt(
    sort: str, table: str, no: str, ledger: str, line: tuple[str, bytes]
) -> Iterator[Statement]:
    if sort in ("lost", "gone"):
        yield f"DELETE FROM {table} WHERE no = ?", (no,)
    if sort == "lost":
        yield f"DELETE FROM {ledger} WHERE dataset = ? AND key = ?", line
    if sort in ("older", "typed"):
        yield f"UPDATE {table} SET owner = ?, amount = amount - 1 WHERE no = ?", (SPOILT, no)
    if sort in ("older", "forgotten"):
        yield f"UPDATE {ledger} SET version = 0 WHERE dataset = ? AND key = ?", line


def add_strangers(world: World, unit: str, datasets: Iterable[str], count: int) -> None:
    """So many rows of each dataset that no record stands for."""
    with closing(world.county.desk(unit)) as desk:
        desk.commit(
            [
                (
                    f"INSERT INTO {held(dataset)} (no, owner, amount, seq) VALUES (?, ?, ?, ?)",
                    (f"stranger-{number}", SPOILT, 0, 0),
                )
                for dataset in datasets
                for number in range(count)
            ]
        )
