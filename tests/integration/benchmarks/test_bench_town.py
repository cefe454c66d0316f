"""The two departments that benchmarks measure: a bulk arrives, and an unequal copy is noticed."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from benchmarks.bench import Bench, CouldNot
from benchmarks.delays import delays_ms
from benchmarks.town import COPY, run_clerk, town
from deptbus.connection import Connection

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]


async def test_a_bulk_arrives_and_delays_are_measured(
    tmp_path_factory: pytest.TempPathFactory, postgres: object, broker: Connection
) -> None:
    """`postgres` and `broker` tell whether this machine can have such servers at all."""
    folder: Path = tmp_path_factory.mktemp("bench")
    for place in (folder, folder.parent):
        place.chmod(0o755)
    bench = Bench(quick=True, runs=1, folder=folder)
    try:
        async with town(bench, "postgresql") as place:
            await place.load(500)
            before = place.cpu()
            assert await place.bulk(500, 1) > 0
            spent = place.cpu()
            assert spent["worker"] >= before["worker"] > 0
            assert spent["database of the copy"] > 0
            await place.check_copy()
            start = await place.applied()
            await run_clerk(place, "clerk-typing", "type", "0", "500", "50", "1").wait(60)
            await place.until_applied(start + 50, 60)
            found = await delays_ms(place)
            assert len(found) == 50
            assert all(0 < ms < 60_000 for _, ms in found)
            connection = await asyncpg.connect(place.copy)
            await connection.execute(f"UPDATE {COPY} SET name = 'x' WHERE ctid IN "
                                     f"(SELECT ctid FROM {COPY} LIMIT 3)")  # fmt: skip
            await connection.close()
            with pytest.raises(CouldNot, match="3 of 500"):
                await place.check_copy()
    finally:
        bench.close()
