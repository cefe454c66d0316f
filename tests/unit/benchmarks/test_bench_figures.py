"""The pure pieces of the benchmarks: medians, ratios, verdicts, the table and the line of JSON."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.figures import (
    LINE_START,
    Figure,
    against,
    at_least,
    at_most,
    is_all_well,
    json_line,
    median,
    number,
    paired_ratio,
    plain,
    spread,
    table,
)


def test_a_median_is_of_something() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_spread_is_a_part_of_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)


def test_a_ratio_is_of_pairs_so_that_a_slow_minute_drops_out() -> None:
    # The machine was twice as slow in the second pair: the ratio does not show it.
    assert paired_ratio([100.0, 50.0, 100.0], [50.0, 25.0, 50.0]) == 2.0
    with pytest.raises(ValueError, match="argument"):
        paired_ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (at_least("f", [99.0, 101.0, 100.0], "x", 100.0), True),
        (at_least("f", [99.0, 99.0, 101.0], "x", 100.0), False),
        (at_most("f", [12.0], "ms", 12.0), True),
        (at_most("f", [12.1], "ms", 12.0), False),
        (against("f", [10.0], "x", [10.0], least_ratio=1.0), True),
        (against("f", [9.0], "x", [10.0], least_ratio=1.0), False),
        (against("f", [9.0], "us", [10.0], most_ratio=1.0), True),
        (against("f", [11.0], "us", [10.0], most_ratio=1.0), False),
        (against("f", [11.0], "us", [10.0]), None),
        (plain("f", [1.0], "x"), None),
    ],
)
def test_a_target_is_met_or_not(figure: Figure, met: bool | None) -> None:
    assert figure.met is met
    assert bool(figure.target) is (met is not None)


def test_a_miss_is_well_only_with_its_limit() -> None:
    missed = at_least("f", [1.0], "x", 2.0)
    assert not is_all_well([missed])
    assert is_all_well([missed.with_limit("both cores are busy"), plain("g", [1.0], "x")])
    assert at_least("f", [3.0], "x", 2.0).with_limit("never told").limit == ""


def test_the_line_of_json_holds_every_figure_with_all_that_belongs_to_it() -> None:
    figure = against("f", [10.0, 12.0], "x", [5.0, 6.0], least_ratio=1.3)
    line = json_line([figure], {"quick": True})
    assert line.startswith(LINE_START)
    assert "\n" not in line
    assert json.loads(line.removeprefix(LINE_START)) == {
        "quick": True,
        "figures": [
            {
                "name": "f",
                "ours": 11.0,
                "unit": "x",
                "rival": 5.5,
                "ratio": 2.0,
                "target": "≥ 1.30 x",
                "met": True,
                "limit": "",
                "runs": [10.0, 12.0],
                "rival_runs": [5.0, 6.0],
            }
        ],
    }
    with pytest.raises(ValueError, match="JSON"):
        json_line([plain("f", [float("nan")], "x")], {})


def test_the_table_shows_figures_targets_and_limits() -> None:
    console = Console(width=150, record=True, file=StringIO())
    missed = at_least("slow thing", [1234.5], "rows/s", 2000).with_limit("the disk")
    console.print(table([missed, against("fast thing", [2.0], "us", [4.0], most_ratio=1.0)]))
    text = console.export_text()
    for part in ("slow thing [rows/s]", "1,234", "≥ 2,000", "NO. the disk", "0.50", "yes"):
        assert part in text


def test_numbers_are_for_people() -> None:
    assert [number(n) for n in (0.0, 1.5, 12.34, 123.4, 98765.4)] == [
        "0",
        "1.50",
        "12.3",
        "123",
        "98,765",
    ]
