"""Sets a copy back by SQL, behind the bus's back: as after a lost week, and as after a bored clerk.

While nothing is under way to that copy, so that what is spoilt is known exactly. The witness passes
over rows that bear his mark; whatever bears it at the end differs from its source, and is found.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from .county import held
from .desks import Desk, Statement
from .witness import SPOILT, settled
from .world import World

LOOK_SECONDS = 60.0
# How a row is spoilt, and how often of ten.
SORTS = {
    "lost": 4,  # row and bookkeeping are of a time at which it was not there
    "gone": 2,  # the row alone
    "older": 2,  # row and bookkeeping are of an older version
    "typed": 1,  # somebody typed into the row
    "forgotten": 1,  # the bookkeeping alone is of an older version
}


def spoil(
    world: World,
    unit: str,
    datasets: Iterable[str],
    rng: random.Random,
    share: float,
    extra: int = 0,
) -> Counter[str]:
    """So large a part of a unit's rows of each dataset, and so many rows more of each that no
    record stands for; by sort, how many."""
    # From there it is known by which key the bus has a row.
    settled(world.foreign.look, LOOK_SECONDS, "the bus is read to its end")
    ledger = "deptbus.ledger" if unit in world.county.urls else "deptbus_ledger"
    done: Counter[str] = Counter()
    desk = world.county.desk(unit)
    try:
        for dataset in datasets:
            done += _spoil(world, desk, ledger, dataset, rng, share, extra)
    finally:
        desk.close()
    return done


def _spoil(
    world: World,
    desk: Desk,
    ledger: str,
    dataset: str,
    rng: random.Random,
    share: float,
    extra: int,
) -> Counter[str]:
    table, keys = held(dataset), world.foreign.keys_of
    there = sorted(no for (no,) in desk.rows(f"SELECT no FROM {table}") if (dataset, no) in keys)
    chosen = rng.sample(there, round(len(there) * share))
    done: Counter[str] = Counter()
    statements: list[Statement] = []
    for no in chosen:
        (sort,) = rng.choices(list(SORTS), list(SORTS.values()))
        done[sort] += 1
        known = (dataset, keys[dataset, no])
        if sort in ("lost", "gone"):
            statements.append((f"DELETE FROM {table} WHERE no = ?", (no,)))
        if sort == "lost":
            statements.append((f"DELETE FROM {ledger} WHERE dataset = ? AND key = ?", known))
        if sort in ("older", "typed"):
            statements.append(
                (f"UPDATE {table} SET owner = ?, amount = amount - 1 WHERE no = ?", (SPOILT, no))
            )
        if sort in ("older", "forgotten"):
            statements.append(
                (f"UPDATE {ledger} SET version = 0 WHERE dataset = ? AND key = ?", known)
            )
    for number in range(extra):
        no = f"extra-{rng.randrange(10**9)}-{number}"
        words = (no, SPOILT, 0, 0)
        statements.append(
            (f"INSERT INTO {table} (no, owner, amount, seq) VALUES (?, ?, ?, ?)", words)
        )
        done["extra"] += 1
    desk.commit(statements)
    return done
