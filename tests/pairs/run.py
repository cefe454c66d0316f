"""A long run over drawn pairs: rows and small tables, until the first on which verdicts differ."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deptbus.wire.digest import values_digest

from .rows import pair, tables
from .verdict import Digest, Verdicts, ours, row_verdicts, sqlite_verdicts

_AT_ONCE = 20_000
_TABLES_SHARE = 20  # one of so many pairs is of tables: they cost more

Judge = Callable[[Any], Verdicts]


@dataclass
class Told:
    """`disagreements`: the pairs on which our verdict was not that of SQL, of one batch at most."""

    pairs: int = 0
    equal: int = 0
    disagreements: list[Any] | None = None


def run(
    count: int,
    seed: int,
    *,
    digest: Digest = values_digest,
    oracle: Judge = sqlite_verdicts,
    judge_tables: Callable[[Any, Digest], Verdicts] = ours,
) -> Told:
    """`count` pairs, the same ones for the same seed."""
    chance, told = random.Random(seed), Told(disagreements=[])
    while told.pairs < count and not told.disagreements:
        size = min(_AT_ONCE, count - told.pairs)
        rows = [pair(chance) for _ in range(size)]
        small = [tables(chance) for _ in range(size // _TABLES_SHARE)]
        said = row_verdicts(rows, digest) + judge_tables(small, digest)
        every = [([one], [other]) for one, other in rows] + small
        true = oracle(every)
        told.pairs += size
        told.equal += sum(true)
        told.disagreements = [p for p, s, t in zip(every, said, true, strict=True) if s != t]
    return told
