"""The verdict on drawn pairs of rows is that of PostgreSQL's EXCEPT, with columns of real types."""

from __future__ import annotations

import random
from collections.abc import Callable

import asyncpg
import pytest

from tests.pairs.planted import PLANTED
from tests.pairs.rows import COLUMNS, Table, pair, tables
from tests.pairs.verdict import Verdicts, both_ways, ours, row_verdicts

_PAIRS = 20_000
_TABLES = 1_000


async def _verdicts(url: str, pairs: list[tuple[Table, Table]]) -> Verdicts:
    names = [f"c{place}" for place in range(len(COLUMNS))]
    typed = ", ".join(f"{name} {kind}" for name, kind in zip(names, COLUMNS, strict=True))
    connection = await asyncpg.connect(url)
    try:
        for table, which in (("a", 0), ("b", 1)):
            await connection.execute(f"CREATE TABLE {table} (pair int, {typed})")
            rows = [(at, *row) for at, both in enumerate(pairs) for row in both[which]]
            await connection.copy_records_to_table(table, records=rows)
        unequal = {row[0] for row in await connection.fetch(both_ways(", ".join(names)))}
    finally:
        await connection.close()
    return [at not in unequal for at in range(len(pairs))]


@pytest.mark.service
async def test_pairs_are_judged_as_postgres_judges_them(postgres: Callable[[], str]) -> None:
    chance = random.Random(2026)
    rows = [pair(chance) for _ in range(_PAIRS)]
    small = [tables(chance) for _ in range(_TABLES)]
    every = [([one], [other]) for one, other in rows] + small
    true = await _verdicts(postgres(), every)
    said = row_verdicts(rows) + ours(small)
    assert [p for p, s, t in zip(every, said, true, strict=True) if s != t] == []
    for digest in PLANTED.values():  # the same pairs find each mistake
        assert row_verdicts(rows, digest) + ours(small, digest) != true
