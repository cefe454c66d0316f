"""PostgreSQL to PostgreSQL: a register that is changed in bulk, and its copy."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.bulks import bulk_figures
from benchmarks.figures import Figure

ABOUT = "PostgreSQL to PostgreSQL: rows a second over the whole path, CPU of every process"

LEAST_ROWS_A_SECOND = 20_000


async def run(bench: Bench) -> list[Figure]:
    rows = bench.scaled(100_000, 30_000)
    return await bulk_figures(
        bench, "postgresql", "database to database", rows, LEAST_ROWS_A_SECOND
    )
