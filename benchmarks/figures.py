"""What a benchmark says: figures with rival, target and verdict; as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

LINE_START = "BENCH_JSON "


def median(values: Sequence[float]) -> float:
    """Raises ValueError for nothing: a figure that was not measured is not zero."""
    if not values:
        raise ValueError("nothing was measured")
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """How far the runs lie apart: (greatest - least) / median."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def paired_ratio(ours: Sequence[float], rival: Sequence[float]) -> float:
    """Geometric mean of ours / rival of each pair of runs. Pairs ran one after the other, so what a
    busy machine did to both of them drops out. (The median of many short pairs wavers twice as
    much: a neighbour on the same core makes two heaps of them.)"""
    return statistics.geometric_mean([a / b for a, b in zip(ours, rival, strict=True)])


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `met` is None where there is no target; `limit` says what the figure is
    bounded by where the target was missed, as this very run measured it."""

    name: str
    ours: float
    unit: str
    rival: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    limit: str = ""
    runs: tuple[float, ...] = ()  # ours, one by one
    rival_runs: tuple[float, ...] = ()

    def with_limit(self, limit: str) -> Figure:
        """The same with its limit, which is told only where the target was missed."""
        return replace(self, limit=limit) if self.met is False else self


def plain(name: str, runs: Sequence[float], unit: str) -> Figure:
    """A figure without a target."""
    return Figure(name, median(runs), unit, runs=tuple(runs))


def at_least(name: str, runs: Sequence[float], unit: str, least: float) -> Figure:
    ours = median(runs)
    return Figure(
        name, ours, unit, target=f"≥ {number(least)}", met=ours >= least, runs=tuple(runs)
    )


def at_most(name: str, runs: Sequence[float], unit: str, most: float) -> Figure:
    ours = median(runs)
    return Figure(name, ours, unit, target=f"≤ {number(most)}", met=ours <= most, runs=tuple(runs))


def against(
    name: str,
    runs: Sequence[float],
    unit: str,
    rival_runs: Sequence[float],
    *,
    least_ratio: float | None = None,
    most_ratio: float | None = None,
) -> Figure:
    """Beside a rival; runs are paired. The target, if any, is a ratio ours / rival."""
    ratio = paired_ratio(runs, rival_runs)
    target, met = "", None
    if least_ratio is not None:
        target, met = f"≥ {number(least_ratio)} x", ratio >= least_ratio
    elif most_ratio is not None:
        target, met = f"≤ {number(most_ratio)} x", ratio <= most_ratio
    return Figure(
        name,
        median(runs),
        unit,
        rival=median(rival_runs),
        ratio=ratio,
        target=target,
        met=met,
        runs=tuple(runs),
        rival_runs=tuple(rival_runs),
    )


def number(value: float) -> str:
    """For people: three digits that count, thousands apart."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(figures: Iterable[Figure]) -> Table:
    made = Table(title="deptbus beside its rivals", title_justify="left")
    made.add_column("figure", overflow="fold", ratio=4)
    for heading in ("ours", "rival", "ratio", "target"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("met, or what bounds it", overflow="fold", ratio=3)
    for f in figures:
        verdict = "" if f.met is None else "yes" if f.met else f"NO. {f.limit}".strip()
        made.add_row(
            f"{f.name} [{f.unit}]".replace("[", r"\["),
            number(f.ours),
            "" if f.rival is None else number(f.rival),
            "" if f.ratio is None else f"{f.ratio:.2f}",
            f.target,
            verdict,
            style=None if f.met is not False else "yellow" if f.limit else "red",
        )
    return made


def json_line(figures: Iterable[Figure], facts: Mapping[str, Any]) -> str:
    """The last line of the output. `facts` are of the run: how long, how, on what machine."""
    content = {**facts, "figures": [asdict(f) for f in figures]}
    return LINE_START + json.dumps(content, ensure_ascii=False, allow_nan=False)


def is_all_well(figures: Iterable[Figure]) -> bool:
    """Every target is met, or its limit is explained."""
    return all(f.met is not False or f.limit for f in figures)
