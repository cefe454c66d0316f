"""How `deptbus lag` and `deptbus groups` show their documents to people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deptbus.operations.lag_watch import LagReport

UNKNOWN = "?"
_WIDE = 200
_COLOURS = {"OK": "green", "CATCHING_UP": "cyan", None: "magenta"}


def lag_table(report: LagReport, document: dict[str, Any]) -> None:
    """Units first; partitions only of groups that are not deptbus's, or where nobody is well."""
    console = _console()
    if report.has_contract:
        console.print(_units(document["units"]))
        shown = [p for p in document["partitions"] if p["verdict"] not in ("OK", "CATCHING_UP")]
    else:
        shown = document["partitions"]
    if shown:
        console.print(_partitions(shown))
    for row in document["units"]:
        if row["verdict"] not in ("OK", "CATCHING_UP"):
            console.print(f"{row['unit']}: {row['advice']}", highlight=False, soft_wrap=True)


def _units(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("unit", "verdict", "stage", "lag", "records", "arrives", "since", "owner"):
        table.add_column(heading, justify="right" if heading in ("lag", "records") else "left")
    for row in rows:
        table.add_row(
            row["unit"],
            verdict(row["verdict"]),
            row["stage"],
            duration(row["lag_seconds"]),
            number(row["lag_records"]),
            _arrives(row["expected_seconds"]),
            row["since"] if row["verdict"] != "OK" else "",
            row["owner"],
        )
    return table


def _partitions(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    headings = ("group", "topic", "partition", "committed", "end", "lag", "records", "state")
    for heading in (*headings, "verdict"):
        table.add_column(heading, justify="left" if heading in ("group", "topic") else "right")
    for row in rows:
        table.add_row(
            row["group"],
            row["topic"],
            str(row["partition"]),
            number(row["committed"]),
            number(row["end"]),
            duration(row["lag_seconds"]),
            number(row["lag_records"]),
            row["state"] if row["reason"] is None else f"{row['state']}: {row['reason']}",
            verdict(row["verdict"]),
        )
    return table


def groups_table(document: dict[str, Any]) -> None:
    console = _console()
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("group", "state", "topics", "partitions", "lag", "records", "verdict"):
        table.add_column(heading, justify="right" if heading in ("lag", "records") else "left")
    for row in document["groups"]:
        table.add_row(
            row["group"],
            row["state"] or row["reason"] or "",
            ", ".join(row["topics"]),
            str(row["partitions"]),
            duration(row["lag_seconds"]),
            number(row["lag_records"]),
            verdict(row["verdict"]),
        )
    console.print(table)
    if not document["is_whole"]:
        console.print("A broker did not answer: the groups that it has may be missing here.")


def _console() -> Console:
    """A file or a pipe is as wide as the table wants to be."""
    return Console(width=None if sys.stdout.isatty() else _WIDE)


def freshness_table(document: dict[str, Any]) -> None:
    console = _console()
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("unit", "dataset", "state", "last refresh", "promise", "due", "owner"):
        table.add_column(heading)
    for row in document["datasets"]:
        colour = {"fresh": "green", "closed": "green", None: "magenta"}.get(row["state"], "red")
        table.add_row(
            row["unit"],
            row["dataset"],
            f"[{colour}]{row['state'] or UNKNOWN}[/]",
            row["last_refresh"] or UNKNOWN,
            duration(row["promise_hours"] * 3600),
            row["due"] or UNKNOWN,
            row["owner"],
        )
    console.print(table)
    for row in document["datasets"]:
        if row["state"] not in ("fresh", "closed"):
            line = f"{row['unit']} {row['dataset']}: {row['advice']}"
            console.print(line, highlight=False, soft_wrap=True)


def verdict(word: str | None) -> str:
    colour = _COLOURS.get(word, "red")
    return f"[{colour}]{word or UNKNOWN}[/]"


def number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """The two greatest units of a time: `3 h 20 min`."""
    if seconds is None:
        return UNKNOWN
    whole = int(seconds)
    for word, size, small_word, small in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {word}" + (f" {rest} {small_word}" if rest else "")
    return f"{whole} s"


def _arrives(expected: float | str | None) -> str:
    if expected is None:
        return ""
    return expected if isinstance(expected, str) else f"in {duration(expected)}"
