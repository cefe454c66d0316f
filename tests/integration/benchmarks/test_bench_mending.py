"""A copy spoilt in every way is named key by key, mended and nothing else: the same run as `make
bench ARGS=mending`, of few rows; and what it would say of a proof that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench import Bench
from benchmarks.parts import mending
from benchmarks.spoiling import Spoilt, named_otherwise, numbers_of
from deptbus.connection import Connection


@pytest.mark.service
@pytest.mark.timeout(400)
async def test_rows_spoilt_in_every_way_are_named_and_mended(
    tmp_path_factory: pytest.TempPathFactory, postgres: object, broker: Connection
) -> None:
    """`postgres` and `broker` tell whether this machine can have such servers at all."""
    folder: Path = tmp_path_factory.mktemp("bench")
    for place in (folder, folder.parent):
        place.chmod(0o755)
    bench = Bench(quick=True, runs=1, folder=folder, rows=3_000)
    try:
        figures = await mending.run(bench)
    finally:
        bench.close()
    assert all(figure.met is not False for figure in figures)
    assert [f.name for f in figures if "3,000 differ" in f.name]


def told(keys: dict[str, list[str]], **counts: int) -> str:
    rows = [{"class": word, "key": key} for word, found in keys.items() for key in found]
    by_class = {word: len(found) for word, found in keys.items()} | counts
    return json.dumps({"by_class": by_class, "keys": rows})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (told({"stale": ["a"], "missing": ["b"], "extra": ["c", "x"]}), ""),
        (told({"stale": ["b"], "missing": ["a"], "extra": ["c", "x"]}), "1 of"),
        (told({"stale": ["a"], "missing": ["b"], "extra": ["y", "x"]}), "1 of extra"),
        (told({"stale": ["a"], "missing": ["b"], "extra": ["c"]}), "named are"),
        (told({"stale": ["a"], "missing": [], "extra": ["c", "x"]}, missing=1), "1 of missing"),
        (told({"stale": ["a", "d"], "missing": ["b"], "extra": ["c", "x"]}), "named are"),
    ],
)
def test_planted_a_proof_that_names_others_is_found_out(found: str, said: str) -> None:
    spoilt = Spoilt({"stale": {"a"}, "missing": {"b"}, "extra": {"c"}}, strangers=1)
    wrong = named_otherwise(spoilt, found)
    assert said in wrong
    assert bool(wrong) == bool(said)


def test_no_row_is_spoilt_twice_and_none_where_the_traffic_is() -> None:
    for rows, each in ((1_000_000, 100), (3_000, 15)):
        numbers = [n for of_kind in numbers_of(rows, each).values() for n in of_kind]
        assert len(set(numbers)) == len(numbers) == each * 8
        assert max(numbers) < rows // 2
